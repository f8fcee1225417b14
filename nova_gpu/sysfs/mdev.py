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

"""Mediated devices and their types, as the kernel's vfio-mdev shows them.

Source of the format: Documentation/driver-api/vfio-mediated-device.rst and
Documentation/ABI/testing/sysfs-bus-vfio-mdev in the Linux tree.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

from nova_gpu import exception
from nova_gpu.model.address import Address, VirtualParent, parse_address
from nova_gpu.model.device import Card, Mdev
from nova_gpu.model.profile import VgpuType, parse_description
from nova_gpu.sysfs.tree import Tree

DEVICES = 'sys/bus/mdev/devices'
PARENTS = 'sys/class/mdev_bus'
_UUID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')
_FIELDS = ('name', 'description', 'device_api')


class MdevReader:
    """The mediated devices of one pass, and who takes them."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._parents = {
            address: name
            for name in tree.names(PARENTS)
            if (address := self._address(f'{PARENTS}/{name}', name))
        }
        self._mdevs: dict[Address, list[Mdev]] = {}
        for mdev in self._read_mdevs():
            self._mdevs.setdefault(mdev.parent, []).append(mdev)
        # What types are is the same on all cards of a product.
        self._types: dict[tuple[int, int], dict[str, VgpuType]] = {}

    def fill(self, card: Card, functions: Sequence[Address]) -> Card | None:
        """The card with its types and mdevs, if one of them takes any."""
        parents = tuple(f for f in functions if f in self._parents)
        if not parents:
            return None
        mdevs = tuple(m for p in parents for m in self._mdevs.get(p, ()))
        known = self._types.setdefault((card.vendor_id, card.product_id), {})
        return dataclasses.replace(
            card,
            types=self._read_types(parents, mdevs, known),
            parents=parents,
            mdevs=mdevs,
        )

    def virtual_cards(self) -> Iterator[Card]:
        """The parents that are no hardware, each as a card of its own."""
        for address in self._parents:
            if not isinstance(address, VirtualParent):
                continue
            name = address.name
            card = self.fill(Card(address, 0, 0, 0, name, name), [address])
            # As with cards: what has gone meanwhile was never there.
            if card and self._tree.target(f'{PARENTS}/{name}') is not None:
                yield card

    def _address(self, path: str, name: str) -> Address | None:
        try:
            return parse_address(name)
        except exception.InvalidAddress:
            self._tree.warn(path, 'neither a PCI function nor virtual')
            return None

    def _read_mdevs(self) -> Iterator[Mdev]:
        """Every mdev.

        Both facts come from links, so that a host's mdevs cost two reads
        each and nothing is asked of their drivers.
        """
        tree = self._tree
        for name in tree.names(DEVICES):
            target = tree.target(f'{DEVICES}/{name}')
            if target is None:
                continue  # gone since the listing
            parent = target.rstrip('/').split('/')[-2:-1]
            type_id = tree.link(f'{DEVICES}/{name}/mdev_type')
            if not _UUID.fullmatch(name) or not parent or type_id is None:
                tree.warn(
                    f'{DEVICES}/{name}', 'not a mediated device: ignored'
                )
                continue
            address = self._address(f'{DEVICES}/{name}', parent[0])
            if address is not None:
                yield Mdev(name, address, type_id)

    def _read_types(
        self,
        parents: Sequence[Address],
        mdevs: Sequence[Mdev],
        known: dict[str, VgpuType],
    ) -> tuple[VgpuType, ...]:
        """The vGPU types of one card, which has ``parents`` and ``mdevs``.

        On SR-IOV cards all virtual functions show the same types, one vGPU
        each. One that is free is asked for all of them: the cost is that of
        the card's types, however many functions it has.

        ``known`` are types read from another card of the same product, and
        gets those that are read here: of them only the number that is free
        is read again.
        """
        occupied = {mdev.parent for mdev in mdevs}
        free = [p for p in parents if p not in occupied]
        asked = self._parents[free[0] if free else parents[0]]
        base = f'{PARENTS}/{asked}/mdev_supported_types'
        types = []
        for type_id in self._tree.names(base, optional=False):
            path = f'{base}/{type_id}'
            available = self._tree.number(f'{path}/available_instances')
            if available is None:
                continue
            kind = known.get(type_id) or self._read_type(path, type_id, known)
            if kind is not None:
                types.append(
                    dataclasses.replace(kind, available=max(0, available))
                )
        return tuple(types)

    def _read_type(
        self, path: str, type_id: str, known: dict[str, VgpuType]
    ) -> VgpuType | None:
        """What doesn't change of a type; None if it has gone.

        The listing tells a driver that gives no name or description from a
        file that can't be read: other cards must not get that from us.
        """
        tree = self._tree
        entries = tree.names(path, optional=False)
        if not entries:
            return None
        texts = {f: tree.text(f'{path}/{f}') for f in _FIELDS if f in entries}
        name = texts.get('name')
        if not name and 'name' in texts:
            tree.warn(f'{path}/name', f'no name: using {type_id!r}')
        framebuffer, capacity = parse_description(
            texts.get('description') or ''
        )
        kind = VgpuType(
            id=type_id,
            name=name or type_id,
            available=0,
            capacity=capacity,
            framebuffer_mib=framebuffer,
            device_api=texts.get('device_api') or 'vfio-pci',
        )
        if all(texts.values()):
            known[type_id] = kind
        return kind
