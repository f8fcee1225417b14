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

Its states are in :mod:`nova_gpu.model.claim`. There is no database: after any
crash :meth:`Tracker.rebuild` reads them back from guest XML and sysfs, and
:meth:`Tracker.count` compares them with Placement.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)

from oslo_log import log as logging

from nova_gpu import exception
from nova_gpu.cleaner import Cleaner
from nova_gpu.fabric import FabricManager
from nova_gpu.mechanism.base import Effects, Mechanism
from nova_gpu.model import (
    audit,
    choice,
    fabric,
    hostmap,
    inventory,
    isolation,
    numa,
)
from nova_gpu.model.address import Address
from nova_gpu.model.claim import (
    AVAILABLE,
    CLAIMED,
    Claim,
    Move,
    View,
    Want,
    after,
)
from nova_gpu.model.device import Snapshot
from nova_gpu.model.guest import GuestDevices, Hostdev
from nova_gpu.model.inventory import Pool, Unit, Use
from nova_gpu.model.isolation import Tenant
from nova_gpu.model.request import GpuRequest
from nova_gpu.model.rule import Rule, unmatched
from nova_gpu.putaside import PutAside
from nova_gpu.waiting import Waiting

LOG = logging.getLogger(__name__)

#: How often a claim chooses again in one pool, if what it chose is broken or
#: taken by somebody faster.
ATTEMPTS = 3

#: Holds what no guest held and could not be removed.
NOBODY = '(none)'


