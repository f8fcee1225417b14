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

"""vGPUs that are mediated devices: on the card, or on its SR-IOV VFs."""

from __future__ import annotations

import collections
import dataclasses
import errno
import logging
import secrets
import uuid
from collections.abc import Sequence

from nova_gpu import exception
from nova_gpu.mechanism.base import Effects, Mechanism
from nova_gpu.model.choice import choose_parent
from nova_gpu.model.device import Card, Mdev, Snapshot
from nova_gpu.model.guest import GuestDevices, Hostdev
from nova_gpu.model.inventory import Offer, Pool, Unit, Use, vgpu_class
from nova_gpu.model.profile import VgpuType
from nova_gpu.model.request import GpuRequest
from nova_gpu.model.rule import Ruling

# Not oslo.log's: nova-gpu imports this, and would start a third slower.
LOG = logging.getLogger(__name__)

#: How many UUIDs are tried for one mdev; a second is already a wonder.
UUID_ATTEMPTS = 3

#: The first 48 bits of the UUIDs that we make ("novagp"). UUID version 8
#: leaves their meaning to us (RFC 9562, section 5.8).
_MARK = int.from_bytes(b'novagp')


def new_uuid() -> str:
    """A UUID that says, by itself, that the mdev is ours.

    There is no private database: after a crash this is how an mdev that no
    guest holds is told from one that somebody else made.
    """
    bits = secrets.randbits(74)
    value = _MARK << 80 | 8 << 76 | (bits >> 62) << 64 | 2 << 62
    return str(uuid.UUID(int=value | bits & (1 << 62) - 1))


def is_ours(text: str) -> bool:
    """Whether :func:`new_uuid` made the UUID."""
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return False
    return parsed.int >> 80 == _MARK and parsed.version == 8


