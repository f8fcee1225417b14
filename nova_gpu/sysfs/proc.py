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

"""What proc tells: GPU instances, physical addresses, sockets.

Source of the formats: NVIDIA's driver README, "The /proc interface", and
its MIG user guide, "Device nodes and capabilities"; arch/x86/kernel/cpu/proc.c
in the Linux tree.
"""

from __future__ import annotations

import functools
import os
import re

from nova_gpu.model.address import Address
from nova_gpu.sysfs.tree import ATTRIBUTE, Tree

CPUINFO = 'proc/cpuinfo'
GPUS = 'proc/driver/nvidia/gpus'
CAPABILITIES = 'proc/driver/nvidia/capabilities'
UNIX = 'proc/net/unix'
#: __SO_ACCEPTCON of the kernel's include/linux/net.h.
_ACCEPTS = '00010000'
_MINOR = re.compile(r'^Device Minor:\s*([0-9]{1,9})\s*$', re.MULTILINE)
_GPU_INSTANCE = re.compile(r'gi[0-9]+')
_BITS = re.compile(
    r'^address sizes\s*:\s*([0-9]{1,3}) bits phys', re.MULTILINE
)


def read_gpu_instances(tree: Tree, address: Address) -> int | None:
    """The MIG GPU instances of a card; None where nothing tells."""
    path = f'{GPUS}/{address}/information'
    text = tree.text(path, optional=True)
    if text is None:
        return None
    match = _MINOR.search(text)
    if match is None:
        tree.warn(path, f"no 'Device Minor: N' in {text[:40]!r}")
        return None
    folder = f'{CAPABILITIES}/gpu{int(match[1])}'
    if 'mig' not in tree.names(folder):
        return None
    entries = tree.names(f'{folder}/mig')
    return sum(1 for entry in entries if _GPU_INSTANCE.fullmatch(entry))


def read_address_bits(tree: Tree) -> int | None:
    """The width of the host's physical addresses; None where none is told.

    It never changes, and to open this file takes some kernels 10 ms, since
    they ask each processor for its clock: read once a process.
    """
    path = tree.path(CPUINFO)
    try:
        stat = os.stat(path)
        stamp = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return _address_bits(path, stamp)
    except FileNotFoundError:
        return None
    except OSError as exc:
        tree.warn(CPUINFO, exc.strerror or str(exc))
        return None


@functools.lru_cache(maxsize=8)
def _address_bits(path: str, stamp: tuple[int, ...]) -> int | None:
    """``stamp`` makes a changed file a new entry."""
    with open(path, encoding='utf-8', errors='replace') as stream:
        match = _BITS.search(stream.read(ATTRIBUTE))
    return int(match[1]) if match else None


def read_listening(tree: Tree) -> frozenset[str]:
    """The paths of the Unix sockets that somebody listens on.

    A connection would be the surest sign, and would start a daemon that
    systemd keeps for later.
    """
    tree.reads += 1
    try:
        with open(tree.path(UNIX), encoding='utf-8', errors='replace') as file:
            lines = [line.split(maxsplit=7) for line in file]
    except FileNotFoundError:
        return frozenset()
    except OSError as exc:
        tree.warn(UNIX, exc.strerror or str(exc))
        return frozenset()
    return frozenset(
        fields[7].strip()
        for fields in lines
        if len(fields) == 8 and fields[3] == _ACCEPTS
    )
