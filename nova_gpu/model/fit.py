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

"""Where a flavor fits, and how often, by what Placement answers.

Placement is asked what Nova's scheduler asks it: it knows of traits and of
disabled hosts, and of CPUs, memory and disk besides the GPUs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from nova_gpu.model.capacity import may_be_gpu
from nova_gpu.model.request import resource_groups

_TRAIT = re.compile(r'trait(?P<group>[A-Za-z0-9_-]*):(?P<name>\w+)')


@dataclasses.dataclass(frozen=True, slots=True)
class Flavor:
    """What servers of a flavor are given."""

    name: str
    vcpus: int
    memory_mb: int
    disk_gb: int
    ephemeral_gb: int = 0
    swap_mb: int = 0
    extra_specs: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def classes(self) -> dict[str, int]:
        """The units that it asks for, by resource class."""
        return classes(self.extra_specs)


def classes(extra_specs: Mapping[str, str]) -> dict[str, int]:
    """The units that extra specs ask for; wrong amounts count as none.

    Nova checks what it is given today, not what it was given once.
    """
    found: dict[str, int] = {}
    for group in _groups(extra_specs).values():
        for name, amount in group.items():
            if amount and may_be_gpu(name):
                found[name] = found.get(name, 0) + amount
    return found


def _groups(specs: Mapping[str, str]) -> dict[str, dict[str, int]]:
    usable = {k: v for k, v in specs.items() if str(v).isdecimal()}
    return resource_groups(usable)


def query(flavor: Flavor) -> dict[str, str]:
    """What Placement is asked for one server of the flavor."""
    specs = flavor.extra_specs
    groups = _groups(specs)
    dedicated = specs.get('hw:cpu_policy') == 'dedicated'
    disk = flavor.disk_gb + flavor.ephemeral_gb + -(-flavor.swap_mb // 1024)
    groups[''] = {
        'PCPU' if dedicated else 'VCPU': flavor.vcpus,
        'MEMORY_MB': flavor.memory_mb,
        'DISK_GB': disk,
        **groups.get('', {}),
    }
    asked = {
        f'resources{group}': ','.join(
            f'{name}:{amount}'
            for name, amount in sorted(amounts.items())
            if amount
        )
        for group, amounts in groups.items()
    }
    traits: dict[str, list[str]] = {}
    for key, value in sorted(specs.items()):
        match = _TRAIT.fullmatch(key)
        if match and value in ('required', 'forbidden'):
            mark = '!' if value == 'forbidden' else ''
            group = f'required{match["group"]}'
            traits.setdefault(group, []).append(mark + match['name'])
    asked.update({group: ','.join(names) for group, names in traits.items()})
    asked['root_required'] = '!COMPUTE_STATUS_DISABLED'
    if len(groups) > 2:  # that without a name is one
        asked['group_policy'] = specs.get('group_policy', 'none')
    return {key: value for key, value in asked.items() if value}


def count(candidates: Mapping[str, Any]) -> int:
    """How many servers fit, if each is put where the first candidate is.

    :param candidates: what Placement answers; never too many are counted,
        and too few only if a server's units are on several cards
    """
    free = {
        (provider, name): record['capacity'] - record['used']
        for provider, summary in candidates['provider_summaries'].items()
        for name, record in summary['resources'].items()
    }
    servers = 0
    for request in candidates['allocation_requests']:
        amounts = {
            (provider, name): amount
            for provider, given in request['allocations'].items()
            for name, amount in given['resources'].items()
        }
        times = min(free[key] // amount for key, amount in amounts.items())
        if times > 0:
            servers += times
            for key, amount in amounts.items():
                free[key] -= times * amount
    return servers
