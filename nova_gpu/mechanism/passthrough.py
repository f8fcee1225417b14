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


"""What whole cards and virtual functions share: libvirt hands them over."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from nova_gpu import exception
from nova_gpu.mechanism.base import Effects, Mechanism
from nova_gpu.model.device import Snapshot
from nova_gpu.model.inventory import Unit, Use
from nova_gpu.model.request import GpuRequest

VFIO = 'vfio-pci'
NO_IOMMU = (
    "has no IOMMU group: turn on the IOMMU in the firmware and on the "
    "kernel's command line"
)


class Passthrough(Mechanism):
    """A PCI function that libvirt binds to vfio-pci, and gives back."""

    use = 'passthrough'

    def prepare(
        self, unit: Unit, request: GpuRequest, effects: Effects
    ) -> Unit:
        """Nothing to do: libvirt binds managed devices itself."""
        return unit

    def configure(
        self, unit: Unit, request: GpuRequest, effects: Effects
    ) -> Unit:
        """Nothing to do: the device is the guest's, settings included."""
        return unit

    def clean(self, unit: Unit, effects: Effects) -> None:
        """Let the kernel reset what a guest had, where it offers that.

        If that fails nobody knows what the guest has left in it.
        """
        try:
            effects.reset_function(unit.device)
        except exception.EffectFailed as exc:
            if exc.errno in (errno.ENOENT, errno.ENODEV, errno.ENOTTY):
                return  # no such function, or none that can be reset
            if exc.errno == errno.EBUSY:
                raise  # a guest still has it: later
            raise exception.UnitUnusable(unit.device, str(exc)) from exc

    def leaked(
        self, snapshot: Snapshot, uses: Sequence[Use], held: Sequence[Unit]
    ) -> list[Unit]:
        """None: nothing is made for a guest that could be left behind."""
        return []
