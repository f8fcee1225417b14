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

"""What each card needs for the use that it is meant for."""

from __future__ import annotations

from collections.abc import Iterator

from nova_gpu.model.addressing import needed_bits
from nova_gpu.model.cardscript import mig
from nova_gpu.model.device import Card
from nova_gpu.model.finding import (
    AMD,
    ERROR,
    NVIDIA,
    OK,
    PASSTHROUGH,
    SHARING,
    WARNING,
    Finding,
    Subject,
)
from nova_gpu.model.inventory import Use

VFIO = 'vfio-pci'
_SYSFS = '/sys/bus/pci/devices'


def check_cards(host: Subject) -> Iterator[Finding]:
    """The findings of all cards, one card after the other."""
    for use in host.uses:
        found = list(_problems(host, use))
        if found:
            yield from found
        else:
            meant = host.meant(use) or 'ignored by a rule'
            yield Finding('card', str(use.card.address), OK, _told(use, meant))


def _told(use: Use, meant: str) -> str:
    return f'{use.card.name}: {use.mechanism or meant}'


def _problems(host: Subject, use: Use) -> Iterator[Finding]:
    meant = host.meant(use)
    if meant is None:
        return
    card = use.card
    if card.boot_vga and meant == PASSTHROUGH:
        yield _console(use)
        return
    if use.owner is not None:
        return
    if meant == PASSTHROUGH:
        yield from _passthrough(card)
    else:
        yield from _shared(card, use)
    yield from _numa(host, card)
    yield from _bars(host, card)
    for device, reason in use.aside:
        yield Finding(
            'put-aside', device, WARNING, reason,
            'it is not handed out until somebody has looked at it',
            f'nova-gpu host release {device}, once it works again',
        )  # fmt: skip


def _console(use: Use) -> Finding:
    asked = use.ruling.use is not None
    return Finding(
        'console', str(use.card.address), ERROR if asked else WARNING,
        'the firmware shows the console on it (boot VGA)',
        'it is never handed out',
        "choose another display in the firmware (the board's own, BMC), or "
        'leave it as it is',
    )  # fmt: skip


def _passthrough(card: Card) -> Iterator[Finding]:
    address = str(card.address)
    sharing = SHARING.get(card.vendor_id)
    if card.driver == sharing and card.vfs:
        if problem := next((v.problem for v in card.vfs if v.problem), None):
            yield Finding(
                'isolation', address, ERROR, f'a virtual function {problem}',
                'it can not go to a guest alone', _ACS,
            )  # fmt: skip
        return
    if card.driver not in (None, VFIO):
        yield Finding(
            'driver', address, ERROR, f'bound to {card.driver}',
            f'a whole card is handed out by {VFIO}', _bind(card),
        )  # fmt: skip
    elif card.vfs:
        yield Finding(
            'virtual-functions', address, ERROR,
            f'{len(card.vfs)} are enabled',
            'a guest with the whole card would take them away',
            f'echo 0 > {_SYSFS}/{address}/sriov_numvfs',
        )  # fmt: skip
    if card.iommu_group is None:
        return  # the host's own check says it
    if card.strangers:
        names = ', '.join(map(str, card.strangers))
        yield Finding(
            'isolation', address, ERROR,
            f'shares IOMMU group {card.iommu_group} with {names}',
            'who gets one of them gets all of them', _ACS,
        )  # fmt: skip
    if not card.resettable:
        yield Finding(
            'reset', address, WARNING, 'the kernel offers no way to reset it',
            'a guest may find what the last one has left in it',
            'use a newer kernel, or give the card to guests of one owner only',
        )  # fmt: skip


_ACS = (
    'turn on ACS in the firmware, or put the card into a slot of its own root '
    'port; pcie_acs_override only hides it'
)


def _bind(card: Card) -> str:
    """The commands for this card alone; others of the model stay."""
    address = str(card.address)
    return (
        f'echo {VFIO} > {_SYSFS}/{address}/driver_override; '
        f'echo {address} > {_SYSFS}/{address}/driver/unbind; '
        f'echo {address} > /sys/bus/pci/drivers_probe; for all cards of the '
        f'model at each boot: echo "options vfio-pci '
        f'ids={card.vendor_id:04x}:{card.product_id:04x}" > '
        f'/etc/modprobe.d/vfio-pci.conf and make the initramfs anew'
    )


