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

"""On which NUMA nodes of a host the guest and its cards come together.

The scheduler wishes for some of the host's nodes, Nova fits the guest's CPUs
and memory to nodes that cover them, and then the cards are taken there.

===============  ============================================================
Affinity         Cards that a guest gets
===============  ============================================================
``required``     are all on nodes that the guest is on
``preferred``    the same, if such are free; otherwise any
``none``         any
===============  ============================================================

A card of which the host doesn't tell a node is on none of them. A guest that
Nova fits to no node has nothing to be near to, whatever is asked.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from nova_gpu.model.claim import Want
from nova_gpu.model.hostmap import PoolState
from nova_gpu.model.inventory import Use
from nova_gpu.model.request import NUMA_AFFINITY
from nova_gpu.model.topology import HOST

T = TypeVar('T')

REQUIRED, PREFERRED, NONE = NUMA_AFFINITY

#: What a node is called among the physical networks that it is near to: the
#: one thing of a node that Nova's scheduler can ask the compute for.
_NAME = 'nova-gpu:'

#: Where cards may be taken; None is anywhere.
Nodes = frozenset[int] | None


def name_of(node: int) -> str:
    """The name of a node among physical networks."""
    return f'{_NAME}{node}'


def named(names: Iterable[str]) -> frozenset[int]:
    """The nodes that are among the names of physical networks."""
    numbers = (n.removeprefix(_NAME) for n in names if n.startswith(_NAME))
    return frozenset(int(n) for n in numbers if n.isdecimal())


def listed(nodes: Iterable[int]) -> str:
    """Nodes for a message."""
    return ', '.join(map(str, sorted(nodes)))


def reach(affinity: str, nodes: Nodes) -> tuple[Nodes, ...]:
    """Where cards are looked for, one after the other.

    :param nodes: those that the guest is on, if it is fitted to any
    """
    if nodes is None or affinity == NONE:
        return (None,)
    return (nodes,) if affinity == REQUIRED else (nodes, None)


def on(uses: Iterable[Use], nodes: Nodes) -> list[Use]:
    """The cards that are on one of the nodes."""
    return [u for u in uses if nodes is None or u.card.numa_node in nodes]


def is_off(uses: Iterable[Use], want: Want, nodes: Nodes) -> bool:
    """Whether the pool that was asked for has no card on the nodes."""
    return not any(use.pool == want.pool for use in on(uses, nodes))


def cards_on(
    pool: PoolState, nodes: Collection[int], level: str = HOST,
    *, free: bool = False,
) -> int:  # fmt: skip
    """How many units on the nodes a request can have together, at most.

    :param level: what the cards have to share
    :param free: count only cards that are free, as far as that is known
    """
    near = [i for i, node in enumerate(pool.numa_nodes) if node in nodes]
    if not near:
        return 0
    if not pool.free:
        return max(pool.totals.values(), default=0)  # of the one card

    def pick(values: Sequence[T]) -> tuple[T, ...]:
        return tuple(values[i] for i in near)

    picked = dataclasses.replace(
        pool,
        numa_nodes=pick(pool.numa_nodes),
        switches=pick(pool.switches),
        cliques=pick(pool.cliques),
        free=pick(pool.free),
    )
    number = sum(picked.free) if free else len(near)
    return min(number, picked.largest_set(level, free=free))


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What of each pool a guest is to get, and how large the guest is.

    :param nodes: on how many nodes it is
    :param cpus: how many CPUs it has on each
    :param level: what whole cards of it have to share
    """

    counts: tuple[tuple[PoolState, int], ...]
    nodes: int = 1
    cpus: float = 1.0
    level: str = HOST

    def ways(self) -> list[frozenset[int]]:
        """All sets of nodes that have the cards, be they free or not."""
        known = {n for pool, _ in self.counts for n in pool.numa_nodes}
        known.discard(-1)
        return [
            nodes
            for size in range(1, self.nodes + 1)
            for nodes in map(
                frozenset, itertools.combinations(sorted(known), size)
            )
            if all(
                cards_on(pool, nodes, self.level) >= count
                for pool, count in self.counts
            )
        ]

    def are_free(
        self, nodes: Collection[int], grown: Mapping[int, int]
    ) -> bool:
        """Whether the cards are likely to be free on the nodes.

        A host's map may be a minute old, what Nova counts is not. Where CPUs
        have been taken since then, so have cards, as if all guests were like
        this one; where CPUs have become free, so have cards.

        :param grown: how many more CPUs of each node are in use
        """
        guests = math.ceil(sum(grown.get(n, 0) for n in nodes) / self.cpus)
        return all(
            min(
                cards_on(pool, nodes, self.level),
                cards_on(pool, nodes, self.level, free=True) - guests * count,
            )
            >= count
            for pool, count in self.counts
            if pool.free  # of others Placement has said that they are
        )
