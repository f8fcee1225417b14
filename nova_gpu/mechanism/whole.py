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

"""Whole cards, passed through by VFIO."""

from __future__ import annotations

from collections.abc import Sequence

from nova_gpu import exception
from nova_gpu.mechanism.passthrough import NO_IOMMU, VFIO, Passthrough
from nova_gpu.model.address import PciAddress
from nova_gpu.model.choice import choose_cards
from nova_gpu.model.device import Card
from nova_gpu.model.fabric import board_of
from nova_gpu.model.guest import GuestDevices, Hostdev
from nova_gpu.model.inventory import Offer, Pool, Unit, Use, card_class
from nova_gpu.model.partition import Board
from nova_gpu.model.profile import token
from nova_gpu.model.request import GpuRequest
from nova_gpu.model.rule import Ruling
from nova_gpu.model.topology import places


class WholeCard(Passthrough):
    """A card goes to one guest, with the other functions of its slot."""

    name = 'whole'
    topology = True

    def recognizes(self, card: Card) -> bool:
        is_pci = isinstance(card.address, PciAddress)
        return is_pci and card.driver in (None, VFIO) and not card.vfs

    def refusal(self, card: Card) -> str | None:
        if card.boot_vga:
            return "serves the host's console (boot VGA)"
        if card.driver not in (None, VFIO):
            return f'bound to {card.driver}: bind it to {VFIO}'
        if card.vfs:
            return (
                f'has {len(card.vfs)} virtual functions enabled, which a '
                f'guest with the whole card would take away'
            )
        if card.iommu_group is None:
            return NO_IOMMU
        if card.strangers:
            names = ', '.join(str(other) for other in card.strangers)
            return f'shares IOMMU group {card.iommu_group} with {names}'
        return None

    def pool_key(self, card: Card) -> str:
        return token(card.model).lower()

    def offers(
        self, card: Card, ruling: Ruling, held: Sequence[Unit]
    ) -> tuple[Offer, ...]:
        name = ruling.resource_class or card_class(card)
        used = int(any(unit.allocated for unit in held))
        return (Offer(name, total=1, used=used, free=int(not held)),)

    def choose(
        self,
        pool: Pool,
        uses: Sequence[Use],
        resource_class: str,
        count: int,
        held: Sequence[Unit],
        request: GpuRequest,
    ) -> tuple[Unit, ...]:
        taken = {unit.card for unit in held}
        free = [
            use
            for use in uses
            if use.card.address not in taken
            and use.available(use.offers[0])
            and use.offers[0].resource_class == resource_class
        ]
        loose = [use.card for use in free if use.board is None]
        board = board_of(uses)
        if board is not None and len(loose) < count:
            return self._choose_partition(
                pool, uses, resource_class, count, free, board, request
            )
        near = places((use.card, use.ruling.clique) for use in uses)
        chosen = choose_cards(
            count, loose, near, request.topology, request.topology_required
        )
        if not chosen:
            reason = f'{len(loose)} of its {len(uses)} cards are free'
            if len(loose) >= count:
                reason += (
                    f', and no {count} of them share {request.topology}, '
                    f'which gpu:topology requires'
                )
            raise exception.NotEnoughUnits(
                pool.key, resource_class, count, reason
            )
        return tuple(self._unit(card, resource_class) for card in chosen)

    def _choose_partition(
        self,
        pool: Pool,
        uses: Sequence[Use],
        resource_class: str,
        count: int,
        free: Sequence[Use],
        board: Board,
        request: GpuRequest,
    ) -> tuple[Unit, ...]:
        """All cards of a partition, which are linked, or none."""
        cards = {use.card.address: use.card for use in free}
        number = board.choose(count, cards)
        classes = {o.resource_class for u in uses for o in u.offers}
        asked = sum(request.resources.get(name, 0) for name in classes)
        if board.problem is not None:
            reason = board.problem
        elif count not in board.sizes:
            sizes = ', '.join(map(str, board.sizes))
            reason = f'the partitions of its NVSwitches have {sizes} cards'
        elif asked not in (0, count):
            reason = (
                f'the server asks for {asked} in all, and they have to come '
                f'from one partition at once'
            )
        elif number is None:
            reason = (
                f'{len(free)} of its {len(uses)} cards are free, and make '
                f'up no partition of {count}'
            )
        else:
            return tuple(
                self._unit(cards[address], resource_class, partition=number)
                for address in sorted(board.partitions[number])
            )
        raise exception.NotEnoughUnits(pool.key, resource_class, count, reason)

    def _unit(
        self,
        card: Card,
        resource_class: str,
        allocated: bool = True,
        partition: int | None = None,
    ) -> Unit:
        return Unit(
            mechanism=self.name,
            pool=self.pool_key(card),
            resource_class=resource_class,
            card=card.address,
            device=str(card.address),
            functions=card.functions,
            allocated=allocated,
            partition=partition,
        )

    def held_by(self, guest: GuestDevices, uses: Sequence[Use]) -> list[Unit]:
        held = [u for u in uses if u.card.address in guest.functions]
        # A guest of before Fabric Manager was asked has no record of it.
        board = board_of(held)
        partition = (
            None
            if board is None
            else board.equal_to(u.card.address for u in held)
        )
        units = []
        for use in held:
            recorded = guest.recorded(str(use.card.address))
            if recorded is None:
                name, number = card_class(use.card), partition
            else:
                name, number = recorded.resource_class, recorded.partition
                if number is None:
                    number = partition
            units.append(
                self._unit(use.card, name, recorded is not None, number)
            )
        return units

    def hostdevs(
        self, units: Sequence[Unit], request: GpuRequest
    ) -> list[Hostdev]:
        devices = []
        slot = 0
        for unit in sorted(units, key=lambda u: u.card):
            together = len(unit.functions) > 1
            devices += [
                Hostdev(function=function, slot=slot if together else None)
                for function in sorted(unit.functions)
            ]
            slot += together
        return devices
