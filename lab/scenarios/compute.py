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

"""What nova-compute does about GPUs, without Nova around it.

The parts are the driver's own, put together as it does: tracker, mechanisms,
effects on this host, the elements of the guest's XML. What the scheduler and
Placement decide is decided here by the first pool that has room.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import libvirt
from lxml import etree

from lab.scenarios import host
from nova_gpu import exception, mechanism, privsep, xml
from nova_gpu.claimsfile import PATH, ClaimsFile
from nova_gpu.host import read_snapshot
from nova_gpu.model.claim import Claim, View, Want
from nova_gpu.model.device import Snapshot
from nova_gpu.model.guest import GuestDevices, metadata, parse_guest
from nova_gpu.model.inventory import Use
from nova_gpu.model.request import GpuRequest
from nova_gpu.putaside import PutAside
from nova_gpu.restore import Restorer
from nova_gpu.sysfs.tree import Tree
from nova_gpu.tracker import Tracker

#: Where ``nova-gpu audit`` looks.
RECORDS = pathlib.Path(PATH).parent
NODE = '6b1d6a5e-0000-4000-8000-0000000000a1'
_DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <metadata>{units}</metadata>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    {devices}
  </devices>
</domain>
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """An instance: its UUID, what its flavor asks for, its domain."""

    uuid: str
    request: GpuRequest
    domain: libvirt.virDomain


class Compute:
    """A nova-compute that starts, boots servers and deletes them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.connection = host.connect()
        self._claims = ClaimsFile(folder / 'claims.json')
        mechanisms = mechanism.load()
        self.tracker = Tracker(
            read=self._read,
            mechanisms=mechanisms,
            effects=privsep,
            aside=PutAside(folder / 'put-aside'),
            changed=lambda claims: self._claims.write(NODE, claims),
        )
        self._restorer = Restorer(
            self._read, mechanisms, privsep, (), lambda snapshot: ()
        )

    def start(self) -> None:
        """As ``init_host``."""
        guests = self.guests()
        self._restorer.restore(guests, 0)
        self.tracker.rebuild(guests)
        self.tracker.reconcile((), None, self.guests, at_start=True)
        self._claims.write(NODE, self.view().claims)

    def guests(self) -> list[GuestDevices]:
        return [
            parse_guest(domain.XMLDesc(), domain.name())
            for domain in self.connection.listAllDomains()
        ]

    def view(self) -> View:
        return self.tracker.view()

    def use(self, card: str) -> Use:
        """What a card is used for."""
        return next(u for u in self.view().uses if str(u.card.address) == card)

    def free(self, resource_class: str) -> int:
        """What Placement would still allocate of a class."""
        view = self.view()
        total = sum(
            pool.inventories[resource_class].total
            - pool.inventories[resource_class].reserved
            for pool in view.pools
            if resource_class in pool.inventories
        )
        # What isn't allocated is reserved instead.
        used = sum(
            u.allocated and u.resource_class == resource_class
            for u in view.units
        )
        return total - used

    def claim(self, consumer: str, request: GpuRequest) -> Claim:
        """Claim from the first pool that has room, as a scheduler might."""
        view = self.view()
        wants = []
        for name, count in request.resources.items():
            for pool in view.pools:
                found = pool.inventories.get(name)
                used = sum(
                    u.allocated
                    and (u.pool, u.resource_class) == (pool.key, name)
                    for u in view.units
                )
                if found and found.total - found.reserved - used >= count:
                    wants.append(Want(pool.key, name, count))
                    break
            else:
                raise exception.NotEnoughUnits('any', name, count, 'no pool')
        return self.tracker.claim(consumer, wants, request)

    def boot(self, **extra_specs: str) -> Server:
        """Claim, define, start: all of it, or nothing is left."""
        consumer = str(uuid.uuid4())
        request = GpuRequest.parse(
            {k.replace('__', ':'): v for k, v in extra_specs.items()}
        )
        self.claim(consumer, request)
        try:
            text = self.domain_xml(consumer, request)
            domain = self.connection.defineXMLFlags(
                text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE
            )
            try:
                domain.create()
            except libvirt.libvirtError:
                domain.undefine()
                raise
        except Exception:
            self.tracker.release(consumer)
            raise
        self.tracker.settle(consumer)
        return Server(consumer, request, domain)

    def domain_xml(self, consumer: str, request: GpuRequest) -> str:
        hostdevs = self.tracker.hostdevs(consumer, request)
        units = self.tracker.units_of(consumer)
        devices = ''.join(
            etree.tostring(device.element, encoding='unicode')
            for device in xml.build(hostdevs, 'q35')
        )
        return _DOMAIN.format(
            name=f'instance-{consumer[:8]}',
            uuid=consumer,
            units=ET.tostring(metadata(units), encoding='unicode'),
            devices=devices,
        )

    def delete(self, server: Server) -> None:
        """Destroy the guest, and take its units back."""
        domain = self.connection.lookupByUUIDString(server.uuid)
        if domain.isActive():
            domain.destroy()
        domain.undefine()
        self.tracker.release(server.uuid)

    def _read(self) -> Snapshot:
        return read_snapshot(Tree('/'))


@contextlib.contextmanager
def on_this_host() -> Iterator[pathlib.Path]:
    """Act in this process, which is root's; gives the folder for records."""
    shutil.rmtree(RECORDS, ignore_errors=True)
    RECORDS.mkdir(parents=True)
    with privsep.in_process('/'):
        yield RECORDS
