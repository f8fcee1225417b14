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


"""How many vGPUs a card takes.

A driver that makes vGPUs on the card itself counts for us. One that makes
them on virtual functions only says which types it would take now, one each:
then the number follows from what all vGPUs of the card share.

=================  ===================================  ====================
Cards              vGPUs of one card                    They share
=================  ===================================  ====================
equal-size         have one framebuffer size            framebuffer
mixed-size         have any sizes that fit              framebuffer
MIG                have a GPU instance each             GPU instances
=================  ===================================  ====================

Which types can still be made, and so whether sizes mix, is the driver's to
say: a type that it doesn't list now isn't to be had. Whatever is shared, a
virtual function holds one vGPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from nova_gpu.model.device import Card
from nova_gpu.model.profile import VgpuType, parse_name

#: However small they are, a card holds no more vGPUs that share it by time
#: (NVIDIA's vGPU user guide, "Maximum vGPUs per GPU").
MOST = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """How many vGPUs of a type an empty card holds, and takes now."""

    total: int
    free: int


def room(
    card: Card, kind: VgpuType, functions: int, known: Mapping[str, VgpuType]
) -> Room:
    """The room of a card for vGPUs of type ``kind``.

    Never above what the hardware holds: where nothing tells how many there
    can be, it is one more than there are.

    :param functions: the virtual functions that can still be given
    :param known: types by id, also such as the card doesn't list now
    """
    same = card.made.count(kind.id)
    if not card.vfs:
        free = max(0, kind.available)
        return Room(max(kind.capacity or 0, same + free, 1), free)
    bounds = [
        _by_capacity(card, kind),
        _by_gpu_instances(card, kind, known)
        if _gpu_instance(kind)
        else _by_memory(card, kind, known),
    ]
    silent = _silent(card)
    if bounds[1] is None and (bounds[0] is None or not _alone(card, kind)):
        bounds.append(Room(same + silent + 1, 1))
    free = 0
    if kind.available > 0 and functions > 0:
        # The driver has the last word: what it lists can be made.
        left = min(b.free for b in bounds if b is not None)
        free = min(functions, max(1, left))
    total = min(b.total for b in bounds if b is not None)
    most = len(card.parents) + silent
    return Room(max(min(total, most), same + free, 1), free)


def _alone(card: Card, kind: VgpuType) -> bool:
    """Whether a type that isn't MIG-backed has the card for itself."""
    return (
        _gpu_instance(kind) is None
        and not _silent(card)
        and set(card.made) <= {kind.id}
    )


def _silent(card: Card) -> int:
    """How many functions don't tell whether they have a type, and which."""
    return sum(vf.problem is not None for vf in card.vfs)


def _by_capacity(card: Card, kind: VgpuType) -> Room | None:
    """What the type's description says."""
    if kind.capacity is None:
        return None
    return Room(kind.capacity, kind.capacity - card.made.count(kind.id))


def _by_memory(
    card: Card, kind: VgpuType, known: Mapping[str, VgpuType]
) -> Room | None:
    """The largest type of a card is the whole card."""
    size = _framebuffer(kind)
    if size is None:
        return None
    sizes = {id: _framebuffer(k) for id, k in known.items()}
    made = [sizes.get(id) for id in card.made]
    memory = max(card.memory_mib or 0, size, *(s or 0 for s in sizes.values()))
    if None in made or _silent(card):
        return None
    used = sum(s for s in made if s is not None)
    return Room(
        min(memory // size, MOST),
        min((memory - used) // size, MOST - len(made)),
    )


def _framebuffer(kind: VgpuType) -> int | None:
    """In MiB; None of a MIG-backed type: its GPU instance has its own."""
    name = parse_name(kind.name)
    if name is not None and name.slices is not None:
        return None
    return kind.framebuffer_mib or (name.framebuffer_mib if name else None)


def _by_gpu_instances(
    card: Card, kind: VgpuType, known: Mapping[str, VgpuType]
) -> Room | None:
    """Their number, if all are alike: only then each takes any vGPU."""
    if card.gpu_instances is None or _silent(card):
        return None
    listed = [t for t in card.types if t.available > 0]
    made = [known.get(id) for id in card.made]
    kinds = {_gpu_instance(k) if k else None for k in (*listed, *made)}
    if len(kinds) > 1 or None in kinds:
        return None
    return Room(card.gpu_instances, card.gpu_instances - len(made))


def _gpu_instance(kind: VgpuType) -> tuple[int, str | None] | None:
    """Slices and media engines of the GPU instance of a MIG-backed type."""
    name = parse_name(kind.name)
    if name is None or name.slices is None:
        return None
    return name.slices, name.variant
