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

"""The errors of nova-gpu.

::

    GpuError
    ├── InvalidAddress       a PCI address that doesn't parse
    ├── InvalidExtraSpec     a gpu: extra spec with a wrong key or value
    ├── InvalidRule          a rule in [gpu] that can't be used
    ├── InvalidExpected      an expected request that can't be used
    ├── InvalidHostMap       a GPU map that this release can't read
    ├── InvalidTable         a file of requests or hosts that can't be used
    ├── MissingMechanism     an installation without its entry points
    ├── UnknownProvider      an allocation on a provider that isn't ours
    ├── NotEnoughUnits       fewer free units than an allocation asks for
    ├── NoRoom               a host with less than a server's flavor asks for
    ├── AllocationRefused    an allocation that Placement has no room for
    ├── AddressesTooWide     a guest that the host's CPU has no room for
    ├── UnitTaken            a unit that somebody else was faster to take
    ├── UnitUnusable         a unit that has to be put aside
    ├── NotLinked            a partition of NVSwitches that isn't active
    ├── EffectFailed         a change of the host that the kernel refused
    ├── UnknownGpu           a name that no GPU of the cloud has
    ├── AmbiguousGpu         a name that several have
    ├── NoGpuSoLarge         more memory than any GPU of the cloud has
    ├── ContradictoryFlavor  properties of a flavor that exclude each other
    ├── Untranslatable       a flavor whose GPU isn't known
    └── NoMatchingFlavor     a server for which no flavor has what it wants

Each carries the facts as attributes, so that callers never parse messages.
"""

from __future__ import annotations

from collections.abc import Iterable


class GpuError(Exception):
    """Base of all errors of nova-gpu."""


class InvalidAddress(GpuError):
    """A string that isn't a PCI address."""

    def __init__(self, value: str) -> None:
        self.value = value
        super().__init__(f'{value!r} is not a PCI address like 0000:84:00.0')


class InvalidExtraSpec(GpuError):
    """A ``gpu:`` extra spec with an unknown key or a wrong value."""

    def __init__(self, key: str, value: str, allowed: Iterable[str]) -> None:
        self.key = key
        self.value = value
        self.allowed = tuple(allowed)
        super().__init__(
            f'{key}={value!r} is not valid; allowed: {", ".join(self.allowed)}'
        )


class InvalidRule(GpuError):
    """A ``[gpu] rule`` that can't be used; ``number`` counts from 1."""

    def __init__(self, number: int, field: str, reason: str) -> None:
        self.number = number
        self.field = field
        self.reason = reason
        super().__init__(f'[gpu] rule {number}, field {field!r}: {reason}')


class InvalidExpected(GpuError):
    """A ``[gpu] expected_request`` that can't be used.

    ``number`` counts from 1, ``field`` is empty if it is about all of it.
    """

    def __init__(self, number: int, field: str, reason: str) -> None:
        self.number = number
        self.field = field
        self.reason = reason
        place = f', field {field!r}' if field else ''
        super().__init__(f'[gpu] expected_request {number}{place}: {reason}')


class InvalidHostMap(GpuError):
    """A host's GPU map that this release can't read."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f'the GPU map of the host is not usable: {reason}')


class InvalidTable(GpuError):
    """A CSV file that can't be used; ``line`` counts from 1, the header."""

    def __init__(
        self, path: str, line: int, column: str, value: str, reason: str
    ) -> None:
        self.path = path
        self.line = line
        self.column = column
        self.value = value
        self.reason = reason
        place = f', line {line}' if line else ''
        if column:
            place += f', column {column!r}'
            if line > 1:
                place += f', value {value!r}'
        super().__init__(f'{path}{place}: {reason}')


class MissingMechanism(GpuError):
    """The installation lacks entry points of ``nova_gpu.mechanism``."""

    def __init__(self, wanted: Iterable[str], found: Iterable[str]) -> None:
        self.wanted = tuple(wanted)
        self.found = tuple(found)
        super().__init__(
            f'no entry point of nova_gpu.mechanism for '
            f'{", ".join(self.wanted)} (found: '
            f'{", ".join(self.found) or "none"}): reinstall nova-gpu'
        )


class UnknownProvider(GpuError):
    """An allocation names a provider or class that this host hasn't."""

    def __init__(self, provider: str, resource_class: str) -> None:
        self.provider = provider
        self.resource_class = resource_class
        super().__init__(
            f'the allocation of {resource_class} names resource provider '
            f'{provider}, which no GPU of this host offers'
        )


class NotEnoughUnits(GpuError):
    """A pool has fewer free units than an allocation asks for."""

    def __init__(
        self, pool: str, resource_class: str, wanted: int, reason: str
    ) -> None:
        self.pool = pool
        self.resource_class = resource_class
        self.wanted = wanted
        self.reason = reason
        super().__init__(
            f'pool {pool} can not give {wanted} {resource_class}: {reason}'
        )


