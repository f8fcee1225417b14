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

"""The libvirt XML of a guest's GPUs.

Source of the format: https://libvirt.org/formatdomain.html, host device
assignment and device addresses. No Nova in here: the driver wraps what this
builds, ``nova-gpu xml preview`` prints it.
"""

from __future__ import annotations

import dataclasses
import itertools
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from lxml import etree

from nova_gpu.model.address import PciAddress
from nova_gpu.model.guest import NAMESPACE, Hostdev, metadata, pci_address
from nova_gpu.model.inventory import Unit

#: Guest slots for cards with companion functions. On PCI Express machines
#: each is the only slot of a root port's bus. Buses are counted from 1, for
#: libvirt makes a root port for every number left out; ports without a number,
#: like those of Nova, get the next free ones. On other machines it is a slot
#: of bus 0, above those that libvirt fills from below.
PCIE_FIRST_BUS = 1
PCI_FIRST_SLOT = 0x10


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """An element of ``<devices>``; ``hostdev`` is None for a controller."""

    element: etree._Element
    hostdev: Hostdev | None = None


def build(hostdevs: Sequence[Hostdev], machine: str = 'q35') -> list[Device]:
    """The elements of a guest's GPUs, in the order of the guest's devices.

    :param machine: the guest's machine type; it decides where a card with
        companion functions goes
    """
    devices: list[Device] = []
    together = sorted(
        (h for h in hostdevs if h.slot is not None and h.function),
        key=lambda h: (h.slot, h.function),
    )
    for slot, group in itertools.groupby(together, key=lambda h: h.slot or 0):
        if _has_pcie(machine):
            bus = PCIE_FIRST_BUS + slot
            devices.append(Device(_root_port(bus)))
            place = PciAddress(0, bus, 0, 0)
        else:
            place = PciAddress(0, 0, PCI_FIRST_SLOT + slot, 0)
        devices += _one_slot(tuple(group), place)
    for hostdev in hostdevs:
        if hostdev.function is not None and hostdev.slot is None:
            devices.append(Device(_pci(hostdev), hostdev))
        elif hostdev.mdev is not None:
            devices.append(Device(_mdev(hostdev), hostdev))
    return devices


def move(text: str, pairs: Sequence[tuple[Unit, Unit]]) -> str:
    """A domain's XML with other units in place of those that it has.

    :param pairs: each unit of the domain, and what it becomes
    """
    root = etree.fromstring(text)
    functions = {
        old: new
        for before, after in pairs
        for old, new in zip(before.functions, after.functions, strict=True)
    }
    mdevs = {
        before.device: after.device
        for before, after in pairs
        if not before.functions
    }
    for address in root.iterfind('devices/hostdev/source/address'):
        uuid = address.get('uuid')
        if uuid is not None:
            address.set('uuid', mdevs.get(uuid, uuid))
        elif (function := pci_address(address.attrib)) in functions:
            _fill(address, functions[function])
    recorded = root.find(f'metadata/{{{NAMESPACE}}}units')
    if recorded is not None:
        new = ET.tostring(metadata([after for _, after in pairs]))
        recorded.getparent().replace(recorded, etree.fromstring(new))
    moved: str = etree.tostring(root, encoding='unicode')
    return moved


def _has_pcie(machine: str) -> bool:
    """Whether a machine type has PCI Express: x86's Q35, Arm's virt."""
    return 'q35' in machine or machine.partition('-')[0] == 'virt'


def _one_slot(group: tuple[Hostdev, ...], place: PciAddress) -> list[Device]:
    devices = []
    for number, hostdev in enumerate(group):
        element = _pci(hostdev)
        address = etree.SubElement(element, 'address', type='pci')
        _fill(address, dataclasses.replace(place, function=number))
        # Only function 0 says so, and only if it isn't alone.
        if number == 0 and len(group) > 1:
            address.set('multifunction', 'on')
        devices.append(Device(element, hostdev))
    return devices


def _pci(hostdev: Hostdev) -> etree._Element:
    assert hostdev.function is not None
    element = etree.Element(
        'hostdev',
        mode='subsystem',
        type='pci',
        managed='yes' if hostdev.managed else 'no',
    )
    source = etree.SubElement(element, 'source')
    _fill(etree.SubElement(source, 'address'), hostdev.function)
    return element


def _mdev(hostdev: Hostdev) -> etree._Element:
    element = etree.Element(
        'hostdev', mode='subsystem', type='mdev', model=hostdev.model
    )
    if hostdev.display:
        element.set('display', 'on')
        element.set('ramfb', 'on')
    source = etree.SubElement(element, 'source')
    etree.SubElement(source, 'address', uuid=str(hostdev.mdev))
    return element


def _root_port(bus: int) -> etree._Element:
    return etree.Element(
        'controller', type='pci', model='pcie-root-port', index=str(bus)
    )


def _fill(element: etree._Element, address: PciAddress) -> None:
    element.set('domain', f'0x{address.domain:04x}')
    element.set('bus', f'0x{address.bus:02x}')
    element.set('slot', f'0x{address.slot:02x}')
    element.set('function', f'0x{address.function:x}')
