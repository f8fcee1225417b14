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


"""What a flavor with GPUs consists of, and which flavor a server needs.

A flavor is its sizes and its extra specs. Those of its GPUs are told from the
rest: servers move between flavors that differ by them alone.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Collection, Iterable, Mapping

from nova_gpu import exception
from nova_gpu.model import request
from nova_gpu.model.catalog import (
    CARD,
    OTHER,
    VF,
    VGPU,
    GpuClass,
    describe,
    is_ours,
)

HIDE = 'hw:hide_hypervisor_id'
#: Nova's driver reads them, and its API refuses them from 2.86 on, where it
#: checks extra specs: it has no validators for them.
ADDRESS_MODE, ADDRESS_BITS = 'hw:maxphysaddr_mode', 'hw:maxphysaddr_bits'
UNCHECKED = (ADDRESS_MODE, ADDRESS_BITS)
#: QEMU's default, and the most that x86 has.
LEAST_BITS, MOST_BITS = 40, 57

_RESOURCES = re.compile(r'resources[A-Za-z0-9_-]*:(\w+)')
_TRAIT = re.compile(r'trait[A-Za-z0-9_-]*:CUSTOM_GPU_\w+')
_OF_GPUS = (HIDE, 'hide_hypervisor_id', 'group_policy', *UNCHECKED)


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """How a server is to have its GPUs; None leaves it to the default.

    ``address_bits`` is the width of the guest's physical addresses, 0 that of
    its host.
    """

    topology: str | None = None
    numa_affinity: str | None = None
    isolation: str | None = None
    display: bool = False
    vgpu_params: str | None = None
    hide_hypervisor: bool = False
    address_bits: int | None = None


def extra_specs(gpu: GpuClass, count: int, policy: Policy) -> dict[str, str]:
    """The extra specs of a flavor with ``count`` units of ``gpu``.

    :raises ContradictoryFlavor: a policy that means nothing for such units
    :raises InvalidExtraSpec: a value isn't valid
    """
    _check(gpu, count, policy)
    specs = {f'resources:{gpu.name}': str(count)}
    for key, value in (
        ('gpu:topology', policy.topology),
        ('gpu:numa_affinity', policy.numa_affinity),
        ('gpu:isolation', policy.isolation),
        ('gpu:display', 'on' if policy.display else None),
        ('gpu:vgpu_params', policy.vgpu_params),
    ):
        if value is not None:
            request.check_extra_spec(key, value)
            specs[key] = value
    if policy.hide_hypervisor:
        specs[HIDE] = 'true'
    if policy.address_bits == 0:
        specs[ADDRESS_MODE] = 'passthrough'
    elif policy.address_bits is not None:
        specs[ADDRESS_MODE] = 'emulate'
        specs[ADDRESS_BITS] = str(policy.address_bits)
    return specs


def _check(gpu: GpuClass, count: int, policy: Policy) -> None:
    if count < 1:
        raise exception.ContradictoryFlavor(
            '--count', f'is {count}; a flavor has 1 or more GPUs'
        )
    if gpu.form not in (VGPU, OTHER):
        for option, given in (
            ('--display', policy.display),
            ('--vgpu-params', policy.vgpu_params),
        ):
            if given:
                raise exception.ContradictoryFlavor(
                    option, f'needs a vGPU, and {gpu.name} is none'
                )
    if policy.topology and (gpu.form in (VGPU, VF) or count == 1):
        raise exception.ContradictoryFlavor(
            '--topology',
            'is about several whole cards: use it with --card and --count',
        )
    bits = policy.address_bits
    if bits and not LEAST_BITS <= bits <= MOST_BITS:
        raise exception.ContradictoryFlavor(
            '--address-bits',
            f'is {bits}; between {LEAST_BITS} and {MOST_BITS} are allowed',
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Flavor:
    """A flavor of the cloud, or what a server keeps of its own.

    ``ram`` and ``swap`` are in MiB, ``disk`` and ``ephemeral`` in GiB. What a
    server keeps has no ``id``.
    """

    name: str
    vcpus: int
    ram: int
    disk: int
    ephemeral: int = 0
    swap: int = 0
    extra_specs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    id: str = ''

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        return self.vcpus, self.ram, self.disk, self.ephemeral, self.swap

    def gpus(self, known: Collection[str] = ()) -> dict[str, int]:
        """How many units of which class; ``known`` are the cloud's."""
        amounts: dict[str, int] = {}
        for group in request.resource_groups(self.extra_specs).values():
            for name, count in group.items():
                if count and (name in known or is_ours(name)):
                    amounts[name] = amounts.get(name, 0) + count
        return amounts

    def rest(self, known: Collection[str] = ()) -> dict[str, str]:
        """The extra specs that have nothing to do with GPUs."""
        return {
            key: value
            for key, value in self.extra_specs.items()
            if not _is_of_gpus(key, known)
        }


def _is_of_gpus(key: str, known: Collection[str]) -> bool:
    if match := _RESOURCES.fullmatch(key):
        return match[1] in known or is_ours(match[1])
    return (
        key.startswith(request.PREFIX)
        or key in _OF_GPUS
        or _TRAIT.fullmatch(key) is not None
    )


def matching(
    current: Flavor,
    wanted: Mapping[str, int],
    flavors: Iterable[Flavor],
    known: Collection[str] = (),
) -> Flavor | None:
    """The flavor that is like ``current`` and has the GPUs ``wanted``.

    Of several it is that which says least beside, then the first by name.
    """
    found = [
        flavor
        for flavor in flavors
        if flavor.sizes == current.sizes
        and flavor.gpus(known) == wanted
        and flavor.rest(known) == current.rest(known)
    ]
    return min(found, key=lambda f: (len(f.extra_specs), f.name), default=None)


def told(wanted: Mapping[str, int]) -> str:
    """GPUs as an error names them."""
    return (
        ' and '.join(
            f'{count} {name}' for name, count in sorted(wanted.items())
        )
        or 'no GPU'
    )


def form_option(gpu: GpuClass) -> str:
    """The option of ``gpu flavor create`` that takes the class."""
    return '--card' if gpu.form == CARD else '--profile'


def create_command(
    current: Flavor, wanted: Mapping[str, int], known: Iterable[GpuClass]
) -> str:
    """The command that makes the flavor which :func:`matching` looks for."""
    words = [
        f'--vcpus {current.vcpus}',
        f'--ram {current.ram}',
        f'--disk {current.disk}',
    ]
    if current.ephemeral:
        words.append(f'--ephemeral {current.ephemeral}')
    if current.swap:
        words.append(f'--swap {current.swap}')
    classes = {gpu.name: gpu for gpu in known}
    rest = current.rest(classes)
    words += [
        f'--property {shlex.quote(f"{key}={value}")}'
        for key, value in sorted(rest.items())
    ]
    if not wanted:
        return ' '.join(['openstack flavor create NAME', *words])
    (name, count), *_ = wanted.items()
    gpu = classes.get(name) or describe(name)
    words.insert(0, f'{form_option(gpu)} {name} --count {count}')
    return ' '.join(['openstack gpu flavor create NAME', *words])
