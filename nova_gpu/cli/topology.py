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

"""``nova-gpu host topology``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from cliff import lister

from nova_gpu.cli import survey
from nova_gpu.cli.host import PARTITIONS, partitions, partitions_text
from nova_gpu.model.fabric import board_of
from nova_gpu.model.topology import places, tie


class HostTopology(lister.Lister):
    """Show how close this host's cards are to each other.

    One row and one column a card. In each cell is the closest thing that two
    cards share: the clique (NVLink or its like links all cards of it), the
    switch (PCIe), the NUMA node, or the host. A server that gets several
    whole cards gets the closest that are free; where the cards are divided
    into partitions, all of one partition.
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
        near = places((use.card, use.ruling.clique) for use in found.uses)
        divided = board_of(found.uses) is not None
        return ('Address', *map(str, near), *[PARTITIONS] * divided), [
            (
                str(address),
                *(
                    '-' if other == address else tie(place, near[other])
                    for other in near
                ),
                *[', '.join(partitions_text(partitions(use)))] * divided,
            )
            for (address, place), use in zip(
                near.items(), found.uses, strict=True
            )
        ]
