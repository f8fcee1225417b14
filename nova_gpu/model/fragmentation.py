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

"""What a host's free GPUs are still good for.

A cloud fills long before its last GPU is taken: GPUs are left over where no
request fits any more, because they are too few, parts of cards, or without
CPUs and memory beside them. The measure is fragmentation gradient descent
(Weng and others, "Beware of Fragmentation", USENIX ATC 2023), adapted to
hosts that give whole cards and vGPUs of one size a card. For a kind of
request, those of a host's free GPUs are lost

* that the next such request could not have, as in that paper, and
* that stay free when the host has taken as many such requests as it can.

The mean of both says more than either: the first sees no difference between
room for one request and for many, the second none between cards that are in
the way now and such as will be. A request is best placed where the least is
lost by it, on average over the kinds that are expected.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple, Protocol

from nova_gpu.model.hostmap import PoolState

#: In GPUs. Differences that are smaller are none: what they would tell is
#: noise, and hosts would fill evenly instead of one after the other.
STEP = 1 / 50
#: What all of the fullness counts for, in steps: less than one.
TIE = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request: ``share`` of each of so many GPUs.

    ``weight`` says how often it is expected, beside other kinds. 0 CPUs or
    MiB of memory: a host's CPUs or memory never are what it lacks.
    """

    gpus: int = 1
    share: float = 1.0
    vcpus: float = 0.0
    memory_mib: float = 0.0
    weight: float = 1.0

    @property
    def amount(self) -> float:
        """In GPUs."""
        return self.gpus * self.share


class Gpus(Hashable, Protocol):
    """The free GPUs of a host. What is alike is scored once: hashable."""

    @property
    def free(self) -> float:
        """In GPUs."""

    def fit(self, gpus: int, share: float) -> tuple[int, float, float]:
        """What requests for ``share`` of so many cards find here.

        How many of them fit, the free GPUs that one could be put on, and how
        much of them each takes.
        """


class Cards(NamedTuple):
    """Cards of a host that are alike, of which each gives one size at a time.

    ``sizes`` are the numbers of vGPUs that one card can be cut into, 1 being
    the whole card. ``parts`` are, for the cards in use, these numbers and how
    many vGPUs are free of all cards that are cut so.
    """

    empty: int
    parts: tuple[tuple[int, int], ...] = ()
    sizes: tuple[int, ...] = (1,)

    @property
    def free(self) -> float:
        return self.empty + sum(left / size for size, left in self.parts)

    def fit(self, gpus: int, share: float) -> tuple[int, float, float]:
        size = self.size_for(share)
        if not size:
            return 0, 0.0, 0.0
        units = self.empty * size + dict(self.parts).get(size, 0)
        return units // gpus, units / size, gpus / size

    def size_for(self, share: float) -> int:
        """How the card is cut for such a share; 0 if it can't be."""
        return max((n for n in self.sizes if n * share <= 1 + 1e-9), default=0)

    def take(self, size: int, count: int) -> Cards:
        """What is left after ``count`` units, of cards in use first.

        More than there are leave nothing: the map may be old.
        """
        parts = dict(self.parts)
        left = parts.get(size, 0) - count
        fresh = max(0, math.ceil(-left / size))
        parts[size] = max(0, left + fresh * size)
        if fresh > self.empty:
            fresh, parts[size] = self.empty, 0
        return Cards(
            self.empty - fresh,
            _parts(parts),
            self.sizes,
        )


class Room(NamedTuple):
    """What is free on a host."""

    gpus: Gpus
    vcpus: float = math.inf
    memory_mib: float = math.inf


#: CPUs, memory and weight of a kind.
_Needs = tuple[float, float, float]


