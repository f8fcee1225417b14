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

"""What a flavor asks for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from nova_gpu import exception
from nova_gpu.model.topology import HOST, TIES

PREFIX = 'gpu:'
DISPLAY = ('on', 'off')
NUMA_AFFINITY = ('required', 'preferred', 'none')
#: From what allows most to what allows least.
ISOLATION = SHARED, PROJECT, EXCLUSIVE = ('shared', 'project', 'exclusive')
#: vGPU plugin parameters: key=value, comma separated, as the NVIDIA driver
#: takes them; no other character reaches the file.
PARAMS_PATTERN = '{0}(,{0})*'.format(r'[A-Za-z0-9_.]+=[A-Za-z0-9_.:-]+')

#: Each key with what its value may be, for the message and for the check.
LEVELS = (*TIES[:-1], 'any')
STRENGTHS = ('required', 'preferred')

KEYS: Mapping[str, tuple[str, ...]] = {
    'gpu:display': DISPLAY,
    'gpu:isolation': ISOLATION,
    'gpu:numa_affinity': NUMA_AFFINITY,
    'gpu:topology': tuple(
        f'{level}{strength}'
        for level in LEVELS
        for strength in ('', *(f':{s}' for s in STRENGTHS))
    ),
    'gpu:vgpu_params': ('key=value[,key=value...]',),
}

#: The resource classes that a GPU can have; rules allow no others.
_GPU_CLASS = re.compile(r'PGPU|VGPU|CUSTOM_\w+')

_RESOURCES = re.compile(r'resources(?P<group>[A-Za-z0-9_-]*):(?P<name>\w+)')


def check_extra_spec(key: str, value: str) -> None:
    """Check one ``gpu:`` extra spec.

    :raises InvalidExtraSpec: naming the keys or values that are allowed
    """
    if key not in KEYS:
        raise exception.InvalidExtraSpec(key, value, KEYS)
    if key == 'gpu:vgpu_params':
        valid = re.fullmatch(PARAMS_PATTERN, value) is not None
    else:
        valid = value in KEYS[key]
    if not valid:
        raise exception.InvalidExtraSpec(key, value, KEYS[key])


def gpu_classes(extra_specs: Mapping[str, str]) -> frozenset[str]:
    """The resource classes of all groups that may be those of GPUs.

    Reads no values and no policy: schedulers ask at every request, and most
    requests have nothing to do with GPUs.
    """
    names = (
        key.partition(':')[2]
        for key in extra_specs
        if key.startswith('resources')
    )
    return frozenset(filter(_GPU_CLASS.fullmatch, names))


def resource_groups(
    extra_specs: Mapping[str, str],
) -> dict[str, dict[str, int]]:
    """The amounts by resource class of each group; the first has no name.

    :raises InvalidExtraSpec: an amount isn't a whole number
    """
    groups: dict[str, dict[str, int]] = {}
    for key, value in extra_specs.items():
        if match := _RESOURCES.fullmatch(key):
            if not str(value).isdecimal():
                raise exception.InvalidExtraSpec(
                    key, value, ('a whole number from 0 on',)
                )
            group = groups.setdefault(match['group'], {})
            group[match['name']] = int(value)
    return groups


@dataclasses.dataclass(frozen=True, slots=True)
class GpuRequest:
    """A flavor's resources and its ``gpu:`` policy.

    ``resources`` are the amounts by resource class, of all groups together;
    classes that have nothing to do with GPUs are among them. ``topology`` is
    the least that whole cards should share, or must. ``isolation`` says whom
    the server's cards may be shared with.
    """

    resources: Mapping[str, int]
    display: bool = False
    numa_affinity: str = 'preferred'
    vgpu_params: str | None = None
    topology: str = HOST
    topology_required: bool = False
    isolation: str = SHARED
    policy: bool = False

    @classmethod
    def parse(cls, extra_specs: Mapping[str, str]) -> GpuRequest:
        """Read a flavor's extra specs.

        :raises InvalidExtraSpec: a ``gpu:`` key or value is wrong
        """
        resources: dict[str, int] = {}
        policy: dict[str, str] = {}
        for key, value in extra_specs.items():
            if key.startswith(PREFIX):
                check_extra_spec(key, value)
                policy[key] = value
            elif key.startswith('resources'):
                match = _RESOURCES.fullmatch(key)
                if match and str(value).isdecimal():
                    name = match['name']
                    resources[name] = resources.get(name, 0) + int(value)
        level, _, strength = policy.get('gpu:topology', 'any').partition(':')
        return cls(
            resources=resources,
            display=policy.get('gpu:display') == 'on',
            numa_affinity=policy.get('gpu:numa_affinity', 'preferred'),
            vgpu_params=policy.get('gpu:vgpu_params'),
            topology=HOST if level == 'any' else level,
            topology_required=level != 'any' and strength != 'preferred',
            isolation=policy.get('gpu:isolation', SHARED),
            policy=bool(policy),
        )
