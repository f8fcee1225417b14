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

"""One read-only snapshot of the host."""

from __future__ import annotations

from nova_gpu.model.device import Card, PciFunction, Snapshot
from nova_gpu.model.guest import GuestDevices, parse_guest
from nova_gpu.sysfs.pci import PciReader
from nova_gpu.sysfs.proc import read_address_bits
from nova_gpu.sysfs.tree import Tree

#: Where libvirt keeps the guests of QEMU: running ones, then defined ones.
GUESTS = ('run/libvirt/qemu', 'etc/libvirt/qemu')
DOMAIN_LIMIT = 4 * 1024 * 1024


def read_snapshot(tree: Tree) -> Snapshot:
    """Read all cards and switches in one pass.

    One bad card is a warning in the snapshot and never an error: the others
    keep working.
    """
    before = len(tree.warnings)
    found = tuple(PciReader(tree).scan())
    address_bits = read_address_bits(tree)
    return Snapshot(
        cards=tuple(f for f in found if isinstance(f, Card)),
        switches=tuple(f for f in found if isinstance(f, PciFunction)),
        warnings=tuple(tree.warnings[before:]),
        address_bits=address_bits,
    )


def read_guests(tree: Tree) -> tuple[GuestDevices, ...]:
    """The guests of this host from libvirt's own files.

    For tools that must not depend on a connection to libvirt; the driver
    asks libvirt itself. A guest that is running and defined counts once.
    """
    guests: dict[str, GuestDevices] = {}
    for folder in GUESTS:
        for name in tree.names(folder):
            if not name.endswith('.xml'):
                continue
            text = tree.text(f'{folder}/{name}', limit=DOMAIN_LIMIT)
            if text is None:
                continue
            guest = parse_guest(text, name.removesuffix('.xml'))
            guests.setdefault(guest.uuid or guest.name, guest)
    return tuple(guests.values())
