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

"""The resource providers of GPUs, read from Placement."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from openstack import exceptions as sdk_exceptions

from nova_gpu.model.capacity import Provider, Stock
from nova_gpu.model.inventory import provider_prefix
from nova_gpu.osc import error

#: 1.36 is that of the oldest release of Nova that nova-gpu works with.
VERSION = '1.36'
#: Placement is asked several things of each card: so many at once.
AT_ONCE = 8

Item = TypeVar('Item')
Found = TypeVar('Found')
#: Is told of each item that was read, and of how many.
Progress = Callable[[int, int], None]


class Placement:
    """What Placement says of a cloud's GPUs."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def get(self, path: str) -> Any:
        """What is at a path of the API."""
        response = self._connection.placement.get(path, microversion=VERSION)
        sdk_exceptions.raise_from_response(response)
        return response.json()

    def providers(
        self,
        hosts: Collection[str] = (),
        progress: Progress | None = None,
    ) -> list[Provider]:
        """The providers of all GPUs, or of those on ``hosts``.

        :raises NotAllowed: only administrators may see them
        :raises NoAnswer: Placement doesn't answer
        """
        with error.asking('Placement', 'see the GPUs of hosts'):
            found = self.get('/resource_providers')['resource_providers']
            names = {record['uuid']: record['name'] for record in found}
            wanted = []
            for record in found:
                node = names.get(record['parent_provider_uuid'], '')
                prefix = provider_prefix(node)
                if not node or not record['name'].startswith(prefix):
                    continue
                if not hosts or node in hosts:
                    wanted.append((node, prefix, record))
            return sorted(
                each(lambda args: self._read(*args), wanted, progress),
                key=lambda provider: (provider.node, provider.key),
            )

    def hosts(self) -> list[str]:
        """The names of all compute nodes, with or without GPUs."""
        with error.asking('Placement', 'see the hosts'):
            found = self.get('/resource_providers')['resource_providers']
        return sorted(
            record['name']
            for record in found
            if record['parent_provider_uuid'] is None
        )

    def _read(
        self, node: str, prefix: str, record: Mapping[str, Any]
    ) -> Provider:
        url = f'/resource_providers/{record["uuid"]}'
        inventories = self.get(f'{url}/inventories')['inventories']
        traits = self.get(f'{url}/traits')['traits']
        allocations = self.get(f'{url}/allocations')['allocations']
        held = {
            consumer: allocation['resources']
            for consumer, allocation in allocations.items()
        }
        used: dict[str, int] = {}
        for resources in held.values():
            for name, count in resources.items():
                used[name] = used.get(name, 0) + count
        return Provider(
            uuid=record['uuid'],
            node=node,
            key=record['name'].removeprefix(prefix),
            traits=frozenset(traits),
            stocks={
                name: Stock(
                    inventory['total'],
                    inventory['reserved'],
                    used.get(name, 0),
                )
                for name, inventory in sorted(inventories.items())
            },
            held=held,
        )


def each(
    read: Callable[[Item], Found],
    items: Iterable[Item],
    progress: Progress | None = None,
) -> list[Found]:
    """Read all items, several at once, in their order."""
    items = list(items)
    done = []
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for found in pool.map(read, items):
            done.append(found)
            if progress is not None:
                progress(len(done), len(items))
    return done