class NoRoom(GpuError):
    """A host has fewer units than a server's flavor asks for."""

    def __init__(self, resource_class: str, wanted: int, found: int) -> None:
        self.resource_class = resource_class
        self.wanted = wanted
        self.found = found
        super().__init__(
            f'this host can not give {wanted} {resource_class}: it has {found}'
        )


class AllocationRefused(GpuError):
    """Placement doesn't allocate what a server's flavor asks for."""

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        super().__init__(f'Placement refuses to allocate {wanted}')


class AddressesTooWide(GpuError):
    """The GPUs and the memory of a guest need wider addresses than the host's.

    ``bars_mib`` is the sum of the GPUs' 64-bit BARs.
    """

    def __init__(
        self, needed: int, host: int, memory_mib: int, bars_mib: int
    ) -> None:
        self.needed = needed
        self.host = host
        self.memory_mib = memory_mib
        self.bars_mib = bars_mib
        super().__init__(
            f'{memory_mib} MiB of memory and {bars_mib} MiB of '
            f'GPU BARs need {needed} bits of physical addresses, and the '
            f'CPU of this host has {host}'
        )


class UnitTaken(GpuError):
    """Somebody took the unit between the look and the change."""

    def __init__(self, device: str, reason: str) -> None:
        self.device = device
        self.reason = reason
        super().__init__(f'device {device} is taken: {reason}')


class UnitUnusable(GpuError):
    """The unit's device is broken: it is put aside until it is released."""

    def __init__(self, device: str, reason: str) -> None:
        self.device = device
        self.reason = reason
        super().__init__(f'device {device} can not be used: {reason}')


class NotLinked(GpuError):
    """Partitions of NVSwitches that a guest needs aren't active."""

    def __init__(self, partitions: Iterable[int], reason: str) -> None:
        self.partitions = tuple(partitions)
        self.reason = reason
        super().__init__(
            f'partition {", ".join(map(str, self.partitions))} of the '
            f'NVSwitches is not active: {reason}'
        )


class EffectFailed(GpuError):
    """The kernel refused a change; ``errno`` is its answer, if it gave one."""

    def __init__(
        self, action: str, path: str, reason: str, errno: int | None = None
    ) -> None:
        self.action = action
        self.path = path
        self.reason = reason
        self.errno = errno
        super().__init__(f'{action} failed at {path}: {reason}')


class UnknownGpu(GpuError):
    """No card or profile has the name ``wanted``; ``there`` are those."""

    def __init__(self, what: str, wanted: str, there: Iterable[str]) -> None:
        self.what = what
        self.wanted = wanted
        self.there = tuple(there)
        super().__init__(
            f'no {what} of this cloud is called {wanted!r}; there are: '
            f'{_some(self.there)}'
        )


class AmbiguousGpu(GpuError):
    """Several cards or profiles may be meant by ``wanted``."""

    def __init__(self, what: str, wanted: str, found: Iterable[str]) -> None:
        self.what = what
        self.wanted = wanted
        self.found = tuple(found)
        super().__init__(
            f'{wanted!r} may be more than one {what}: '
            f'{_some(self.found)}; name one of them'
        )


class NoGpuSoLarge(GpuError):
    """No GPU of which the memory is known has ``memory_mib``."""

    def __init__(self, memory_mib: int, largest_mib: int) -> None:
        self.memory_mib = memory_mib
        self.largest_mib = largest_mib
        super().__init__(
            f'no GPU of this cloud has {memory_mib} MiB of memory; the '
            f'largest of which it is known has {largest_mib} MiB'
        )


class ContradictoryFlavor(GpuError):
    """``option`` of a flavor means nothing for the GPUs that it has."""

    def __init__(self, option: str, reason: str) -> None:
        self.option = option
        self.reason = reason
        super().__init__(f'{option} {reason}')


class Untranslatable(GpuError):
    """Which GPU ``name`` in a flavor stands for isn't known."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f'{name}: {reason}')


class NoMatchingFlavor(GpuError):
    """No flavor differs from the server's by its GPUs ``wanted`` alone."""

    def __init__(self, wanted: str, size: str, remedy: str) -> None:
        self.wanted = wanted
        self.size = size
        self.remedy = remedy
        super().__init__(
            f'no flavor that you can use has {wanted} and {size} as the '
            f'server has now; {remedy}'
        )


def _some(names: tuple[str, ...]) -> str:
    """Names, but no more than a line holds."""
    more = [f'and {len(names) - 12} more'] if len(names) > 12 else []
    return ', '.join([*names[:12], *more]) or 'none'
