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

from collections.abc import Callable

from nova_gpu.linksfile import LinksFile
from nova_gpu.model.address import Address
from nova_gpu.model.device import Card, PciFunction, Snapshot
from nova_gpu.model.guest import GuestDevices, parse_guest
from nova_gpu.model.links import recall
from nova_gpu.sysfs.functions import read_subsystem
from nova_gpu.sysfs.pci import PciReader
from nova_gpu.sysfs.proc import read_address_bits
from nova_gpu.sysfs.tree import Tree

#: Where libvirt keeps the guests of QEMU: running ones, then defined ones.
GUESTS = ('run/libvirt/qemu', 'etc/libvirt/qemu')
DOMAIN_LIMIT = 4 * 1024 * 1024


def read_snapshot(tree: Tree, links: LinksFile | None = None) -> Snapshot:
    """Read all cards and switches in one pass.

    One bad card is a warning in the snapshot and never an error: the others
    keep working. So is a bad record of ``links``.
    """
    before = len(tree.warnings)
    found = tuple(PciReader(tree).scan())
    address_bits = read_address_bits(tree)
    cards = tuple(f for f in found if isinstance(f, Card))
    if links is not None:
        cards = _with_links(tree, cards, links)
    return Snapshot(
        cards=cards,
        switches=tuple(f for f in found if isinstance(f, PciFunction)),
        warnings=tuple(tree.warnings[before:]),
        address_bits=address_bits,
    )


def _with_links(
    tree: Tree, cards: tuple[Card, ...], links: LinksFile
) -> tuple[Card, ...]:
    """The cards with what was recorded of their links."""
    try:
        recorded = links.read()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else None
        tree.warnings.append(f'[gpu] links_file {links.path}: {reason or exc}')
        return cards
    if not recorded:
        return cards
    told = {record.address for record in recorded}
    subsystems: dict[Address, tuple[int, int] | None] = {
        card.address: read_subsystem(tree, str(card.address))
        for card in cards
        if card.address in told
    }
    cards, warnings = recall(cards, recorded, subsystems)
    tree.warnings += (
        f'{links.path}: {warning}; run "nova-gpu host record" again'
        for warning in warnings
    )
    return cards


def read_guests(
    tree: Tree, parse: Callable[[str, str], GuestDevices] = parse_guest
) -> tuple[GuestDevices, ...]:
    """The guests of this host from libvirt's own files.

    For tools that must not depend on a connection to libvirt; the driver
    asks libvirt itself. A guest that is running and defined counts once.

    :param parse: makes a guest of a text and a name; who looks often may
        remember what it made
    """
    guests: dict[str, GuestDevices] = {}
    for folder in GUESTS:
        for name in tree.names(folder):
            if not name.endswith('.xml'):
                continue
            text = tree.text(f'{folder}/{name}', limit=DOMAIN_LIMIT)
            if text is None:
                continue
            guest = parse(text, name.removesuffix('.xml'))
            guests.setdefault(guest.uuid or guest.name, guest)
    return tuple(guests.values())
