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

"""PCI functions, one by one, as the kernel shows them.

Source of the format: Documentation/ABI/testing/sysfs-bus-pci in the Linux
tree, for ``resource`` drivers/pci/pci-sysfs.c and include/linux/ioport.h.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection

from nova_gpu import exception
from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import PciFunction
from nova_gpu.sysfs.tree import Tree

DEVICES = 'sys/bus/pci/devices'
#: Stands for the name of a driver whose link can't be read.
UNREADABLE = '(unreadable)'

_VIRTFN = re.compile(r'virtfn[0-9]+')
_BARS = 6
# Of a fixed width: a number that is cut must not be taken for another.
_RESOURCE = re.compile(r'0x([0-9a-f]{16}) 0x([0-9a-f]{16}) 0x([0-9a-f]{16})')
_MEMORY = 0x200
_MEMORY_64 = 0x100000


def read_class(tree: Tree, name: str) -> int | None:
    """Base class and subclass of a function."""
    code = tree.hex_number(f'{DEVICES}/{name}/class', 6)
    return None if code is None else code >> 8


def read_id(tree: Tree, name: str, field: str) -> int | None:
    """``vendor`` or ``device`` of a function, or of its subsystem."""
    return tree.hex_number(f'{DEVICES}/{name}/{field}', 4)


def read_subsystem(tree: Tree, name: str) -> tuple[int, int] | None:
    """Vendor and device of the board that a function is on."""
    vendor = read_id(tree, name, 'subsystem_vendor')
    device = read_id(tree, name, 'subsystem_device')
    return None if vendor is None or device is None else (vendor, device)


def read_address(tree: Tree, path: str, name: str) -> PciAddress | None:
    """The address that an entry of sysfs is named by."""
    try:
        return PciAddress.parse(name)
    except exception.InvalidAddress as exc:
        tree.warn(path, str(exc))
        return None


def read_driver(tree: Tree, address: PciAddress) -> str | None:
    """The driver; one that can't be read is not the same as none."""
    before = len(tree.warnings)
    driver = tree.link(f'{DEVICES}/{address}/driver')
    return UNREADABLE if len(tree.warnings) > before else driver


def read_function(
    tree: Tree, address: PciAddress, vendor: int, product: int, code: int
) -> PciFunction:
    """A function whose ids are known, with its driver."""
    driver = read_driver(tree, address)
    return PciFunction(address, vendor, product, code, driver)


def read_virtual_functions(
    tree: Tree, name: str, entries: Collection[str], there: Collection[str]
) -> tuple[PciAddress, ...]:
    """The virtual functions that ``entries`` of a card's folder lead to.

    They can be in any slot and domain. One that isn't ``there``, among all
    functions of the host, is left out.
    """
    found = set()
    for entry in entries:
        if not _VIRTFN.fullmatch(entry):
            continue
        path = f'{DEVICES}/{name}/{entry}'
        target = tree.link(path)
        address = target and read_address(tree, path, target)
        if not address:
            continue
        if str(address) not in there or str(address) == name:
            tree.warn(path, f'{target} is no function of its: ignored')
            continue
        found.add(address)
    return tuple(sorted(found))


def read_bridges(tree: Tree, address: PciAddress) -> tuple[PciAddress, ...]:
    """The PCI bridges above a function, the root port first.

    The way to its directory names them, below that of the root bus:
    ``../../../devices/pci0000:17/0000:17:01.0/0000:18:00.0``.
    """
    way = (tree.target(f'{DEVICES}/{address}') or '').split('/')
    found = []
    for name in way[:-1]:
        with contextlib.suppress(exception.InvalidAddress):
            found.append(PciAddress.parse(name))
    return tuple(found)


def read_bars(tree: Tree, address: PciAddress) -> tuple[int, ...]:
    """The sizes of the 64-bit memory BARs, in their order."""
    path = f'{DEVICES}/{address}/resource'
    text = tree.text(path, optional=True)
    if text is None:
        return ()
    sizes = []
    lines = text.splitlines()[:_BARS]
    for line in (*lines, *[''] * (_BARS - len(lines))):
        match = _RESOURCE.fullmatch(line)
        start, end, flags = (
            (int(number, 16) for number in match.groups())
            if match
            else (1, 0, 0)
        )
        if start > end:
            tree.warn(path, f'{line[:60]!r} is no start, end and flags')
            return ()
        if flags & _MEMORY and flags & _MEMORY_64:
            sizes.append(end - start + 1)
    return tuple(sizes)
