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


"""vGPUs by NVIDIA's own VFIO interface: types written to functions.

Kernels since 6.8 have no mediated devices for these cards. A virtual
function takes a type by a write and is passed through as it is, bound to the
vendor's driver: libvirt must not bind it to another. Source of the format:
NVIDIA's vGPU user guide, "Configuring the vGPU Manager for a hypervisor that
uses a vendor-specific VFIO framework".
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterator, Sequence

from nova_gpu import exception
from nova_gpu.mechanism.base import Effects
from nova_gpu.mechanism.passthrough import NO_IOMMU
from nova_gpu.mechanism.vgpu import Vgpu, class_of
from nova_gpu.model.address import Address, PciAddress
from nova_gpu.model.device import Card, VirtualFunction
from nova_gpu.model.guest import GuestDevices, Hostdev
from nova_gpu.model.inventory import Unit, Use
from nova_gpu.model.profile import parse_name
from nova_gpu.model.request import GpuRequest

#: Written as a type, it frees the function.
NO_TYPE = '0'


class VendorVfio(Vgpu):
    """vGPUs on virtual functions, one each."""

    name = 'vendor_vfio'

    def recognizes(self, card: Card) -> bool:
        return card.vendor_vfio

    def refusal(self, card: Card) -> str | None:
        reason = super().refusal(card)
        if reason is None and card.iommu_group is None:
            return NO_IOMMU
        return reason

    def _place(self, unit: Unit, parent: Address) -> Unit:
        assert isinstance(parent, PciAddress)
        return dataclasses.replace(
            unit, device=str(parent), functions=(parent,)
        )

    def prepare(
        self, unit: Unit, request: GpuRequest, effects: Effects
    ) -> Unit:
        _set_type(unit, effects)
        return unit

    def clean(self, unit: Unit, effects: Effects) -> None:
        try:
            effects.set_vgpu_type(unit.device, NO_TYPE)
        except exception.EffectFailed as exc:
            if exc.errno in (errno.ENOENT, errno.ENODEV):
                return  # the function is gone, and the vGPU with it
            if exc.errno == errno.EBUSY:
                raise  # a guest still has it: later
            raise exception.UnitUnusable(unit.device, str(exc)) from exc

    def held_by(self, guest: GuestDevices, uses: Sequence[Use]) -> list[Unit]:
        units = []
        for use in uses:
            if not use.card.vendor_vfio:
                continue
            for function in use.card.vfs:
                if function.address not in guest.functions:
                    continue
                recorded = guest.recorded(str(function.address))
                units.append(
                    recorded
                    if recorded and recorded.mechanism == self.name
                    else self._unit(use, function, allocated=False)
                )
        return units

    def _ours(self, use: Use) -> Iterator[Unit]:
        # Nobody else writes types on a card that is ours.
        if use.card.vendor_vfio:
            for function in use.card.vfs:
                if function.type_id is not None:
                    yield self._unit(use, function)

    def _unit(
        self, use: Use, function: VirtualFunction, allocated: bool = True
    ) -> Unit:
        name = self._name(use.card, function.type_id or '')
        return Unit(
            mechanism=self.name,
            pool=self.pool_key(use.card),
            resource_class=class_of(use.card, use.ruling, name),
            card=use.card.address,
            device=str(function.address),
            functions=(function.address,),
            type_id=function.type_id,
            name=name,
            parent=function.address,
            allocated=allocated,
        )

    def _exists(self, unit: Unit, card: Card) -> bool:
        function = card.vf(unit.parent)
        if function is None or function.type_id is None:
            return False
        if function.type_id != unit.type_id:
            raise exception.UnitTaken(
                unit.device, f'it has vGPU type {function.type_id}'
            )
        return True

    def _make_again(self, unit: Unit, card: Card, effects: Effects) -> None:
        _set_type(unit, effects)

    def hostdevs(
        self, units: Sequence[Unit], request: GpuRequest
    ) -> list[Hostdev]:
        return [
            Hostdev(function=unit.functions[0], managed=False)
            for unit in units
        ]


def _set_type(unit: Unit, effects: Effects) -> None:
    try:
        effects.set_vgpu_type(unit.device, str(unit.type_id))
    except exception.EffectFailed as exc:
        if exc.errno == errno.EPERM:
            raise exception.UnitTaken(unit.device, str(exc)) from exc
        name = parse_name(unit.name or '')
        if exc.errno == errno.EIO and not (name and name.slices):
            # With MIG it means that no GPU instance is left for the type.
            raise exception.UnitUnusable(unit.device, str(exc)) from exc
        raise
