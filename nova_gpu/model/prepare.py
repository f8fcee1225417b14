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

from nova_gpu.model import cardscript
from nova_gpu.model.cardscript import HEADER, SCRIPT, UNIT
from nova_gpu.model.check_host import SCREENS, unwanted
from nova_gpu.model.device import Card
from nova_gpu.model.finding import (
    AMD,
    INTEL,
    PASSTHROUGH,
    SHARING,
    VGPU,
    Subject,
)
from nova_gpu.model.inventory import Use

GRUB = '/etc/default/grub'
MODPROBE = '/etc/modprobe.d/nova-gpu.conf'
LOAD = '/etc/modules-load.d/nova-gpu.conf'
#: What a plan may write.
PATHS = (GRUB, MODPROBE, LOAD, SCRIPT, UNIT)
DEBIAN, RHEL = 'debian', 'rhel'
FAMILIES = {
    'debian': DEBIAN, 'ubuntu': DEBIAN,
    'rhel': RHEL, 'fedora': RHEL, 'centos': RHEL,
}  # fmt: skip
_GRUBBY = ('grubby', '--update-kernel=ALL')
#: What turns an IOMMU off.
_OFF = ('intel_iommu=off', 'amd_iommu=off', 'iommu=off')
_LINE = re.compile(
    r'''^(GRUB_CMDLINE_LINUX=)(["']?)(.*?)\2[ \t]*$''', re.MULTILINE
)


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """A file with its whole content."""

    path: str
    content: str
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """A command that makes the files count.

    ``device`` is the card that it changes, if it changes one.
    """

    words: tuple[str, ...]
    why: str
    device: str = ''


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done; ``left`` is what is not touched, and why.

    ``undo`` are the commands that take it back, to be run before the files
    are as they were.
    """

    files: tuple[File, ...] = ()
    commands: tuple[Command, ...] = ()
    reboot: bool = False
    left: tuple[str, ...] = ()
    undo: tuple[Command, ...] = ()


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
    passed = [
        card
        for card in host.cards(PASSTHROUGH)
        if not cardscript.has_functions(card)
    ]
    others = _others(host, passed)
    files = [
        *_grub(host, distribution, there),
        *_modprobe(host, passed, others),
        *_modules(host, passed),
        *_cards(host, others, held),
    ]
    files = [f for f in files if there.get(f.path) != f.content]
    changed = {file.path for file in files}
    by_hand = tuple(_by_hand(host, distribution, there))
    missing = bool(_parameters(host))
    reboot = (MODPROBE in changed and _are_taken(host, passed)) or any(
        map(_needs_reset, host.uses)
    )
    return Plan(
        files=tuple(files),
        commands=tuple(
            _commands(host, distribution, changed, reboot or missing)
        ),
        reboot=reboot or (missing and not by_hand),
        left=(*_left(host, held), *by_hand),
        undo=tuple(_undo(host, distribution, there, changed, held)),
    )


def _left(host: Subject, held: Collection[object]) -> Iterator[str]:
    """What a plan leaves to the operator, with the reason."""
    for use in host.uses:
        card, meant = use.card, host.meant(use)
        if meant is None:
            continue
        if card.boot_vga and meant == PASSTHROUGH:
            yield (
                f'{card.address} shows the console (boot VGA): left as it is'
            )
        elif cardscript.is_left(host, use, held):
            yield (
                f'{card.address} is held by a guest: left as it is until it '
                f'is free'
            )
        elif meant == VGPU and (problem := cardscript.mig(use).problem):
            yield f'{card.address} gets no GPU instances: {problem}'


def _by_hand(
    host: Subject, distribution: str | None, there: Mapping[str, str]
) -> Iterator[str]:
    """What is to be done where nobody here sets the kernel's parameters."""
    missing = ' '.join(_parameters(host))
    if missing and distribution is None:
        yield (
            f'the distribution is unknown here: add {missing} to the kernel '
            f'command line, make the initramfs anew, and reboot'
        )
    elif missing and distribution == DEBIAN and GRUB not in there:
        yield (
            f'{GRUB} is not there: add {missing} to the kernel command line '
            f'yourself, and reboot'
        )


def _are_taken(host: Subject, passed: list[Card]) -> bool:
    """Whether somebody has cards now that modprobe.d takes from him."""
    return not host.machine.modules.isdisjoint(unwanted(host)) or any(
        card.driver not in (None, 'vfio-pci') for card in passed
    )