class Mix:
    """The kinds of requests that are expected."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self.kinds = tuple(kinds)
        total = sum(kind.weight for kind in self.kinds)
        #: By what they ask of the GPUs, and then of the host beside.
        self._kinds: dict[tuple[int, float], list[_Needs]] = {}
        for kind in self.kinds:
            self._kinds.setdefault((kind.gpus, kind.share), []).append(
                (kind.vcpus, kind.memory_mib, kind.weight / total)
            )
        #: What a GPU needs beside it, at most.
        self.vcpus_a_gpu = max(k.vcpus / k.amount for k in self.kinds)
        self.memory_a_gpu = max(k.memory_mib / k.amount for k in self.kinds)
        #: Whether what a host has beside its GPUs matters.
        self.needs_host = bool(self.vcpus_a_gpu or self.memory_a_gpu)
        self._fits = functools.lru_cache(1 << 14)(self._fit)
        self.lost = functools.lru_cache(1 << 16)(self._lost)
        # Most hosts are as they were at the last such request.
        self.effect = functools.lru_cache(1 << 16)(self._effect)

    def _fit(self, gpus: Gpus) -> list[tuple[int, float, float, list[_Needs]]]:
        """What fits, without the kinds of which nothing does."""
        found = []
        for asked, needs in self._kinds.items():
            most, usable, each = gpus.fit(*asked)
            if most:
                found.append((most, usable, each, needs))
        return found

    def _lost(self, room: Room) -> float:
        """The free GPUs that are lost, on average over the kinds."""
        gpus, vcpus, memory_mib = room
        lost = gpus.free
        for most, usable, each, needs in self._fits(gpus):
            for need_vcpus, need_memory, weight in needs:
                fit: float = most
                if need_vcpus and fit * need_vcpus > vcpus:
                    fit = vcpus // need_vcpus
                if need_memory and fit * need_memory > memory_mib:
                    fit = memory_mib // need_memory
                if fit > 0:
                    lost -= weight * (usable + fit * each) / 2
        return lost

    def steps(self, before: Room, after: Room) -> int:
        """How much less is lost after than before; negative if it is more."""
        gain = self.lost(before) - self.lost(after)
        return math.floor(gain / STEP + 1e-6)

    def _effect(
        self,
        cards: Cards,
        unit: int,
        count: int,
        vcpus: float,
        memory_mib: float,
        asked_vcpus: float,
        asked_memory: float,
    ) -> int:
        """The steps of a request for ``count`` units and CPUs and memory.

        CPUs and memory that no GPU could need are left out of the account:
        so most hosts of a cloud are alike, and are scored once.
        """
        free = cards.free
        vcpus = min(vcpus, free * self.vcpus_a_gpu + asked_vcpus)
        memory_mib = min(memory_mib, free * self.memory_a_gpu + asked_memory)
        return self.steps(
            Room(cards, vcpus, memory_mib),
            Room(
                cards.take(unit, count),
                vcpus - asked_vcpus,
                memory_mib - asked_memory,
            ),
        )


def score(steps: int, fullness: float) -> float:
    """How good it is to place a request on a host.

    Ties go to the host that is fuller; ``fullness`` is from 0 to 1.
    """
    return steps + TIE * fullness


#: Where nothing is said: whole cards in the numbers that board makers build
#: for, and as often a part of one.
DEFAULT = Mix(
    (
        *(Kind(gpus, weight=1.0) for gpus in (1, 2, 4, 8)),
        *(Kind(share=1 / n, weight=0.5) for n in (2, 3, 4, 6, 8)),
    )
)


def cards_of(
    pools: Iterable[PoolState], resource_class: str
) -> tuple[Cards, int]:
    """Those of a host's cards that give a class, and how many units each.

    They are taken to be alike, as cards of one class are.
    """
    empty = unit = 0
    parts: dict[int, int] = {}
    sizes: tuple[int, ...] = ()
    for pool in pools:
        totals = pool.totals
        if resource_class not in totals:
            continue
        # A pool of whole cards has many, one of vGPUs is a single card.
        members = max(1, len(pool.numa_nodes))
        if not unit:
            unit = max(1, totals[resource_class] // members)
            cuts = {max(1, total // members) for total in totals.values()}
            sizes = tuple(sorted(cuts))
        active = pool.active or resource_class
        size = max(1, totals[active] // members)
        left = max(0, pool.room(active))
        if size == 1:
            empty += left
        elif pool.used or pool.reserved:
            parts[size] = parts.get(size, 0) + left
        else:
            empty += 1
    return Cards(empty, _parts(parts), sizes or (1,)), unit or 1


def _parts(parts: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted((n, left) for n, left in parts.items() if left))
