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

"""IOMMU groups: who must go to a guest together.

Source of the format: Documentation/ABI/testing/sysfs-kernel-iommu_groups in
the Linux tree.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import PCI_BRIDGE_CLASS, PciFunction
from nova_gpu.sysfs import functions
from nova_gpu.sysfs.functions import DEVICES
from nova_gpu.sysfs.tree import Tree

GROUPS = 'sys/kernel/iommu_groups'
NO_GROUP = 'has no IOMMU group'
#: So many functions are named where a virtual function isn't alone.
_NAMED = 4


class Groups:
    """The groups of one pass."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._bridges: dict[str, bool] = {}

    def read(
        self, address: PciAddress
    ) -> tuple[int | None, list[PciFunction]]:
        """The group of a function and the others in it, without bridges.

        None if its members can't be read: who else is in it decides whether
        the function can be handed out.
        """
        number, folder, names = self._others(address)
        others = [self._member(folder, name) for name in names]
        return number, [o for o in others if o is not None]

    def problem(
        self, address: PciAddress, known: Collection[str]
    ) -> str | None:
        """Why a virtual function can't go to a guest alone.

        ``known`` are functions that are no bridges. What the others in its
        group are is not read, there can be hundreds.
        """
        number, _, names = self._others(address)
        if number is None:
            return NO_GROUP
        others = [n for n in names if n in known or not self._is_bridge(n)]
        if not others:
            return None
        more = len(others) - _NAMED
        return (
            f'shares IOMMU group {number} with {", ".join(others[:_NAMED])}'
            f'{f" and {more} more" if more > 0 else ""}'
        )

    def _others(
        self, address: PciAddress
    ) -> tuple[int | None, str, list[str]]:
        """A group's number, its folder and the other members' names."""
        path = f'{DEVICES}/{address}/iommu_group'
        group = self._tree.link(path)
        if group is None:
            return None, '', []
        if not re.fullmatch(r'[0-9]{1,9}', group):
            self._tree.warn(path, f'{group[:40]!r} is not a number')
            return None, '', []
        folder = f'{GROUPS}/{group}/devices'
        members = self._tree.names(folder, optional=False)
        if str(address) not in members:
            return None, '', []
        return int(group), folder, [m for m in members if m != str(address)]

    def _is_bridge(self, name: str) -> bool:
        if name not in self._bridges:
            code = functions.read_class(self._tree, name)
            self._bridges[name] = code == PCI_BRIDGE_CLASS
        return self._bridges[name]

    def _member(self, folder: str, name: str) -> PciFunction | None:
        """A function of a group; None for a PCI bridge, or one that left.

        One that is there and can't be read counts, with zeros for its ids.
        """
        tree = self._tree
        code = functions.read_class(tree, name)
        if code == PCI_BRIDGE_CLASS:
            return None
        if code is None and not tree.names(f'{DEVICES}/{name}'):
            return None
        address = functions.read_address(tree, f'{folder}/{name}', name)
        if address is None:
            return None
        vendor = functions.read_id(tree, name, 'vendor') or 0
        product = functions.read_id(tree, name, 'device') or 0
        return functions.read_function(
            tree, address, vendor, product, code or 0
        )
