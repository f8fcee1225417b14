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

"""``nova-gpu host record``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cliff import lister

from nova_gpu.cli import error, survey
from nova_gpu.cli.nvml import Nvml
from nova_gpu.linksfile import LinksFile
from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import Card
from nova_gpu.model.links import LinkedCard, cliques

LOG = logging.getLogger('nova_gpu.cli')

COLUMNS = ('Address', 'Clique', 'Links', 'Switches', 'Down')
_NVIDIA = 0x10DE


class HostRecord(lister.Lister):
    """Record which of this host's cards are linked by NVLink.

    Asks NVIDIA's driver, and writes the file that [gpu] links_file names. Run
    it as root while the cards are bound to the driver: once they are bound to
    vfio-pci nobody can be asked, and nova-compute reads the file. Cards that
    the driver doesn't have now keep what was recorded before. Needs the Python
    package nvidia-ml-py.
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
        nvml = Nvml(_library())
        with nvml.started():
            driver = nvml.driver()
            told = nvml.cards()
        found = survey.survey(parsed_args)
        kept = _kept(found, told)
        cards = sorted([*told, *kept], key=lambda card: card.address)
        if not cards:
            raise error.NotRecorded(
                f"NVIDIA's driver {driver} has no card: bind the cards to it"
            )
        _write(found.links, cards, driver)
        for card in told:
            if card.down and not card.links and not card.switched:
                LOG.warning(
                    'all %d links of card %s are down, so it is recorded as '
                    'not linked: if it should be, see that the fabric manager '
                    'runs, and record again',
                    card.down,
                    card.address,
                )
        names = cliques(cards)
        return COLUMNS, [
            (
                str(card.address),
                names[card.address],
                sum(card.links.values()),
                len(card.switches) if card.switches else int(card.switched),
                card.down,
            )
            for card in cards
        ]


def _library() -> Any:
    try:
        import pynvml
    except ImportError as exc:
        raise error.NotRecorded(
            'the Python package nvidia-ml-py is missing: '
            "pip install 'nova-gpu[nvml]'"
        ) from exc
    return pynvml


def _kept(
    found: survey.Survey, told: Iterable[LinkedCard]
) -> list[LinkedCard]:
    """What was recorded before of cards that NVML doesn't tell of."""
    try:
        before = {card.address: card for card in found.links.read()}
    except (OSError, ValueError):
        before = {}  # the look at the host has warned of it
    seen = {card.address for card in told}
    kept = []
    for card in found.snapshot.cards:
        if card.vendor_id != _NVIDIA or card.address in seen:
            continue
        if known := _known(before, card):
            kept.append(known)
        LOG.warning(
            'card %s is bound to %s, and NVML does not tell of it: %s',
            card.address,
            card.driver or 'no driver',
            'what was recorded before is kept'
            if known
            else 'its links are not known',
        )
    return kept


def _known(
    before: Mapping[PciAddress, LinkedCard], card: Card
) -> LinkedCard | None:
    """What was recorded of the card, and not of another in its place."""
    if card.clique is None or not isinstance(card.address, PciAddress):
        return None
    return before.get(card.address)


def _write(file: LinksFile, cards: Iterable[LinkedCard], driver: str) -> None:
    try:
        file.write(cards, driver)
    except OSError as exc:
        hint = '; run as root' if isinstance(exc, PermissionError) else ''
        raise error.NotRecorded(
            f'{file.path}: {exc.strerror or exc}{hint}'
        ) from exc
