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


"""What all vGPUs have in common, however their drivers make them."""

from __future__ import annotations

import abc
import collections
import dataclasses
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence

from nova_gpu import exception
from nova_gpu.mechanism.base import Effects, Mechanism
from nova_gpu.model.address import Address, PciAddress
from nova_gpu.model.device import Card, Snapshot
from nova_gpu.model.inventory import Offer, Pool, Unit, Use, vgpu_class
from nova_gpu.model.profile import VgpuType
from nova_gpu.model.request import GpuRequest
from nova_gpu.model.rule import Ruling
from nova_gpu.model.sharing import Room, room

# Not oslo.log's: nova-gpu imports this, and would start a third slower.
LOG = logging.getLogger(__name__)


class Vgpu(Mechanism):
    """A card that is cut into vGPUs, and a pool of its own.

    An empty card offers every type that rules allow. Which of them still go
    once it holds a vGPU is the driver's to say, see
    :mod:`nova_gpu.model.sharing`.
    """

    use = 'vgpu'
    params = True

    def __init__(self) -> None:
        # The types of each card when it was last seen empty, with what it
        # held of each then: drivers list fewer later, or tell no numbers.
        self._seen: dict[Address, dict[str, VgpuType]] = {}
        # The types of all cards by product: a name is that of a type, on
        # whichever card it shows up.
        self._named: dict[tuple[int, int], dict[str, VgpuType]] = {}

    @abc.abstractmethod
    def _place(self, unit: Unit, parent: Address) -> Unit:
        """``unit`` with the device of a new vGPU on ``parent``."""

    def new_unit(self, use: Use, offer: Offer, parent: Address) -> Unit:
        """A vGPU of what a card offers, that isn't made yet."""
        unit = Unit(
            mechanism=self.name,
            pool=self.pool_key(use.card),
            resource_class=offer.resource_class,
            card=use.card.address,
            device='',
            type_id=offer.type_id,
            name=offer.name,
            parent=parent,
        )
        return self._place(unit, parent)

    def refusal(self, card: Card) -> str | None:
        if self.recognizes(card):
            return None
        hint = ''
        if card.total_vfs and not card.vfs:
            hint = ': its virtual functions are not enabled'
        return (
            f'its driver ({card.driver or "none"}) offers no vGPU types{hint}'
        )

    def pool_key(self, card: Card) -> str:
        return card.address.token

    def offers(
        self, card: Card, ruling: Ruling, held: Sequence[Unit]
    ) -> tuple[Offer, ...]:
        types = self._learn(card)
        ours = [unit for unit in held if unit.allocated]
        functions = len(_free_parents(card, (unit.device for unit in held)))
        # What is in use keeps the class that it was allocated as, whatever
        # rules and names have become.
        active = {unit.type_id: unit.resource_class for unit in ours}
        kinds: dict[str, list[VgpuType]] = {}
        for kind in types.values():
            if kind.id in active:
                kinds.setdefault(active[kind.id], []).append(kind)
            elif ruling.allows(kind):
                name = class_of(card, ruling, kind.name)
                kinds.setdefault(name, []).append(kind)
        used = collections.Counter(unit.resource_class for unit in ours)
        offers = []
        for name, several in kinds.items():
            kind = _best(several, active)
            found = self._room(card, kind, functions)
            offers.append(
                Offer(
                    resource_class=name,
                    total=max(found.total, used[name]),
                    used=used[name],
                    free=found.free if ruling.allows(kind) else 0,
                    type_id=kind.id,
                    name=kind.name,
                )
            )
        # In use, but the driver says nothing of the type just now.
        lost = {c: t for t, c in active.items() if c not in kinds}
        offers += [
            Offer(name, used[name], used[name], 0, type_id, type_id)
            for name, type_id in lost.items()
        ]
        return tuple(offers)

    def _learn(self, card: Card) -> Mapping[str, VgpuType]:
        """The types of a card, also those that it doesn't list now."""
        listed = {kind.id: kind for kind in card.types}
        self._named.setdefault((card.vendor_id, card.product_id), {}).update(
            listed
        )
        if not card.made:
            # Some drivers tell how many by their numbers for an empty card.
            self._seen[card.address] = {
                kind.id: dataclasses.replace(
                    kind, capacity=kind.capacity or kind.available
                )
                if not card.vfs
                else kind
                for kind in card.types
            }
            return listed
        seen = self._seen.get(card.address, {})
        return {
            **{
                id: dataclasses.replace(kind, available=0)
                for id, kind in seen.items()
            },
            **listed,
        }

    def _room(self, card: Card, kind: VgpuType, functions: int) -> Room:
        named = self._named.get((card.vendor_id, card.product_id), {})
        seen = self._seen.get(card.address, {})
        capacity = seen[kind.id].capacity if kind.id in seen else None
        return room(
            card,
            dataclasses.replace(kind, capacity=kind.capacity or capacity),
            functions,
            {**named, **seen},
        )

    def _name(self, card: Card, type_id: str) -> str:
        """The name of a type, or its id if it was never seen."""
        kind = card.type_by_id(type_id)
        if kind is None:
            named = self._named.get((card.vendor_id, card.product_id), {})
            kind = named.get(type_id)
        return kind.name if kind else type_id

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
        offer = next(
            (
                o
                for o in (use.offers if use else ())
                if o.resource_class == resource_class
            ),
            None,
        )
        if use is None or offer is None or offer.free < count:
            raise exception.NotEnoughUnits(
                pool.key, resource_class, count, _why_not(use, offer)
            )
        blocked = (device for device, _ in use.aside)
        free = sorted(_free_parents(use.card, blocked))
        if not use.card.vfs:
            free *= count
        if len(free) < count:
            raise exception.NotEnoughUnits(
                pool.key,
                resource_class,
                count,
                f'all functions of card {use.card.address} are taken',
            )
        return tuple(self.new_unit(use, offer, p) for p in free[:count])

    def configure(
        self, unit: Unit, request: GpuRequest, effects: Effects
    ) -> Unit:
        if request.vgpu_params is None:
            return unit
        effects.set_vgpu_params(unit.device, request.vgpu_params)
        return dataclasses.replace(unit, params=request.vgpu_params)

    def restore(
        self, unit: Unit, snapshot: Snapshot, effects: Effects
    ) -> bool:
        card = snapshot.card(unit.card)
        if card is None:
            # A PCI card that is gone has no driver that might come.
            return isinstance(unit.card, PciAddress)
        if not self.recognizes(card):
            return False
        if not self._exists(unit, card):
            self._make_again(unit, card, effects)
            self._set_params_again(unit, effects)
            LOG.info(
                'Made %s (%s) of card %s again',
                unit.device,
                unit.name,
                unit.card,
            )
        return True

    def _set_params_again(self, unit: Unit, effects: Effects) -> None:
        """A vGPU without its parameters must not pass for the one it was."""
        if unit.params is None:
            return
        try:
            effects.set_vgpu_params(unit.device, unit.params)
        except exception.EffectFailed:
            self.clean(unit, effects)
            raise

    @abc.abstractmethod
    def _exists(self, unit: Unit, card: Card) -> bool:
        """Whether the vGPU is there.

        :raises nova_gpu.exception.GpuError: something else is in its place
        """

    @abc.abstractmethod
    def _make_again(self, unit: Unit, card: Card, effects: Effects) -> None:
        """Make the vGPU as it was."""

    def leaked(
        self, snapshot: Snapshot, uses: Sequence[Use], held: Sequence[Unit]
    ) -> list[Unit]:
        known = {unit.device for unit in held}
        return [
            unit
            for use in uses
            for unit in self._ours(use)
            if unit.device not in known
        ]

    @abc.abstractmethod
    def _ours(self, use: Use) -> Iterator[Unit]:
        """The vGPUs of a card that we have made."""


