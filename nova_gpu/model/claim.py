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

"""What instances hold of a host's GPUs, and how the host looks with it."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping

from nova_gpu.model.device import Snapshot
from nova_gpu.model.inventory import Pool, Unit, Use

#: Numbers of units by pool and resource class.
Counts = collections.Counter[tuple[str, str]]

AVAILABLE = 'available'
CLAIMED = 'claimed'
ALLOCATED = 'allocated'
REMOVED = 'removed'

#: What becomes of a unit, by the state that it is in and what happens. The
#: states are those of Nova's PCI devices; the documentation's picture is
#: drawn from this.
TRANSITIONS: Mapping[tuple[str, str], str] = {
    (AVAILABLE, 'claim'): CLAIMED,
    (AVAILABLE, 'adopt'): ALLOCATED,
    (CLAIMED, 'settle'): ALLOCATED,
    (CLAIMED, 'release'): AVAILABLE,
    (ALLOCATED, 'release'): AVAILABLE,
    (ALLOCATED, 'card gone'): REMOVED,
    (REMOVED, 'card back'): ALLOCATED,
    (REMOVED, 'release'): AVAILABLE,
}


def after(state: str, event: str) -> str:
    """The state after ``event``, which may leave it as it is."""
    return TRANSITIONS.get((state, event), state)


def count(units: Iterable[Unit]) -> Counts:
    """How many units there are of each pool and class."""
    return Counts((unit.pool, unit.resource_class) for unit in units)


@dataclasses.dataclass(frozen=True, slots=True)
class Want:
    """A part of an allocation: ``count`` units of a class from a pool."""

    pool: str
    resource_class: str
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """A want that another ``pool`` serves than the one that was asked."""

    want: Want
    pool: str


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """The units of one consumer, which is an instance's UUID.

    ``stuck`` are those of them that could not be given back: no guest gets
    them, and each look at the host tries again. ``moves`` are what became of
    an allocation when the claim was made.

    ``guest`` is the instance whose guest's metadata records the units, where
    that isn't the consumer: what a resize on one host keeps until it is
    confirmed. ``uncounted`` are devices that Placement counts for nobody.
    """

    consumer: str
    units: tuple[Unit, ...]
    state: str
    stuck: tuple[Unit, ...] = ()
    moves: tuple[Move, ...] = ()
    guest: str | None = None
    uncounted: frozenset[str] = frozenset()

    @property
    def server(self) -> str:
        """The instance whose guest has the units, or will have them."""
        return self.guest or self.consumer

    @property
    def counted(self) -> tuple[Unit, ...]:
        """The units as Placement counts them."""
        return tuple(
            dataclasses.replace(unit, allocated=False)
            if unit.device in self.uncounted
            else unit
            for unit in self.units
        )

    def split(
        self, counts: Mapping[tuple[str, str], int]
    ) -> tuple[tuple[Unit, ...], tuple[Unit, ...]]:
        """What ``counts``, by pool and class, stand for, and what is left.

        Units that can't be given back, or that others gave, are in neither.
        """
        left = collections.Counter(counts)
        covered: list[Unit] = []
        surplus: list[Unit] = []
        for unit in self.units:
            if unit.allocated and unit not in self.stuck:
                key = unit.pool, unit.resource_class
                (covered if left[key] > 0 else surplus).append(unit)
                left[key] -= 1
        return tuple(covered), tuple(surplus)


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """The host as it is now: every card's use, the pools, the claims."""

    snapshot: Snapshot
    uses: tuple[Use, ...]
    pools: tuple[Pool, ...]
    claims: tuple[Claim, ...]

    @property
    def units(self) -> tuple[Unit, ...]:
        """All units in use, as Placement counts them."""
        return tuple(u for claim in self.claims for u in claim.counted)

    def pool(self, key: str) -> Pool | None:
        """The pool of that key, if the host has it."""
        return next((p for p in self.pools if p.key == key), None)
