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


"""What the commands look at: a host, read once, and who holds its cards.

Nothing is changed, and the tracker stays out: it cleans what no guest holds,
and it would cost this program its quick start.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from nova_gpu import mechanism as mechanisms
from nova_gpu.claimsfile import ClaimsFile
from nova_gpu.cli import error
from nova_gpu.cli.guests import Unread, told_guests
from nova_gpu.cli.settings import Settings, novas_settings, read_settings
from nova_gpu.host import read_snapshot
from nova_gpu.linksfile import LinksFile
from nova_gpu.mechanism.base import Mechanism
from nova_gpu.model.address import Address
from nova_gpu.model.device import Snapshot
from nova_gpu.model.fabric import with_partitions
from nova_gpu.model.guest import GuestDevices, parse_guest
from nova_gpu.model.inventory import Unit, Use, classify, left_out
from nova_gpu.model.isolation import close, tenants
from nova_gpu.model.partition import Fabric
from nova_gpu.model.rule import Rule
from nova_gpu.putaside import PutAside
from nova_gpu.sysfs.functions import DEVICES
from nova_gpu.sysfs.tree import Tree

LOG = logging.getLogger('nova_gpu.cli')
#: Texts of guests' definitions that are known the next time.
REMEMBERED = 2048


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """A host's cards, what each is used for, and the guests on each.

    ``units`` are what guests hold, ``held`` the same, each with its guest.
    ``put_aside`` has the reason for each device that is put aside, be it
    there or not; ``folder`` is where that is written. ``claims`` has what
    nova-compute holds, ``links`` what was recorded of links between cards.
    ``unread`` says why a guest may hold what doesn't show, ``aside_read`` is
    False if more may be put aside. ``reads`` counts the files of the
    host.
    """

    root: str
    settings: Settings
    snapshot: Snapshot
    uses: tuple[Use, ...]
    units: tuple[Unit, ...]
    held: tuple[tuple[GuestDevices, Unit], ...]
    guests: tuple[GuestDevices, ...]
    unread: Unread | None
    put_aside: Mapping[str, str]
    aside_read: bool
    folder: PutAside
    claims: ClaimsFile
    links: LinksFile
    holders: Mapping[Address, tuple[str, ...]]
    mechanisms: Mapping[str, Mechanism]
    reads: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which host is read, and with which rules."""
    parser.add_argument(
        '--root',
        metavar='DIR',
        type=os.path.abspath,  # for programs that want such paths
        help=(
            'directory that holds the sys and proc of the host, and for '
            'the instances its etc/libvirt/qemu and run/libvirt/qemu, for '
            'devices put aside and claims its var/lib/nova/gpu '
            '(default: [gpu] host_root, or /)'
        ),
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        '--rule',
        metavar='JSON',
        action='append',
        default=[],
        help=(
            'rule to try out, as in [gpu] rule of nova.conf; '
            'can be repeated, the first that says a thing decides it'
        ),
    )
    group.add_argument(
        '--config-file',
        metavar='FILE',
        action='append',
        default=[],
        help=(
            'nova.conf to read [gpu] from; can be repeated (default: that of '
            "this host's Nova; none with --root or --rule)"
        ),
    )


def survey(args: argparse.Namespace, *, ask_fabric: bool = True) -> Survey:
    """Read the host that ``args`` name, and say on stderr what is wrong.

    :param ask_fabric: whether to ask Fabric Manager, where there is one
    :raises UnusableRoot: there is no host
    :raises UnusableSettings: a configuration file can't be read
    :raises nova_gpu.exception.InvalidRule: a rule is wrong
    """
    return Surveyor(args, ask_fabric=ask_fabric).look()


