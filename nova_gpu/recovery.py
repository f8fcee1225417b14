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

"""What others have changed, unseen: read back, and made right.

After any crash :meth:`Recovery.rebuild` reads the claims from guest XML and
sysfs; :meth:`Recovery.reconcile` compares them with Placement.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable

from oslo_log import log as logging

from nova_gpu import exception
from nova_gpu.book import Book
from nova_gpu.model import audit, fabric
from nova_gpu.model.address import Address
from nova_gpu.model.claim import CLAIMED, Claim, View
from nova_gpu.model.device import Snapshot
from nova_gpu.model.guest import GuestDevices
from nova_gpu.model.inventory import Use

LOG = logging.getLogger(__name__)

#: Holds what no guest held and could not be removed.
NOBODY = '(none)'


class Recovery:
    """Makes a book agree with guests, host and Placement."""

    def __init__(self, book: Book) -> None:
        self._book = book
        # What a comparison found that nobody should hold.
        self._doubted: dict[str, frozenset[str]] = {}
        # What each guest named when it was looked at last.
        self._named: dict[str, frozenset[str]] = {}

    def rebuild(self, guests: Collection[GuestDevices]) -> View:
        """Forget all claims and read them back from the guests' XML.

        Units that we made and that no guest holds are cleaned, unless a
        guest's XML could not be read: then it may be the one that holds
        them, and they stay.
        """
        self._book.clear()
        self._doubted = {}
        # Last, what is kept: what guests name themselves is theirs.
        for guest in (*guests, *(k for g in guests for k in g.keepers())):
            self._book.waiting.add(guest)
        snapshot = self._book.read()
        self._report_lost(guests, snapshot)
        self._book.adopt(snapshot)
        self._report_doubles()
        self._drop_leaks(guests)
        return self._book.look()

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
        found = tuple(guests())
        self._note(found)
        if not at_start:  # a rebuild has done it
            self._drop_leaks(found)
        if allocated is None:
            return
        doubted = self._doubted
        self._doubted = {}
        defined = {g.uuid or g.name for g in found}
        verdicts = audit.judge(self._book.claims.values(), allocated, defined)
        for consumer in known:
            claim = self._book.claims.get(consumer)
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
                self._book.give_back(
                    claim, [u for u in claim.units if u.device in sure]
                )
                continue
            if verdict.reason:
                self._doubted[consumer] = verdict.devices
            if claim.state != CLAIMED:
                self._reserve(claim, verdict.devices)

    def _note(self, guests: Collection[GuestDevices]) -> None:
        """Adopt guests that nobody told of, and forget those that went."""
        names = {guest.uuid or guest.name: guest.devices for guest in guests}
        for consumer, claim in tuple(self._book.claims.items()):
            if claim.stuck or any(unit.allocated for unit in claim.units):
                continue
            # What others gave to a guest is theirs to clean.
            if consumer not in names:
                LOG.info('Guest %s, not of Nova, has gone', consumer)
            elif names[consumer] != self._named.get(consumer, names[consumer]):
                LOG.info('Guest %s, not of Nova, has changed', consumer)
            else:
                continue
            del self._book.claims[consumer]
            self._book.waiting.forget(consumer)
        for guest in guests:
            if (guest.uuid or guest.name) not in self._book.claims:
                self._book.waiting.add(guest)
        self._named = names
        self._book.adopt(self._book.read())

    def _reserve(self, claim: Claim, devices: frozenset[str]) -> None:
        """Promise to nobody what Placement counts for nobody."""
        if devices == claim.uncounted:
            return
        self._book.claims[claim.consumer] = dataclasses.replace(
            claim, uncounted=devices
        )
        if devices:
            LOG.warning(
                'Reserving %s: %s holds it without an allocation in Placement',
                ', '.join(sorted(devices)),
                _described(claim),
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
        for claim in self._book.claims.values():
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
        snapshot = self._book.read()
        uses = self._book.ours(snapshot)
        aside = self._book.cleaner.aside()
        held = self._book.units
        for mechanism in self._book.mechanisms.values():
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
            stuck = self._book.cleaner.clean(leaked, NOBODY)
            self._book.hold(Claim(NOBODY, stuck, CLAIMED, stuck))
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
                self._book.fabric.deactivate(
                    number, {str(card) for card in board.partitions[number]}
                )
            except exception.EffectFailed as exc:
                # As long as it is active nobody gets its cards.
                LOG.error('Partition %d stays active: %s', number, exc)


def _described(claim: Claim) -> str:
    if claim.guest is None:
        return f'instance {claim.consumer}'
    return f'move {claim.consumer} of instance {claim.guest}'
