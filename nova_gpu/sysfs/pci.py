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

"""The cards and switches of a host, in one pass over its sysfs."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import (
    CARD_CLASSES,
    OTHER_BRIDGE_CLASS,
    VENDORS,
    Card,
    PciFunction,
)
from nova_gpu.sysfs import functions
from nova_gpu.sysfs.forms import FormsReader
from nova_gpu.sysfs.functions import DEVICES, UNREADABLE
from nova_gpu.sysfs.iommu import Groups
from nova_gpu.sysfs.names import card_names
from nova_gpu.sysfs.tree import Tree

_VGA_CLASS = 0x0300
_NVIDIA = 0x10DE


class PciReader:
    """One pass over a host's PCI functions."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._groups = Groups(tree)
        self._forms = FormsReader(tree, self._groups)

    def scan(self) -> Iterator[Card | PciFunction]:
        """Every card and every NVSwitch, in the order of their addresses.

        Virtual functions are reached from their card and not read one by
        one: a card's are skipped here, whatever their number. Parents of
        mdevs that are no hardware come last.
        """
        virtual: set[str] = set()
        listed = self._tree.names(DEVICES, optional=False)
        there = frozenset(listed)
        for name in listed:
            if name in virtual:
                continue
            code = functions.read_class(self._tree, name)
            found: Card | PciFunction | None = None
            if code in CARD_CLASSES:
                found = self._read_card(name, code, there, virtual)
            elif code == OTHER_BRIDGE_CLASS:
                found = self._read_switch(name, code)
            if found is not None:
                yield found
        yield from self._forms.virtual_cards()

    def _read_switch(self, name: str, code: int) -> PciFunction | None:
        found = self._identity(name)
        if found is None or found[1] != _NVIDIA:
            return None
        address, vendor, product = found
        return functions.read_function(
            self._tree, address, vendor, product, code
        )

    def _read_card(
        self, name: str, code: int, there: Collection[str], virtual: set[str]
    ) -> Card | None:
        """The card of that name; its functions are added to ``virtual``.

        ``there`` are all functions of the host.
        """
        tree = self._tree
        entries = tree.names(f'{DEVICES}/{name}', optional=False)
        vfs = functions.read_virtual_functions(tree, name, entries, there)
        virtual.update(map(str, vfs))
        if not entries or 'physfn' in entries:
            return None
        found = self._identity(name)
        if found is None:
            return None
        card = self._card(*found, code, entries)
        card = self._forms.fill(card, vfs, virtual)
        # What has gone meanwhile may have lost its driver first, and would
        # look like a card that is there for passthrough.
        return card if functions.read_class(tree, name) == code else None

    def _identity(self, name: str) -> tuple[PciAddress, int, int] | None:
        """Address, vendor and product; None for a vendor with no cards."""
        tree = self._tree
        vendor = functions.read_id(tree, name, 'vendor')
        if vendor is None or vendor not in VENDORS:
            return None
        address = functions.read_address(tree, f'{DEVICES}/{name}', name)
        product = functions.read_id(tree, name, 'device')
        if address is None or product is None:
            return None
        return address, vendor, product

    def _card(
        self,
        address: PciAddress,
        vendor: int,
        product: int,
        code: int,
        entries: Collection[str],
    ) -> Card:
        """A card by itself."""
        base = f'{DEVICES}/{address}'
        tree = self._tree
        numa_node = tree.number(f'{base}/numa_node', optional=True)
        boot_vga = None
        if code == _VGA_CLASS:
            boot_vga = tree.number(f'{base}/boot_vga', optional=True)
        total_vfs = None
        if 'sriov_totalvfs' in entries:
            total_vfs = tree.number(f'{base}/sriov_totalvfs')
        driver = None
        if 'driver' in entries:
            driver = tree.link(f'{base}/driver') or UNREADABLE
        group, others = self._groups.read(address)
        names = card_names(tree, vendor, product)
        near = [o for o in others if o.address.same_slot(address)]
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
            driver=driver,
            boot_vga=boot_vga == 1,
            companions=tuple(near),
            strangers=tuple(o for o in others if o not in near),
            total_vfs=max(0, total_vfs or 0),
            bars=functions.read_bars(tree, address),
            resettable='reset' in entries,
            bridges=functions.read_bridges(tree, address),
            linked=names.linked,
        )
