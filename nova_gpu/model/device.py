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

from nova_gpu.model.address import Address, PciAddress, VirtualParent
from nova_gpu.model.partition import Fabric
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
    """One mediated device; ``parent`` is the device it lives on."""

    uuid: str
    parent: Address
    type_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class VirtualFunction:
    """One SR-IOV virtual function of a card.

    ``type_id`` is the vGPU type that the vendor's own VFIO interface has set
    on it, None for none. ``problem`` says why no guest can get it, as far as
    sysfs tells. Of a function that takes mediated devices only the address
    is read.
    """

    address: PciAddress
    driver: str | None = None
    type_id: str | None = None
    problem: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """One physical GPU, or another parent of vGPUs, and what sysfs says.

    ``numa_node`` is -1 where the firmware names none. ``companions`` are the
    other functions of the card's own slot, ``strangers`` the functions of
    other slots that share its IOMMU group. ``types`` are the vGPU types that
    the card takes, ``parents`` the devices on which they can be made (the
    card itself, or its virtual functions), ``mdevs`` those that exist.

    ``vfs`` are the virtual functions that are enabled, ``vf_product_id`` what
    they are, ``total_vfs`` how many the card can have. ``vendor_vfio`` says
    that they take vGPU types by the vendor's own VFIO interface: then
    ``parents`` are those of them that do. ``gpu_instances`` is the number of
    MIG GPU instances, None without MIG or where it isn't known. ``bars`` are
    the sizes in bytes of the 64-bit memory BARs, ``vf_bars`` those of one
    virtual function. ``resettable`` says whether the kernel offers to reset
    the card. ``bridges`` are the PCI bridges above it, the root port first.
    ``linked`` is how many cards of the model a board has that links them all
    with each other, 0 if there is no such board. ``clique`` is the set
    of linked cards that it was recorded in, ``none`` if it was recorded as not
    linked.
    """

    address: Address
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
    parents: tuple[Address, ...] = ()
    mdevs: tuple[Mdev, ...] = ()
    vfs: tuple[VirtualFunction, ...] = ()
    total_vfs: int = 0
    vf_product_id: int | None = None
    vendor_vfio: bool = False
    gpu_instances: int | None = None
    bars: tuple[int, ...] = ()
    vf_bars: tuple[int, ...] = ()
    resettable: bool = False
    bridges: tuple[PciAddress, ...] = ()
    linked: int = 0
    clique: str | None = None

    @property
    def vendor(self) -> str:
        """The vendor's name, or its PCI id; a virtual parent's own name."""
        if isinstance(self.address, VirtualParent):
            return self.address.name
        return VENDORS.get(self.vendor_id, f'{self.vendor_id:04x}')

    @property
    def functions(self) -> tuple[PciAddress, ...]:
        """The card and its companions, in the order of their functions."""
        if not isinstance(self.address, PciAddress):
            return ()
        return tuple(
            sorted([self.address, *(c.address for c in self.companions)])
        )

    @property
    def made(self) -> tuple[str, ...]:
        """The type ids of the vGPUs that exist, whoever made them."""
        return (
            *(mdev.type_id for mdev in self.mdevs),
            *(vf.type_id for vf in self.vfs if vf.type_id is not None),
        )

    @property
    def free_parents(self) -> tuple[Address, ...]:
        """The parents without a vGPU, where each holds one."""
        taken = {
            *(mdev.parent for mdev in self.mdevs),
            *(vf.address for vf in self.vfs if vf.type_id is not None),
        }
        return tuple(p for p in self.parents if p not in taken)

    def vf(self, address: object) -> VirtualFunction | None:
        """The virtual function at ``address``, if the card has it."""
        return next((v for v in self.vfs if v.address == address), None)

    def type_by_id(self, type_id: str) -> VgpuType | None:
        """The vGPU type of that id, if the card has it."""
        return next((t for t in self.types if t.id == type_id), None)


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """One pass over a host's sysfs.

    ``warnings`` are the files that could not be used, each with its path
    and what was found there. ``address_bits`` is the width of the host's
    physical addresses. ``fabric`` is what Fabric Manager says, if it divides
    the host's NVSwitches.
    """

    cards: tuple[Card, ...] = ()
    switches: tuple[PciFunction, ...] = ()
    warnings: tuple[str, ...] = ()
    address_bits: int | None = None
    fabric: Fabric | None = None

    def card(self, address: Address) -> Card | None:
        """The card at ``address``, if there is one."""
        return next((c for c in self.cards if c.address == address), None)

    def has_mdev(self, uuid: str) -> bool:
        """Whether there is a mediated device of that UUID."""
        return any(m.uuid == uuid for card in self.cards for m in card.mdevs)
