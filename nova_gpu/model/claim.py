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

import dataclasses

from nova_gpu.model.device import Snapshot
from nova_gpu.model.inventory import Pool, Unit, Use

#: The states of a claim, which are those of Nova's PCI devices.
CLAIMED = 'claimed'
ALLOCATED = 'allocated'
REMOVED = 'removed'


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
    """

    consumer: str
    units: tuple[Unit, ...]
    state: str
    stuck: tuple[Unit, ...] = ()
    moves: tuple[Move, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """The host as it is now: every card's use, the pools, the claims."""

    snapshot: Snapshot
    uses: tuple[Use, ...]
    pools: tuple[Pool, ...]
    claims: tuple[Claim, ...]

    @property
    def units(self) -> tuple[Unit, ...]:
        """All units in use."""
        return tuple(u for claim in self.claims for u in claim.units)

    def pool(self, key: str) -> Pool | None:
        """The pool of that key, if the host has it."""
        return next((p for p in self.pools if p.key == key), None)
