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

"""What Placement says of a cloud's GPUs."""

from __future__ import annotations

import concurrent.futures
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from openstack import exceptions as sdk_exceptions

from nova_gpu.model.capacity import Provider, Stock, may_be_gpu
from nova_gpu.model.inventory import provider_prefix
from nova_gpu.osc import error

#: All that is asked for is in that of the oldest Placement that can be met.
VERSION = '1.36'
#: Placement is asked several things of each card: so many at once.
AT_ONCE = 8

Item = TypeVar('Item')
Found = TypeVar('Found')
#: Is told how many items are read, and how many there are.
Progress = Callable[[int, int], None]


class Placement:
    """The resource providers of GPUs, and who holds what of them.

    :param connection: an :class:`openstack.connection.Connection`
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def _get(self, path: str, **query: str) -> Any:
        if query:
            path = f'{path}?{urllib.parse.urlencode(query)}'
        response = self._connection.placement.get(path, microversion=VERSION)
        sdk_exceptions.raise_from_response(response)
        return response.json()

    def providers(self, progress: Progress | None = None) -> list[Provider]:
        """The providers of all GPUs, by host and name.

        :raises NotAllowed: only administrators may see them
        :raises NoAnswer: Placement doesn't answer
        """
        with error.asking('Placement', 'see the GPUs of the hosts'):
            found = self._get('/resource_providers')['resource_providers']
            names = {record['uuid']: record['name'] for record in found}
            ours = [
                (names[record['parent_provider_uuid']], record)
                for record in found
                if record['parent_provider_uuid'] in names
            ]
            providers = each(
                lambda args: self._read(*args),
                (
                    (node, record)
                    for node, record in ours
                    if record['name'].startswith(provider_prefix(node))
                ),
                progress,
            )
        return sorted(
            (provider for provider in providers if provider is not None),
            key=lambda provider: (provider.node, provider.key),
        )

    def _read(self, node: str, record: Mapping[str, Any]) -> Provider | None:
        url = f'/resource_providers/{record["uuid"]}'
        try:
            inventories = self._get(f'{url}/inventories')['inventories']
            traits = self._get(f'{url}/traits')['traits']
            allocations = self._get(f'{url}/allocations')['allocations']
        except sdk_exceptions.NotFoundException:
            return None  # its cards have just gone
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
            key=record['name'].removeprefix(provider_prefix(node)),
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

    def projects(
        self, consumers: Iterable[str], progress: Progress | None = None
    ) -> dict[str, str]:
        """The project of each consumer, as far as it still exists."""

        def project_of(consumer: str) -> str | None:
            record = self._get(f'/allocations/{consumer}')
            found: str | None = record.get('project_id')
            return found

        consumers = sorted(set(consumers))
        with error.asking('Placement', 'see who has the GPUs'):
            found = each(project_of, consumers, progress)
        known = zip(consumers, found, strict=True)
        return {consumer: project for consumer, project in known if project}

    def usages(self, project: str) -> dict[str, int]:
        """What a project has of each class; anybody may ask for his own."""
        with error.asking('Placement', f'see the usage of project {project}'):
            found = self._get('/usages', project_id=project)['usages']
        return {
            name: count
            for name, count in sorted(found.items())
            if may_be_gpu(name) and count
        }

    def classes(self) -> list[str]:
        """The names of all resource classes that may be those of GPUs."""
        with error.asking('Placement', 'see the resource classes'):
            found = self._get('/resource_classes')['resource_classes']
        names = (record['name'] for record in found)
        return sorted(name for name in names if may_be_gpu(name))

    def candidates(self, query: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """Where a request fits now, as Placement answers a scheduler."""
        with error.asking('Placement', 'see where a flavor fits'):
            found: dict[str, Any] = self._get(
                '/allocation_candidates', **dict(query)
            )
        return found


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
