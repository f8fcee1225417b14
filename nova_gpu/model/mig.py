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
"""The MIG GPU instances that a card needs for the vGPU types it is to offer.

A MIG-backed vGPU takes a whole GPU instance, and its type's name says which:
``A100-3-20C`` an instance ``3g.20gb``. Sizes and places are those of NVIDIA's
MIG user guide, "Supported MIG Profiles": a card has seven slices of compute
and eight of memory. One with four of each, as the A30, fits in: each of its
memory slices is two of eight.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from nova_gpu.model.device import Card
from nova_gpu.model.profile import ProfileName, parse_name

#: Slices of compute and of memory.
SLICES, MEMORY = 7, 8
#: How NVIDIA calls an instance by the variant in the vGPU type's name, and
#: which of them has what a card has only once.
_SUFFIX = {'ME': '+me', 'MEALL': '+me.all', 'NOME': '-me', 'GFX': '+gfx'}
_ONCE = ('ME', 'MEALL')


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """GPU instances by NVIDIA's names, or why there is no telling.

    Both are empty if no type that is wanted needs one. ``wanted`` are the
    MIG-backed types, in the operator's words.
    """

    instances: tuple[str, ...] = ()
    problem: str | None = None
    wanted: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class _Kind:
    """A kind of GPU instance; ``memory`` in slices of it."""

    memory: int
    slices: int
    gib: int
    variant: str

    def __str__(self) -> str:
        suffix = _SUFFIX.get(self.variant, '')
        return f'{self.slices}g.{self.gib}gb{suffix}'

    @property
    def places(self) -> Sequence[int]:
        """The slices of memory at which it can begin."""
        if self.memory == 1:
            return range(MEMORY - 1)
        if self.memory == 2:
            return (0, 2, 4) if self.slices > 1 else (0, 2, 4, 6)
        return (0, 4) if self.memory == 4 and self.slices < 4 else (0,)


def layout(card: Card, profiles: Iterable[str]) -> Layout:
    """How a card is cut so that it offers all ``profiles``.

    Each in turn gets one more instance as long as there is room.
    """
    told = {text: _parse(card, text) for text in profiles}
    backed = {t: n for t, n in told.items() if n and n.slices is not None}
    if not backed:
        return Layout()
    wanted = tuple(backed)
    if others := sorted(told.keys() - backed.keys()):
        return Layout(
            problem=f'{wanted[0]} needs MIG mode, and {others[0]} that it is '
            f'off',
            wanted=wanted,
        )
    if card.memory_mib is None:
        return Layout(
            problem='the size of its memory is not known', wanted=wanted
        )
    kinds = sorted(
        {_kind(name, card.memory_mib) for name in backed.values()},
        reverse=True,
    )
    chosen: list[_Kind] = []
    while more := [k for k in kinds if _fits([*chosen, k])]:
        for kind in more:
            if _fits([*chosen, kind]):
                chosen.append(kind)
    if missing := [str(kind) for kind in kinds if kind not in chosen]:
        return Layout(
            problem=f'there is no room for {missing[0]} beside '
            f'{", ".join(map(str, chosen)) or "nothing"}',
            wanted=wanted,
        )
    return Layout(
        tuple(str(kind) for kind in sorted(chosen, reverse=True)),
        wanted=wanted,
    )


def _parse(card: Card, text: str) -> ProfileName | None:
    """What a type's name tells; a rule may have its id instead."""
    kind = card.type_by_id(text)
    return parse_name(kind.name if kind else text)


def _kind(name: ProfileName, memory_mib: int) -> _Kind:
    memory = round(name.framebuffer_mib * MEMORY / memory_mib)
    return _Kind(
        memory=min(max(memory, 1), MEMORY),
        slices=name.slices or 1,
        gib=name.framebuffer_mib // 1024,
        variant=name.variant or '',
    )


def _fits(kinds: Sequence[_Kind]) -> bool:
    """Whether a card has all of these at once, the largest placed first."""
    if sum(kind.slices for kind in kinds) > SLICES:
        return False
    if any(sum(k.variant == name for k in kinds) > 1 for name in _ONCE):
        return False
    return any(_placed(sorted(kinds, reverse=True), frozenset()))


def _placed(
    kinds: Sequence[_Kind], taken: frozenset[int]
) -> Iterator[frozenset[int]]:
    """Each way to place them in the memory that isn't taken."""
    if not kinds:
        yield taken
        return
    for place in kinds[0].places:
        slices = frozenset(range(place, place + kinds[0].memory))
        if not slices & taken:
            yield from _placed(kinds[1:], taken | slices)
