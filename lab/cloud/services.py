# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""The processes of the cloud, and in which order they start."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import socket

from lab.cloud import inputs
from lab.cloud.settings import (
    ADDRESS,
    FAKE_HOST,
    PORTS,
    REGION,
    Settings,
    address,
    paste,
)
from lab.guest.inputs import PROJECT


@dataclasses.dataclass(frozen=True)
class Service:
    """A process that runs as long as the cloud."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    #: It listens there when it is ready.
    port: int | None = None

    def listens(self) -> bool:
        if self.port is None:
            return True
        with socket.socket() as client:
            return client.connect_ex((ADDRESS, self.port)) == 0


@dataclasses.dataclass(frozen=True)
class Step:
    """What starts at once, then what runs when all of that is ready."""

    services: tuple[Service, ...]
    task: Service | None = None


def steps(settings: Settings) -> tuple[Step, ...]:
    return (
        Step((epmd(), mariadb(settings), memcached())),
        Step((rabbitmq(settings),), bootstrap(settings)),
        Step(
            (
                wsgi(settings, 'keystone', 'keystone.wsgi.api'),
                wsgi(settings, 'placement', 'placement.wsgi.api'),
                wsgi(settings, 'glance', 'glance.wsgi.api'),
                wsgi(settings, 'neutron', 'neutron.wsgi.api'),
            ),
            tool(settings, 'inside.register', str(settings.run)),
        ),
        Step(
            # They end when Keystone doesn't know their user.
            (
                wsgi(settings, 'nova', 'nova.wsgi.osapi_compute'),
                nova(settings, 'nova-conductor', 'nova.conf'),
                nova(settings, 'nova-scheduler', 'nova.conf'),
                nova(settings, 'nova-compute', 'nova-compute.conf'),
            ),
            tool(settings, 'inside.discover', str(settings.run), FAKE_HOST),
        ),
    )


def base_environment() -> dict[str, str]:
    """Of this environment only what programs need, and no proxies."""
    kept = ('PATH', 'LANG', 'LC_ALL', 'TZ')
    return {name: os.environ[name] for name in kept if name in os.environ}


def libraries() -> dict[str, str]:
    """For programs of Debian's: its libraries, all but the C library."""
    tree = inputs.debian()
    folders = (tree / 'usr/lib', tree / 'lib')
    return {
        'LD_LIBRARY_PATH': ':'.join(
            str(folder / 'x86_64-linux-gnu') for folder in folders
        )
    }


def epmd() -> Service:
    """Erlang's directory of nodes: started by RabbitMQ it would stay."""
    command = str(_erlang() / 'epmd')
    return Service('epmd', (command,), _erlang_environment(), PORTS['epmd'])


def rabbitmq(settings: Settings) -> Service:
    (home,) = (inputs.debian() / 'usr/lib/rabbitmq/lib').iterdir()
    run = settings.run
    environment = _erlang_environment() | {
        'HOME': str(run / 'home'),
        'ERL_LIBS': str(home / 'plugins'),
        'RABBITMQ_HOME': str(home),
        'RABBITMQ_PLUGINS_DIR': str(home / 'plugins'),
        'RABBITMQ_CONFIG_FILE': str(run / 'etc/rabbitmq.conf'),
        'RABBITMQ_ENABLED_PLUGINS_FILE': str(run / 'etc/rabbitmq-plugins'),
        'RABBITMQ_CONF_ENV_FILE': str(run / 'etc/rabbitmq-env.conf'),
        'RABBITMQ_MNESIA_BASE': str(run / 'state/rabbitmq'),
        'RABBITMQ_LOG_BASE': str(run / 'state/rabbitmq'),
        'RABBITMQ_GENERATED_CONFIG_DIR': str(run / 'state/rabbitmq/config'),
        'RABBITMQ_PID_FILE': str(run / 'state/rabbitmq/pid'),
        'RABBITMQ_LOGS': '-',
        'RABBITMQ_NODENAME': 'lab@localhost',
        'RABBITMQ_DIST_PORT': str(PORTS['rabbitmq-nodes']),
    }
    command = (
        str(_erlang() / 'erlexec'),
        # Few threads, and none that spins for work.
        '+S', '2:2', '+sbwt', 'none', '+sbwtdcpu', 'none',
        '+sbwtdio', 'none', '+W', 'w',
        '-noinput', '-s', 'rabbit', 'boot', '-boot', 'start_sasl',
        '-syslog', 'logger', '[]', '-syslog', 'syslog_error_logger', 'false',
        '-kernel', 'prevent_overlapping_partitions', 'false',
        '-kernel', 'inet_dist_use_interface', '{127,0,0,1}',
    )  # fmt: skip
    return Service('rabbitmq', command, environment, PORTS['rabbitmq'])


