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


"""Whole hosts with GPUs, as Placement has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from openstack import exceptions as sdk_exceptions

from nova_gpu.model.inventory import provider_prefix
from nova_gpu.model.serving import Amount, Ask, Member, Tree
from nova_gpu.osc import error
from nova_gpu.osc.placement import Placement, Progress, each


class Hosts(Placement):
    """What hosts with GPUs have, and which of them have it to give now."""

    def trees(self, progress: Progress | None = None) -> list[Tree]:
        """The hosts that have GPUs of ours, by name.

        :raises NotAllowed: only administrators may see them
        :raises NoAnswer: Placement doesn't answer
        """
        with error.asking('Placement', 'see what the hosts have'):
            found = self._get('/resource_providers')['resource_providers']
            by_uuid = {record['uuid']: record for record in found}
            hosts = {
                record['root_provider_uuid']
                for record in found
                if _is_ours(record, by_uuid)
            }
            wanted = [r for r in found if r['root_provider_uuid'] in hosts]
            read = each(self._member, wanted, progress)
        members = [member for member in read if member is not None]
        roots = {m.uuid: m for m in members if m.uuid in hosts}
        below: dict[str, list[Member]] = {}
        for member in members:
            if member.uuid not in hosts:
                root = by_uuid[member.uuid]['root_provider_uuid']
                below.setdefault(root, []).append(member)
        return sorted(
            (
                Tree(root, tuple(below.get(uuid, ())))
                for uuid, root in roots.items()
            ),
            key=lambda tree: tree.root.name,
        )

    def can_now(self, tree: Tree, ask: Ask) -> bool:
        """Whether Placement has a candidate on a host: its own answer."""
        query = [*ask.query(), ('in_tree', tree.root.uuid), ('limit', '1')]
        return bool(self.candidates(query)['allocation_requests'])

    def _member(self, record: Mapping[str, Any]) -> Member | None:
        url = f'/resource_providers/{record["uuid"]}'
        try:
            inventories = self._get(f'{url}/inventories')['inventories']
            used = self._get(f'{url}/usages')['usages']
            traits = self._get(f'{url}/traits')['traits']
        except sdk_exceptions.NotFoundException:
            return None  # its cards have just gone
        return Member(
            uuid=record['uuid'],
            name=record['name'],
            amounts={
                name: _amount(inventory, used.get(name, 0))
                for name, inventory in inventories.items()
            },
            traits=frozenset(traits),
        )


def gpu_classes(trees: Iterable[Tree]) -> frozenset[str]:
    """The resource classes that GPUs of ours give on any host."""
    return frozenset(
        name
        for tree in trees
        for member in tree.below
        if member.name.startswith(provider_prefix(tree.root.name))
        for name in member.amounts
    )


def _is_ours(
    record: Mapping[str, Any], by_uuid: Mapping[str, Mapping[str, Any]]
) -> bool:
    parent = by_uuid.get(record['parent_provider_uuid'] or '')
    return parent is not None and str(record['name']).startswith(
        provider_prefix(parent['name'])
    )


def _amount(inventory: Mapping[str, Any], used: int) -> Amount:
    ratio = inventory['allocation_ratio']
    total, reserved = inventory['total'], inventory['reserved']
    return Amount(
        # What GPUs have reserved is closed for a time only.
        capacity=int(total * ratio),
        free=max(0, int((total - reserved) * ratio) - used),
        most=min(inventory['max_unit'], int(total * ratio)),
    )
