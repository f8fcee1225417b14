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

"""Our part of a compute node's provider tree in Placement."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import os_traits
from oslo_log import log as logging

from nova_gpu.model.inventory import (
    Inventory,
    Pool,
    provider_prefix,
    provider_uuid,
)

LOG = logging.getLogger(__name__)


def update(
    tree: Any,
    node: str,
    pools: Iterable[Pool],
    in_use: Callable[[str], bool],
    left: Collection[str] = (),
) -> None:
    """Make ``tree`` show ``pools`` below the compute node ``node``.

    :param tree: a :class:`nova.compute.provider_tree.ProviderTree`
    :param in_use: whether a provider, by UUID, has allocations; asked only
        of providers that nothing in the host stands for any more
    :param left: names of providers that Nova leaves as they are, though it
        doesn't hand out their cards any more
    """
    pools = tuple(pools)
    root = tree.data(node).uuid
    for pool in pools:
        name = pool.provider_name(node)
        if not tree.exists(name):
            tree.new_child(name, node, uuid=provider_uuid(root, pool.key))
        tree.update_inventory(
            name,
            {
                resource_class: _record(inventory)
                for resource_class, inventory in pool.inventories.items()
            },
        )
        tree.update_traits(name, _traits(tree.data(name).traits, pool))
    wanted = {pool.provider_name(node) for pool in pools}
    for uuid in tree.get_provider_uuids(node):
        provider = tree.data(uuid)
        if provider.parent_uuid != root or provider.name in wanted:
            continue
        if provider.name.startswith(provider_prefix(node)):
            _retire(tree, provider, in_use, 'its GPUs are gone')
        elif provider.name in left:
            _retire(tree, provider, in_use, 'its GPU is not of Nova any more')


def alike(tree: Any, node: str, pools: Iterable[Pool]) -> dict[str, set[str]]:
    """For each pool the others whose providers suit the same requests.

    Those have the same traits and aggregates, ours and those that an
    operator has given them: a request may have asked for any.
    """
    groups: dict[Any, set[str]] = {}
    for pool in pools:
        name = pool.provider_name(node)
        if tree.exists(name):
            data = tree.data(name)
            key = frozenset(data.traits), frozenset(data.aggregates)
            groups.setdefault(key, set()).add(pool.key)
    return {key: group - {key} for group in groups.values() for key in group}


def _traits(current: Iterable[str], pool: Pool) -> set[str]:
    """Ours, and those that others have put on the provider."""
    others = {t for t in current if not t.startswith('CUSTOM_GPU_')}
    return others | pool.traits | {os_traits.OWNER_NOVA}


def _retire(
    tree: Any, provider: Any, in_use: Callable[[str], bool], reason: str
) -> None:
    """Take a provider out, or close it while something is allocated on it.

    Removing one that has allocations would fail, and fail the update of all
    others with it; reserving all of it never does.
    """
    if not in_use(provider.uuid):
        LOG.info('Removing resource provider %s: %s', provider.name, reason)
        tree.remove(provider.uuid)
        return
    tree.update_inventory(
        provider.uuid,
        {
            name: {**record, 'reserved': record['total']}
            for name, record in provider.inventory.items()
        },
    )


def _record(inventory: Inventory) -> dict[str, float]:
    return {
        'total': inventory.total,
        'reserved': inventory.reserved,
        'min_unit': 1,
        'max_unit': inventory.total,
        'step_size': 1,
        'allocation_ratio': 1.0,
    }
