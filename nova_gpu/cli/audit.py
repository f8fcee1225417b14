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

"""``nova-gpu audit``."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

from cliff import lister

from nova_gpu import exception
from nova_gpu.claimsfile import Told
from nova_gpu.cli import error, release, survey
from nova_gpu.cli.compare import compare
from nova_gpu.cli.placement import allocated
from nova_gpu.model import fabric
from nova_gpu.model.audit import CLEAN, Allocated, Difference

LOG = logging.getLogger('nova_gpu.cli')

COLUMNS = ('Problem', 'Device', 'Instance', 'Meaning', 'What To Do')
#: What is on its way looks like a difference; it isn't one when it has gone
#: after so many seconds.
PAUSE = 2.0


class Audit(lister.Lister):
    """Compare guests, GPUs, nova-compute and Placement, and list differences.

    Exits with 0 if there are none, with 1 if some are left, and with 2 if
    nova-compute doesn't run, or the host, a guest or Placement could not be
    looked at. Placement is asked as the section [placement] of nova.conf says.
    Run it as root, on a compute node.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            '--repair',
            action='store_true',
            help=(
                "mend what is safe: make again vGPUs that guests' "
                'definitions name, and, while nova-compute does not run, '
                'destroy those without a guest; what is left is listed'
            ),
        )
        survey.add_arguments(parser)
        return parser

    def get_epilog(self) -> str:
        # Cliff's reads the file list of every installed distribution.
        return ''

    def run(self, parsed_args: argparse.Namespace) -> int:
        self.left: list[Difference] = []
        self.unseen = False
        try:
            super().run(parsed_args)
        except exception.GpuError as exc:
            # Cliff would exit with 1, as if there were differences.
            LOG.error('%s', exc)
            self.unseen = True
        if self.unseen:
            return 2
        return 1 if self.left else 0

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        found, seen = self._look(parsed_args)
        if seen:
            time.sleep(PAUSE)
            found, again = self._look(parsed_args, quiet=True)
            seen = [d for d in seen if d in again]
        self.left = seen
        if parsed_args.repair and seen:
            self.left = self._repair(found, seen)
        return COLUMNS, [
            (d.problem, d.device, d.holder or '-', d.meaning, d.remedy)
            for d in self.left
        ]

    def _look(
        self, args: argparse.Namespace, *, quiet: bool = False
    ) -> tuple[survey.Survey, list[Difference]]:
        level = LOG.level
        try:
            if quiet:  # the same words as the first time
                LOG.setLevel(logging.CRITICAL)
            found = survey.survey(args)
            if found.unread is not None:
                self.unseen = True
                LOG.warning(
                    'not all guests of this host could be read, and what '
                    'they hold is not known: %s',
                    found.unread,
                )
            told = self._told(found)
            counted = self._counted(found.settings.files, told)
        finally:
            LOG.setLevel(level)
        board = fabric.board_of(found.uses)
        if board is not None and board.problem is not None:
            self.unseen = True
        return found, compare(found, told, counted)

    def _told(self, found: survey.Survey) -> Told | None:
        try:
            told = found.claims.read()
        except (OSError, ValueError) as exc:
            self.unseen = True
            LOG.warning('what nova-compute holds is not known: %s', exc)
            return None
        if told is None or not told.running:
            self.unseen = True
            LOG.warning(
                'nova-compute with nova-gpu does not run on this host: what '
                'it holds is not compared'
            )
        return told

    def _counted(
        self, files: Sequence[str], told: Told | None
    ) -> Allocated | None:
        if not files:
            LOG.warning('no nova.conf was read: Placement is not compared')
            return None
        if told is None:
            LOG.warning(
                'nova-compute has never told the UUID of this host: '
                'Placement is not compared'
            )
            self.unseen = True
            return None
        try:
            return allocated(files, told.node)
        except error.NoPlacement as exc:
            LOG.error('%s', exc)
            self.unseen = True
            return None

    def _repair(
        self, found: survey.Survey, seen: Sequence[Difference]
    ) -> list[Difference]:
        # Not above: looking alone must not wait for it.
        from nova_gpu import privsep

        left = []
        with survey.acting(privsep, found.root, found.settings):
            for difference in seen:
                if not difference.mend:
                    left.append(difference)
                    continue
                try:
                    if difference.mend == CLEAN:
                        _may_clean(found, difference.device)
                        _clean(found, difference.device, privsep)
                    else:
                        _make_again(found, difference.device, privsep)
                except exception.GpuError as exc:
                    LOG.error('not repaired: %s', exc)
                    left.append(difference)
                else:
                    LOG.info(
                        '%s %s: done (%s)',
                        difference.problem,
                        difference.device,
                        difference.remedy,
                    )
        return left


def _may_clean(found: survey.Survey, device: str) -> None:
    """A vGPU is left over only if all who may hold it were asked.

    :raises NotReleased: it may be somebody's
    """
    if found.unread is not None:
        raise error.NotReleased(
            device, 'a guest that can not be read may hold it'
        )
    if found.claims.running():
        raise error.NotReleased(device, 'nova-compute runs: it removes it')


def _clean(found: survey.Survey, device: str, effects: Any) -> None:
    board = fabric.board_of(found.uses)
    if board is not None and device.startswith(fabric.DEVICE):
        number = int(device.removeprefix(fabric.DEVICE))
        cards = sorted(map(str, board.partitions[number]))
        effects.deactivate_partition(number, cards)
        return
    card = release.card_of(found, device)
    if card is not None:
        release.clean(card, device, effects)


def _make_again(found: survey.Survey, device: str, effects: Any) -> None:
    for guest in found.guests:
        kept = (unit for _, units in guest.kept for unit in units)
        for unit in (*guest.units, *kept):
            if unit.device == device:
                mechanism = found.mechanisms[unit.mechanism]
                if not mechanism.restore(unit, found.snapshot, effects):
                    raise exception.UnitUnusable(
                        device, f'the driver of card {unit.card} is not loaded'
                    )