class Surveyor:
    """Reads a host as often as it is asked, and its settings once."""

    def __init__(
        self, args: argparse.Namespace, *, ask_fabric: bool = True
    ) -> None:
        self._args = args
        self._ask_fabric = ask_fabric
        self._settings = (
            read_settings(args.rule, args.config_file)
            if args.config_file or args.root or args.rule
            else novas_settings()
        )
        self._loaded = mechanisms.load()
        # By their whole text: no time or number of a file is trusted.
        self._parse = functools.lru_cache(REMEMBERED)(parse_guest)
        self._last: tuple[Any, Survey] | None = None

    def look(self) -> Survey:
        """Read the host as it is now.

        :raises UnusableRoot: there is no host
        """
        args, settings, loaded = self._args, self._settings, self._loaded
        tree = Tree(args.root or settings.host_root)
        _check(tree)
        settings = dataclasses.replace(
            settings, fmpm=_below(tree, settings.fmpm, args)
        )
        links = LinksFile(_below(tree, settings.links_file, args))
        snapshot = read_snapshot(tree, links)
        for warning in snapshot.warnings:
            LOG.warning(warning)
        if self._ask_fabric:
            snapshot = dataclasses.replace(
                snapshot, fabric=_fabric(os.fspath(tree.root), settings)
            )
        if settings.nova_owns:
            LOG.warning(
                '%s: Nova itself hands out the cards listed there, which is '
                'not looked at here',
                ' and '.join(settings.nova_owns),
            )
        folder = PutAside(_below(tree, settings.put_aside_dir, args))
        aside = _read(folder)
        guests, unread = told_guests(tree, self._parse)
        # To think costs more than to read, and mostly nothing has changed.
        seen = snapshot, guests, unread, aside
        if self._last is not None and self._last[0] == seen:
            return dataclasses.replace(self._last[1], reads=tree.reads)
        known = aside or {}
        empty = _uses(snapshot, loaded, settings.rules, {}, {})
        held = tuple(_held(guests, loaded, empty))
        on_cards: dict[Address, list[Unit]] = {}
        holders: dict[Address, dict[str, None]] = {}
        for guest, unit in held:
            on_cards.setdefault(unit.card, []).append(unit)
            holders.setdefault(unit.card, {})[guest.server] = None
        uses = close(
            _uses(snapshot, loaded, settings.rules, on_cards, known),
            tenants(snapshot.cards, [(g.server, unit) for g, unit in held]),
        )
        _report_rules(settings.rules, uses)
        found = Survey(
            root=os.fspath(tree.root),
            settings=settings,
            snapshot=snapshot,
            uses=uses,
            units=tuple(u for units in on_cards.values() for u in units),
            held=held,
            guests=guests,
            unread=unread,
            put_aside=known,
            aside_read=aside is not None,
            folder=folder,
            claims=ClaimsFile(_below(tree, settings.claims_file, args)),
            links=links,
            holders={card: tuple(names) for card, names in holders.items()},
            mechanisms={m.name: m for m in loaded},
            reads=tree.reads,
        )
        self._last = seen, found
        return found


def _below(tree: Tree, path: str, args: argparse.Namespace) -> str:
    """A path of the host that was named, which may not be this one."""
    return tree.path(path.lstrip('/')) if args.root else path


def _fabric(root: str, settings: Settings) -> Fabric | None:
    """What Fabric Manager says, if it is to be asked."""
    if not settings.fabric_manager:
        return None
    # Not above: most hosts have none, and these are slow to import.
    from nova_gpu import privsep
    from nova_gpu.fabric import FabricManager

    with acting(privsep, root, settings):
        found = FabricManager(privsep, enabled=True, quiet=True).look()
    if found is not None and found.problem is not None:
        LOG.warning('the partitions are not known: %s', found.problem)
    return found


def acting(
    privsep: Any, root: str, settings: Settings
) -> contextlib.AbstractContextManager[None]:
    """Let effects act in this process, on the host that was named."""
    found: contextlib.AbstractContextManager[None] = privsep.in_process(
        root, fabric_manager=settings.fabric_manager, fmpm=settings.fmpm
    )
    return found


def _check(tree: Tree) -> None:
    for path in (os.fspath(tree.root), tree.path(DEVICES)):
        try:
            os.listdir(path)
        except OSError as exc:
            raise error.UnusableRoot(path, exc.strerror or str(exc)) from exc


def _read(folder: PutAside) -> dict[str, str] | None:
    try:
        return folder.read()
    except OSError as exc:
        LOG.warning('what is put aside is not known: %s', exc)
        return None


def _uses(
    snapshot: Snapshot,
    loaded: Sequence[Mechanism],
    rules: Sequence[Rule],
    held: Mapping[Address, Sequence[Unit]],
    aside: Mapping[str, str],
) -> tuple[Use, ...]:
    uses = tuple(
        classify(
            card,
            loaded,
            rules,
            held=held.get(card.address, ()),
            aside=aside,
        )
        for card in snapshot.cards
    )
    return with_partitions(uses, snapshot.fabric)


def _held(
    guests: Sequence[GuestDevices],
    loaded: Sequence[Mechanism],
    uses: Sequence[Use],
) -> Iterator[tuple[GuestDevices, Unit]]:
    """What guests hold, and what is kept for them that nobody else has."""
    keepers = [keeper for guest in guests for keeper in guest.keepers()]
    taken: set[str] = set()
    for guest in (*guests, *keepers):
        for mechanism in loaded:
            for unit in mechanism.held_by(guest, uses):
                if guest.keeper is None or unit.device not in taken:
                    taken.add(unit.device)
                    yield guest, guest.own(unit)


def _report_rules(rules: Iterable[Rule], uses: Sequence[Use]) -> None:
    for use in uses:
        for conflict in use.ruling.conflicts:
            LOG.warning('rules contradict: %s', conflict)
    matched = {number for use in uses for number in use.ruling.rules}
    for rule in rules:
        if rule.number not in matched:
            LOG.warning('rule %d matches no card of this host', rule.number)
    for line in left_out(uses):
        LOG.warning(line)
