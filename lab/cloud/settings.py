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

"""Where each service listens, and what is in its configuration file."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import secrets

from lab.cloud import inputs

#: Only this machine, and the guest, whose 10.0.2.2 it is.
ADDRESS = '127.0.0.1'
FROM_GUEST = '10.0.2.2'
PORTS = {
    'epmd': 24369,
    'rabbitmq': 24672,
    'rabbitmq-nodes': 24673,
    'mariadb': 24306,
    'memcached': 24211,
    'keystone': 24500,
    'placement': 24778,
    'glance': 24292,
    'neutron': 24696,
    'nova': 24774,
}
#: Each service with its type in the catalog, and the path of its API.
CATALOG = {
    'placement': ('placement', ''),
    'glance': ('image', ''),
    'neutron': ('network', ''),
    'nova': ('compute', '/v2.1'),
}
#: The databases, by who has them.
DATABASES = {
    'keystone': ('keystone',),
    'placement': ('placement',),
    'glance': ('glance',),
    'neutron': ('neutron',),
    'nova': ('nova', 'nova_api', 'nova_cell0'),
}
#: Of the cells' connections, which Nova fills in from its configuration: so
#: they hold for every run.
TEMPLATE = '{scheme}://{username}:{password}@{hostname}:{port}'
REGION = 'lab'
FAKE_HOST = 'fake'
GPU_HOST = 'lab'
FILTERS = (
    'ComputeFilter', 'ComputeCapabilitiesFilter', 'ImagePropertiesFilter',
    'ServerGroupAntiAffinityFilter', 'ServerGroupAffinityFilter',
    'NUMATopologyFilter', 'GpuFilter',
)  # fmt: skip

Options = dict[str, str | int | list[str]]
Sections = dict[str, Options]


class Settings:
    """The configuration of one run: a folder, and passwords of its own."""

    def __init__(self, run: pathlib.Path, passwords: dict[str, str]) -> None:
        self.run = run
        self.passwords = passwords

    @classmethod
    def new(cls, run: pathlib.Path) -> Settings:
        """With new passwords, and every file that the services read."""
        names = ('mariadb', 'rabbitmq', 'admin', *CATALOG)
        settings = cls(run, {name: secrets.token_hex(16) for name in names})
        settings.write()
        return settings

    @classmethod
    def load(cls, run: pathlib.Path) -> Settings:
        return cls(run, json.loads((run / 'passwords').read_text()))

    def folder(self, *names: str) -> pathlib.Path:
        path = self.run.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def write(self) -> None:
        self.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write(self.run / 'passwords', json.dumps(self.passwords))
        for name in ('log', 'tmp', 'home'):
            self.folder(name)
        for name in ('nova', 'neutron', FAKE_HOST):
            self.folder('state', name)
        for name, sections in self.files().items():
            self._write(self.folder('etc') / name, to_ini(sections))
        etc = self.run / 'etc'
        self._write(etc / 'mariadb.sql', self._users())
        self._write(etc / 'rabbitmq.conf', self._rabbitmq())
        self._write(etc / 'rabbitmq-plugins', '[].\n')
        for repository in ('fernet-keys', 'credential-keys'):
            for number in ('0', '1'):
                key = base64.urlsafe_b64encode(os.urandom(32)).decode()
                self._write(self.folder('etc', repository) / number, key)

    @staticmethod
    def _write(path: pathlib.Path, text: str) -> None:
        """Only its owner reads it: there are passwords in most."""
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), 'w') as file:
            file.write(text)

    def files(self) -> dict[str, Sections]:
        """The configuration files in oslo.config's format."""
        return {
            'keystone.conf': self.keystone(),
            'placement.conf': self.placement(),
            'glance-api.conf': self.glance(),
            'neutron.conf': self.neutron(),
            'nova.conf': self.nova(),
            'nova-compute.conf': self.fake_compute(),
            'guest.conf': self.gpu_compute(),
        }

    def keystone(self) -> Sections:
        keys: Sections = {
            section: {'key_repository': str(self.run / f'etc/{name}')}
            for section, name in (
                ('fernet_tokens', 'fernet-keys'),
                ('fernet_receipts', 'fernet-keys'),
                ('credential', 'credential-keys'),
            )
        }
        return {
            'DEFAULT': {'use_stderr': 'true'},
            'database': self._database('keystone'),
            'cache': {
                'enabled': 'true',
                'backend': 'dogpile.cache.pymemcache',
                'memcache_servers': address('memcached'),
            },
            # Fewer rounds than for passwords that last.
            'identity': {'password_hash_rounds': 4},
            'token': {'expiration': 4 * 3600},
            **keys,
        }

    def placement(self) -> Sections:
        return {
            'DEFAULT': {'use_stderr': 'true'},
            'placement_database': self._database('placement'),
            'keystone_authtoken': self._middleware('placement'),
        }

    def glance(self) -> Sections:
        stores: Sections = {
            name: {'filesystem_store_datadir': str(self.run / f'state/{name}')}
            for name in (
                'images', 'os_glance_staging_store', 'os_glance_tasks_store',
            )
        }  # fmt: skip
        return {
            'DEFAULT': {
                'use_stderr': 'true',
                'enabled_backends': 'images:file',
            },
            'database': self._database('glance'),
            'keystone_authtoken': self._middleware('glance'),
            'paste_deploy': {
                'flavor': 'keystone',
                'config_file': paste('glance/glance-api-paste.ini'),
            },
            'glance_store': {'default_backend': 'images'},
            'oslo_concurrency': self._locks('glance'),
            **stores,
        }

    def neutron(self) -> Sections:
        return {
            'DEFAULT': {
                'use_stderr': 'true',
                'transport_url': self._bus(ADDRESS),
                'api_paste_config': paste('neutron/api-paste.ini'),
                'core_plugin': 'ml2',
                'service_plugins': '',
                'rpc_workers': 0,
                'state_path': str(self.run / 'state/neutron'),
                'notify_nova_on_port_status_changes': 'false',
                'notify_nova_on_port_data_changes': 'false',
            },
            'ml2': {
                'type_drivers': 'local',
                'tenant_network_types': 'local',
                'mechanism_drivers': '',
            },
            'database': self._database('neutron'),
            'keystone_authtoken': self._middleware('neutron'),
            'oslo_concurrency': self._locks('neutron'),
        }

    def nova(self) -> Sections:
        """API, conductor and scheduler."""
        return self._nova_common(ADDRESS) | {
            'database': self._database('nova'),
            'api_database': self._database('nova', 'nova_api'),
            'keystone_authtoken': self._middleware('nova'),
            'conductor': {'workers': 1},
            'scheduler': {'workers': 1},
            'filter_scheduler': {
                'available_filters': [
                    'nova.scheduler.filters.all_filters',
                    'nova_gpu.scheduler.filter.GpuFilter',
                ],
                'enabled_filters': ','.join(FILTERS),
                'weight_classes': ','.join((
                    'nova.scheduler.weights.all_weighers',
                    'nova_gpu.scheduler.weigher.GpuWeigher',
                    'nova_gpu.scheduler.weigher.GpuAvoidWeigher',
                )),
            },
        }  # fmt: skip

    def fake_compute(self) -> Sections:
        """The nova-compute on this machine, which has no GPU."""
        sections = self._nova_common(ADDRESS)
        sections['DEFAULT'] |= {
            'host': FAKE_HOST,
            'compute_driver': 'fake.FakeDriverWithoutFakeNodes',
            'state_path': str(self.run / f'state/{FAKE_HOST}'),
        }
        return sections

    def gpu_compute(self) -> Sections:
        """The nova-compute in the guest, with real libvirt."""
        sections = self._nova_common(FROM_GUEST)
        sections['DEFAULT'] |= {
            'host': GPU_HOST,
            'my_ip': '10.0.2.15',
            'compute_driver': 'gpu.GpuLibvirtDriver',
            'state_path': '/var/lib/nova',
            'reserved_host_memory_mb': 256,
            'resume_guests_state_on_host_boot': 'true',
            # Nothing in these guests could shut down by itself.
            'shutdown_timeout': 0,
        }
        # Each NUMA node has one; most GPUs are on the second.
        sections['compute'] = {'cpu_shared_set': '0', 'cpu_dedicated_set': '1'}
        sections['libvirt'] = {
            'virt_type': 'qemu',
            'cpu_mode': 'none',
            'images_type': 'flat',
            'hw_machine_type': 'x86_64=q35',
            'inject_partition': -2,
        }
        sections['oslo_concurrency'] = {'lock_path': '/run/lock'}
        for section in (
            'nova_sys_admin', 'privsep_osbrick', 'vif_plug_ovs_privileged',
            'nova_gpu_privileged', 'nova_gpu_sriov', 'nova_gpu_fabric',
        ):  # fmt: skip
            sections[section] = {
                'helper_command': 'privsep-helper '
                '--config-file /etc/nova/nova.conf'
            }
        return sections

    def _nova_common(self, here: str) -> Sections:
        """What every service of Nova reads.

        :param here: the address of this machine, for who reads it
        """
        return {
            'DEFAULT': {
                'transport_url': self._bus(here),
                'state_path': str(self.run / 'state/nova'),
                'use_stderr': 'true',
                'allow_resize_to_same_host': 'true',
                # What starts a guest takes long under emulation.
                'rpc_response_timeout': 180,
                'report_interval': 10,
                'service_down_time': 60,
            },
            'keystone': self._client('nova', here, 'keystone'),
            'placement': self._client('nova', here, 'placement'),
            'neutron': self._client('nova', here, 'neutron'),
            'glance': self._client('nova', here, 'glance'),
            'service_user': self._client('nova', here)
            | {'send_service_user_token': 'true'},
            'vnc': {'enabled': 'false'},
            'oslo_concurrency': self._locks('nova'),
        }

    def _database(self, user: str, name: str = '') -> Options:
        password = self.passwords['mariadb']
        return {
            'connection': f'mysql+pymysql://lab:{password}@'
            f'{address("mariadb")}/{name or user}?charset=utf8',
            'max_pool_size': 5,
        }

    def _bus(self, here: str) -> str:
        password = self.passwords['rabbitmq']
        return f'rabbit://lab:{password}@{here}:{PORTS["rabbitmq"]}/'

    def _client(self, user: str, here: str, of: str = '') -> Options:
        """How a service authenticates to call another."""
        options: Options = {
            'auth_type': 'password',
            'auth_url': f'{url("keystone", here)}/v3',
            'username': user,
            'password': self.passwords[user],
            'project_name': 'service',
            'user_domain_name': 'Default',
            'project_domain_name': 'Default',
            'region_name': REGION,
        }
        if of and of != 'keystone':
            options['endpoint_override'] = url(of, here)
        return options

    def _middleware(self, user: str) -> Options:
        """How a service checks the tokens of its callers."""
        return self._client(user, ADDRESS) | {
            'www_authenticate_uri': url('keystone'),
            'memcached_servers': address('memcached'),
            'service_token_roles_required': 'true',
            'service_token_roles': 'service',
        }

    def _locks(self, name: str) -> Options:
        return {'lock_path': str(self.run / f'state/{name}/locks')}

    def _users(self) -> str:
        """What MariaDB runs when it starts: a statement a line."""
        statements = [
            "CREATE OR REPLACE USER 'lab'@'127.0.0.1' IDENTIFIED BY "
            f"'{self.passwords['mariadb']}'",
            "GRANT ALL ON *.* TO 'lab'@'127.0.0.1'",
            *(
                f'CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8'
                for names in DATABASES.values()
                for name in names
            ),
        ]
        return ''.join(f'{statement};\n' for statement in statements)

    def _rabbitmq(self) -> str:
        lines = {
            'listeners.tcp.1': address('rabbitmq'),
            'default_user': 'lab',
            'default_pass': self.passwords['rabbitmq'],
            'log.console': 'true',
            'log.file': 'false',
        }
        return ''.join(f'{key} = {value}\n' for key, value in lines.items())


def to_ini(sections: Sections) -> str:
    """Sections in oslo.config's format; a list is an option given twice."""
    lines = []
    for section, options in sections.items():
        lines.append(f'[{section}]')
        for name, value in options.items():
            values = value if isinstance(value, list) else [value]
            lines += [f'{name} = {one}' for one in values]
        lines.append('')
    return '\n'.join(lines)


def address(service: str, here: str = ADDRESS) -> str:
    return f'{here}:{PORTS[service]}'


def url(service: str, here: str = ADDRESS) -> str:
    path = CATALOG[service][1] if service in CATALOG else ''
    return f'http://{address(service, here)}{path}'


def paste(name: str) -> str:
    """How an API is put together, as its package has it."""
    return str(inputs.venv() / 'etc' / name)
