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

Its states are in :mod:`nova_gpu.model.claim`. The tracker has the lock; what
it guards is :mod:`nova_gpu.book`. How a claim gets its units is told in
:mod:`nova_gpu.taking`, what is done about changes that nobody told of in
:mod:`nova_gpu.recovery`.
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
from nova_gpu.book import Book
from nova_gpu.fabric import FabricManager
from nova_gpu.mechanism.base import Effects, Mechanism
from nova_gpu.model import audit, fabric, hostmap, numa
from nova_gpu.model.address import Address
from nova_gpu.model.claim import AVAILABLE, Claim, View, Want, after
from nova_gpu.model.device import Snapshot
from nova_gpu.model.guest import GuestDevices, Hostdev
from nova_gpu.model.inventory import Unit, left_out
from nova_gpu.model.isolation import Tenant
from nova_gpu.model.request import GpuRequest
from nova_gpu.model.rule import Rule, unmatched
from nova_gpu.putaside import PutAside
from nova_gpu.recovery import Recovery
from nova_gpu.taking import Taking

LOG = logging.getLogger(__name__)


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
        self._book = Book(
            read, mechanisms, effects, aside, rules, owned, manager
        )
        self._recovery = Recovery(self._book)
        self._changed = changed or (lambda claims: None)
        # Whose units stay, and in which thread they do.
        self._kept: dict[str, int] = {}
        # Reentrant, since an undo runs inside of what it undoes. Nova
        # patches threading before it imports us if it runs on eventlet.
        self._lock = threading.RLock()

    def view(self) -> View:
        """Read the host and look at it with the claims in hand.

        What could not be given back is tried again before, and what Fabric
        Manager has lost is active again.
        """
        with self._changing():
            self._book.retry()
            self._book.fabric.restore(
                fabric.wanted(self._book.claims.values())
            )
            return self._book.look()

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
        tenant = Tenant(consumer, project, request.isolation)
        with self._changing():
            self._book.retry()
            taking = Taking(self._book, request, tenant, nodes)
            moves = taking.take(wants, others or {})
            # The guest is made anew: what the old one named is forgotten.
            self._book.waiting.forget(consumer)
            claim = self._book.hold(
                Claim(
                    consumer, tuple(taking.prepared), after(AVAILABLE, 'claim')
                )
            )
        return dataclasses.replace(claim, moves=tuple(moves))

    def settle(self, consumer: str) -> None:
        """Note that the consumer's guest is defined and holds its units."""
        with self._changing():
            claim = self._book.claims.get(consumer)
            if claim is not None:
                self._book.claims[consumer] = dataclasses.replace(
                    claim, state=after(claim.state, 'settle')
                )

    def undo(self, consumer: str, before: Collection[Unit]) -> None:
        """Let a consumer hold what it held ``before`` it claimed more."""
        with self._changing():
            claim = self._book.claims.get(consumer)
            if claim is not None:
                units = [u for u in claim.units if u not in before]
                self._book.give_back(claim, units)

    def release(self, consumer: str) -> None:
        """Take all units of a consumer back; it may have none.

        A unit that can't be cleaned stays held, so that nobody gets it, and
        is tried again later.
        """
        with self._changing():
            if self._kept.get(consumer) == threading.get_ident():
                return
            self._book.waiting.forget(consumer)
            claim = self._book.claims.get(consumer)
            if claim is not None:
                self._book.give_back(claim, claim.units)

    @contextlib.contextmanager
    def keeping(self, consumer: str) -> Iterator[None]:
        """Hold a consumer's units through a release that is no end.

        Nova destroys a guest to make it again, and says so to nobody. What
        another thread releases meanwhile has come to an end: a server may
        be deleted while it starts.
        """
        with self._lock:
            self._kept[consumer] = threading.get_ident()
        try:
            yield
        finally:
            with self._lock:
                self._kept.pop(consumer, None)

    def make_again(self, consumer: str) -> None:
        """Make again what has gone of a consumer's units, as it was.

        :raises GpuError: it can't be had any more
        """
        with self._lock:
            snapshot = self._book.read()
            units = self.units_of(consumer)
            if linked := fabric.partitions_of(units):
                # Of all first: it may wait to be told of all at once.
                self._book.fabric.restore(
                    fabric.wanted(self._book.claims.values())
                )
                if problem := self._book.fabric.restore(linked):
                    raise exception.NotLinked(sorted(linked), problem)
            for unit in units:
                mechanism = self._book.mechanisms[unit.mechanism]
                if not mechanism.restore(unit, snapshot, self._book.effects):
                    raise exception.UnitUnusable(
                        unit.device,
                        f'the driver of card {unit.card} is not loaded',
                    )
                if not snapshot.has_mdev(unit.device) and unit.on_function:
                    # The next one may be of the same function.
                    snapshot = self._book.read()

    def hand_over(self, consumer: str, other: str) -> None:
        """Let ``other`` hold what ``consumer`` holds, if it holds anything.

        A move's record holds what an instance had, and gives it back.
        """
        with self._changing():
            claim = self._book.claims.pop(consumer, None)
            if claim is not None:
                guest = None if claim.guest == other else consumer
                self._book.hold(
                    dataclasses.replace(claim, consumer=other, guest=guest)
                )
            self._book.waiting.hand_over(consumer, other)

    def kept_for(self, guest: str) -> dict[str, tuple[Unit, ...]]:
        """What a guest's metadata records for others, by consumer."""
        with self._lock:
            return {
                claim.consumer: self.units_of(claim.consumer)
                for claim in self._book.claims.values()
                if claim.guest == guest
            }

    def count_again(self, consumer: str) -> None:
        """Let Placement count what a consumer holds: nobody else may."""
        with self._changing():
            claim = self._book.claims.get(consumer)
            if claim is not None:
                self._book.claims[consumer] = dataclasses.replace(
                    claim, uncounted=frozenset()
                )

    def trim(self, consumer: str, wants: Iterable[Want]) -> None:
        """Give back what a consumer holds beyond ``wants``."""
        counts = {(w.pool, w.resource_class): w.count for w in wants}
        with self._changing():
            claim = self._book.claims.get(consumer)
            if claim is None:
                return
            _, surplus = claim.split(counts)
            if surplus:
                # What is left of a partition is none.
                broken = fabric.partitions_of(surplus)
                self._book.give_back(
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
            self._recovery.reconcile(
                known, allocated, guests, at_start=at_start
            )

    @property
    def ruled_classes(self) -> frozenset[str]:
        """The resource classes that rules name."""
        return frozenset(
            rule.resource_class
            for rule in self._book.rules
            if rule.resource_class is not None
        )

    @property
    def idle(self) -> bool:
        """Whether nobody holds a unit, or may wait for a card of its own."""
        with self._lock:
            return not self._book.claims and not self._book.waiting

    def consumers(self) -> frozenset[str]:
        """Who holds units now."""
        with self._lock:
            return frozenset(self._book.claims)

    def knows(self, consumer: str) -> bool:
        """Whether the consumer holds units, or waits for a card."""
        with self._lock:
            return (
                consumer in self._book.claims or consumer in self._book.waiting
            )

    def claim_of(self, consumer: str) -> Claim | None:
        """What the consumer holds, if it holds anything."""
        with self._lock:
            return self._book.claims.get(consumer)

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
        with self._changing():
            return self._recovery.rebuild(tuple(guests))

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
            for name, mechanism in self._book.mechanisms.items()
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
            self._book.mechanisms.values(),
            instances,
        )

    def report_rules(self, view: View) -> None:
        """Warn of rules that match no card, contradict, or leave out."""
        pairs = []
        for use in view.uses:
            found = next(
                (
                    m.name
                    for m in self._book.mechanisms.values()
                    if m.recognizes(use.card)
                ),
                None,
            )
            pairs.append((use.card, found))
            for conflict in use.ruling.conflicts:
                LOG.warning('Rules in [gpu] contradict: %s', conflict)
        for rule in unmatched(self._book.rules, pairs):
            LOG.warning(
                '[gpu] rule %d matches no card of this host', rule.number
            )
        for line in left_out(view.uses):
            LOG.warning('[gpu] %s', line)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """The lock, and a word of what has changed while it was held."""
        with self._lock:
            before = dict(self._book.claims)
            try:
                yield
            finally:
                if self._book.claims != before:
                    self._changed(self._book.claims.values())
