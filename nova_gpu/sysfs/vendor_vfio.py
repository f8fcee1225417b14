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

"""vGPUs by the vendor's own VFIO interface, on virtual functions.

NVIDIA's driver shows it on kernels from 6.8 on, in place of mediated
devices: ``nvidia/current_vgpu_type`` and ``nvidia/creatable_vgpu_types`` of
each virtual function (NVIDIA's vGPU user guide, "Creating an NVIDIA vGPU on
a Linux with KVM Hypervisor that uses a vendor-specific VFIO framework").
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import Card, VirtualFunction
from nova_gpu.model.profile import VgpuType, parse_name
from nova_gpu.sysfs.functions import DEVICES
from nova_gpu.sysfs.iommu import NO_GROUP
from nova_gpu.sysfs.tree import Tree

FOLDER = 'nvidia'
_DRIVER = 'nvidia'
_NUMBER = re.compile(r'[0-9]{1,9}')
_HEADER = re.compile(r'ID\s*:\s*vGPU Name', re.IGNORECASE)
_TEXT = r'[!-~](?:[ -~]*[!-~])?'
#: ``558   : NVIDIA A40-8Q``, and what a draft of another driver has.
_LINE = re.compile(rf'([0-9]{{1,9}})\s*:\s*({_TEXT})')
_DRAFT_LINE = re.compile(rf'({_TEXT})\s+([0-9]{{1,9}})')
#: Free functions that are asked for the types until one answers.
_ASKED = 3


def find(
    tree: Tree, card: Card, functions: Sequence[PciAddress]
) -> frozenset[str] | None:
    """The entries of the first function that has the interface, or None.

    Other drivers' cards are told by their first function. One of NVIDIA's
    could be bound to another driver by mistake, and must not make its
    siblings pass for plain virtual functions.
    """
    asked = functions if card.driver == _DRIVER else functions[:1]
    for function in asked:
        entries = frozenset(tree.names(f'{DEVICES}/{function}'))
        if FOLDER in entries:
            return entries
    return None


def fill(
    tree: Tree,
    card: Card,
    functions: Sequence[PciAddress],
    entries: frozenset[str],
) -> Card:
    """The card with what its functions hold and can take.

    One file is read of each. ``entries`` are those of one of them: it also
    tells whether there is an IOMMU.
    """
    problem = None if 'iommu_group' in entries else NO_GROUP
    vfs = tuple(_function(tree, f, problem) for f in functions)
    usable = [vf for vf in vfs if vf.problem is None]
    free = [vf.address for vf in usable if vf.type_id is None]
    return dataclasses.replace(
        card,
        vendor_vfio=True,
        vfs=vfs,
        parents=tuple(vf.address for vf in usable),
        types=_types(tree, free),
    )


def _function(
    tree: Tree, address: PciAddress, problem: str | None
) -> VirtualFunction:
    path = f'{DEVICES}/{address}/{FOLDER}/current_vgpu_type'
    type_id = tree.text(path)
    if type_id is None:
        problem = problem or 'does not tell its vGPU type'
    elif not _NUMBER.fullmatch(type_id):
        tree.warn(path, f'{type_id[:40]!r} is not a number')
        problem = problem or f'has {type_id[:40]!r} for its vGPU type'
        type_id = None
    return VirtualFunction(
        address=address,
        type_id=str(int(type_id)) if type_id and int(type_id) else None,
        problem=problem,
    )


def _types(tree: Tree, free: Sequence[PciAddress]) -> tuple[VgpuType, ...]:
    """The types that can be made now, as a free function lists them."""
    for address in free[:_ASKED]:
        path = f'{DEVICES}/{address}/{FOLDER}/creatable_vgpu_types'
        text = tree.text(path)
        if text is not None:
            return _parse(tree, path, text)
    return ()


def _parse(tree: Tree, path: str, text: str) -> tuple[VgpuType, ...]:
    kinds: dict[str, VgpuType] = {}
    for line in map(str.strip, text.splitlines()):
        if not line or _HEADER.fullmatch(line):
            continue
        if match := _LINE.fullmatch(line):
            number, name = int(match[1]), match[2]
        elif match := _DRAFT_LINE.fullmatch(line):
            number, name = int(match[2]), match[1]
        else:
            number, name = 0, ''
        if not number or str(number) in kinds:
            tree.warn(path, f'{line[:60]!r} is no vGPU type: ignored')
            continue
        told = parse_name(name)
        kinds[str(number)] = VgpuType(
            id=str(number),
            name=name,
            available=1,
            framebuffer_mib=told.framebuffer_mib if told else None,
        )
    return tuple(kinds.values())
