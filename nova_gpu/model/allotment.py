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

"""Which pools an instance is allocated units of, where no scheduler has said.

Nova leaves an instance with the allocation of another flavor when a resize
fails, and without one when a rebuild does.
"""

from __future__ import annotations

from collections.abc import Mapping

from nova_gpu.model.claim import Counts, View, count


def allot(wanted: Mapping[str, int], *sources: Counts) -> Counts:
    """Take units of each class in ``wanted`` from pools.

    From those of the first source, the best, as far as they go, and then
    from those of the next; each source has what those before it have, too.
    From pools with many before those with few. It may be less than wanted.
    """
    taken = Counts()
    for name, left in wanted.items():
        for source in sources:
            pools = [key for key in source if key[1] == name]
            for key in sorted(pools, key=lambda k: (-source[k], k)):
                number = min(left, source[key] - taken[key])
                if number > 0:
                    taken[key] += number
                    left -= number
    return taken


def free(view: View, extra_specs: Mapping[str, str]) -> Counts:
    """What Placement could promise of the pools that suit a flavor.

    Of the traits that it requires or forbids, those that pools have: others
    are the node's.
    """
    known = frozenset().union(*(pool.traits for pool in view.pools))
    required, forbidden = (
        {
            trait
            for key, value in extra_specs.items()
            if key.startswith('trait') and value == strength
            if (trait := key.partition(':')[2]) in known
        }
        for strength in ('required', 'forbidden')
    )
    there = Counts()
    for pool in view.pools:
        if required <= pool.traits and pool.traits.isdisjoint(forbidden):
            for name, inventory in pool.inventories.items():
                there[pool.key, name] = inventory.total - inventory.reserved
    return there - count(unit for unit in view.units if unit.allocated)