def class_of(card: Card, ruling: Ruling, type_name: str) -> str:
    """The resource class of a type on a card."""
    return ruling.resource_class or vgpu_class(card, type_name)


def _best(
    kinds: Sequence[VgpuType], active: Collection[str | None]
) -> VgpuType:
    """Of several types with one class: the one in use, or the first."""
    return next((k for k in kinds if k.id in active), kinds[0])


def _free_parents(card: Card, blocked: Iterator[str]) -> tuple[Address, ...]:
    """Where the next vGPU of a card can be made."""
    if not card.vfs:
        return card.parents
    taken = set(blocked)
    return tuple(p for p in card.free_parents if str(p) not in taken)


def _why_not(use: Use | None, offer: Offer | None) -> str:
    if use is None:
        return 'its card is gone'
    if use.reason is not None:
        return f'card {use.card.address} is not handed out: {use.reason}'
    if offer is None:
        return f'card {use.card.address} has no such vGPU type'
    if use.closed is not None:
        return f'card {use.card.address} is not shared: {use.closed}'
    active = [o.name for o in use.offers if o.used]
    if active and offer.name not in active:
        return f'card {use.card.address} holds {active[0]} vGPUs now'
    return (
        f'{offer.free} of the {offer.total} {offer.name} of card '
        f'{use.card.address} are free'
    )
