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
from collections.abc import Sequence

from nova_gpu import exception
from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import Mdev
from nova_gpu.model.profile import VgpuType, parse_description
from nova_gpu.sysfs.tree import Tree

DEVICES = 'sys/bus/mdev/devices'
PARENTS = 'sys/class/mdev_bus'
_UUID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')


def read_parents(tree: Tree) -> frozenset[str]:
    """The names of all functions that take mdevs."""
    return frozenset(tree.names(PARENTS))


def read_mdevs(tree: Tree) -> tuple[Mdev, ...]:
    """Every mdev whose parent is a PCI function.

    Both facts come from links, so that a host's mdevs cost two reads each
    and nothing is asked of their drivers.
    """
    found = []
    for name in tree.names(DEVICES):
        target = tree.target(f'{DEVICES}/{name}')
        if target is None:
            continue  # gone since the listing
        parent = target.rstrip('/').split('/')[-2:-1]
        type_id = tree.link(f'{DEVICES}/{name}/mdev_type')
        if not _UUID.fullmatch(name) or not parent or type_id is None:
            tree.warn(f'{DEVICES}/{name}', 'not a mediated device: ignored')
            continue
        try:
            address = PciAddress.parse(parent[0])
        except exception.InvalidAddress:
            continue  # a virtual parent, no card of ours
        found.append(Mdev(name, address, type_id))
    return tuple(found)


def read_types(
    tree: Tree,
    parents: Sequence[PciAddress],
    mdevs: Sequence[Mdev],
    known: dict[str, VgpuType],
) -> tuple[VgpuType, ...]:
    """The vGPU types of one card, which has ``parents`` and ``mdevs``.

    On SR-IOV cards all virtual functions show the same types, one vGPU
    each. One that is free is asked for all of them: the cost is that of the
    card's types, however many functions it has.

    ``known`` are types read from another card of the same product, and gets
    those that are read here: of them only the number that is free is read
    again.
    """
    if not parents:
        return ()
    occupied = {mdev.parent for mdev in mdevs}
    free = [p for p in parents if p not in occupied]
    asked = free[0] if free else parents[0]
    base = f'{PARENTS}/{asked}/mdev_supported_types'
    types = []
    for type_id in tree.names(base, optional=False):
        path = f'{base}/{type_id}'
        available = tree.number(f'{path}/available_instances')
        if available is None:
            continue
        kind = known.get(type_id) or _read_type(tree, path, type_id, known)
        if len(parents) > 1:
            available = _over_functions(kind, available, len(free), mdevs)
        types.append(dataclasses.replace(kind, available=max(0, available)))
    return tuple(types)


def _read_type(
    tree: Tree, path: str, type_id: str, known: dict[str, VgpuType]
) -> VgpuType:
    """What doesn't change of a type."""
    name = tree.text(f'{path}/name', optional=True)
    if not name:
        tree.warn(f'{path}/name', f'no name: using {type_id!r}')
        name = type_id
    text = tree.text(f'{path}/description', optional=True)
    framebuffer, capacity = parse_description(text or '')
    api = tree.text(f'{path}/device_api', optional=True)
    kind = VgpuType(
        id=type_id,
        name=name,
        available=0,
        capacity=capacity,
        framebuffer_mib=framebuffer,
        device_api=api or 'vfio-pci',
    )
    if name != type_id and text:
        known[type_id] = kind
    return kind


def _over_functions(
    kind: VgpuType, available: int, free: int, mdevs: Sequence[Mdev]
) -> int:
    """What the card as a whole takes, from what one free function says."""
    if not free or not available:
        return 0
    if kind.capacity is None:
        return free
    used = sum(1 for mdev in mdevs if mdev.type_id == kind.id)
    return min(free, kind.capacity - used)
