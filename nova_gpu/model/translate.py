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


"""Flavors that ask for GPUs in Nova's or GVT-g's own ways, in ours.

What a PCI alias or a vGPU of Nova stands for is in files of its hosts, not in
the flavor: whoever asks says what is known of it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from nova_gpu import exception
from nova_gpu.model.catalog import VGPU, GpuClass, find, gvt_g_sizes
from nova_gpu.model.profile import token

ALIAS = 'pci_passthrough:alias'
#: Of Nova's own PCI devices; ours have a key of their own.
NUMA_POLICY = 'hw:pci_numa_affinity_policy'
NUMA_AFFINITY = 'gpu:numa_affinity'
#: 'legacy' and 'socket' have no equal: they stay with our default.
_NUMA = {'required': 'required', 'preferred': 'preferred'}
_GVT_G = ('vgt_low_gm_sz', 'vgt_high_gm_sz', 'vgt_fence_sz')

_KEY = re.compile(
    r'(?P<kind>resources|trait)(?P<group>[A-Za-z0-9_-]*):(?P<name>\w+)'
)


@dataclasses.dataclass(frozen=True, slots=True)
class Translation:
    """What changes in a flavor; ``notes`` are what stays to be looked at."""

    added: Mapping[str, str]
    removed: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        return bool(self.added or self.removed)


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """What is known of a cloud: its GPUs, and what old names stand for.

    ``meanings`` has the class that an alias, a vGPU type or a trait stands
    for, by that name; None for an alias that is of no GPU. ``traits`` are
    those that any host with GPUs has.
    """

    classes: Sequence[GpuClass]
    meanings: Mapping[str, GpuClass | None] = dataclasses.field(
        default_factory=dict
    )
    traits: frozenset[str] = frozenset()

    def meaning(self, name: str) -> GpuClass | None:
        """What a trait, a class or a type stands for, if it is known."""
        wanted = token(name.removeprefix('CUSTOM_'))
        for old, gpu in self.meanings.items():
            if token(old.removeprefix('CUSTOM_')) == wanted:
                return gpu
        return None

    def gives(self, name: str) -> bool:
        return any(gpu.name == name for gpu in self.classes)


def translate(extra_specs: Mapping[str, str], known: Known) -> Translation:
    """What has to change in a flavor for it to get GPUs of ours.

    A flavor that asks for none in an old way, or for what is ours already, is
    left as it is.

    :raises Untranslatable: which GPU it means isn't known
    """
    work = _Work(extra_specs, known)
    work.aliases()
    work.vgpus()
    work.gvt_g()
    return work.done()


class _Work:
    """A flavor on its way."""

    def __init__(self, extra_specs: Mapping[str, str], known: Known) -> None:
        self.old = extra_specs
        self.known = known
        self.added: dict[str, str] = {}
        self.removed: list[str] = []
        self.notes: list[str] = []

    def done(self) -> Translation:
        if self.added:
            self._other_traits()
        return Translation(
            self.added, tuple(sorted(self.removed)), tuple(self.notes)
        )

    def _ask(self, group: str, gpu: GpuClass, count: int) -> None:
        key = f'resources{group}:{gpu.name}'
        before = self.added.get(key, self.old.get(key, '0'))
        self.added[key] = str(_number(key, before) + count)

    def aliases(self) -> None:
        """``pci_passthrough:alias=a100:2,qat:1``."""
        if ALIAS not in self.old:
            return
        left = []
        found = False
        for part in filter(None, map(str.strip, self.old[ALIAS].split(','))):
            name, _, count = part.rpartition(':')
            if name not in self.known.meanings:
                raise exception.Untranslatable(
                    f'{ALIAS}={self.old[ALIAS]}',
                    f'which card the alias {name!r} stands for is not known; '
                    f'name it with --map {name}=CARD, or the file that '
                    f'defines it with --nova-conf',
                )
            gpu = self.known.meanings[name]
            if gpu is None:
                left.append(part)
                self.notes.append(
                    f'the alias {name} stays: no GPU of this cloud is such '
                    f'a device'
                )
            else:
                found = True
                self._ask('', gpu, _number(ALIAS, count))
        if not found:
            return
        if left:
            self.added[ALIAS] = ','.join(left)
        else:
            self.removed.append(ALIAS)
        policy = self.old.get(NUMA_POLICY)
        if policy in _NUMA and NUMA_AFFINITY not in self.old:
            self.added[NUMA_AFFINITY] = _NUMA[policy]
        elif policy is not None:
            self.notes.append(
                f'{NUMA_POLICY}={policy} is not for these GPUs any more; '
                f'{NUMA_AFFINITY} is, and is preferred by default'
            )

    def vgpus(self) -> None:
        """``resources:VGPU=1``, and a class that Nova gives a type."""
        for key, value in self.old.items():
            match = _KEY.fullmatch(key)
            if not match or match['kind'] != 'resources':
                continue
            name = match['name']
            if self.known.gives(name):
                continue
            traits = self._traits(match['group'])
            gpu = self._profile(name, [t for _, t in traits])
            if gpu is None:
                continue
            self.removed.append(key)
            self.removed += [k for k, t in traits if self._of_profile(t)]
            self._ask(match['group'], gpu, _number(key, value))

    def _profile(self, name: str, traits: Iterable[str]) -> GpuClass | None:
        """The profile that a class stands for together with traits."""
        told = self.known.meaning(name)
        if name != 'VGPU':
            return told
        named = {g for t in traits if (g := self._of_profile(t))}
        if len(named) > 1:
            raise exception.Untranslatable(
                'resources:VGPU',
                'its traits stand for more than one profile: '
                + ', '.join(sorted(gpu.name for gpu in named)),
            )
        if named or told:
            return min(named, key=lambda gpu: gpu.name, default=told)
        vgpus = [gpu for gpu in self.known.classes if gpu.form == VGPU]
        if len(vgpus) == 1:
            return vgpus[0]
        raise exception.Untranslatable(
            'resources:VGPU',
            'no trait of the flavor says which profile it stands for; name '
            'it with --map VGPU=PROFILE, or with --map TRAIT=PROFILE',
        )

    def _of_profile(self, trait: str) -> GpuClass | None:
        """The profile that a trait names, by its name or as one was told."""
        if (told := self.known.meaning(trait)) is not None:
            return told
        name = trait.removeprefix('CUSTOM_')
        try:
            gpu = find('profile', name, self.known.classes, (VGPU,))
        except (exception.UnknownGpu, exception.AmbiguousGpu):
            return None
        # A part of a name, as of a card's model, names no profile.
        return gpu if gpu.name.endswith(f'_{token(name)}') else None

    def _traits(self, group: str) -> list[tuple[str, str]]:
        """The traits that a group requires, with their keys."""
        matches = ((k, _KEY.fullmatch(k)) for k in self.old)
        return [
            (key, match['name'])
            for key, match in matches
            if match
            and match['kind'] == 'trait'
            and match['group'] == group
            and self.old[key] == 'required'
        ]

    def gvt_g(self) -> None:
        """``vgt_low_gm_sz`` and its like, in MB, of the first GVT-g clouds."""
        keys = {
            name: key
            for key in self.old
            if (name := key.rpartition(':')[2]) in _GVT_G
        }
        if not keys:
            return
        wanted = tuple(
            _number(keys[name], self.old[keys[name]]) if name in keys else 0
            for name in _GVT_G
        )
        enough = [
            (sizes, gpu.name, gpu)
            for gpu in self.known.classes
            if (sizes := gvt_g_sizes(gpu.name))
            and all(s >= w for s, w in zip(sizes, wanted, strict=True))
        ]
        if not enough:
            raise exception.Untranslatable(
                ', '.join(f'{k}={self.old[k]}' for k in keys.values()),
                'no GVT-g type of this cloud has as much',
            )
        self.removed += keys.values()
        self._ask('', min(enough)[2], 1)

    def _other_traits(self) -> None:
        for key, value in self.old.items():
            match = _KEY.fullmatch(key)
            if not match or match['kind'] != 'trait' or key in self.removed:
                continue
            name = match['name']
            if value == 'required' and name not in self.known.traits:
                self.notes.append(
                    f'{key} stays, and no host with GPUs has the trait: '
                    f'remove it, or give it to the cards with a rule'
                )


def _number(key: str, value: str) -> int:
    if not value.strip().isdecimal():
        raise exception.Untranslatable(
            f'{key}={value}', f'{value!r} is not a number'
        )
    return int(value)
