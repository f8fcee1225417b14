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

"""PCI functions as the kernel shows them.

Source of the format: Documentation/ABI/testing/sysfs-bus-pci in the Linux
tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from nova_gpu import exception
from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import (
    CARD_CLASSES,
    OTHER_BRIDGE_CLASS,
    PCI_BRIDGE_CLASS,
    VENDORS,
    Card,
    Mdev,
    PciFunction,
)
from nova_gpu.model.profile import VgpuType
from nova_gpu.sysfs import mdev as mdev_reader
from nova_gpu.sysfs.names import card_names
from nova_gpu.sysfs.tree import Tree

DEVICES = 'sys/bus/pci/devices'
GROUPS = 'sys/kernel/iommu_groups'
_VGA_CLASS = 0x0300
_NVIDIA = 0x10DE
_VIRTFN = re.compile(r'virtfn[0-9]+')
#: Stands for the name of a driver whose link can't be read.
UNREADABLE = '(unreadable)'


def _id(tree: Tree, name: str, field: str) -> int | None:
    return tree.hex_number(f'{DEVICES}/{name}/{field}', 4)


def _class(tree: Tree, name: str) -> int | None:
    code = tree.hex_number(f'{DEVICES}/{name}/class', 6)
    return None if code is None else code >> 8


def _address(tree: Tree, path: str, name: str) -> PciAddress | None:
    try:
        return PciAddress.parse(name)
    except exception.InvalidAddress as exc:
        tree.warn(path, str(exc))
        return None


class PciReader:
    """One pass over a host's PCI functions."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._mdev_parents = mdev_reader.read_parents(tree)
        self._mdevs: dict[PciAddress, list[Mdev]] = {}
        for mdev in mdev_reader.read_mdevs(tree):
            self._mdevs.setdefault(mdev.parent, []).append(mdev)
        # What types are is the same on all cards of a product.
        self._types: dict[tuple[int, int], dict[str, VgpuType]] = {}

    def scan(self) -> Iterator[Card | PciFunction]:
        """Every card and every NVSwitch, in the order of their addresses.

        Virtual functions are reached from their card and not read one by
        one: a card's are skipped here, whatever their number.
        """
        virtual: set[str] = set()
        for name in self._tree.names(DEVICES, optional=False):
            if name in virtual:
                continue
            code = _class(self._tree, name)
            if code not in CARD_CLASSES and code != OTHER_BRIDGE_CLASS:
                continue
            vendor = _id(self._tree, name, 'vendor')
            if vendor not in VENDORS:
                continue
            address = _address(self._tree, f'{DEVICES}/{name}', name)
            product = _id(self._tree, name, 'device')
            if (
                address is None
                or code is None
                or vendor is None
                or product is None
            ):
                continue
            if code == OTHER_BRIDGE_CLASS:
                if vendor == _NVIDIA:
                    yield self._function(address, vendor, product, code)
                continue
            entries = set(
                self._tree.names(f'{DEVICES}/{name}', optional=False)
            )
            functions = self._virtual_functions(name, entries)
            virtual.update(map(str, functions))
            if not entries or 'physfn' in entries:
                continue
            card = self._card(
                address, vendor, product, code, entries, functions
            )
            # What has gone meanwhile may have lost its driver first, and
            # would look like a card that is there for passthrough.
            if _class(self._tree, name) == code:
                yield card

    def _virtual_functions(
        self, name: str, entries: set[str]
    ) -> list[PciAddress]:
        found = []
        for entry in entries:
            if _VIRTFN.fullmatch(entry):
                path = f'{DEVICES}/{name}/{entry}'
                target = self._tree.link(path)
                if target is not None:
                    found.append(_address(self._tree, path, target))
        return sorted(f for f in found if f is not None)

    def _function(
        self, address: PciAddress, vendor: int, product: int, code: int
    ) -> PciFunction:
        driver = self._tree.link(f'{DEVICES}/{address}/driver')
        return PciFunction(address, vendor, product, code, driver)

    def _card(
        self,
        address: PciAddress,
        vendor: int,
        product: int,
        code: int,
        entries: set[str],
        functions: list[PciAddress],
    ) -> Card:
        base = f'{DEVICES}/{address}'
        tree = self._tree
        numa_node = tree.number(f'{base}/numa_node', optional=True)
        boot_vga = None
        if code == _VGA_CLASS:
            boot_vga = tree.number(f'{base}/boot_vga', optional=True)
        group, others = self._group(address)
        names = card_names(tree, vendor, product)
        parents = tuple(
            a for a in (address, *functions) if str(a) in self._mdev_parents
        )
        mdevs = tuple(m for p in parents for m in self._mdevs.get(p, ()))
        known_types = self._types.setdefault((vendor, product), {})
        return Card(
            address=address,
            vendor_id=vendor,
            product_id=product,
            class_code=code,
            name=names.name,
            model=names.model,
            memory_mib=names.memory_mib,
            numa_node=-1 if numa_node is None else numa_node,
            iommu_group=group,
            driver=self._driver(address, entries),
            boot_vga=boot_vga == 1,
            companions=tuple(
                o for o in others if o.address.same_slot(address)
            ),
            strangers=tuple(
                o for o in others if not o.address.same_slot(address)
            ),
            types=mdev_reader.read_types(tree, parents, mdevs, known_types),
            parents=parents,
            mdevs=mdevs,
        )

    def _driver(self, address: PciAddress, entries: set[str]) -> str | None:
        """The driver; one that can't be read is not the same as none."""
        if 'driver' not in entries:
            return None
        return self._tree.link(f'{DEVICES}/{address}/driver') or UNREADABLE

    def _group(
        self, address: PciAddress
    ) -> tuple[int | None, list[PciFunction]]:
        """The IOMMU group and the other functions in it.

        None if its members can't be read: who else is in it decides whether
        the card can be handed out.
        """
        path = f'{DEVICES}/{address}/iommu_group'
        group = self._tree.link(path)
        if group is None:
            return None, []
        if not re.fullmatch(r'[0-9]{1,9}', group):
            self._tree.warn(path, f'{group[:40]!r} is not a number')
            return None, []
        folder = f'{GROUPS}/{group}/devices'
        members = self._tree.names(folder, optional=False)
        if str(address) not in members:
            return None, []
        others = [
            self._member(folder, name)
            for name in members
            if name != str(address)
        ]
        return int(group), [o for o in others if o is not None]

    def _member(self, folder: str, name: str) -> PciFunction | None:
        """A function of a group; None for a PCI bridge, or one that left.

        One that is there and can't be read counts, with zeros for its ids.
        """
        code = _class(self._tree, name)
        if code == PCI_BRIDGE_CLASS:
            return None
        if code is None and not self._tree.names(f'{DEVICES}/{name}'):
            return None
        address = _address(self._tree, f'{folder}/{name}', name)
        if address is None:
            return None
        vendor = _id(self._tree, name, 'vendor')
        product = _id(self._tree, name, 'device')
        return self._function(address, vendor or 0, product or 0, code or 0)
