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

"""The forms in which parts of a card come, told by files alone.

Which one it is depends on kernel and driver, not on the product: the same
card takes mediated devices here and the vendor's own interface there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence

from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import Card, VirtualFunction
from nova_gpu.model.profile import parse_name
from nova_gpu.sysfs import functions, vendor_vfio
from nova_gpu.sysfs.iommu import Groups
from nova_gpu.sysfs.mdev import MdevReader
from nova_gpu.sysfs.proc import read_gpu_instances
from nova_gpu.sysfs.tree import Tree


class FormsReader:
    """What the cards of one pass can be cut into."""

    def __init__(self, tree: Tree, groups: Groups) -> None:
        self._tree = tree
        self._groups = groups
        self._mdevs = MdevReader(tree)

    def fill(
        self, card: Card, vfs: Sequence[PciAddress], virtual: Collection[str]
    ) -> Card:
        """The card with its vGPU types, and what its functions are for.

        ``vfs`` are its virtual functions, ``virtual`` those of all cards.
        """
        if vfs:
            card = dataclasses.replace(
                card,
                vfs=tuple(map(VirtualFunction, vfs)),
                vf_bars=functions.read_bars(self._tree, vfs[0]),
                vf_product_id=functions.read_id(
                    self._tree, str(vfs[0]), 'device'
                ),
            )
        mediated = self._mdevs.fill(card, (card.address, *vfs))
        if mediated is not None:
            card = mediated
        elif entries := vendor_vfio.find(self._tree, card, vfs):
            card = vendor_vfio.fill(self._tree, card, vfs, entries)
        elif vfs:
            known = {str(card.address), *virtual}
            plain = (self._plain_function(f, known) for f in vfs)
            card = dataclasses.replace(card, vfs=tuple(plain))
        names = (parse_name(kind.name) for kind in card.types)
        if any(name and name.slices for name in names):
            instances = read_gpu_instances(self._tree, card.address)
            card = dataclasses.replace(card, gpu_instances=instances)
        return card

    def virtual_cards(self) -> Iterator[Card]:
        """The parents of mdevs that are no hardware."""
        return self._mdevs.virtual_cards()

    def _plain_function(
        self, address: PciAddress, known: Collection[str]
    ) -> VirtualFunction:
        return VirtualFunction(
            address,
            driver=functions.read_driver(self._tree, address),
            problem=self._groups.problem(address, known),
        )
