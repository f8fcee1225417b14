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

"""What brings a host to where its GPUs can be handed out: files, commands.

Pure: the plan is made from what was read, and somebody else carries it out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping

from nova_gpu.model.check_host import SCREENS
from nova_gpu.model.device import Card
from nova_gpu.model.finding import (
    AMD,
    INTEL,
    NVIDIA,
    PASSTHROUGH,
    VGPU,
    Subject,
)
from nova_gpu.model.inventory import Use

GRUB = '/etc/default/grub'
MODPROBE = '/etc/modprobe.d/nova-gpu.conf'
LOAD = '/etc/modules-load.d/nova-gpu.conf'
SCRIPT = '/etc/nova-gpu/prepare-cards'
UNIT = '/etc/systemd/system/nova-gpu-cards.service'
DEBIAN, RHEL = 'debian', 'rhel'
FAMILIES = {
    'debian': DEBIAN, 'ubuntu': DEBIAN,
    'rhel': RHEL, 'fedora': RHEL, 'centos': RHEL,
}  # fmt: skip
_HEADER = '# Written by "nova-gpu host prepare"; --undo takes it away.\n'
_LINE = re.compile(
    r'''^(GRUB_CMDLINE_LINUX=)(["']?)(.*?)\2[ \t]*$''', re.MULTILINE
)
_UNIT = f"""\
{_HEADER}[Unit]
Description=Drivers and virtual functions of GPUs
After=systemd-modules-load.service
Before=nova-compute.service openstack-nova-compute.service
Before=nvidia-vgpu-mgr.service nvidia-vgpud.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {SCRIPT}

[Install]
WantedBy=multi-user.target
"""


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """A file with its whole content."""

    path: str
    content: str
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """A command that makes the files count."""

    words: tuple[str, ...]
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done; ``left`` is what is not touched, and why."""

    files: tuple[File, ...] = ()
    commands: tuple[Command, ...] = ()
    reboot: bool = False
    left: tuple[str, ...] = ()


def family(os_release: str) -> str | None:
    """The family of a distribution, from its os-release; None if unknown."""
    fields = dict(
        line.split('=', 1) for line in os_release.splitlines() if '=' in line
    )
    names = f'{fields.get("ID", "")} {fields.get("ID_LIKE", "")}'
    for name in names.replace('"', '').replace("'", '').split():
        if name in FAMILIES:
            return FAMILIES[name]
    return None


def plan(
    host: Subject,
    distribution: str | None,
    there: Mapping[str, str],
    held: Collection[object],
) -> Plan:
    """The plan for a host; empty if nothing is left to do.

    :param distribution: the family, as :func:`family` tells it
    :param there: the files that are there now, by path
    :param held: the addresses of cards that guests hold
    """
    cards = [(u, host.meant(u)) for u in host.uses]
    passed = [u.card for u, meant in cards if meant == PASSTHROUGH]
    passed = [c for c in passed if not c.boot_vga and not _is_shared(c)]
    left = [
        f'{u.card.address} shows the console (boot VGA): left as it is'
        for u, meant in cards
        if meant == PASSTHROUGH and u.card.boot_vga
    ]
    mine = [c for c in passed if c.address not in held]
    left += [
        f'{c.address} is held by a guest: left as it is until it is free'
        for c in passed
        if c.address in held and c.driver != 'vfio-pci'
    ]
    files = [
        *_grub(host, distribution, there),
        *_modprobe(host, passed, _others(host, passed)),
        *_modules(host, passed),
        *_cards(host, mine, _others(host, passed), held),
    ]
    files = [f for f in files if there.get(f.path) != f.content]
    if distribution is None and _parameters(host):
        left.append(
            'the distribution is unknown here: add '
            f'{" ".join(_parameters(host))} to the kernel command line, and '
            f'make the initramfs anew'
        )
    changed = {file.path for file in files}
    return Plan(
        files=tuple(files),
        commands=tuple(_commands(host, distribution, changed)),
        reboot=bool(changed & {GRUB, MODPROBE})
        or (distribution is not None and bool(_parameters(host))),
        left=tuple(left),
    )  # fmt: skip


def _is_shared(card: Card) -> bool:
    """Whether it is its virtual functions that are passed through."""
    return bool(card.vfs) and card.vendor_id == AMD


def _others(host: Subject, passed: list[Card]) -> set[tuple[int, int]]:
    """Models of which not every card is passed through."""
    mine = {card.address for card in passed}
    return {
        (use.card.vendor_id, use.card.product_id)
        for use in host.uses
        if use.card.address not in mine
    }


def _model(card: Card) -> tuple[int, int]:
    return card.vendor_id, card.product_id


def _parameters(host: Subject) -> list[str]:
    """The kernel's parameters that are missing."""
    machine = host.machine
    wanted = []
    if 'vmx' in machine.cpu_flags:
        wanted.append('intel_iommu=on')
    if machine.cpu_flags:
        wanted.append('iommu=pt')
    if host.cards(VGPU, INTEL):
        wanted.append('i915.enable_gvt=1')
    return [p for p in wanted if p not in machine.command_line]


