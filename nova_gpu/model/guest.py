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
from collections.abc import Iterable, Iterator, Mapping

from nova_gpu import exception
from nova_gpu.model.address import PciAddress, parse_address
from nova_gpu.model.inventory import Unit
from nova_gpu.model.request import EXCLUSIVE, ISOLATION, SHARED

#: The namespace of what we record in a guest's metadata.
NAMESPACE = 'urn:nova-gpu:1'
ET.register_namespace('gpu', NAMESPACE)


@dataclasses.dataclass(frozen=True, slots=True)
class Hostdev:
    """One device that a guest gets.

    A ``function`` is passed through by its PCI address, an ``mdev`` by its
    UUID. Functions with the same ``slot`` number stay together in one slot
    of the guest. ``display`` marks the vGPU that shows the guest's screen.
    libvirt binds a ``managed`` function to vfio-pci, and gives it back.
    """

    function: PciAddress | None = None
    mdev: str | None = None
    slot: int | None = None
    display: bool = False
    model: str = 'vfio-pci'
    managed: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class GuestDevices:
    """The PCI functions and mdevs of one guest.

    ``units`` are those that we gave it, as its metadata records them;
    ``kept`` are those that it had before a resize on this host which isn't
    confirmed yet, by the consumer that holds them in Placement. Seen as a
    guest of its own, such has the real one's UUID as ``keeper``. ``project``
    is what Nova's own metadata says, for units of which ours doesn't, and
    ``flavor`` the flavor's name there.
    ``readable`` is False if the XML doesn't parse: then everything in it
    that looks like a device of the host counts as held, since a unit too
    many in use is a smaller harm than one given twice.
    """

    name: str
    uuid: str | None
    functions: frozenset[PciAddress] = frozenset()
    mdevs: frozenset[str] = frozenset()
    readable: bool = True
    units: tuple[Unit, ...] = ()
    kept: tuple[tuple[str, tuple[Unit, ...]], ...] = ()
    keeper: str | None = None
    project: str | None = None
    flavor: str | None = None

    @property
    def server(self) -> str:
        """Whose devices these are: an instance's UUID, or a guest's name."""
        return self.keeper or self.uuid or self.name

    def keepers(self) -> Iterator[GuestDevices]:
        """What is kept for each move, as if it were a guest of its own."""
        for consumer, units in self.kept:
            yield GuestDevices(
                name=self.name,
                uuid=consumer,
                keeper=self.uuid,
                functions=frozenset(f for u in units for f in u.functions),
                mdevs=frozenset(u.device for u in units if not u.functions),
                units=units,
                project=self.project,
                flavor=self.flavor,
            )

    @property
    def devices(self) -> frozenset[str]:
        """All devices that the guest names, or that are kept for it."""
        units = (*self.units, *(u for _, kept in self.kept for u in kept))
        return frozenset(
            (
                *map(str, self.functions),
                *self.mdevs,
                *(unit.device for unit in units),
                *(str(f) for unit in units for f in unit.functions),
            )
        )

    def recorded(self, device: str) -> Unit | None:
        """What the metadata says of a device, if we gave it."""
        return next((u for u in self.units if u.device == device), None)

    def own(self, unit: Unit) -> Unit:
        """``unit`` with whose it is, and whom it may be shared with.

        Releases that didn't record it had no isolation. Where what is
        recorded may be lost, nobody else comes to the card.
        """
        recorded = self.recorded(unit.device)
        if recorded is None:
            isolation = SHARED if self.readable else EXCLUSIVE
            return dataclasses.replace(
                unit, project=self.project, isolation=isolation
            )
        return dataclasses.replace(
            unit,
            project=recorded.project or self.project,
            isolation=recorded.isolation,
        )


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
            functions.add(pci_address(address.attrib))
    recorded = domain.find(f'metadata/{{{NAMESPACE}}}units')
    project = domain.find('metadata/{*}instance/{*}owner/{*}project')
    flavor = domain.find('metadata/{*}instance/{*}flavor')
    return GuestDevices(
        name=domain.findtext('name') or name,
        uuid=domain.findtext('uuid'),
        functions=frozenset(f for f in functions if f is not None),
        mdevs=frozenset(mdevs - {''}),
        units=_units(recorded),
        kept=_kept(recorded),
        project=None if project is None else project.get('uuid'),
        flavor=None if flavor is None else flavor.get('name'),
    )


