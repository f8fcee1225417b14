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


"""Lets a guest's physical addresses reach the BARs of its GPUs.

Firmware gives up cards whose BARs don't fit above the guest's memory, and the
guest sees fewer than it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nova.virt.libvirt import config as vconfig
from oslo_log import log as logging

from nova_gpu import exception
from nova_gpu.model.addressing import DEFAULT_BITS, bars_of, needed_bits
from nova_gpu.model.claim import View
from nova_gpu.model.inventory import Unit

LOG = logging.getLogger(__name__)


def check(
    look: Callable[[], View], units: Sequence[Unit], instance: Any
) -> int:
    """The width of physical addresses that an instance's guest needs.

    :param look: looks at the host, if there is a need to
    :raises AddressesTooWide: it is more than the host has
    """
    if not any(unit.functions for unit in units):
        return DEFAULT_BITS
    snapshot = look().snapshot
    bars = bars_of(snapshot, units)
    if not bars or snapshot.address_bits is None:
        return DEFAULT_BITS
    memory_mib = instance.flavor.memory_mb
    needed = needed_bits(memory_mib, bars)
    own = 'hw:maxphysaddr_mode' in instance.flavor.extra_specs
    if needed > max(snapshot.address_bits, DEFAULT_BITS) and not own:
        raise exception.AddressesTooWide(
            needed, snapshot.address_bits, memory_mib, sum(bars) // 1024**2
        )
    return needed


def widen(
    guest: Any,
    look: Callable[[], View],
    units: Sequence[Unit],
    instance: Any,
    can_emulate: bool,
) -> None:
    """Set the width in a guest's configuration, if nobody has.

    :param guest: a LibvirtConfigGuest
    :param can_emulate: whether libvirt and QEMU can set it
    """
    if guest.cpu is None or guest.cpu.maxphysaddr is not None:
        return  # another architecture, or the flavor or image says it
    needed = check(look, units, instance)
    # The host's own CPU model brings the host's width.
    if guest.cpu.mode == 'host-passthrough' or needed <= DEFAULT_BITS:
        return
    if not can_emulate:
        LOG.warning(
            'The guest needs %d bits of physical addresses for its GPUs, '
            'which this libvirt can not set: some may be missing in it',
            needed,
            instance=instance,
        )
        return
    width = vconfig.LibvirtConfigGuestCPUMaxPhysAddr()
    width.mode = 'emulate'
    width.bits = needed
    guest.cpu.maxphysaddr = width
    LOG.info(
        'Set %d bits of physical addresses, for %d MiB of memory and the '
        'BARs of the GPUs',
        needed,
        instance.flavor.memory_mb,
        instance=instance,
    )
