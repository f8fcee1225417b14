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

"""The host devices of a guest: those it holds, those it will get."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET

from nova_gpu.model.address import PciAddress


@dataclasses.dataclass(frozen=True, slots=True)
class Hostdev:
    """One device that a guest gets.

    A ``function`` is passed through by its PCI address, an ``mdev`` by its
    UUID. Functions with the same ``slot`` number stay together in one slot
    of the guest. ``display`` marks the vGPU that shows the guest's screen.
    """

    function: PciAddress | None = None
    mdev: str | None = None
    slot: int | None = None
    display: bool = False
    model: str = 'vfio-pci'


@dataclasses.dataclass(frozen=True, slots=True)
class GuestDevices:
    """The PCI functions and mdevs of one guest.

    ``readable`` is False if the XML doesn't parse: then everything in it
    that looks like a device of the host counts as held, since a unit too
    many in use is a smaller harm than one given twice.
    """

    name: str
    uuid: str | None
    functions: frozenset[PciAddress] = frozenset()
    mdevs: frozenset[str] = frozenset()
    readable: bool = True


def parse_guest(text: str, name: str) -> GuestDevices:
    """Read a domain's XML, or libvirt's status file of a running domain."""
    try:
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError):
        return _salvage(text, name)
    domain = root if root.tag == 'domain' else root.find('domain')
    if domain is None:
        return _salvage(text, name)
    functions = set()
    mdevs = set()
    for hostdev in domain.iterfind('devices/hostdev'):
        address = hostdev.find('source/address')
        if address is None:
            continue
        if hostdev.get('type') == 'mdev':
            mdevs.add((address.get('uuid') or '').lower())
        elif hostdev.get('type') == 'pci':
            functions.add(_address(address.attrib))
    return GuestDevices(
        name=domain.findtext('name') or name,
        uuid=domain.findtext('uuid'),
        functions=frozenset(f for f in functions if f is not None),
        mdevs=frozenset(mdevs - {''}),
    )


def _address(fields: dict[str, str]) -> PciAddress | None:
    try:
        return PciAddress(
            *(
                int(fields.get(part) or '0', 16)
                for part in ('domain', 'bus', 'slot', 'function')
            )
        )
    except ValueError:
        return None


def _salvage(text: str, name: str) -> GuestDevices:
    functions = set()
    mdevs = set()
    for element in re.findall(r'<address\s[^>]*', text):
        fields = dict(re.findall(r'(\w+)=[\'"]([^\'"]*)', element))
        if 'uuid' in fields:
            mdevs.add(fields['uuid'].lower())
        elif 'bus' in fields and 'function' in fields:
            functions.add(_address(fields))
    found = re.search(r'<uuid>([^<]+)</uuid>', text)
    return GuestDevices(
        name=name,
        uuid=found[1].strip() if found else None,
        functions=frozenset(f for f in functions if f is not None),
        mdevs=frozenset(mdevs),
        readable=False,
    )
