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

"""The partitions of NVSwitches, as Fabric Manager tells of them.

In its shared mode a guest's cards are those of one partition, which is active
while the guest has them. What partitions a board has never changes; which are
active is Fabric Manager's to know. It calls a card by the number of its module
on the board.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from nova_gpu import exception
from nova_gpu.model.address import Address, PciAddress


@dataclasses.dataclass(frozen=True, slots=True)
class Gpu:
    """A module, and the card's address where Fabric Manager sees it."""

    module: int
    address: PciAddress | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Partition:
    """A set of modules that can be linked with each other, and no other."""

    number: int
    gpus: tuple[Gpu, ...]
    active: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Fabric:
    """What Fabric Manager has said.

    ``problem`` is why it doesn't answer now; the ``partitions`` are those of
    its last answer then. ``waits`` says that it wants to be told first which
    partitions are active, as it does after a restart.
    """

    partitions: tuple[Partition, ...] = ()
    problem: str | None = None
    waits: bool = False


def parse(text: str) -> tuple[Partition, ...]:
    """Read what ``fmpm -l`` prints.

    :raises ValueError: it is something else
    """
    try:
        return tuple(map(_partition, json.loads(text)['partitionInfo']))
    except (KeyError, TypeError, ValueError, RecursionError) as exc:
        raise ValueError(f'no list of partitions: {exc!r}') from exc


def _partition(record: Mapping[str, Any]) -> Partition:
    return Partition(
        number=int(record['partitionId']),
        gpus=tuple(
            Gpu(int(gpu['physicalId']), _address(gpu.get('pciBusId')))
            for gpu in record['gpuInfo']
        ),
        active=bool(record['isActive']),
    )


def _address(text: str | None) -> PciAddress | None:
    """An address, if it is known: otherwise it is all 0, or empty."""
    try:
        found = PciAddress.parse(text or '')
    except exception.InvalidAddress:
        return None
    return None if found == PciAddress(0, 0, 0, 0) else found


@dataclasses.dataclass(frozen=True)
class Board:
    """The partitions by number, as sets of this host's cards.

    Only those all of whose cards are known.
    """

    partitions: Mapping[int, frozenset[Address]]
    active: frozenset[int] = frozenset()
    problem: str | None = None

    @property
    def cards(self) -> frozenset[Address]:
        """All cards that are in a partition."""
        return frozenset().union(*self.partitions.values())

    @property
    def taken(self) -> frozenset[Address]:
        """The cards of active partitions."""
        active = (self.partitions.get(n, frozenset()) for n in self.active)
        return frozenset().union(*active)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many cards a guest can have."""
        return self.sizes_of(self.cards)

    def sizes_of(
        self, cards: Collection[Address], *, free: bool = False
    ) -> tuple[int, ...]:
        """How many of these cards a guest can have.

        :param free: now, as they are free; not ever
        """
        wanted = frozenset(cards)
        able = self._within(wanted) if free else self.partitions
        within = (self.partitions[number] for number in able)
        return tuple(sorted({len(c) for c in within if c <= wanted}))

    def equal_to(self, cards: Iterable[Address]) -> int | None:
        """The partition that has these cards and no others."""
        wanted = frozenset(cards)
        return next(
            (n for n, c in sorted(self.partitions.items()) if c == wanted),
            None,
        )

    def choose(self, count: int, free: Collection[Address]) -> int | None:
        """The best partition of ``count`` free cards, or None.

        One that leaves as many other partitions as can be, large ones before
        small ones. Ties go to the lower addresses.
        """
        able = self._within(frozenset(free))

        def cost(number: int) -> tuple[object, ...]:
            cards = self.partitions[number]
            lost = collections.Counter(
                len(self.partitions[other])
                for other in able
                if not cards.isdisjoint(self.partitions[other])
            )
            by_size = [lost[size] for size in reversed(self.sizes)]
            return by_size, sorted(cards), number

        fitting = (n for n in able if len(self.partitions[n]) == count)
        return min(fitting, key=cost, default=None)

    def _within(self, free: frozenset[Address]) -> list[int]:
        """The partitions that can be had of the ``free`` cards."""
        free -= self.taken
        return [n for n, cards in self.partitions.items() if cards <= free]