def _erlang() -> pathlib.Path:
    (path,) = (inputs.debian() / 'usr/lib/erlang').glob('erts-*/bin')
    return path


def _erlang_environment() -> dict[str, str]:
    return libraries() | {
        'ROOTDIR': str(inputs.debian() / 'usr/lib/erlang'),
        'BINDIR': str(_erlang()),
        'EMU': 'beam',
        'PROGNAME': 'erl',
        'ERL_EPMD_ADDRESS': ADDRESS,
        'ERL_EPMD_PORT': str(PORTS['epmd']),
    }


def mariadb(settings: Settings, *options: str) -> Service:
    tree, run = inputs.debian(), settings.run
    command = (
        str(tree / 'usr/sbin/mariadbd'),
        '--no-defaults',
        f'--basedir={tree / "usr"}',
        f'--lc-messages-dir={tree / "usr/share/mysql"}',
        f'--datadir={run / "mariadb"}',
        f'--tmpdir={run / "tmp"}',
        '--innodb-log-file-size=16M',
        '--innodb-buffer-pool-size=64M',
        '--key-buffer-size=1M',
        # Nobody misses what it writes when the machine stops.
        '--innodb-flush-log-at-trx-commit=0',
        '--innodb-doublewrite=0',
        '--innodb-flush-method=nosync',
        *(('--user=root',) if os.geteuid() == 0 else ()),
        *(options or (
            f'--bind-address={ADDRESS}',
            f'--port={PORTS["mariadb"]}',
            f'--socket={run / "tmp/mariadb"}',
            f'--pid-file={run / "tmp/mariadb.pid"}',
            f'--init-file={run / "etc/mariadb.sql"}',
            '--skip-name-resolve',
            '--max-connections=300',
        )),
    )  # fmt: skip
    return Service('mariadb', command, libraries(), PORTS['mariadb'])


def memcached() -> Service:
    command = (
        str(inputs.debian() / 'usr/bin/memcached'),
        '-l', ADDRESS, '-p', str(PORTS['memcached']), '-U', '0',
        '-m', '32', '-t', '1', '-u', 'root',
    )  # fmt: skip
    return Service('memcached', command, libraries(), PORTS['memcached'])


def wsgi(settings: Settings, name: str, module: str) -> Service:
    """A service that is an application of WSGI's."""
    port = PORTS[name]
    return dataclasses.replace(
        inside(settings, 'wsgi', module, ADDRESS, str(port)),
        name=name,
        port=port,
    )


def nova(settings: Settings, name: str, file: str) -> Service:
    """A service of Nova's that listens to the message bus only."""
    config = str(settings.run / 'etc' / file)
    return program(settings, name, '--config-file', config)


def bootstrap(settings: Settings) -> Service:
    """Keystone's first user, and its own place in the catalog."""
    link = f'http://{address("keystone")}'
    return program(
        settings, 'keystone-manage',
        '--config-file', str(settings.run / 'etc/keystone.conf'),
        'bootstrap', '--bootstrap-region-id', REGION,
        '--bootstrap-public-url', link, '--bootstrap-internal-url', link,
        # Not on the command line, where everybody reads it.
        environment={'OS_BOOTSTRAP_PASSWORD': settings.passwords['admin']},
    )  # fmt: skip


def inside(settings: Settings, name: str, *words: str) -> Service:
    """A program of ours in the cloud's Python environment."""
    # -P: its folder's modules are no other program's.
    words = ('-P', str(inputs.INSIDE / f'{name}.py'), *words)
    return dataclasses.replace(program(settings, 'python', *words), name=name)


def tool(settings: Settings, name: str, *words: str) -> Service:
    """The same, for what imports the lab."""
    path = {'PYTHONPATH': f'{inputs.project()}:{PROJECT}'}
    words = ('-m', f'lab.cloud.{name}', *words)
    return dataclasses.replace(
        program(settings, 'python', *words, environment=path), name=name
    )


def program(
    settings: Settings,
    name: str,
    *words: str,
    environment: dict[str, str] | None = None,
) -> Service:
    """A program of the cloud's Python environment."""
    command = (str(inputs.venv() / 'bin' / name), *words)
    files = {
        f'OS_{service.upper()}_CONFIG_DIR': str(settings.run / 'etc')
        for service in ('keystone', 'placement', 'glance', 'neutron', 'nova')
    }
    own = {
        'PYTHONPATH': str(inputs.project()),
        'PYTHONUNBUFFERED': '1',
        'HOME': str(settings.run / 'home'),
        'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'true',
        'OS_NOVA_CONFIG_FILES': f'{paste("nova/api-paste.ini")};nova.conf',
        'OS_NEUTRON_CONFIG_FILES': 'neutron.conf',
    }
    return Service(name, command, files | own | (environment or {}))
