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

from collections.abc import Callable, Iterable
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
) -> None:
    """Make ``tree`` show ``pools`` below the compute node ``node``.

    :param tree: a :class:`nova.compute.provider_tree.ProviderTree`
    :param in_use: whether a provider, by UUID, has allocations; asked only
        of providers that nothing in the host stands for any more
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
            _retire(tree, provider, in_use)


def _traits(current: Iterable[str], pool: Pool) -> set[str]:
    """Ours, and those that others have put on the provider."""
    others = {t for t in current if not t.startswith('CUSTOM_GPU_')}
    return others | pool.traits | {os_traits.OWNER_NOVA}


def _retire(tree: Any, provider: Any, in_use: Callable[[str], bool]) -> None:
    """Take a provider out, or close it while something is allocated on it.

    Removing one that has allocations would fail, and fail the update of all
    others with it; reserving all of it never does.
    """
    if not in_use(provider.uuid):
        LOG.info(
            'Removing resource provider %s: its GPUs are gone', provider.name
        )
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