def _needs_reset(use: Use) -> bool:
    """MIG mode can't be turned on beneath virtual functions."""
    return (
        bool(cardscript.mig(use).instances)
        and use.card.gpu_instances is None
        and bool(use.card.vfs)
    )


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


def _off(host: Subject) -> list[str]:
    return [p for p in host.machine.command_line if p in _OFF]


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
    words = [w for w in words if w not in _OFF]
    line = f'GRUB_CMDLINE_LINUX="{" ".join(words)}"'
    if match:
        content = text[: match.start()] + line + text[match.end() :]
    else:
        content = f'{text.rstrip()}\n{line}\n'
    yield File(GRUB, content, f'for {" ".join(missing)}')


def _modprobe(
    host: Subject, passed: list[Card], others: set[tuple[int, int]]
) -> Iterator[File]:
    lines = [f'blacklist {module}' for module in unwanted(host)]
    ids = sorted({_model(c) for c in passed} - others)
    if ids:
        told = ','.join(
            f'{vendor:04x}:{product:04x}' for vendor, product in ids
        )
        lines.append(f'options vfio-pci ids={told}')
        # Also the vendor's own, which may be there for other cards.
        drivers = sorted(
            {m for v, _ in ids for m in SCREENS.get(v, ())}
            | {SHARING[vendor] for vendor, _ in ids if vendor in SHARING}
        )
        lines += [f'softdep {driver} pre: vfio-pci' for driver in drivers]
    if lines:
        content = HEADER + '\n'.join(lines) + '\n'
        yield File(MODPROBE, content, 'who may take the cards at boot')


def _modules(host: Subject, passed: list[Card]) -> Iterator[File]:
    functions = [
        *filter(cardscript.has_functions, host.cards(PASSTHROUGH)),
        *host.cards(VGPU, AMD),
    ]
    names = ['vfio-pci'] if passed or functions else []
    if host.cards(VGPU, INTEL):
        names.append('kvmgt')
    if functions:
        names.append('gim')
    if names:
        content = HEADER + '\n'.join(names) + '\n'
        yield File(LOAD, content, 'modules that are loaded at boot')


def _cards(
    host: Subject,
    others: set[tuple[int, int]],
    held: Collection[object],
) -> Iterator[File]:
    """A unit for what is done to single cards at each boot."""
    text = cardscript.script(host, others, held)
    if text is not None:
        yield File(SCRIPT, text, 'what single cards need at each boot')
        yield File(UNIT, cardscript.UNIT_TEXT, 'runs it before nova-compute')


def _commands(
    host: Subject,
    distribution: str | None,
    changed: set[str],
    reboot: bool,
) -> Iterator[Command]:
    if distribution == RHEL and (missing := _parameters(host)):
        words = [f'--args={" ".join(missing)}']
        if off := _off(host):
            words.append(f'--remove-args={" ".join(off)}')
        yield Command((*_GRUBBY, *words), 'the kernel command line')
    if GRUB in changed:
        yield Command(('update-grub',), 'the kernel command line')
    if MODPROBE in changed and distribution is not None:
        yield refresh(distribution)
    if UNIT in changed:
        yield Command(('systemctl', 'daemon-reload'), 'the new unit')
        yield Command(
            ('systemctl', 'enable', cardscript.UNIT_NAME), 'the new unit'
        )
    if changed & {SCRIPT, UNIT} and not reboot:
        yield Command(
            ('systemctl', 'restart', cardscript.UNIT_NAME),
            'what it does at each boot, now',
        )


def _undo(
    host: Subject,
    distribution: str | None,
    there: Mapping[str, str],
    changed: Collection[str],
    held: Collection[object],
) -> Iterator[Command]:
    """What takes back the commands of a plan, and what its unit will do."""
    if distribution == RHEL and (missing := _parameters(host)):
        words = [f'--remove-args={" ".join(missing)}']
        if off := _off(host):
            words.append(f'--args={" ".join(off)}')
        yield Command((*_GRUBBY, *words), 'the kernel command line')
    if UNIT in changed and UNIT not in there:
        yield Command(
            ('systemctl', 'disable', cardscript.UNIT_NAME), 'its unit goes'
        )
    if SCRIPT not in changed:
        return
    for use in host.uses:
        if (
            cardscript.mig(use).instances
            and use.card.gpu_instances is None
            and not cardscript.is_left(host, use, held)
        ):
            # Some cards keep MIG mode over a boot.
            address = str(use.card.address)
            yield Command(
                ('/bin/sh', SCRIPT, 'without-mig', address),
                'MIG mode was off',
                address,
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
        yield Command(('systemctl', 'daemon-reload'), 'its unit goes')
