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


"""SR-IOV virtual functions, each passed through (AMD MxGPU)."""

from __future__ import annotations

from collections.abc import Sequence

from nova_gpu import exception
from nova_gpu.mechanism.base import Effects
from nova_gpu.mechanism.passthrough import Passthrough
from nova_gpu.model.device import Card, Snapshot, VirtualFunction
from nova_gpu.model.guest import GuestDevices, Hostdev
from nova_gpu.model.inventory import Offer, Pool, Unit, Use, card_class
from nova_gpu.model.request import GpuRequest
from nova_gpu.model.rule import Ruling


class PlainVf(Passthrough):
    """A card is cut into as many equal parts as it has functions enabled."""

    name = 'vf'

    def recognizes(self, card: Card) -> bool:
        return bool(card.vfs) and not card.parents and not card.vendor_vfio

    def refusal(self, card: Card) -> str | None:
        if not self.recognizes(card):
            return 'has no virtual functions that can be passed through'
        if not _usable(card):
            return (
                f'none of its {len(card.vfs)} virtual functions can be '
                f'handed out: {card.vfs[0].address} {card.vfs[0].problem}'
            )
        return None

    def pool_key(self, card: Card) -> str:
        return card.address.token

    def offers(
        self, card: Card, ruling: Ruling, held: Sequence[Unit]
    ) -> tuple[Offer, ...]:
        taken = {unit.device for unit in held}
        used = sum(unit.allocated for unit in held)
        free = [f for f in _usable(card) if str(f.address) not in taken]
        total = max(len(card.vfs), used + len(free))
        return (Offer(_class_of(card, ruling), total, used, len(free)),)

    def choose(
        self,
        pool: Pool,
        uses: Sequence[Use],
        resource_class: str,
        count: int,
        held: Sequence[Unit],
        request: GpuRequest,
    ) -> tuple[Unit, ...]:
        use = uses[0] if uses else None
        free: list[VirtualFunction] = []
        if use is not None and use.offers[0].free:
            taken = {unit.device for unit in held}
            taken.update(device for device, _ in use.aside)
            free = [
                f for f in _usable(use.card) if str(f.address) not in taken
            ]
        if use is None or len(free) < count:
            raise exception.NotEnoughUnits(
                pool.key,
                resource_class,
                count,
                f'{len(free)} of its virtual functions are free'
                + (f': {use.closed}' if use and use.closed else ''),
            )
        return tuple(
            self.new_unit(use.card, function, resource_class)
            for function in free[:count]
        )

    def new_unit(
        self,
        card: Card,
        function: VirtualFunction,
        resource_class: str,
        allocated: bool = True,
    ) -> Unit:
        """A virtual function of a card, for a guest."""
        return Unit(
            mechanism=self.name,
            pool=self.pool_key(card),
            resource_class=resource_class,
            card=card.address,
            device=str(function.address),
            functions=(function.address,),
            parent=function.address,
            allocated=allocated,
        )

    def held_by(self, guest: GuestDevices, uses: Sequence[Use]) -> list[Unit]:
        units = []
        for use in uses:
            if not self.recognizes(use.card):
                continue
            for function in use.card.vfs:
                if function.address not in guest.functions:
                    continue
                recorded = guest.recorded(str(function.address))
                name = (
                    recorded.resource_class
                    if recorded
                    else _class_of(use.card, use.ruling)
                )
                units.append(
                    self.new_unit(use.card, function, name, bool(recorded))
                )
        return units

    def restore(
        self, unit: Unit, snapshot: Snapshot, effects: Effects
    ) -> bool:
        card = snapshot.card(unit.card)
        return card is None or card.vf(unit.parent) is not None

    def hostdevs(
        self, units: Sequence[Unit], request: GpuRequest
    ) -> list[Hostdev]:
        return [Hostdev(function=unit.functions[0]) for unit in units]


def _usable(card: Card) -> list[VirtualFunction]:
    return [function for function in card.vfs if function.problem is None]


def _class_of(card: Card, ruling: Ruling) -> str:
    return ruling.resource_class or f'{card_class(card)}_VF'