class Tracker:
    """Claims, releases and rebuilds the units of one host.

    :param read: reads the host; called under the tracker's lock, each time
        that a decision needs the truth
    :param aside: the units that are put aside
    :param owned: cards that somebody else hands out, and who
    :param changed: is told all claims when one has changed
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
        changed: Callable[[Collection[Claim]], None] | None = None,
        manager: FabricManager | None = None,
    ) -> None:
        self._read = read
        self._mechanisms = {m.name: m for m in mechanisms}
        self._effects = effects
        self._fabric = manager or FabricManager(effects, enabled=False)
        self._cleaner = Cleaner(self._mechanisms, effects, aside, self._fabric)
        self._rules = tuple(rules)
        self._owned = owned or (lambda snapshot: {})
        self._changed = changed or (lambda claims: None)
        self._claims: dict[str, Claim] = {}
        self._waiting = Waiting(mechanisms)
        # What a comparison found that nobody should hold.
        self._doubted: dict[str, frozenset[str]] = {}
        self._kept: set[str] = set()
        self._told: frozenset[str] = frozenset()
        # Reentrant, since an undo runs inside of what it undoes. Nova
        # patches threading before it imports us if it runs on eventlet.
        self._lock = threading.RLock()

    def view(self) -> View:
        """Read the host and look at it with the claims in hand.

        What could not be given back is tried again before, and what Fabric
        Manager has lost is active again.
        """
        with self._changing():
            self._retry()
            self._fabric.restore(fabric.wanted(self._claims.values()))
            return self._look(self._read())

    def claim(
        self,
        consumer: str,
        wants: Iterable[Want],
        request: GpuRequest,
        others: Mapping[str, Collection[str]] | None = None,
        *,
        nodes: numa.Nodes = None,
        project: str | None = None,
    ) -> Claim:
        """Give units to a consumer: all that it wants, or none.

        A consumer that already holds units gets these added; what an earlier
        attempt left is given back by :meth:`release` first, by the caller.

        :param others: for each pool those that may serve in its place
        :param nodes: the NUMA nodes that the guest is on, if it could be on
            others; what they mean is the request's to say
        :param project: the consumer's; None is the same as no other
        :raises UnknownProvider: a pool or class that the host hasn't
        :raises NotEnoughUnits: fewer free units than wanted
        :raises EffectFailed: a unit could not be prepared
        """
        wants = tuple(wants)
        asking = Tenant(consumer, project, request.isolation)
        with self._changing():
            self._retry()
            prepared: list[Unit] = []
            moves = []
            # No two wants of a request may end up in one pool.
            asked = {want.pool for want in wants}
            try:
                for want in wants:
                    pools = [
                        p
                        for p in (others or {}).get(want.pool, ())
                        if p not in asked
                    ]
                    pool = self._take(
                        want, pools, request, nodes, prepared, asking
                    )
                    asked.add(pool)
                    if pool != want.pool:
                        moves.append(Move(want, pool))
            except Exception:
                self._undo(prepared, consumer)
                raise
            # The guest is made anew: what the old one named is forgotten.
            self._waiting.forget(consumer)
            claim = self._hold(
                Claim(consumer, tuple(prepared), after(AVAILABLE, 'claim'))
            )
        return dataclasses.replace(claim, moves=tuple(moves))

    def settle(self, consumer: str) -> None:
        """Note that the consumer's guest is defined and holds its units."""
        with self._changing():
            claim = self._claims.get(consumer)
            if claim is not None:
                self._claims[consumer] = dataclasses.replace(
                    claim, state=after(claim.state, 'settle')
                )

    def undo(self, consumer: str, before: Collection[Unit]) -> None:
        """Let a consumer hold what it held ``before`` it claimed more."""
        with self._changing():
            claim = self._claims.get(consumer)
            if claim is not None:
                units = [u for u in claim.units if u not in before]
                self._give_back(claim, units)

    def release(self, consumer: str) -> None:
        """Take all units of a consumer back; it may have none.

        A unit that can't be cleaned stays held, so that nobody gets it, and
        is tried again later.
        """
        with self._changing():
            if consumer in self._kept:
                return
            self._waiting.forget(consumer)
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

    def make_again(self, consumer: str) -> None:
        """Make again what has gone of a consumer's units, as it was.

        :raises GpuError: it can't be had any more
        """
        with self._lock:
            snapshot = self._read()
            units = self.units_of(consumer)
            if linked := fabric.partitions_of(units):
                # Of all first: it may wait to be told of all at once.
                self._fabric.restore(fabric.wanted(self._claims.values()))
                if problem := self._fabric.restore(linked):
                    raise exception.NotLinked(sorted(linked), problem)
            for unit in units:
                mechanism = self._mechanisms[unit.mechanism]
                if not mechanism.restore(unit, snapshot, self._effects):
                    raise exception.UnitUnusable(
                        unit.device,
                        f'the driver of card {unit.card} is not loaded',
                    )

    def hand_over(self, consumer: str, other: str) -> None:
        """Let ``other`` hold what ``consumer`` holds, if it holds anything.

        A move's record holds what an instance had, and gives it back.
        """
        with self._changing():
            claim = self._claims.pop(consumer, None)
            if claim is not None:
                guest = None if claim.guest == other else consumer
                self._hold(
                    dataclasses.replace(claim, consumer=other, guest=guest)
                )
            self._waiting.hand_over(consumer, other)

    def kept_for(self, guest: str) -> dict[str, tuple[Unit, ...]]:
        """What a guest's metadata records for others, by consumer."""
        with self._lock:
            return {
                claim.consumer: self.units_of(claim.consumer)
                for claim in self._claims.values()
                if claim.guest == guest
            }

    def trim(self, consumer: str, wants: Iterable[Want]) -> None:
        """Give back what a consumer holds beyond ``wants``."""
        counts = {(w.pool, w.resource_class): w.count for w in wants}
        with self._changing():
            claim = self._claims.get(consumer)
            if claim is None:
                return
            _, surplus = claim.split(counts)
            if surplus:
                # What is left of a partition is none.
                broken = fabric.partitions_of(surplus)
                self._give_back(
                    claim,
                    [
                        u
                        for u in claim.units
                        if u in surplus or u.partition in broken
                    ],
                )

    def reconcile(
        self,
        known: Collection[str],
        allocated: audit.Allocated | None,
        guests: Callable[[], Iterable[GuestDevices]],
        *,
        at_start: bool = False,
    ) -> None:
        """Take note of what others have changed, unseen.

        Guests that were defined by hand hold their devices, and no longer
        once they have gone; units of nobody are removed. What Placement
        counts for nobody is reserved, so that nobody is promised it, or
        given back if no guest came of it. A claim and its allocation don't
        change at one moment: so what nobody should hold is only given back
        if the comparison before found the same, or none goes on ``at_start``.

        :param known: who held units before Placement was asked
        :param allocated: what it said; None if it could not be asked
        :param guests: reads all guests; called under the lock, since nobody
            can claim or release meanwhile
        """
        with self._changing():
            found = tuple(guests())
            self._note(found)
            if not at_start:  # a rebuild has done it
                self._drop_leaks(found)
            if allocated is None:
                return
            doubted = self._doubted
            self._doubted = {}
            defined = {g.uuid or g.name for g in found}
            verdicts = audit.judge(self._claims.values(), allocated, defined)
            for consumer in known:
                claim = self._claims.get(consumer)
                if claim is None:
                    continue
                verdict = verdicts[consumer]
                sure = verdict.devices
                if not at_start:
                    sure &= doubted.get(consumer, frozenset())
                if verdict.reason and sure:
                    LOG.warning(
                        'Giving back what %s holds: %s',
                        _described(claim),
                        verdict.reason,
                    )
                    self._give_back(
                        claim, [u for u in claim.units if u.device in sure]
                    )
                    continue
                if verdict.reason:
                    self._doubted[consumer] = verdict.devices
                if claim.state != CLAIMED:
                    self._reserve(claim, verdict.devices)

    @property
    def idle(self) -> bool:
        """Whether nobody holds a unit, or may wait for a card of its own."""
        with self._lock:
            return not self._claims and not self._waiting

    def consumers(self) -> frozenset[str]:
        """Who holds units now."""
        with self._lock:
            return frozenset(self._claims)

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
            (u.pool, u.resource_class)
            for u in units
            if u not in stuck and u.allocated
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
        with self._changing():
            self._claims = {}
            self._doubted = {}
            self._waiting = Waiting(self._mechanisms.values())
            # Last, what is kept: what guests name themselves is theirs.
            for guest in (*guests, *(k for g in guests for k in g.keepers())):
                self._waiting.add(guest)
            snapshot = self._read()
            self._report_lost(guests, snapshot)
            self._adopt(snapshot)
            self._report_doubles()
            self._drop_leaks(guests)
            return self._look(self._read())

    def units_of(self, consumer: str) -> tuple[Unit, ...]:
        """The units that the consumer's guest gets from us."""
        claim = self.claim_of(consumer)
        if claim is None:
            return ()
        return tuple(
            u for u in claim.units if u.allocated and u not in claim.stuck
        )

    def hostdevs(self, consumer: str, request: GpuRequest) -> list[Hostdev]:
        """The guest devices of all that the consumer holds."""
        units = self.units_of(consumer)
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

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """The lock, and a word of what has changed while it was held."""
        with self._lock:
            before = dict(self._claims)
            try:
                yield
            finally:
                if self._claims != before:
                    self._changed(self._claims.values())

    # Everything below runs under the lock.

    def _note(self, guests: Iterable[GuestDevices]) -> None:
        """Adopt guests that nobody told of, and forget those that went."""
        defined = set()
        for guest in guests:
            consumer = guest.uuid or guest.name
            defined.add(consumer)
            if consumer not in self._claims:
                self._waiting.add(guest)
        for consumer, claim in tuple(self._claims.items()):
            foreign = not any(unit.allocated for unit in claim.units)
            if foreign and not claim.stuck and consumer not in defined:
                # What others gave to a guest is theirs to clean.
                del self._claims[consumer]
                LOG.info('Guest %s, not of Nova, has gone', consumer)
        self._adopt(self._read())

    def _reserve(self, claim: Claim, devices: frozenset[str]) -> None:
        """Promise to nobody what Placement counts for nobody."""
        if devices == claim.uncounted:
            return
        self._claims[claim.consumer] = dataclasses.replace(
            claim, uncounted=devices
        )
        if devices:
            LOG.warning(
                'Reserving %s: %s holds it without an allocation in Placement',
                ', '.join(sorted(devices)),
                _described(claim),
            )

    def _uses(self, snapshot: Snapshot) -> tuple[Use, ...]:
        held: dict[Address, list[Unit]] = {}
        for claim in self._claims.values():
            for unit in claim.counted:
                held.setdefault(unit.card, []).append(unit)
        owned = self._owned(snapshot)
        aside = self._cleaner.aside()
        uses = tuple(
            inventory.classify(
                card,
                self._mechanisms.values(),
                self._rules,
                owned,
                held.get(card.address, ()),
                aside,
            )
            for card in snapshot.cards
        )
        return fabric.with_partitions(uses, snapshot.fabric)

    def _ours(self, snapshot: Snapshot) -> list[Use]:
        """The uses of all cards that nobody else hands out."""
        owned = self._owned(snapshot)
        return [
            use
            for use in self._uses(snapshot)
            if use.card.address not in owned
        ]

    def _look(
        self,
        snapshot: Snapshot,
        asking: Tenant | None = None,
        prepared: Sequence[Unit] = (),
    ) -> View:
        """The host as it is, or as who asks may have it.

        :param prepared: what has been made for who asks
        """
        self._tell(snapshot.warnings)
        self._adopt(snapshot)
        present = {card.address for card in snapshot.cards}
        for consumer, claim in self._claims.items():
            missing = [u for u in claim.units if u.card not in present]
            state = after(claim.state, 'card gone' if missing else 'card back')
            if state == claim.state:
                continue
            self._claims[consumer] = dataclasses.replace(claim, state=state)
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
        claims = tuple(self._claims.values())
        held = [(claim.server, u) for claim in claims for u in claim.units]
        held += [(asking.server, u) for u in prepared if asking is not None]
        there = isolation.tenants(snapshot.cards, held)
        uses = isolation.close(self._uses(snapshot), there, asking)
        gone = [u for c in claims for u in c.units if u.card not in present]
        return View(snapshot, uses, inventory.pools(uses, gone), claims)

    def _tell(self, warnings: Iterable[str]) -> None:
        """Log each warning when it appears, not once a minute."""
        now = frozenset(warnings)
        for warning in sorted(now - self._told):
            LOG.warning('While reading the host: %s', warning)
        self._told = now

    def _take(
        self,
        want: Want,
        others: Collection[str],
        request: GpuRequest,
        nodes: numa.Nodes,
        prepared: list[Unit],
        asking: Tenant,
    ) -> str:
        """Prepare what is wanted; returns the pool that served it.

        Each unit is in ``prepared`` as soon as it is made.
        """
        before = len(prepared)
        error: exception.GpuError | None
        pools = [want.pool]
        if others:
            uses = self._look(self._read(), asking, prepared).uses
            pools = choice.pools_in_order(uses, want, others)
        LOG.debug(
            'Pools for %d %s of instance %s, best first: %s',
            want.count,
            want.resource_class,
            asking.server,
            ', '.join(pools),
        )
        for near in numa.reach(request.numa_affinity, nodes):
            error = None
            for pool in pools:
                try:
                    self._take_from(
                        pool, want, request, near, prepared, asking
                    )
                except (
                    exception.NotEnoughUnits,
                    exception.EffectFailed,
                ) as exc:
                    error = error or exc
                    self._undo(prepared[before:], asking.server)
                    del prepared[before:]
                else:
                    return pool
        assert error is not None
        raise error

    def _take_from(
        self,
        key: str,
        want: Want,
        request: GpuRequest,
        nodes: numa.Nodes,
        prepared: list[Unit],
        asking: Tenant,
    ) -> None:
        left = want.count
        for _ in range(ATTEMPTS):
            view = self._look(self._read(), asking, prepared)
            pool = view.pool(key)
            if pool is None or want.resource_class not in pool.inventories:
                raise exception.UnknownProvider(key, want.resource_class)
            mechanism = self._mechanisms[pool.mechanism]
            uses = [u for u in view.uses if u.pool == pool.key]
            held = [u for u in (*view.units, *prepared) if u.pool == pool.key]
            try:
                chosen = _choose(
                    mechanism,
                    pool,
                    uses,
                    dataclasses.replace(want, count=left),
                    held,
                    request,
                    nodes,
                )
                self._fabric.activate(chosen)
                for unit in chosen:
                    _tell('Claimed', unit, asking.server)
                    made = mechanism.prepare(
                        asking.own(unit), request, self._effects
                    )
                    prepared.append(made)
                    left -= 1
                    prepared[-1] = mechanism.configure(
                        made, request, self._effects
                    )
                    if made.type_id is not None:
                        _tell('Prepared', prepared[-1], asking.server)
            except exception.UnitUnusable as exc:
                self._cleaner.put_aside(exc)
                error: exception.GpuError = exc
            except exception.UnitTaken as exc:
                LOG.warning('Choosing again: %s', exc)
                error = exc
            else:
                return
        raise exception.NotEnoughUnits(
            key, want.resource_class, left, str(error)
        )

    def _undo(self, prepared: Sequence[Unit], consumer: str) -> None:
        """Take back what a claim that failed has made."""
        active = fabric.partitions_of(
            u for c in self._claims.values() for u in c.units
        )
        stuck = self._cleaner.clean(prepared, consumer, active=active)
        if stuck:
            self._hold(Claim(consumer, stuck, CLAIMED, stuck))

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
        others = [
            unit
            for other in self._claims.values()
            if other.consumer != claim.consumer
            for unit in other.units
        ]
        kept = tuple(u for u in claim.units if u not in units)
        devices = {unit.device for unit in others}
        stuck = self._cleaner.clean(
            [unit for unit in units if unit.device not in devices],
            claim.consumer,
            again=again,
            active=fabric.partitions_of((*others, *kept)),
        )
        del self._claims[claim.consumer]
        self._hold(
            dataclasses.replace(claim, units=(*kept, *stuck), stuck=stuck)
        )

    def _retry(self) -> None:
        for claim in tuple(self._claims.values()):
            if claim.stuck:
                self._give_back(claim, claim.stuck, again=True)

    def _adopt(self, snapshot: Snapshot) -> None:
        """Give guests what their XML names, now or when a card comes back."""
        taken = {u.device for c in self._claims.values() for u in c.units}
        for claim in self._waiting.claims(
            snapshot, lambda: self._ours(snapshot), taken
        ):
            self._hold(claim)
            LOG.info(
                'Instance %s holds %s',
                claim.consumer,
                ', '.join(unit.device for unit in claim.units),
            )

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

    def _drop_leaks(self, guests: Iterable[GuestDevices]) -> None:
        """Clean units that we made and that nobody holds.

        None if a guest's XML can't be read: it may be the one that holds
        them.
        """
        unreadable = [g.name for g in guests if not g.readable]
        if unreadable:
            LOG.warning(
                'The XML of guests %s does not parse: no unused vGPU is '
                'removed now, one of them may hold it',
                ', '.join(unreadable),
            )
            return
        snapshot = self._read()
        uses = self._ours(snapshot)
        aside = self._cleaner.aside()
        held = [u for c in self._claims.values() for u in c.units]
        for mechanism in self._mechanisms.values():
            leaked = [
                unit
                for unit in mechanism.leaked(snapshot, uses, held)
                if unit.device not in aside
            ]
            for unit in leaked:
                LOG.warning(
                    'Removing %s (%s) of card %s: no guest holds it',
                    unit.device,
                    unit.resource_class,
                    unit.card,
                )
            stuck = self._cleaner.clean(leaked, NOBODY)
            self._hold(Claim(NOBODY, stuck, CLAIMED, stuck))
        self._drop_partitions(uses, {unit.card for unit in held})

    def _drop_partitions(
        self, uses: Iterable[Use], held: Collection[Address]
    ) -> None:
        """Deactivate partitions of which nobody holds a card."""
        board = fabric.board_of(uses)
        if board is None or board.problem is not None:
            return
        for number in fabric.left_over(board, held):
            LOG.warning('Deactivating partition %d: no guest has it', number)
            try:
                self._fabric.deactivate(
                    number, {str(card) for card in board.partitions[number]}
                )
            except exception.EffectFailed as exc:
                # As long as it is active nobody gets its cards.
                LOG.error('Partition %d stays active: %s', number, exc)


