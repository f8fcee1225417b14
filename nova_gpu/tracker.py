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

"""The one place where a unit changes hands.

::

              claim             settle
    available ────▶ claimed ──────────▶ allocated
        ▲              │ release            │ │ its card leaves the host
        └──────────────┴────────────────────┘ ▼
        ▲                                  removed
        └─────────────── release ─────────────┘

The states are those of Nova's PCI devices. There is no database: after any
crash :meth:`Tracker.rebuild` reads them back from guest XML and sysfs.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from oslo_log import log as logging

from nova_gpu import exception
from nova_gpu.mechanism.base import Effects, Mechanism
from nova_gpu.model import hostmap, inventory
from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import Snapshot
from nova_gpu.model.guest import GuestDevices, Hostdev
from nova_gpu.model.inventory import Pool, Unit, Use
from nova_gpu.model.request import GpuRequest
from nova_gpu.model.rule import Rule, unmatched

LOG = logging.getLogger(__name__)

CLAIMED = 'claimed'
ALLOCATED = 'allocated'
REMOVED = 'removed'

#: Holds what no guest held and could not be removed.
NOBODY = '(none)'


@dataclasses.dataclass(frozen=True, slots=True)
class Want:
    """A part of an allocation: ``count`` units of a class from a pool."""

    pool: str
    resource_class: str
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """The units of one consumer, which is an instance's UUID.

    ``stuck`` are those of them that could not be given back: no guest gets
    them, and each look at the host tries again.
    """

    consumer: str
    units: tuple[Unit, ...]
    state: str
    stuck: tuple[Unit, ...] = ()


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


class Tracker:
    """Claims, releases and rebuilds the units of one host.

    :param read: reads the host; called under the tracker's lock, each time
        that a decision needs the truth
    :param owned: cards that somebody else hands out, and who
    """

    def __init__(
        self,
        read: Callable[[], Snapshot],
        mechanisms: Sequence[Mechanism],
        effects: Effects,
        rules: Sequence[Rule] = (),
        owned: Callable[[Snapshot], Mapping[PciAddress, str]] | None = None,
    ) -> None:
        self._read = read
        self._mechanisms = {m.name: m for m in mechanisms}
        self._effects = effects
        self._rules = tuple(rules)
        self._owned = owned or (lambda snapshot: {})
        self._claims: dict[str, Claim] = {}
        # Guests that name functions which were no cards at the rebuild: a
        # card that comes back is theirs.
        self._waiting: dict[str, GuestDevices] = {}
        self._kept: set[str] = set()
        self._told: frozenset[str] = frozenset()
        # Reentrant, since an undo runs inside of what it undoes. Nova
        # patches threading before it imports us if it runs on eventlet.
        self._lock = threading.RLock()

    def view(self) -> View:
        """Read the host and look at it with the claims in hand.

        What could not be given back is tried again before.
        """
        with self._lock:
            self._retry()
            return self._look(self._read())

    def claim(
        self, consumer: str, wants: Iterable[Want], request: GpuRequest
    ) -> Claim:
        """Give units to a consumer: all that it wants, or none.

        A consumer that already holds units gets these added; what an earlier
        attempt left is given back by :meth:`release` first, by the caller.

        :raises UnknownProvider: a pool or class that the host hasn't
        :raises NotEnoughUnits: fewer free units than wanted
        :raises EffectFailed: a unit could not be prepared
        """
        with self._lock:
            self._retry()
            prepared: list[Unit] = []
            try:
                for want in wants:
                    self._take(want, request, prepared)
            except Exception:
                stuck = self._clean(prepared, consumer)
                if stuck:
                    self._hold(Claim(consumer, stuck, CLAIMED, stuck))
                raise
            # The guest is made anew: what the old one named is forgotten.
            self._waiting.pop(consumer, None)
            claim = self._hold(Claim(consumer, tuple(prepared), CLAIMED))
        for unit in prepared:
            LOG.info(
                'Claimed %s (%s) of card %s for instance %s',
                unit.device,
                unit.resource_class,
                unit.card,
                consumer,
            )
        return claim

    def settle(self, consumer: str) -> None:
        """Note that the consumer's guest is defined and holds its units."""
        with self._lock:
            claim = self._claims.get(consumer)
            if claim is not None:
                self._claims[consumer] = dataclasses.replace(
                    claim, state=ALLOCATED
                )

    def release(self, consumer: str) -> None:
        """Take all units of a consumer back; it may have none.

        A unit that can't be cleaned stays held, so that nobody gets it, and
        is tried again later.
        """
        with self._lock:
            if consumer in self._kept:
                return
            self._waiting.pop(consumer, None)
            claim = self._claims.get(consumer)
            if claim is not None:
                self._give_back(claim, claim.units)

    @contextlib.contextmanager
    def keeping(self, consumer: str) -> Iterator[None]:
        """Hold a consumer's units through a release that is no end.

        Nova destroys a guest to make it again, and says so to nobody.
        """
        with self._lock:
            self._kept.add(consumer)
        try:
            yield
        finally:
            with self._lock:
                self._kept.discard(consumer)

    def hand_over(self, consumer: str, other: str) -> None:
        """Let ``other`` hold what ``consumer`` holds, if it holds anything."""
        with self._lock:
            claim = self._claims.pop(consumer, None)
            if claim is not None:
                self._hold(dataclasses.replace(claim, consumer=other))
            guest = self._waiting.pop(consumer, None)
            if guest is not None:
                self._waiting[other] = guest

    def claim_of(self, consumer: str) -> Claim | None:
        """What the consumer holds, if it holds anything."""
        with self._lock:
            return self._claims.get(consumer)

    def missing(self, consumer: str, wants: Iterable[Want]) -> list[Want]:
        """What of ``wants`` the consumer doesn't hold yet."""
        claim = self.claim_of(consumer)
        units = [] if claim is None else claim.units
        stuck = () if claim is None else claim.stuck
        held = collections.Counter(
            (u.pool, u.resource_class) for u in units if u not in stuck
        )
        return [
            dataclasses.replace(want, count=left)
            for want in wants
            if (left := want.count - held[want.pool, want.resource_class]) > 0
        ]

    def rebuild(self, guests: Iterable[GuestDevices]) -> View:
        """Forget all claims and read them back from the guests' XML.

        Units that we made and that no guest holds are cleaned, unless a
        guest's XML could not be read: then it may be the one that holds
        them, and they stay.
        """
        guests = tuple(guests)
        with self._lock:
            self._claims = {}
            self._waiting = {g.uuid or g.name: g for g in guests}
            snapshot = self._read()
            self._report_lost(guests, snapshot)
            self._adopt(snapshot)
            self._report_doubles()
            unreadable = [g.name for g in guests if not g.readable]
            if unreadable:
                LOG.warning(
                    'The XML of guests %s does not parse: no unused mediated '
                    'device is removed now, one of them may hold it',
                    ', '.join(unreadable),
                )
            else:
                self._drop_leaks(snapshot)
            return self._look(self._read())

    def hostdevs(self, consumer: str, request: GpuRequest) -> list[Hostdev]:
        """The guest devices of all that the consumer holds."""
        claim = self.claim_of(consumer)
        if claim is None:
            return []
        units = [u for u in claim.units if u not in claim.stuck]
        return [
            hostdev
            for name, mechanism in self._mechanisms.items()
            for hostdev in mechanism.hostdevs(
                [u for u in units if u.mechanism == name], request
            )
        ]

    def map(self, view: View, instances: int | None = None) -> hostmap.HostMap:
        """The map of the host that schedulers get."""
        return hostmap.build(
            view.pools,
            view.uses,
            view.units,
            self._mechanisms.values(),
            instances,
        )

    def report_rules(self, view: View) -> None:
        """Warn of rules that match no card, and of rules that contradict."""
        pairs = []
        for use in view.uses:
            found = next(
                (
                    m.name
                    for m in self._mechanisms.values()
                    if m.recognizes(use.card)
                ),
                None,
            )
            pairs.append((use.card, found))
            for conflict in use.ruling.conflicts:
                LOG.warning('Rules in [gpu] contradict: %s', conflict)
        for rule in unmatched(self._rules, pairs):
            LOG.warning(
                '[gpu] rule %d matches no card of this host', rule.number
            )

    # Everything below runs under the lock.

    def _uses(self, snapshot: Snapshot) -> tuple[Use, ...]:
        held: dict[PciAddress, list[Unit]] = {}
        for claim in self._claims.values():
            for unit in claim.units:
                held.setdefault(unit.card, []).append(unit)
        owned = self._owned(snapshot)
        return tuple(
            inventory.classify(
                card,
                self._mechanisms.values(),
                self._rules,
                owned,
                held.get(card.address, ()),
            )
            for card in snapshot.cards
        )

    def _ours(self, snapshot: Snapshot) -> list[Use]:
        """The uses of all cards that nobody else hands out."""
        owned = self._owned(snapshot)
        return [
            use
            for use in self._uses(snapshot)
            if use.card.address not in owned
        ]

    def _look(self, snapshot: Snapshot) -> View:
        self._tell(snapshot.warnings)
        self._adopt(snapshot)
        present = {card.address for card in snapshot.cards}
        for consumer, claim in self._claims.items():
            missing = [u for u in claim.units if u.card not in present]
            if missing and claim.state == ALLOCATED:
                self._claims[consumer] = dataclasses.replace(
                    claim, state=REMOVED
                )
                LOG.error(
                    'Card %s has left the host while instance %s holds it',
                    missing[0].card,
                    consumer,
                )
            elif not missing and claim.state == REMOVED:
                self._claims[consumer] = dataclasses.replace(
                    claim, state=ALLOCATED
                )
                LOG.info(
                    'The card of instance %s is back in the host', consumer
                )
        uses = self._uses(snapshot)
        claims = tuple(self._claims.values())
        gone = [u for c in claims for u in c.units if u.card not in present]
        return View(snapshot, uses, inventory.pools(uses, gone), claims)

    def _tell(self, warnings: Iterable[str]) -> None:
        """Log each warning when it appears, not once a minute."""
        now = frozenset(warnings)
        for warning in sorted(now - self._told):
            LOG.warning('While reading the host: %s', warning)
        self._told = now

    def _take(
        self, want: Want, request: GpuRequest, prepared: list[Unit]
    ) -> None:
        """Prepare what is wanted; each unit is in ``prepared`` at once."""
        view = self._look(self._read())
        pool = view.pool(want.pool)
        if pool is None or want.resource_class not in pool.inventories:
            raise exception.UnknownProvider(want.pool, want.resource_class)
        mechanism = self._mechanisms[pool.mechanism]
        uses = [u for u in view.uses if u.pool == pool.key]
        held = [u for u in (*view.units, *prepared) if u.pool == pool.key]
        chosen = mechanism.choose(
            pool, uses, want.resource_class, want.count, held
        )
        for unit in chosen:
            made = mechanism.prepare(unit, request, self._effects)
            prepared.append(made)
            mechanism.configure(made, request, self._effects)

    def _hold(self, claim: Claim) -> Claim:
        """Add a claim to what its consumer holds already."""
        before = self._claims.get(claim.consumer)
        if before is not None:
            claim = dataclasses.replace(
                claim,
                units=(*before.units, *claim.units),
                stuck=(*before.stuck, *claim.stuck),
            )
        if claim.units:
            self._claims[claim.consumer] = claim
        return claim

    def _give_back(
        self, claim: Claim, units: Sequence[Unit], *, again: bool = False
    ) -> None:
        """Take units out of a claim; what can't be cleaned stays, stuck."""
        others = {
            unit.device
            for other in self._claims.values()
            if other.consumer != claim.consumer
            for unit in other.units
        }
        alone = [unit for unit in units if unit.device not in others]
        stuck = self._clean(alone, claim.consumer, again=again)
        left = tuple(u for u in claim.units if u in stuck or u not in units)
        del self._claims[claim.consumer]
        self._hold(dataclasses.replace(claim, units=left, stuck=stuck))

    def _retry(self) -> None:
        for claim in tuple(self._claims.values()):
            if claim.stuck:
                self._give_back(claim, claim.stuck, again=True)

    def _adopt(self, snapshot: Snapshot) -> None:
        """Give guests what their XML names, now or when a card comes back."""
        present = frozenset(card.address for card in snapshot.cards)
        for consumer, guest in tuple(self._waiting.items()):
            if not guest.mdevs and guest.functions.isdisjoint(present):
                continue
            # Mediated devices don't come back with their card.
            self._waiting[consumer] = dataclasses.replace(
                guest, functions=guest.functions - present, mdevs=frozenset()
            )
            uses = self._ours(snapshot)
            units = tuple(
                unit
                for mechanism in self._mechanisms.values()
                for unit in mechanism.held_by(guest, uses)
            )
            if units:
                self._hold(Claim(consumer, units, ALLOCATED))
                LOG.info(
                    'Instance %s holds %s',
                    consumer,
                    ', '.join(u.device for u in units),
                )

    def _clean(
        self, units: Iterable[Unit], consumer: str, *, again: bool = False
    ) -> tuple[Unit, ...]:
        """Clean units; returns those that could not be."""
        stuck = []
        failed = LOG.debug if again else LOG.error
        for unit in units:
            try:
                self._mechanisms[unit.mechanism].clean(unit, self._effects)
            except Exception as exc:
                # Whatever it was: nobody else may get the unit.
                failed(
                    'Could not give back %s of instance %s, it stays '
                    'reserved: %s',
                    unit.device,
                    consumer,
                    exc,
                )
                stuck.append(unit)
            else:
                LOG.info(
                    'Released %s (%s) of card %s, instance %s',
                    unit.device,
                    unit.resource_class,
                    unit.card,
                    consumer,
                )
        return tuple(stuck)

    def _report_lost(
        self, guests: Iterable[GuestDevices], snapshot: Snapshot
    ) -> None:
        existing = {m.uuid for c in snapshot.cards for m in c.mdevs}
        for guest in guests:
            for uuid in sorted(guest.mdevs - existing):
                LOG.warning(
                    'Guest %s names the mediated device %s, which does not '
                    'exist: a hard reboot of the instance makes a new one',
                    guest.name,
                    uuid,
                )

    def _report_doubles(self) -> None:
        owners: dict[str, str] = {}
        for claim in self._claims.values():
            for unit in claim.units:
                other = owners.setdefault(unit.device, claim.consumer)
                if other != claim.consumer:
                    LOG.error(
                        'Device %s is in the XML of instance %s and of '
                        'instance %s; only one of them can run',
                        unit.device,
                        other,
                        claim.consumer,
                    )

    def _drop_leaks(self, snapshot: Snapshot) -> None:
        uses = self._ours(snapshot)
        held = [u for c in self._claims.values() for u in c.units]
        for mechanism in self._mechanisms.values():
            leaked = mechanism.leaked(snapshot, uses, held)
            for unit in leaked:
                LOG.warning(
                    'Removing %s (%s) of card %s: no guest holds it',
                    unit.device,
                    unit.resource_class,
                    unit.card,
                )
            stuck = self._clean(leaked, NOBODY)
            self._hold(Claim(NOBODY, stuck, CLAIMED, stuck))
