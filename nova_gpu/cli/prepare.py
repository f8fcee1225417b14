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

"""``nova-gpu host prepare``."""

from __future__ import annotations

import argparse
import io
import logging
import os
import shlex
import subprocess
from collections.abc import Iterable

from cliff import command

from nova_gpu.cli import error, survey
from nova_gpu.cli.backup import ANY_BYTES, Backup
from nova_gpu.model import prepare
from nova_gpu.model.finding import Subject
from nova_gpu.sysfs.machine import read_machine
from nova_gpu.sysfs.tree import Tree

LOG = logging.getLogger('nova_gpu.cli')


class HostPrepare(command.Command):
    """Print what brings this host to where its GPUs can be handed out.

    Files with their whole content, the commands that make them count, and
    whether a reboot is due. --apply does it, and keeps what it changes;
    --undo brings that back. The card that shows the console and cards that a
    guest holds are left alone. What a card is there for says a rule, as for
    "host check". Below another --root no command is run.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            '--apply', action='store_true', help='do it; run this as root'
        )
        what.add_argument(
            '--undo',
            action='store_true',
            help='take back what --apply has done',
        )
        survey.add_arguments(parser)
        return parser

    def get_epilog(self) -> str:
        # Cliff's reads the file list of every installed distribution.
        return ''

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        found = survey.survey(parsed_args)
        tree = Tree(found.root)
        distribution = prepare.family(
            tree.text('etc/os-release', optional=True)
            or tree.text('usr/lib/os-release', optional=True)
            or ''
        )
        backup = Backup(found.root)
        try:
            if parsed_args.undo:
                self._undo(found, backup, distribution)
                return
            plan = _plan(found, tree, distribution)
            for line in plan.left:
                LOG.warning(line)
            if not plan.files and not plan.commands:
                LOG.info('no file is left to write')
            elif parsed_args.apply:
                backup.remember(plan.undo)
                for file in plan.files:
                    backup.write(file.path, file.content)
                    self._say(f'{file.path} is written')
                self._run(plan.commands, found.root)
            else:
                self._print(plan)
            if plan.reboot:
                self._say('Then reboot the host.')
        except BrokenPipeError:
            raise  # nobody reads what is printed any more
        except OSError as exc:
            raise error.NotPrepared(str(exc)) from exc

    def _undo(
        self,
        found: survey.Survey,
        backup: Backup,
        distribution: str | None,
    ) -> None:
        failed = []
        steps = backup.commands()
        for step in steps:
            if step.device in {str(card) for card in found.holders}:
                LOG.warning(
                    '%s is held by a guest: not run: %s',
                    step.device,
                    shlex.join(step.words),
                )
                continue
            try:
                self._run([step], found.root)
            except error.NotPrepared as exc:
                failed.append(str(exc))  # the files come back all the same
        paths = backup.restore()
        if not paths and not steps:
            LOG.info('nothing was changed by --apply')
        for path in paths:
            self._say(f'{path} is as it was')
        self._run(prepare.after_undo(distribution, paths), found.root)
        if paths or steps:
            self._say('Then reboot the host.')
        if failed:
            raise error.NotPrepared('; '.join(failed))

    def _say(self, line: str) -> None:
        self.app.stdout.write(f'{line}\n')

    def _print(self, plan: prepare.Plan) -> None:
        if isinstance(self.app.stdout, io.TextIOWrapper):
            self.app.stdout.reconfigure(errors=ANY_BYTES)
        for file in plan.files:
            self._say(f'# {file.path}: {file.why}')
            self._say(f'cat > {file.path} <<"EOF"\n{file.content}EOF')
        for step in plan.commands:
            self._say(f'# {step.why}\n{shlex.join(step.words)}')

    def _run(self, commands: Iterable[prepare.Command], root: str) -> None:
        """Run what is to be run, where this host is the one.

        :raises NotPrepared: one fails; those after it are named
        """
        steps = list(commands)
        for number, step in enumerate(steps):
            line = shlex.join(step.words)
            if os.path.realpath(root) != '/':
                self._say(f'not run below {root}: {line}')
                continue
            self._say(f'running {line}')
            done = subprocess.run(step.words, check=False)
            if done.returncode:
                rest = [shlex.join(s.words) for s in steps[number + 1 :]]
                raise error.NotPrepared(
                    f'{line} ended with {done.returncode}; run it again once '
                    f'it is mended{"".join(f", then {r}" for r in rest)}'
                )


def _plan(
    found: survey.Survey, tree: Tree, distribution: str | None
) -> prepare.Plan:
    there = {
        path: text
        for path in prepare.PATHS
        if (text := _content(tree.path(path.lstrip('/')))) is not None
    }
    host = Subject(
        machine=read_machine(tree),
        snapshot=found.snapshot,
        uses=found.uses,
        kinds={name: m.use for name, m in found.mechanisms.items()},
    )
    return prepare.plan(host, distribution, there, set(found.holders))


def _content(path: str) -> str | None:
    try:
        with open(path, encoding='utf-8', errors=ANY_BYTES) as stream:
            return stream.read()
    except FileNotFoundError:
        return None
