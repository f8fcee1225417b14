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

import dataclasses
import errno
import logging
import secrets
import uuid
from collections.abc import Iterator, Sequence

from nova_gpu import exception
from nova_gpu.mechanism.base import Effects
from nova_gpu.mechanism.vgpu import Vgpu, class_of
from nova_gpu.model.address import Address
from nova_gpu.model.device import Card, Mdev
from nova_gpu.model.guest import GuestDevices, Hostdev
from nova_gpu.model.inventory import Unit, Use
from nova_gpu.model.request import GpuRequest

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


class MdevVgpu(Vgpu):
    """vGPUs on the card itself, on its virtual functions or on neither."""

    name = 'mdev'
    display = True

    def recognizes(self, card: Card) -> bool:
        return bool(card.types) and not card.vendor_vfio

    def _place(self, unit: Unit, parent: Address) -> Unit:
        return dataclasses.replace(unit, device=new_uuid())

    def prepare(
        self, unit: Unit, request: GpuRequest, effects: Effects
    ) -> Unit:
        for _ in range(UUID_ATTEMPTS - 1):
            try:
                _create(unit, effects)
            except exception.EffectFailed as exc:
                if exc.errno != errno.EEXIST:
                    raise
                LOG.warning('Trying another UUID, this is in use: %s', exc)
                unit = dataclasses.replace(unit, device=new_uuid())
            else:
                return unit
        _create(unit, effects)
        return unit

    def clean(self, unit: Unit, effects: Effects) -> None:
        effects.remove_mdev(unit.device)

    def held_by(self, guest: GuestDevices, uses: Sequence[Use]) -> list[Unit]:
        units = []
        for use in uses:
            for mdev in use.card.mdevs:
                if mdev.uuid not in guest.mdevs:
                    continue
                recorded = guest.recorded(mdev.uuid)
                unit = self._unit(use, mdev)
                units.append(
                    dataclasses.replace(
                        unit,
                        resource_class=recorded.resource_class,
                        params=recorded.params,
                    )
                    if recorded
                    else dataclasses.replace(
                        unit, allocated=is_ours(mdev.uuid)
                    )
                )
        return units

    def _ours(self, use: Use) -> Iterator[Unit]:
        for mdev in use.card.mdevs:
            if is_ours(mdev.uuid):
                yield self._unit(use, mdev)

    def _unit(self, use: Use, mdev: Mdev) -> Unit:
        name = self._name(use.card, mdev.type_id)
        return Unit(
            mechanism=self.name,
            pool=self.pool_key(use.card),
            resource_class=class_of(use.card, use.ruling, name),
            card=use.card.address,
            device=mdev.uuid,
            type_id=mdev.type_id,
            name=name,
            parent=mdev.parent,
        )

    def _exists(self, unit: Unit, card: Card) -> bool:
        return any(mdev.uuid == unit.device for mdev in card.mdevs)

    def _make_again(self, unit: Unit, card: Card, effects: Effects) -> None:
        parent = unit.parent
        if card.vfs and parent not in card.free_parents:
            parent = next(iter(card.free_parents), parent)
        _create(dataclasses.replace(unit, parent=parent), effects)

    def hostdevs(
        self, units: Sequence[Unit], request: GpuRequest
    ) -> list[Hostdev]:
        # A guest has one screen: the first vGPU shows it.
        return [
            Hostdev(mdev=unit.device, display=request.display and i == 0)
            for i, unit in enumerate(units)
        ]


def _create(unit: Unit, effects: Effects) -> None:
    try:
        effects.create_mdev(str(unit.parent), str(unit.type_id), unit.device)
    except exception.EffectFailed as exc:
        if exc.errno == errno.EIO and unit.parent != unit.card:
            # A virtual function that answers nothing: the others may do.
            raise exception.UnitUnusable(str(unit.parent), str(exc)) from exc
        raise
