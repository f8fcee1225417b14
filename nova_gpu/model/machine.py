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

"""What a host is apart from its cards: what a GPU host stands on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

Version = tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class User:
    """A user of the host, and the groups that it is in, by name."""

    name: str
    uid: int
    groups: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """One pass over what isn't in a card's own directory.

    ``cpu_flags`` is empty where the processor has none (it is no x86).
    ``modules`` are the kernel modules that are there, loaded or built in,
    ``blocked`` those that nothing may load, each with the file or the kernel
    parameter that says so. ``older`` are the files below modprobe.d that were
    changed after the ``initramfs`` of the running kernel was made.
    ``vfio_ids`` are the models that vfio-pci is told to take, each with the
    file or the kernel parameter that says so.
    ``huge_pages`` are the pages of each NUMA node, all sizes together.
    ``secure_boot`` is None without UEFI, ``gvt`` without i915;
    ``guc_submission`` says whether i915 is told to let its firmware schedule.
    ``services`` are the units of systemd that run. ``state_owner`` is the user
    whose Nova's state is, by number. Versions are None where no file tells.
    """

    kernel: str = ''
    command_line: tuple[str, ...] = ()
    cpu_flags: frozenset[str] = frozenset()
    kvm: bool = False
    iommu_tables: tuple[str, ...] = ()
    iommu_groups: int = 0
    modules: frozenset[str] = frozenset()
    blocked: Mapping[str, str] = dataclasses.field(default_factory=dict)
    vfio_ids: Mapping[tuple[int, int], str] = dataclasses.field(
        default_factory=dict
    )
    initramfs: str | None = None
    older: tuple[str, ...] = ()
    secure_boot: bool | None = None
    gvt: bool | None = None
    guc_submission: bool = False
    services: frozenset[str] = frozenset()
    huge_pages: Mapping[int, int] = dataclasses.field(default_factory=dict)
    libvirt: Version | None = None
    qemu: Version | None = None
    nova: User | None = None
    state_owner: int | None = None
    groups: frozenset[str] = frozenset()
