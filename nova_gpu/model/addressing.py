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


"""How wide a guest's physical addresses have to be for its GPUs."""

from __future__ import annotations

from collections.abc import Iterable

from nova_gpu.model.device import Snapshot
from nova_gpu.model.inventory import Unit

#: QEMU's width for CPU models that aren't the host's own.
DEFAULT_BITS = 40
#: The firmware (OVMF, since 2022) gives this part of the address space to
#: 64-bit BARs, and memory has to fit below.
_WINDOW = 8


def bars_of(snapshot: Snapshot, units: Iterable[Unit]) -> list[int]:
    """The sizes of the 64-bit BARs that ``units`` show to a guest, in bytes.

    Those of mediated devices aren't in sysfs, and are small.
    """
    sizes: list[int] = []
    for unit in units:
        card = snapshot.card(unit.card)
        if card is None or not unit.functions:
            continue
        sizes += card.vf_bars if unit.parent else card.bars
    return sizes


def needed_bits(memory_mib: int, bars: Iterable[int]) -> int:
    """The width at which firmware finds room for the BARs above memory."""
    window = sum(bars)
    # Up to 4 GiB of the addresses below memory's top are devices'.
    memory = memory_mib * 1024**2 + 4 * 1024**3
    bits = DEFAULT_BITS
    while 2**bits < window * _WINDOW or 2**bits - 2**bits // _WINDOW < memory:
        bits += 1
    return bits
