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

"""Who holds what on a host.

There is no database: :mod:`nova_gpu.recovery` reads it back from guest XML and
sysfs. Nothing here knows of locks: the tracker has one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)

from oslo_log import log as logging

from nova_gpu.cleaner import Cleaner
from nova_gpu.fabric import FabricManager
from nova_gpu.mechanism.base import Effects, Mechanism
from nova_gpu.model import fabric, inventory, isolation
from nova_gpu.model.address import Address
from nova_gpu.model.claim import CLAIMED, Claim, View, after
from nova_gpu.model.device import Snapshot
from nova_gpu.model.inventory import Unit, Use
from nova_gpu.model.isolation import Tenant
from nova_gpu.model.rule import Rule
from nova_gpu.putaside import PutAside
from nova_gpu.waiting import Waiting

LOG = logging.getLogger(__name__)


class Book:
    """The claims of one host, and what they need of it.

    :param read: reads the host
    :param aside: the units that are put aside
    :param owned: cards that somebody else hands out, and who
    :param manager: Fabric Manager; ``read`` asks it as well
    """

    def __init__(
        self,
        read: Callable[[], Snapshot],
        mechanisms: Sequence[Mechanism],
        effects: Effects,
        aside: PutAside,
        rules: Sequence[Rule] = (),
        owned: Callable[[Snapshot], Mapping[Address, str]] | None = None,
        manager: FabricManager | None = None,
    ) -> None:
        self.read = read
        self.mechanisms = {m.name: m for m in mechanisms}
        self.effects = effects
        self.fabric = manager or FabricManager(effects, enabled=False)
        self.cleaner = Cleaner(self.mechanisms, effects, aside, self.fabric)
        self.rules = tuple(rules)
        self._owned = owned or (lambda snapshot: {})
        self.claims: dict[str, Claim] = {}
        self.waiting = Waiting(mechanisms)
        self._told: frozenset[str] = frozenset()

    def clear(self) -> None:
        """Forget all claims."""
        self.claims = {}
        self.waiting = Waiting(self.mechanisms.values())

    @property
    def units(self) -> list[Unit]:
        """All that is held."""
        return [unit for claim in self.claims.values() for unit in claim.units]

    def look(
        self,
        asking: Tenant | None = None,
        prepared: Sequence[Unit] = (),
    ) -> View:
        """Read the host: as it is, or as who asks may have it.

        :param prepared: what has been made for who asks
        """
        snapshot = self.read()
        self._tell(snapshot.warnings)
        self.adopt(snapshot)
        present = {card.address for card in snapshot.cards}
        self._mark(present)
        claims = tuple(self.claims.values())
        held = [(claim.server, u) for claim in claims for u in claim.units]
        held += [(asking.server, u) for u in prepared if asking is not None]
        there = isolation.tenants(snapshot.cards, held)
        uses = isolation.close(self._uses(snapshot), there, asking)
        gone = [u for c in claims for u in c.units if u.card not in present]
        return View(snapshot, uses, inventory.pools(uses, gone), claims)

    def _mark(self, present: Collection[Address]) -> None:
        """Let the claims' states say whether their cards are there."""
        for consumer, claim in self.claims.items():
            missing = [u for u in claim.units if u.card not in present]
            state = after(claim.state, 'card gone' if missing else 'card back')
            if state == claim.state:
                continue
            self.claims[consumer] = dataclasses.replace(claim, state=state)
            if missing:
                LOG.error(
                    'Card %s has left the host while instance %s holds it',
                    missing[0].card,
                    consumer,
                )
            else:
                LOG.info(
                    'The card of instance %s is back in the host', consumer
                )

    def _uses(self, snapshot: Snapshot) -> tuple[Use, ...]:
        held: dict[Address, list[Unit]] = {}
        for claim in self.claims.values():
            for unit in claim.counted:
                held.setdefault(unit.card, []).append(unit)
        owned = self._owned(snapshot)
        aside = self.cleaner.aside()
        uses = tuple(
            inventory.classify(
                card,
                self.mechanisms.values(),
                self.rules,
                owned,
                held.get(card.address, ()),
                aside,
            )
            for card in snapshot.cards
        )
        return fabric.with_partitions(uses, snapshot.fabric)

    def ours(self, snapshot: Snapshot) -> list[Use]:
        """The uses of all cards that nobody else hands out."""
        owned = self._owned(snapshot)
        return [
            use
            for use in self._uses(snapshot)
            if use.card.address not in owned
        ]

    def _tell(self, warnings: Iterable[str]) -> None:
        """Log each warning when it appears, not once a minute."""
        now = frozenset(warnings)
        for warning in sorted(now - self._told):
            LOG.warning('While reading the host: %s', warning)
        self._told = now

    def hold(self, claim: Claim) -> Claim:
        """Add a claim to what its consumer holds already."""
        before = self.claims.get(claim.consumer)
        if before is not None:
            claim = dataclasses.replace(
                claim,
                units=(*before.units, *claim.units),
                stuck=(*before.stuck, *claim.stuck),
            )
        if claim.units:
            self.claims[claim.consumer] = claim
        return claim

    def give_back(
        self, claim: Claim, units: Sequence[Unit], *, again: bool = False
    ) -> None:
        """Take units out of a claim; what can't be cleaned stays, stuck."""
        others = [
            unit
            for other in self.claims.values()
            if other.consumer != claim.consumer
            for unit in other.units
        ]
        kept = tuple(u for u in claim.units if u not in units)
        devices = {unit.device for unit in others}
        stuck = self.cleaner.clean(
            [unit for unit in units if unit.device not in devices],
            claim.consumer,
            again=again,
            active=fabric.partitions_of((*others, *kept)),
        )
        del self.claims[claim.consumer]
        # What was stuck before is, if it isn't among the units.
        left = tuple(unit for unit in kept if unit in claim.stuck)
        self.hold(
            dataclasses.replace(
                claim, units=(*kept, *stuck), stuck=(*left, *stuck)
            )
        )

    def undo(self, prepared: Sequence[Unit], consumer: str) -> None:
        """Take back what a claim that failed has made."""
        stuck = self.cleaner.clean(
            prepared, consumer, active=fabric.partitions_of(self.units)
        )
        if stuck:
            self.hold(Claim(consumer, stuck, CLAIMED, stuck))

    def retry(self) -> None:
        """Give back what could not be before."""
        for claim in tuple(self.claims.values()):
            if claim.stuck:
                self.give_back(claim, claim.stuck, again=True)

    def adopt(self, snapshot: Snapshot) -> None:
        """Give guests what their XML names, now or when a card comes back."""
        taken = {unit.device for unit in self.units}
        for claim in self.waiting.claims(
            snapshot, lambda: self.ours(snapshot), taken
        ):
            self.hold(claim)
            LOG.info(
                'Instance %s holds %s',
                claim.consumer,
                ', '.join(unit.device for unit in claim.units),
            )