def _choose(
    mechanism: Mechanism,
    pool: Pool,
    uses: Sequence[Use],
    want: Want,
    held: Sequence[Unit],
    request: GpuRequest,
    nodes: numa.Nodes,
) -> tuple[Unit, ...]:
    """Choose what is wanted of a pool, on the NUMA nodes that are given."""
    name, count = want.resource_class, want.count
    if nodes is None:
        return mechanism.choose(pool, uses, name, count, held, request)
    where = f'NUMA node {numa.listed(nodes)}, where the guest is'
    near = numa.on(uses, nodes)
    if not near:
        raise exception.NotEnoughUnits(
            pool.key, name, count, f'it has no card on {where}'
        )
    try:
        return mechanism.choose(pool, near, name, count, held, request)
    except exception.NotEnoughUnits as exc:
        raise exception.NotEnoughUnits(
            pool.key, name, count, f'on {where}: {exc.reason}'
        ) from exc


def _described(claim: Claim) -> str:
    if claim.guest is None:
        return f'instance {claim.consumer}'
    return f'move {claim.consumer} of instance {claim.guest}'


def _tell(what: str, unit: Unit, consumer: str) -> None:
    LOG.info(
        '%s %s (%s) of card %s for instance %s',
        what,
        unit.device,
        unit.resource_class,
        unit.card,
        consumer,
    )