def _grub(
    host: Subject, distribution: str | None, there: Mapping[str, str]
) -> Iterator[File]:
    """GRUB's settings, where update-grub reads them."""
    text = there.get(GRUB)
    missing = _parameters(host)
    if distribution != DEBIAN or text is None or not missing:
        return
    match = _LINE.search(text)
    before = match[3].split() if match else []
    # It may be there, and only the reboot be due.
    words = [*before, *(p for p in missing if p not in before)]
    words = [w for w in words if w not in ('intel_iommu=off', 'iommu=off')]
    line = f'GRUB_CMDLINE_LINUX="{" ".join(words)}"'
    if match:
        content = text[: match.start()] + line + text[match.end() :]
    else:
        content = f'{text.rstrip()}\n{line}\n'
    yield File(GRUB, content, f'for {" ".join(missing)}')


def _modprobe(
    host: Subject, passed: list[Card], others: set[tuple[int, int]]
) -> Iterator[File]:
    lines = []
    vendors = {use.card.vendor_id for use in host.uses if host.meant(use)}
    for vendor in sorted(vendors & SCREENS.keys()):
        lines += [f'blacklist {module}' for module in SCREENS[vendor]]
    ids = sorted({_model(c) for c in passed} - others)
    if ids:
        told = ','.join(
            f'{vendor:04x}:{product:04x}' for vendor, product in ids
        )
        lines.append(f'options vfio-pci ids={told}')
        drivers = sorted(
            {
                card.driver
                for card in passed
                if card.driver not in (None, 'vfio-pci')
            }
            | {m for v, _ in ids for m in SCREENS.get(v, ())}
        )
        lines += [f'softdep {driver} pre: vfio-pci' for driver in drivers]
    if lines:
        content = _HEADER + '\n'.join(lines) + '\n'
        yield File(MODPROBE, content, 'who may take the cards at boot')


def _modules(host: Subject, passed: list[Card]) -> Iterator[File]:
    names = ['vfio-pci'] if passed else []
    if host.cards(VGPU, INTEL):
        names.append('kvmgt')
    if names:
        content = _HEADER + '\n'.join(names) + '\n'
        yield File(LOAD, content, 'modules that are loaded at boot')


def _cards(
    host: Subject,
    passed: list[Card],
    others: set[tuple[int, int]],
    held: Collection[object],
) -> Iterator[File]:
    """A unit for what is done to single cards at each boot."""
    lines = []
    for card in passed:
        if _model(card) in others:
            # Others of the model stay with the vendor's driver.
            lines += _override(card)
    for use in host.uses:
        if host.meant(use) == VGPU and use.card.address not in held:
            lines += _functions(use)
    if not lines:
        return
    text = '\n'.join(('#!/bin/sh', _HEADER.rstrip(), 'set -u', *lines))
    yield File(SCRIPT, f'{text}\n', 'what single cards need at each boot')
    yield File(UNIT, _UNIT, 'runs it before nova-compute')


def _override(card: Card) -> list[str]:
    device = f'/sys/bus/pci/devices/{card.address}'
    return [
        f'echo vfio-pci > {device}/driver_override',
        f'[ ! -e {device}/driver ] || [ "$(basename "$(readlink '
        f'{device}/driver)")" = vfio-pci ] || '
        f'echo {card.address} > {device}/driver/unbind',
        f'echo {card.address} > /sys/bus/pci/drivers_probe',
    ]


def _functions(use: Use) -> list[str]:
    """Virtual functions, unless a rule lets nova-compute enable them."""
    card = use.card
    if not card.total_vfs or use.ruling.virtual_functions:
        return []
    if card.vendor_id == NVIDIA:
        return [f'/usr/lib/nvidia/sriov-manage -e {card.address}']
    return []


def _commands(
    host: Subject, distribution: str | None, changed: Collection[str]
) -> Iterator[Command]:
    missing = _parameters(host)
    if distribution == RHEL and missing:
        yield Command(
            ('grubby', '--update-kernel=ALL', f'--args={" ".join(missing)}'),
            'the kernel command line',
        )
    if GRUB in changed:
        yield Command(('update-grub',), 'the kernel command line')
    if MODPROBE in changed and distribution is not None:
        yield refresh(distribution)
    if UNIT in changed:
        yield Command(('systemctl', 'daemon-reload'), 'the new unit')
        yield Command(
            ('systemctl', 'enable', 'nova-gpu-cards.service'), 'the new unit'
        )


def refresh(distribution: str) -> Command:
    """What makes the initramfs anew."""
    words = ('update-initramfs', '-u') if distribution == DEBIAN else (
        'dracut', '-f',
    )  # fmt: skip
    return Command(words, 'the initramfs has a copy of modprobe.d')


def after_undo(
    distribution: str | None, paths: Collection[str]
) -> Iterator[Command]:
    """What makes it count that files are as they were."""
    if GRUB in paths:
        yield Command(('update-grub',), 'the kernel command line')
    if MODPROBE in paths and distribution is not None:
        yield refresh(distribution)
    if UNIT in paths:
        yield Command(
            ('systemctl', 'disable', 'nova-gpu-cards.service'), 'its unit goes'
        )
        yield Command(('systemctl', 'daemon-reload'), 'its unit goes')