def _shared(card: Card, use: Use) -> Iterator[Finding]:
    """What a card lacks to be cut into vGPUs or virtual functions."""
    address = str(card.address)
    driver = SHARING.get(card.vendor_id)
    if not card.types and driver is not None and card.driver != driver:
        yield Finding(
            'driver', address, ERROR, f'bound to {card.driver or "no driver"}',
            f'vGPUs are made by {driver}',
            f'remove it from the ids of vfio-pci, load {driver} and: '
            f'echo > {_SYSFS}/{address}/driver_override; '
            f'echo {address} > /sys/bus/pci/drivers_probe',
        )  # fmt: skip
        return
    found = list(_mig(card, use))
    yield from found
    if not card.types and card.total_vfs and not card.vfs:
        yield Finding(
            'virtual-functions', address, ERROR,
            f'none of {card.total_vfs} is enabled',
            'vGPUs of this card live on them', _enable(card, use),
        )  # fmt: skip
    elif found:
        return
    elif card.types or (card.vfs and card.vendor_id == AMD):
        if use.reason is not None:
            yield Finding(
                'vgpu', address, ERROR, use.reason, 'no vGPU can be made',
                'see what nova-gpu host show says of it',
            )  # fmt: skip
    else:
        yield Finding(
            'vgpu', address, ERROR,
            'no vGPU types, in /sys/class/mdev_bus or on virtual functions',
            'no vGPU can be made',
            "install the vendor's driver for hosts that make vGPUs, or check "
            "that the card's license and mode (displayless, vGPU) allow them",
        )  # fmt: skip


def _mig(card: Card, use: Use) -> Iterator[Finding]:
    """MIG mode and GPU instances against what the rules want."""
    address = str(card.address)
    wanted = mig(use)
    cut = ','.join(wanted.instances) or 'PROFILE,PROFILE'
    make = f'nvidia-smi mig -i {address} -cgi {cut} -C'
    if wanted.problem:
        yield Finding(
            'mig', address, WARNING, f'rules: {wanted.problem}',
            'nova-gpu host prepare makes no GPU instances of it',
            'say by a rule for this card which profiles it is to offer, or '
            f'make them yourself: {make}',
        )  # fmt: skip
    elif wanted.instances and card.gpu_instances is None:
        yield Finding(
            'mig', address, ERROR, 'MIG mode is off',
            f'no vGPU {wanted.wanted[0]} can be made',
            f'nova-gpu host prepare --apply and a reboot, or: nvidia-smi -i '
            f'{address} -mig 1; {_enable(card, use)}; {make}',
        )  # fmt: skip
    elif card.gpu_instances == 0:
        yield Finding(
            'mig', address, ERROR, 'MIG mode is on without GPU instances',
            'no MIG-backed vGPU can be made', make,
        )  # fmt: skip
    elif card.gpu_instances and use.ruling.profiles and not card.made:
        missing = [p for p in use.ruling.profiles if not _offers(use, p)]
        if missing:
            yield Finding(
                'mig', address, ERROR,
                f'of its {card.gpu_instances} GPU instances none takes '
                f'{missing[0]}',
                f'no vGPU {missing[0]} can be made',
                f'nvidia-smi mig -i {address} -dci; '
                f'nvidia-smi mig -i {address} -dgi; {make}'
                if wanted.instances
                else f'nvidia-smi -i {address} -mig 0, as it is no '
                f'MIG-backed type',
            )  # fmt: skip


def _offers(use: Use, profile: str) -> bool:
    """Whether a vGPU type can be made now, by its name or id."""
    kinds = {
        name
        for kind in use.card.types
        if kind.available > 0
        for name in (kind.id, kind.name, kind.name.partition(' ')[2])
    }
    return profile in kinds


def _enable(card: Card, use: Use) -> str:
    rule = f'{{"address": "{card.address}", "virtual_functions": "all"}}'
    own = f'/usr/lib/nvidia/sriov-manage -e {card.address}'
    if card.vendor_id != NVIDIA:
        own = f'echo {card.total_vfs} > {_SYSFS}/{card.address}/sriov_numvfs'
    if mig(use).wanted:
        return own  # nova-compute would do it too late
    return f'{own}; at each start of nova-compute: [gpu] rule = {rule}'


def _numa(host: Subject, card: Card) -> Iterator[Finding]:
    if card.numa_node < 0 and len(host.machine.huge_pages) > 1:
        yield Finding(
            'numa', str(card.address), WARNING,
            'the firmware names no NUMA node',
            'no guest can be placed close to it',
            'update the firmware; set NUMA nodes per socket to 1 on AMD',
        )  # fmt: skip


def _bars(host: Subject, card: Card) -> Iterator[Finding]:
    bits = host.snapshot.address_bits
    sizes = card.vf_bars or card.bars
    if bits is None or not sizes:
        return
    needed = needed_bits(0, sizes)
    if needed > bits:
        gib = sum(sizes) // 1024**3
        yield Finding(
            'addresses', str(card.address), ERROR,
            f'BARs of {gib} GiB, and addresses of {bits} bits',
            f'the firmware of a guest finds no room for them below '
            f'{needed} bits',
            'use a processor with wider physical addresses',
        )  # fmt: skip
