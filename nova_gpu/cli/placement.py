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

"""What Placement says of a host, asked as nova-compute asks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nova_gpu.cli import error
from nova_gpu.model.inventory import provider_prefix

VERSION = '1.36'


def allocated(
    files: Sequence[str], node: str
) -> dict[str, dict[tuple[str, str], int]]:
    """What is allocated of a host's GPUs: by consumer, pool and class.

    :param files: configuration files with a section ``[placement]``
    :param node: the UUID of the host's provider
    :raises NoPlacement: it can't be asked
    """
    # Not above: the other commands must not wait for it.
    from keystoneauth1 import exceptions as ksa_exceptions
    from oslo_config import cfg

    try:
        client = _client(files)
        return _allocated(client, node)
    except (
        cfg.Error,
        ksa_exceptions.ClientException,
        KeyError,
        ValueError,
    ) as exc:
        raise error.NoPlacement(' '.join(str(exc).split())) from exc


def _client(files: Sequence[str]) -> Any:
    from keystoneauth1 import loading
    from oslo_config import cfg

    conf = cfg.ConfigOpts()
    group = 'placement'
    loading.register_auth_conf_options(conf, group)
    loading.register_session_conf_options(conf, group)
    loading.register_adapter_conf_options(conf, group)
    conf(
        args=[],
        project='nova-gpu',
        default_config_files=list(files),
        default_config_dirs=[],
    )
    conf.set_default('service_type', 'placement', group)
    auth = loading.load_auth_from_conf_options(conf, group)
    session = loading.load_session_from_conf_options(conf, group, auth=auth)
    return loading.load_adapter_from_conf_options(
        conf, group, session=session, auth=auth
    )


def _allocated(
    client: Any, node: str
) -> dict[str, dict[tuple[str, str], int]]:
    def get(path: str) -> Any:
        return client.get(path, microversion=VERSION).json()

    providers = get(f'/resource_providers?in_tree={node}')
    by_uuid = {p['uuid']: p for p in providers['resource_providers']}
    if node not in by_uuid:
        raise ValueError(f'it knows no resource provider {node}')
    prefix = provider_prefix(by_uuid[node]['name'])
    found: dict[str, dict[tuple[str, str], int]] = {}
    for uuid, provider in by_uuid.items():
        name: str = provider['name']
        if not name.startswith(prefix):
            continue
        pool = name.removeprefix(prefix)
        records = get(f'/resource_providers/{uuid}/allocations')
        for consumer, record in records['allocations'].items():
            for resource_class, count in record['resources'].items():
                counts = found.setdefault(consumer, {})
                counts[pool, resource_class] = count
    return found
