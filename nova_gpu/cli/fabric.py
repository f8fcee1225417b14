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

"""``nova-gpu fabric restore``."""

from __future__ import annotations

import argparse
import time

from cliff import command

from nova_gpu.cli import error, survey
from nova_gpu.model.claim import Claim
from nova_gpu.model.fabric import wanted

#: How long Fabric Manager is left alone between two attempts, in seconds.
PAUSE = 1.0


class FabricRestore(command.Command):
    """Tell Fabric Manager which partitions are active, after its restart.

    Those are what guests' definitions name, and what nova-compute is just
    making guests with. Let systemd run it when Fabric Manager has started: it
    waits for a minute to be told, and nova-compute may look too late. Run it
    as root.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            '--wait',
            metavar='SECONDS',
            type=int,
            default=30,
            help=(
                'how long Fabric Manager may take until it answers '
                '(default: %(default)s)'
            ),
        )
        survey.add_arguments(parser)
        return parser

    def get_epilog(self) -> str:
        # Cliff's reads the file list of every installed distribution.
        return ''

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        # Not above: the other commands must not wait for it.
        from nova_gpu import privsep
        from nova_gpu.fabric import FabricManager

        found = survey.survey(parsed_args, ask_fabric=False)
        if not found.settings.fabric_manager:
            raise error.NotRestored(
                '[gpu] fabric_manager is not set, or its file is not read: '
                'name that by --config-file'
            )
        if found.unread is not None:
            # What it has would be cut off.
            raise error.NotRestored(
                f'not all guests could be read: {found.unread}'
            )
        partitions = wanted(_told(found), found.guests)
        with survey.acting(privsep, found.root, found.settings):
            manager = FabricManager(privsep, enabled=True, quiet=True)
            problem = manager.restore(partitions, fresh=True)
            for _ in range(int(parsed_args.wait / PAUSE)):
                if not problem:
                    break
                time.sleep(PAUSE)
                problem = manager.restore(partitions, fresh=True)
        if problem:
            raise error.NotRestored(problem)
        listed = ', '.join(map(str, sorted(partitions))) or 'none'
        self.app.stdout.write(f'Active partitions: {listed}\n')


def _told(found: survey.Survey) -> tuple[Claim, ...]:
    """What nova-compute holds, if it runs: guests may just be made of it."""
    try:
        told = found.claims.read()
    except (OSError, ValueError) as exc:
        raise error.NotRestored(str(exc)) from exc
    return told.claims if told is not None and told.running else ()
