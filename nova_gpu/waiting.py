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

"""Guests that name devices of the host which nobody has claimed for them.

They are there when nova-compute starts, or somebody has defined them by hand.
A card that they name may come later, or come back: it is theirs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from nova_gpu.mechanism.base import Mechanism
from nova_gpu.model.address import Address
from nova_gpu.model.claim import AVAILABLE, Claim, after
from nova_gpu.model.device import Snapshot
from nova_gpu.model.guest import GuestDevices
from nova_gpu.model.inventory import Use


class Waiting:
    """The guests that wait, by who holds what they name: mostly themselves.

    What a move has kept is held by the move, and a guest of its own here.
    """

    def __init__(self, mechanisms: Iterable[Mechanism]) -> None:
        self._mechanisms = tuple(mechanisms)
        self._guests: dict[str, GuestDevices] = {}

    def __bool__(self) -> bool:
        return bool(self._guests)

    def __contains__(self, consumer: str) -> bool:
        return consumer in self._guests

    def add(self, guest: GuestDevices) -> None:
        """Let a guest wait, if it names anything.

        A mediated device that is recorded only is taken out of the running
        guest, to save it.
        """
        recorded = {u.device for u in guest.units if not u.functions}
        guest = dataclasses.replace(guest, mdevs=guest.mdevs | recorded)
        if guest.functions or guest.mdevs:
            self._guests[guest.uuid or guest.name] = guest

    def forget(self, consumer: str) -> None:
        """Let what a guest names be anybody's; it may not wait at all."""
        self._guests.pop(consumer, None)

    def hand_over(self, consumer: str, other: str) -> None:
        """Let ``other`` wait for what ``consumer`` waits for."""
        guest = self._guests.pop(consumer, None)
        if guest is not None:
            keeper = None if guest.keeper == other else consumer
            self._guests[other] = dataclasses.replace(guest, keeper=keeper)

    def claims(
        self,
        snapshot: Snapshot,
        uses: Callable[[], Sequence[Use]],
        taken: Collection[str],
    ) -> Iterator[Claim]:
        """What is there of all that they wait for.

        :param uses: the cards that are ours, as they are after the claim
            before has been taken note of
        :param taken: the devices that are held: what a move has kept, and
            is over, may be somebody else's by now
        """
        present: frozenset[Address] = frozenset(
            (
                *(card.address for card in snapshot.cards),
                *(vf.address for card in snapshot.cards for vf in card.vfs),
            )
        )
        taken = set(taken)
        for consumer, guest in tuple(self._guests.items()):
            if not guest.mdevs and guest.functions.isdisjoint(present):
                continue
            del self._guests[consumer]
            if absent := guest.functions - present:
                # Mediated devices don't come back with their card.
                self._guests[consumer] = dataclasses.replace(
                    guest, functions=absent, mdevs=frozenset()
                )
            ours = uses()
            units = tuple(
                guest.own(unit)
                for mechanism in self._mechanisms
                for unit in mechanism.held_by(guest, ours)
                if guest.keeper is None or unit.device not in taken
            )
            if units:
                taken.update(unit.device for unit in units)
                state = after(AVAILABLE, 'adopt')
                yield Claim(consumer, units, state, guest=guest.keeper)