def metadata(
    units: Iterable[Unit], kept: Mapping[str, Iterable[Unit]] | None = None
) -> ET.Element:
    """The element of a guest's metadata that records its units.

    After a reboot of the host nothing else tells which vGPUs there were, and
    after a change of names or rules nothing else tells which resource class
    an allocation was made for.
    """
    root = ET.Element(f'{{{NAMESPACE}}}units')
    root.extend(map(_element, units))
    for consumer, held in (kept or {}).items():
        element = ET.SubElement(
            root, f'{{{NAMESPACE}}}kept', {'consumer': consumer}
        )
        element.extend(map(_element, held))
    return root


def _element(unit: Unit) -> ET.Element:
    values = {
        'mechanism': unit.mechanism,
        'pool': unit.pool,
        'class': unit.resource_class,
        'card': str(unit.card),
        'device': unit.device,
        'functions': ' '.join(map(str, unit.functions)),
        'type': unit.type_id,
        'name': unit.name,
        'parent': None if unit.parent is None else str(unit.parent),
        'params': unit.params,
        'partition': None if unit.partition is None else str(unit.partition),
        'project': unit.project,
        'isolation': None if unit.isolation == SHARED else unit.isolation,
    }
    return ET.Element(
        f'{{{NAMESPACE}}}unit',
        {key: value for key, value in values.items() if value},
    )


def parse_metadata(text: str) -> tuple[Unit, ...]:
    """The units of a :func:`metadata` element, as text.

    :raises ValueError: it doesn't parse
    """
    try:
        return _units(ET.fromstring(text))
    except ET.ParseError as exc:
        raise ValueError(f'{text!r} is no metadata of GPUs') from exc


def _units(parent: ET.Element | None) -> tuple[Unit, ...]:
    found = () if parent is None else parent.iterfind(f'{{{NAMESPACE}}}unit')
    units = (_unit(element.attrib) for element in found)
    return tuple(unit for unit in units if unit is not None)


def _kept(
    parent: ET.Element | None,
) -> tuple[tuple[str, tuple[Unit, ...]], ...]:
    found = () if parent is None else parent.iterfind(f'{{{NAMESPACE}}}kept')
    return tuple(
        (consumer, _units(element))
        for element in found
        if (consumer := element.get('consumer'))
    )


def _unit(fields: Mapping[str, str]) -> Unit | None:
    isolation = fields.get('isolation', SHARED)
    if isolation not in ISOLATION:
        isolation = EXCLUSIVE  # of a later release, perhaps
    try:
        parent = fields.get('parent')
        partition = fields.get('partition')
        return Unit(
            mechanism=fields['mechanism'],
            pool=fields['pool'],
            resource_class=fields['class'],
            card=parse_address(fields['card']),
            device=fields['device'],
            functions=tuple(
                PciAddress.parse(f)
                for f in fields.get('functions', '').split()
            ),
            type_id=fields.get('type'),
            name=fields.get('name'),
            parent=None if parent is None else parse_address(parent),
            params=fields.get('params'),
            partition=None if partition is None else int(partition),
            project=fields.get('project'),
            isolation=isolation,
        )
    except (KeyError, ValueError, exception.InvalidAddress):
        return None  # not by us, or edited: as if it weren't there


def pci_address(fields: Mapping[str, str]) -> PciAddress | None:
    """The function that the attributes of an ``<address>`` name, if any."""
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
            functions.add(pci_address(fields))
    found = re.search(r'<uuid>([^<]+)</uuid>', text)
    project = re.search(r'<\w+:project\s+uuid=[\'"]([^\'"]+)', text)
    recorded = (
        _unit(dict(re.findall(r'(\w+)=[\'"]([^\'"]*)', element)))
        for element in re.findall(r'<(?:\w+:)?unit\s[^>]*', text)
    )
    return GuestDevices(
        name=name,
        uuid=found[1].strip() if found else None,
        functions=frozenset(f for f in functions if f is not None),
        mdevs=frozenset(mdevs),
        readable=False,
        units=tuple(unit for unit in recorded if unit is not None),
        project=project[1] if project else None,
    )
