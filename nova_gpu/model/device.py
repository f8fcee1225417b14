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

"""What a host has, as plain data.

Everything here is frozen: a snapshot of the host is read once and passed
around, and nobody wonders who changed it.
"""

from __future__ import annotations

import dataclasses

from nova_gpu.model.address import PciAddress
from nova_gpu.model.profile import VgpuType

#: PCI classes of cards: VGA, 3D, other display, processing accelerator.
CARD_CLASSES = frozenset({0x0300, 0x0302, 0x0380, 0x1200})
#: A PCI-to-PCI bridge stays with the host whatever its group is used for.
PCI_BRIDGE_CLASS = 0x0604
#: NVSwitches show up as bridges of this class.
OTHER_BRIDGE_CLASS = 0x0680

VENDORS = {0x10DE: 'NVIDIA', 0x1002: 'AMD', 0x8086: 'Intel'}


@dataclasses.dataclass(frozen=True, slots=True)
class PciFunction:
    """One PCI function that isn't a card: a companion, a switch."""

    address: PciAddress
    vendor_id: int
    product_id: int
    class_code: int
    driver: str | None = None

    def __str__(self) -> str:
        return (
            f'{self.address} [{self.class_code:04x}] '
            f'{self.vendor_id:04x}:{self.product_id:04x}'
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Mdev:
    """One mediated device; ``parent`` is the PCI function it lives on."""

    uuid: str
    parent: PciAddress
    type_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """One physical GPU and what sysfs says of it.

    ``numa_node`` is -1 where the firmware names none. ``companions`` are the
    other functions of the card's own slot, ``strangers`` the functions of
    other slots that share its IOMMU group. ``types`` are the vGPU types that
    the card takes, ``parents`` the functions on which they can be made (the
    card itself, or its virtual functions), ``mdevs`` those that exist.
    """

    address: PciAddress
    vendor_id: int
    product_id: int
    class_code: int
    name: str
    model: str
    memory_mib: int | None = None
    numa_node: int = -1
    iommu_group: int | None = None
    driver: str | None = None
    boot_vga: bool = False
    companions: tuple[PciFunction, ...] = ()
    strangers: tuple[PciFunction, ...] = ()
    types: tuple[VgpuType, ...] = ()
    parents: tuple[PciAddress, ...] = ()
    mdevs: tuple[Mdev, ...] = ()

    @property
    def vendor(self) -> str:
        """The vendor's name, or its PCI id."""
        return VENDORS.get(self.vendor_id, f'{self.vendor_id:04x}')

    @property
    def functions(self) -> tuple[PciAddress, ...]:
        """The card and its companions, in the order of their functions."""
        return tuple(
            sorted([self.address, *(c.address for c in self.companions)])
        )

    def type_by_id(self, type_id: str) -> VgpuType | None:
        """The vGPU type of that id, if the card has it."""
        return next((t for t in self.types if t.id == type_id), None)


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """One pass over a host's sysfs.

    ``warnings`` are the files that could not be used, each with its path
    and what was found there.
    """

    cards: tuple[Card, ...] = ()
    switches: tuple[PciFunction, ...] = ()
    warnings: tuple[str, ...] = ()

    def card(self, address: PciAddress) -> Card | None:
        """The card at ``address``, if there is one."""
        return next((c for c in self.cards if c.address == address), None)