class MdevVgpu(Mechanism):
    """One vGPU type after the other on a card; all of one card are alike.

    Whether they really must be alike is the driver's business, and it tells
    by ``available_instances``: what it no longer offers is closed.
    """

    name = 'mdev'
    use = 'vgpu'
    display = True
    params = True

    def __init__(self) -> None:
        # What empty cards held of types whose driver doesn't tell.
        self._capacity: dict[tuple[object, str], int] = {}

    def recognizes(self, card: Card) -> bool:
        return bool(card.types)

    def refusal(self, card: Card) -> str | None:
        if not card.types:
            return f'its driver ({card.driver or "none"}) offers no vGPU types'
        return None

    def pool_key(self, card: Card) -> str:
        return card.address.token

    def offers(
        self, card: Card, ruling: Ruling, held: Sequence[Unit]
    ) -> tuple[Offer, ...]:
        # What is in use keeps the class that it was allocated as, whatever
        # rules and names have become.
        active = {unit.type_id: unit.resource_class for unit in held}
        kinds: dict[str, VgpuType] = {}
        for kind in card.types:
            if kind.id in active:
                kinds[active[kind.id]] = kind
            elif _allowed(kind, ruling):
                kinds.setdefault(_class_of(card, ruling, kind.name), kind)
        used = collections.Counter(unit.resource_class for unit in held)
        offers = [
            Offer(
                resource_class=name,
                total=self._total(card, kind, used[name]),
                used=used[name],
                free=kind.available if _allowed(kind, ruling) else 0,
                type_id=kind.id,
                name=kind.name,
            )
            for name, kind in kinds.items()
        ]
        # In use, but the files of the type can't be read just now.
        lost = {c: t for t, c in active.items() if c not in kinds}
        offers += [
            Offer(name, used[name], used[name], 0, type_id, type_id)
            for name, type_id in lost.items()
        ]
        return tuple(offers)

    def _total(self, card: Card, kind: VgpuType, used: int) -> int:
        """What the empty card holds of a type.

        From the driver's description, or from what the card was seen to
        take while it was empty.
        """
        key = (card.address, kind.id)
        if not card.mdevs:
            self._capacity[key] = kind.available
        known = kind.capacity or self._capacity.get(key, 0)
        return max(known, used + kind.available, 1)

    def choose(
        self,
        pool: Pool,
        uses: Sequence[Use],
        resource_class: str,
        count: int,
        held: Sequence[Unit],
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
        taken = [mdev.parent for mdev in use.card.mdevs]
        units: list[Unit] = []
        for _ in range(count):
            parent = choose_parent(use.card.parents, taken)
            if parent is None:
                raise exception.NotEnoughUnits(
                    pool.key,
                    resource_class,
                    count,
                    f'all functions of card {use.card.address} are taken',
                )
            taken.append(parent)
            units.append(
                Unit(
                    mechanism=self.name,
                    pool=pool.key,
                    resource_class=resource_class,
                    card=use.card.address,
                    device=new_uuid(),
                    type_id=offer.type_id,
                    parent=parent,
                )
            )
        return tuple(units)

    def prepare(
        self, unit: Unit, request: GpuRequest, effects: Effects
    ) -> Unit:
        for _ in range(UUID_ATTEMPTS - 1):
            try:
                self._create(unit, effects)
            except exception.EffectFailed as exc:
                if exc.errno != errno.EEXIST:
                    raise
                LOG.warning('Trying another UUID, this is in use: %s', exc)
                unit = dataclasses.replace(unit, device=new_uuid())
            else:
                return unit
        self._create(unit, effects)
        return unit

    def _create(self, unit: Unit, effects: Effects) -> None:
        effects.create_mdev(str(unit.parent), str(unit.type_id), unit.device)

    def configure(
        self, unit: Unit, request: GpuRequest, effects: Effects
    ) -> None:
        if request.vgpu_params is not None:
            effects.set_vgpu_params(unit.device, request.vgpu_params)

    def clean(self, unit: Unit, effects: Effects) -> None:
        effects.remove_mdev(unit.device)

    def held_by(self, guest: GuestDevices, uses: Sequence[Use]) -> list[Unit]:
        return [
            self._unit(use, mdev)
            for use in uses
            for mdev in use.card.mdevs
            if mdev.uuid in guest.mdevs and is_ours(mdev.uuid)
        ]

    def leaked(
        self, snapshot: Snapshot, uses: Sequence[Use], held: Sequence[Unit]
    ) -> list[Unit]:
        known = {unit.device for unit in held}
        return [
            self._unit(use, mdev)
            for use in uses
            for mdev in use.card.mdevs
            if mdev.uuid not in known and is_ours(mdev.uuid)
        ]

    def _unit(self, use: Use, mdev: Mdev) -> Unit:
        kind = use.card.type_by_id(mdev.type_id)
        name = kind.name if kind else mdev.type_id
        return Unit(
            mechanism=self.name,
            pool=self.pool_key(use.card),
            resource_class=_class_of(use.card, use.ruling, name),
            card=use.card.address,
            device=mdev.uuid,
            type_id=mdev.type_id,
            parent=mdev.parent,
        )

    def hostdevs(
        self, units: Sequence[Unit], request: GpuRequest
    ) -> list[Hostdev]:
        # A guest has one screen: the first vGPU shows it.
        return [
            Hostdev(mdev=unit.device, display=request.display and i == 0)
            for i, unit in enumerate(units)
        ]


def _class_of(card: Card, ruling: Ruling, type_name: str) -> str:
    return ruling.resource_class or vgpu_class(card, type_name)


def _allowed(kind: VgpuType, ruling: Ruling) -> bool:
    """Whether the rules allow a type, by id or by name, vendor or not."""
    names = {kind.id, kind.name, kind.name.partition(' ')[2]}
    return ruling.profiles is None or not names.isdisjoint(ruling.profiles)


def _why_not(use: Use | None, offer: Offer | None) -> str:
    if use is None:
        return 'its card is gone'
    if use.reason is not None:
        return f'card {use.card.address} is not handed out: {use.reason}'
    if offer is None:
        return f'card {use.card.address} has no such vGPU type'
    active = [o.name for o in use.offers if o.used]
    if active and offer.name not in active:
        return f'card {use.card.address} holds {active[0]} vGPUs now'
    return (
        f'{offer.free} of the {offer.total} {offer.name} of card '
        f'{use.card.address} are free'
    )
