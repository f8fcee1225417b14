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


"""The guests of the host, and a word on those that can't be read."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from nova_gpu.host import GUESTS, read_guests
from nova_gpu.model.guest import GuestDevices, parse_guest
from nova_gpu.sysfs.tree import Tree

LOG = logging.getLogger('nova_gpu.cli')
#: Who may read what is root's.
AS_ROOT = 'run as root, or with the capability CAP_DAC_READ_SEARCH'


class Unread(NamedTuple):
    """Why a guest may hold what doesn't show, and what ends that."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f'{self.reason}; {self.remedy}'


def told_guests(
    tree: Tree, parse: Callable[[str, str], GuestDevices] = parse_guest
) -> tuple[tuple[GuestDevices, ...], Unread | None]:
    """The guests that can be read, with one line for all that can't.

    And why these may not be all; None if libvirt's folder is there, and every
    file in it could be read and makes sense.
    """
    before = len(tree.warnings)
    guests = read_guests(tree, parse)
    warnings = tree.warnings[before:]
    denied = tuple(_denied(tree))
    for warning in warnings:
        if not warning.startswith(tuple(f'{path}: ' for path in denied)):
            LOG.warning(warning)
    if denied:
        LOG.warning(
            '%s: permission denied%s; run as root to see which instance '
            'holds a card',
            denied[0],
            f' (and {len(denied) - 1} more)' if denied[1:] else '',
        )
    unreadable = [guest.name for guest in guests if not guest.readable]
    for name in unreadable:
        LOG.warning(
            'The XML of guest %s does not parse: all that looks like a '
            'device in it counts as held',
            name,
        )
    return guests, _unread(tree, denied, warnings, unreadable)


def _unread(
    tree: Tree,
    denied: Sequence[str],
    warnings: Sequence[str],
    unreadable: Sequence[str],
) -> Unread | None:
    if denied:
        return Unread(f'{denied[0]}: permission denied', AS_ROOT)
    if warnings:
        return Unread(warnings[0], 'mend that file')
    if unreadable:
        return Unread(
            f'the XML of guest {unreadable[0]} does not parse',
            'define it anew (virsh define)',
        )
    folder = tree.path(GUESTS[-1])
    try:
        os.listdir(folder)
    except OSError as exc:
        return Unread(
            f'{folder}: {exc.strerror}',
            'install libvirt, or let nova-gpu see its files',
        )
    return None


def _denied(tree: Tree) -> Iterator[str]:
    """Guests' files that only another user may read."""
    for folder in GUESTS:
        path = tree.path(folder)
        try:
            names = sorted(os.listdir(path))
        except PermissionError:
            yield path
            continue
        except OSError:
            continue
        for name in names:
            file = f'{path}/{name}'
            if name.endswith('.xml') and not os.access(
                file, os.R_OK, effective_ids=True
            ):
                yield file
