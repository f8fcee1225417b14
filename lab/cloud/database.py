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

"""Makes the tables of every service, for all runs that come."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import time
from concurrent import futures

from lab import parts
from lab.cloud import inputs, services
from lab.cloud.settings import TEMPLATE, Settings

_SYSTEM_TABLES = (
    'mysql_system_tables', 'mysql_performance_tables',
    'mysql_system_tables_data',
)  # fmt: skip


def build(path: pathlib.Path) -> None:
    """Let each service make its tables, all at the same time."""
    with parts.scratch(path) as run:
        settings = Settings.new(run)
        (run / 'mariadb').mkdir(mode=0o700)
        _make_system_tables(settings)
        mariadb = services.mariadb(settings)
        with open(run / 'log/mariadb.log', 'wb') as log:
            server = subprocess.Popen(
                mariadb.command,
                env=services.base_environment() | mariadb.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            while not mariadb.listens():
                if server.poll() is not None:
                    said = (run / 'log/mariadb.log').read_text()
                    raise parts.BuildError(f'MariaDB has ended: {said}')
                time.sleep(0.1)
            _make_tables(settings)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
        (run / 'mariadb').rename(path)


def _make_system_tables(settings: Settings) -> None:
    server = services.mariadb(settings, '--bootstrap')
    scripts = inputs.debian() / 'usr/share/mysql'
    statements = (
        'CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n'
    ) + ''.join(
        (scripts / f'{name}.sql').read_text() for name in _SYSTEM_TABLES
    )
    parts.run(
        *server.command,
        input=statements,
        env=services.base_environment() | server.environment,
    )


def _make_tables(settings: Settings) -> None:
    etc = settings.run / 'etc'
    config = {
        name: ('--config-file', str(etc / f'{name}.conf'))
        for name in ('keystone', 'placement', 'glance-api', 'neutron', 'nova')
    }
    cells = ('cell_v2', 'create_cell', '--name', 'cell1')
    database = ('--database_connection', TEMPLATE + '/nova?{query}')
    everything = (
        (('keystone-manage', *config['keystone'], 'db_sync'),),
        (('placement-manage', *config['placement'], 'db', 'sync'),),
        (('glance-manage', *config['glance-api'], 'db_sync'),),
        (('neutron-db-manage', *config['neutron'], 'upgrade', 'heads'),),
        (
            ('nova-manage', *config['nova'], 'api_db', 'sync'),
            ('nova-manage', *config['nova'], 'cell_v2', 'map_cell0',
             '--database_connection', TEMPLATE + '/nova_cell0?{query}'),
            ('nova-manage', *config['nova'], *cells, *database,
             '--transport-url', TEMPLATE + '/'),
            ('nova-manage', *config['nova'], 'db', 'sync'),
        ),
    )  # fmt: skip

    def run(commands: tuple[tuple[str, ...], ...]) -> None:
        for name, *words in commands:
            program = services.program(settings, name, *words)
            environment = services.base_environment() | program.environment
            parts.run(*program.command, env=environment)

    with futures.ThreadPoolExecutor(len(everything)) as pool:
        list(pool.map(run, everything))
