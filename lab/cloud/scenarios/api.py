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

"""The cloud by its public API, as an operator and a user see it."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Mapping
from typing import Any

import openstack

from lab.cloud import inputs
from lab.cloud.client import connect
from lab.cloud.scenarios import gpuhost
from lab.cloud.settings import GPU_HOST, Settings

IMAGE = 'tiny'
_numbers = itertools.count(1)


@functools.cache
def cloud() -> openstack.connection.Connection:
    return connect(Settings.load(inputs.run()))


def image() -> str:
    """An image of one MiB: its guests have firmware and no more."""
    found = cloud().image.find_image(IMAGE)
    return _new_image(IMAGE) if found is None else str(found.id)


def lost_image() -> str:
    """An image that Glance has in its list, and no longer on its disk."""
    image_id = _new_image(f'lost-{time.time_ns()}')
    (inputs.run() / 'state/images' / image_id).unlink()
    return image_id


def _new_image(name: str) -> str:
    made = cloud().image.create_image(
        name,
        data=bytes(2**20),
        disk_format='raw',
        container_format='bare',
        allow_duplicates=True,
    )
    return str(made.id)


def flavor(extra_specs: Mapping[str, str] | None = None) -> str:
    """A small flavor."""
    made = cloud().compute.create_flavor(
        name=f'scenario-{time.time_ns()}', ram=64, vcpus=1, disk=0
    )
    if extra_specs:
        cloud().compute.create_flavor_extra_specs(made, extra_specs)
    return str(made.id)


def units(
    resource_class: str,
    count: int = 1,
    others: Mapping[str, str] | None = None,
) -> str:
    """A flavor with so many units of a class, and other extra specs."""
    wanted = {f'resources:{resource_class}': str(count)}
    return flavor(wanted | dict(others or {}))


def create(flavor_id: str) -> str:
    """Ask for a server; gives its ID at once."""
    server = cloud().compute.create_server(
        name=f'scenario-{next(_numbers)}',
        flavor_id=flavor_id,
        image_id=image(),
        networks='none',
    )
    return str(server.id)


def server(server_id: str) -> Any:
    return cloud().compute.get_server(server_id)


def wait(server_id: str, status: str = 'ACTIVE') -> Any:
    """Wait for a status; ERROR ends the wait with what the API says."""
    deadline = time.monotonic() + gpuhost.PATIENCE
    while True:
        found = server(server_id)
        if found.status == status and found.task_state is None:
            return found
        if found.status == 'ERROR':
            raise AssertionError(f'ERROR: {found.fault}')
        if time.monotonic() > deadline:
            raise AssertionError(
                f'not {status} but {found.status} ({found.task_state})'
            )
        time.sleep(1)


def fault(server_id: str) -> str:
    """Why a server can't be, as its owner is told."""
    deadline = time.monotonic() + gpuhost.PATIENCE
    while (found := server(server_id)).status != 'ERROR':
        if found.status == 'ACTIVE' or time.monotonic() > deadline:
            raise AssertionError(f'no error but {found.status}')
        time.sleep(1)
    return str(found.fault['message'])


def delete(server_id: str) -> None:
    """Delete a server, and wait until it is gone."""
    cloud().compute.delete_server(server_id, ignore_missing=True)
    deadline = time.monotonic() + gpuhost.PATIENCE
    while cloud().compute.find_server(server_id, all_projects=True):
        if time.monotonic() > deadline:
            raise AssertionError(f'{server_id} is not gone')
        time.sleep(1)


def servers() -> list[str]:
    return [str(s.id) for s in cloud().compute.servers(all_projects=True)]


def placement(path: str) -> Any:
    response = cloud().placement.get(
        path, headers={'OpenStack-API-Version': 'placement 1.39'}
    )
    response.raise_for_status()
    return response.json()


def allocations(consumer: str) -> dict[str, int]:
    """What a server has allocated, by resource class; GPUs only."""
    found: dict[str, int] = {}
    answer = placement(f'/allocations/{consumer}')['allocations']
    for allocation in answer.values():
        for name, amount in allocation['resources'].items():
            if name.startswith('CUSTOM_'):
                found[name] = found.get(name, 0) + amount
    return found


def providers(host: str = GPU_HOST) -> dict[str, str]:
    """A host's resource providers, by name."""
    everything = placement('/resource_providers')['resource_providers']
    (root,) = (p['uuid'] for p in everything if p['name'] == host)
    return {
        p['name']: p['uuid']
        for p in everything
        if p['root_provider_uuid'] == root
    }


def inventory() -> dict[str, int]:
    """What Placement would still allocate of each class of GPUs."""
    free: dict[str, int] = {}
    for uuid in providers().values():
        path = f'/resource_providers/{uuid}'
        inventories = placement(f'{path}/inventories')['inventories']
        used = placement(f'{path}/usages')['usages']
        for name, has in inventories.items():
            if name.startswith('CUSTOM_'):
                left = has['total'] - has['reserved'] - used.get(name, 0)
                free[name] = free.get(name, 0) + left
    return free


def compute_service(host: str) -> Any:
    (found,) = cloud().compute.services(binary='nova-compute', host=host)
    return found


def enabled(host: str) -> bool:
    """Whether the scheduler may choose a host; Placement decides on that."""
    root = providers(host)[host]
    traits = placement(f'/resource_providers/{root}/traits')['traits']
    return 'COMPUTE_STATUS_DISABLED' not in traits
