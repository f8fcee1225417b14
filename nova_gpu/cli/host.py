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


"""``nova-gpu host show``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cliff import lister

from nova_gpu.cli import survey
from nova_gpu.cli.text import fill
from nova_gpu.model.fabric import board_of
from nova_gpu.model.inventory import Offer, Use
from nova_gpu.model.partition import Board

LOG = logging.getLogger('nova_gpu.cli')

COLUMNS = (
    'Address',
    'Name',
    'NUMA Node',
    'IOMMU Group',
    'Driver',
    'Use',
    'Pool',
    'Profiles',
    'Instances',
    'Reason',
    'Rules',
    'Put Aside',
)
#: One more where Fabric Manager divides the cards.
PARTITIONS = 'Partitions'
#: Formats that carry lists and objects; the others get text.
STRUCTURED = ('json', 'yaml')
#: A cell of a table takes more lines above this.
TABLE_WIDTH = 52


class HostShow(lister.Lister):
    """Show this host's cards: use, units, instances, or why not used.

    One row a card. Profiles are the vGPU types that it takes, or the
    resource class of a whole card, each with the free and all units; those
    that are closed while the card holds another profile are only counted,
    and what a rule reserves is not free.
    Rules are those that decided something, with what they decided. Partitions
    are those of NVSwitches that have the card, where they are divided.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        survey.add_arguments(parser)
        return parser

    def get_epilog(self) -> str:
        # Cliff's reads the file list of every installed distribution.
        return ''

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        found = survey.survey(parsed_args)
        _note(found)
        divided = board_of(found.uses) is not None
        columns = (*COLUMNS, *[PARTITIONS] * divided)
        rows = [
            [
                *_row(use, found.holders.get(use.card.address, ())),
                *[partitions(use)] * divided,
            ]
            for use in found.uses
        ]
        form = parsed_args.formatter
        if form in STRUCTURED:
            return columns, rows
        width = TABLE_WIDTH if form == 'table' else sys.maxsize
        missing = '' if form == 'csv' else '-'
        return columns, [
            [_text(value, width, missing) for value in row] for row in rows
        ]


def _note(found: survey.Survey) -> None:
    """Say what there is apart from cards, or that there are none."""
    switches = found.snapshot.switches
    if switches:
        LOG.info(
            '%d NVSwitch%s, not handed out: %s',
            len(switches),
            'es' if switches[1:] else '',
            ', '.join(str(switch.address) for switch in switches),
        )
    there = {device for use in found.uses for device, _ in use.aside}
    for device, reason in found.put_aside.items():
        if device not in there:
            LOG.warning(
                '%s is put aside, and is no device of a card in use: %s',
                device,
                reason,
            )
    if not found.uses:
        LOG.info('no GPU found below %s', found.root)


def _row(use: Use, holders: Sequence[str]) -> list[Any]:
    card = use.card
    return [
        str(card.address),
        card.name,
        card.numa_node,
        card.iommu_group,
        card.driver,
        use.mechanism,
        use.pool,
        [_profile(use, offer) for offer in use.offers],
        list(holders),
        use.reason or use.closed,
        dict(use.ruling.decided),
        [{'device': device, 'reason': reason} for device, reason in use.aside],
    ]


def partitions(use: Use) -> list[dict[str, Any]]:
    """The partitions that have a card."""
    board = use.board or Board({})
    return [
        {
            'partition': number,
            'cards': len(cards),
            'active': number in board.active,
        }
        for number, cards in sorted(board.partitions.items())
        if use.card.address in cards
    ]


def partitions_text(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """The same as text."""
    return [
        f'{p["partition"]} ({p["cards"]}{", active" if p["active"] else ""})'
        for p in found
    ]


def _profile(use: Use, offer: Offer) -> dict[str, Any]:
    free = use.available(offer)
    return {
        'profile': offer.name,
        'type': offer.type_id,
        'resource_class': offer.resource_class,
        'total': offer.total,
        'used': offer.used,
        'free': free,
        'reserved': offer.free - free,
    }


def _text(value: Any, width: int, missing: str) -> Any:
    """A cell as text; numbers stay, so that they are told from text."""
    if value is None or value in ([], {}):
        return missing
    if isinstance(value, dict):
        return fill(_rules(value), ', ', width)
    if isinstance(value, str):
        return fill(value.split(), ' ', width)
    if not isinstance(value, list):
        return value
    if isinstance(value[0], str):
        return fill(value, ', ', width)
    if 'partition' in value[0]:
        return fill(partitions_text(value), ', ', width)
    if 'device' in value[0]:
        told = '; '.join(f'{v["device"]} ({v["reason"]})' for v in value)
        return fill(told.split(), ' ', width)
    there = ('used', 'free', 'reserved')
    shown = [p for p in value if any(p[key] for key in there)] or value
    parts = list(map(_profile_text, shown))
    if len(shown) < len(value):
        parts.append(f'{len(value) - len(shown)} closed')
    return fill(parts, ', ', width)


def _profile_text(profile: Mapping[str, Any]) -> str:
    name = profile['profile'] or profile['resource_class']
    kept = f' ({profile["reserved"]} reserved)' if profile['reserved'] else ''
    return f'{name} {profile["free"]}/{profile["total"]} free{kept}'


def _rules(decided: Mapping[str, int]) -> list[str]:
    """Each rule that decided something, and what."""
    said: dict[int, list[str]] = {}
    for field, number in decided.items():
        said.setdefault(number, []).append(field)
    return [f'{number} ({", ".join(said[number])})' for number in sorted(said)]
