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

"""The lab's cloud ends, all of it, whatever ends it."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import fixtures
import testtools

from lab.cloud import control, inputs, settings
from tests.fixtures.wheels import ROOT

PATIENCE = 60
#: The supervisor with services of its own: each has a child.
PROGRAM = """
import json, pathlib, sys
from lab.cloud import services, settings, supervisor
run, lifetime, commands = sys.argv[1:]
supervisor.LIFETIME_SECONDS = float(lifetime)
services.steps = lambda settings: (
    services.Step(tuple(
        services.Service(name, ('sh', '-c', command))
        for name, command in json.loads(commands).items()
    )),
)
cloud = supervisor.Supervisor(settings.Settings.load(pathlib.Path(run)))
supervisor.watched(cloud)
# lab.cloud.supervisor
"""
STAYS = 'sleep 1000 & wait'


class SupervisorTest(testtools.TestCase):
    def setUp(self) -> None:
        super().setUp()
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.run_folder = settings.Settings.new(folder / 'run').run
        self.patch(inputs, 'run', lambda: self.run_folder)

    def start(
        self, lifetime: float = 1000, **commands: str
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [
                sys.executable, '-c', PROGRAM, str(self.run_folder),
                str(lifetime), json.dumps(commands),
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def status(self) -> dict[str, Any]:
        if not (self.run_folder / 'status').exists():
            return {'state': 'starting', 'processes': {}}
        return control.status()

    def wait(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            self.assertLess(time.monotonic(), deadline, self.status())
            time.sleep(0.05)

    def wait_for_children(self) -> list[int]:
        """The groups of all services, once each has its child."""
        self.wait(lambda: self.status()['state'] == 'up')
        groups = list(self.status()['processes'].values())
        self.wait(lambda: all(len(control.group(g)) == 2 for g in groups))
        return groups

    def assert_ended(self, groups: list[int], reason: str) -> None:
        self.wait(lambda: self.status()['state'] == 'ended')
        self.assertEqual(reason, self.status()['detail'])
        self.wait(lambda: not any(map(control.group, groups)))

    def test_it_is_told_to(self) -> None:
        self.start(one=STAYS, two=f'trap "" TERM; {STAYS}')
        groups = self.wait_for_children()
        control.down()
        self.assert_ended(groups, 'told to')

    def test_its_parent_is_told_to(self) -> None:
        parent = self.start(one=STAYS)
        groups = self.wait_for_children()
        parent.terminate()
        self.assert_ended(groups, 'told to')
        self.assertEqual(0, parent.wait())

    def test_its_time_is_over(self) -> None:
        self.start(1.0, one=STAYS)
        self.wait(lambda: bool(self.status()['processes']))
        groups = list(self.status()['processes'].values())
        self.assert_ended(groups, 'its 1.0 s are over')

    def test_a_process_ends(self) -> None:
        self.start(one=STAYS, two=f'{STAYS}; exit 3')
        one, two = self.wait_for_children()
        (child,) = (pid for pid in control.group(two) if pid != two)
        os.kill(child, signal.SIGTERM)
        self.assert_ended([one, two], 'two exited 3')

    def test_the_supervisor_is_killed(self) -> None:
        self.start(one=STAYS, two=STAYS)
        groups = self.wait_for_children()
        os.kill(self.status()['pid'], signal.SIGKILL)
        self.assert_ended(groups, 'its supervisor was killed')

    def test_its_parent_is_killed(self) -> None:
        parent = self.start(one=STAYS, two=STAYS)
        groups = self.wait_for_children()
        parent.kill()
        parent.wait()
        self.assert_ended(groups, 'told to')
