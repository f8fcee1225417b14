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

"""``nova-gpu host check``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from cliff import lister

from nova_gpu import exception
from nova_gpu.cli import survey
from nova_gpu.cli.text import fill
from nova_gpu.model.check_card import check_cards
from nova_gpu.model.check_host import CHECKS
from nova_gpu.model.finding import ERROR, OK, Finding, Subject
from nova_gpu.sysfs.machine import read_machine
from nova_gpu.sysfs.tree import Tree

LOG = logging.getLogger('nova_gpu.cli')

COLUMNS = ('Check', 'Device', 'Result', 'Seen', 'Meaning', 'Mend')
#: A cell of a table takes more lines above this.
TABLE_WIDTH = 36


class HostCheck(lister.Lister):
    """Check that this host has what its GPUs need, and say how to mend it.

    Each card is checked for what it is there for: the use that a rule names,
    otherwise what its driver makes of it. Exits with 0 if all is well, with
    1 if there are warnings, and with 2 if there are errors or the host could
    not be checked. Nothing is run or changed; as root it sees more.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            '--problems',
            action='store_true',
            help='list only what is not well',
        )
        survey.add_arguments(parser)
        return parser

    def get_epilog(self) -> str:
        # Cliff's reads the file list of every installed distribution.
        return ''

    def run(self, parsed_args: argparse.Namespace) -> int:
        self.levels: set[str] = set()
        try:
            super().run(parsed_args)
        except exception.GpuError as exc:
            # Cliff would exit with 1, as if there were warnings only.
            LOG.error('%s', exc)
            return 2
        if ERROR in self.levels:
            return 2
        return 1 if self.levels - {OK} else 0

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        found = findings(parsed_args)
        self.levels = {finding.level for finding in found}
        if not any(finding.device for finding in found):
            LOG.info('no GPU found')
        width = TABLE_WIDTH if parsed_args.formatter == 'table' else 0
        return COLUMNS, [
            _row(finding, width)
            for finding in found
            if finding.level != OK or not parsed_args.problems
        ]


def findings(args: argparse.Namespace) -> list[Finding]:
    """All findings on the host that ``args`` name."""
    found = survey.survey(args)
    tree = Tree(found.root)
    host = Subject(
        machine=read_machine(tree),
        snapshot=found.snapshot,
        uses=found.uses,
        kinds={name: m.use for name, m in found.mechanisms.items()},
        driver=found.settings.compute_driver,
        driver_file=found.settings.driver_file,
        nova_owns=found.settings.nova_owns,
        looked_for=found.settings.looked_for,
        unknown=found.settings.unknown,
    )
    for warning in tree.warnings:
        LOG.warning(warning)
    said = [finding for check in CHECKS for finding in check(host)]
    return [*said, *check_cards(host)]


def _row(finding: Finding, width: int) -> tuple[str, ...]:
    texts = [finding.seen, finding.meaning, finding.mend]
    if width:
        texts = [fill(text.split(), ' ', width) for text in texts]
    return (finding.check, finding.device, finding.level, *texts)
