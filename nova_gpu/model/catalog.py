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


"""What the GPUs of a cloud are called, and which of them somebody means.

A cloud tells of its GPUs by resource classes and traits; people say
``A40-8Q``, ``A100`` or ``16 GiB``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Sequence

from nova_gpu import exception
from nova_gpu.model.capacity import Provider
from nova_gpu.model.device import VENDORS
from nova_gpu.model.profile import token

#: What one unit is: a whole card, a virtual function, a vGPU; classes that a
#: rule has named can be any.
CARD, VF, VGPU, OTHER = ('card', 'vf', 'vgpu', 'other')

_VGPU_PREFIX, _CARD_PREFIX = 'CUSTOM_VGPU_', 'CUSTOM_GPU_'
_SIZE = re.compile(
    r'_(?P<gib>[0-9]{1,4})(?P<series>[ABCQ])(?:ME|NOME|MEALL|GFX)?'
)
_MEMORY_TRAIT = re.compile(r'CUSTOM_GPU_MEMORY_GE_([0-9]{1,4})GIB')
_VENDORS = tuple(f'{token(name)}_' for name in VENDORS.values())

#: Intel GVT-g's types by the last number of their name: low and high
#: graphics memory in MiB, and fences (Linux, gvt/vgpu.c). A guest's
#: framebuffer is in the high part.
GVT_G = {1: (512, 2048, 4), 2: (256, 1024, 4), 4: (128, 512, 4),
         8: (64, 384, 4)}  # fmt: skip
_GVT_G = re.compile(r'CUSTOM_VGPU_INTEL_I915_GVTG_V[0-9]+_([1248])')


@dataclasses.dataclass(frozen=True, slots=True)
class GpuClass:
    """A resource class that GPUs of a cloud give.

    ``memory_mib`` is the framebuffer of a profile, or what a whole card has
    at least; None where the names don't tell. ``total`` are the units of all
    hosts, ``largest`` those that one provider has at most: a server gets all
    of its units of a class from one.
    """

    name: str
    form: str
    memory_mib: int | None = None
    series: str | None = None
    total: int = 0
    largest: int = 0


def describe(
    name: str, traits: Collection[str] = (), total: int = 0, largest: int = 0
) -> GpuClass:
    """What a resource class says of its units.

    :param traits: those of a provider that gives it
    """
    memory: int | None = None
    series = None
    if name.startswith(_VGPU_PREFIX):
        form = VGPU
        if match := _SIZE.search(name):
            memory = int(match['gib']) * 1024 or 512
            series = match['series']
        elif sizes := gvt_g_sizes(name):
            memory = sizes[1]
    elif name.startswith(_CARD_PREFIX):
        form = VF if name.endswith('_VF') else CARD
        if form == CARD:
            steps = map(_MEMORY_TRAIT.fullmatch, traits)
            memory = max((int(m[1]) * 1024 for m in steps if m), default=None)
    else:
        form = OTHER
    return GpuClass(name, form, memory, series, total, largest)


def gvt_g_sizes(name: str) -> tuple[int, int, int] | None:
    """Low and high memory in MiB and fences of a class of GVT-g."""
    match = _GVT_G.fullmatch(name)
    return GVT_G[int(match[1])] if match else None


def is_ours(name: str) -> bool:
    """Whether a class is of a GPU by its name alone."""
    return name in ('PGPU', 'VGPU') or name.startswith(
        (_CARD_PREFIX, _VGPU_PREFIX)
    )


def find(
    what: str, text: str, classes: Iterable[GpuClass], forms: Sequence[str]
) -> GpuClass:
    """The class that somebody means by ``text``.

    That is a class's own name, or a card's or profile's name, with the vendor
    or without; or a part of such a name, if no other name has it.

    :param what: what to call it in errors: card, profile
    :param forms: what it may be
    :raises UnknownGpu: there is none
    :raises AmbiguousGpu: there are several
    """
    fitting = [c for c in classes if c.form in (*forms, OTHER)]
    wanted = token(text).removeprefix('GRID_')
    exact = [c for c in fitting if wanted in _names(c)]
    if exact:
        return min(exact, key=lambda c: (c.form == VF, c.name))
    part = f'_{wanted}_'
    found = [c for c in fitting if wanted and part in f'_{_names(c)[1]}_']
    if not found:
        there = sorted(c.name for c in fitting)
        raise exception.UnknownGpu(what, text, there)
    if len(found) > 1:
        raise exception.AmbiguousGpu(what, text, sorted(c.name for c in found))
    return found[0]


def find_name(text: str, names: Iterable[str]) -> str:
    """The resource class, of whatever form, that somebody means by ``text``.

    :raises UnknownGpu: there is none
    :raises AmbiguousGpu: there are several
    """
    classes = map(describe, sorted(names))
    return find('profile', text, classes, (CARD, VF, VGPU)).name


def _names(gpu: GpuClass) -> tuple[str, ...]:
    """All exact names of a class: its own, then from long to short."""
    name = gpu.name
    tail = name.removeprefix(_VGPU_PREFIX).removeprefix(_CARD_PREFIX)
    names = [name, tail]
    for vendor in _VENDORS:
        if tail.startswith(vendor):
            names.append(tail.removeprefix(vendor))
    return tuple(names)


def smallest(
    memory_mib: int, classes: Iterable[GpuClass], series: str | None = None
) -> GpuClass:
    """The class with the least memory that is enough.

    Of equal ones a vGPU comes before a whole card, then that of which the
    cloud has most.

    :param series: the last letter that a profile's name has to have
    :raises NoGpuSoLarge: none is enough
    """
    known = [
        c
        for c in classes
        if c.memory_mib and (series is None or c.series == series)
    ]
    enough = [c for c in known if (c.memory_mib or 0) >= memory_mib]
    if not enough:
        raise exception.NoGpuSoLarge(
            memory_mib, max((c.memory_mib or 0 for c in known), default=0)
        )
    return min(
        enough,
        key=lambda c: (c.memory_mib, c.form == CARD, -c.total, c.name),
    )


def of_providers(providers: Iterable[Provider]) -> list[GpuClass]:
    """The classes that the providers of a cloud's GPUs give, by name."""
    giving: dict[str, list[Provider]] = {}
    for provider in providers:
        for name in provider.stocks:
            giving.setdefault(name, []).append(provider)
    found = []
    for name, group in sorted(giving.items()):
        totals = [provider.stocks[name].total for provider in group]
        # A rule can give one class to cards of several models: what all have.
        traits = frozenset.intersection(*(p.traits for p in group))
        found.append(describe(name, traits, sum(totals), max(totals)))
    return found
