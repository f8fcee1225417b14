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

"""nova-compute is killed at each effect of each action.

Afterwards it starts again, in another process; see
:mod:`tests.functional.crash`. Run as a program, this lists the moments.
"""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import shutil
import tempfile
from typing import Any

import fixtures
import testscenarios
import testtools

from tests.fixtures import hosts
from tests.functional import base, crash
from tests.functional.test_boot import A100, T4_4Q, T4_8Q

load_tests = testscenarios.load_tests_apply_scenarios

A10_8Q = 'CUSTOM_VGPU_NVIDIA_A10_8Q'
A10_12Q = 'CUSTOM_VGPU_NVIDIA_A10_12Q'
PARAMS = {'gpu__vgpu_params': 'frame_rate_limiter=0'}

KINDS = {
    kind.name: kind
    for kind in (
        crash.Kind(
            'whole',
            hosts.a100_board,
            {f'resources__{A100}': '1'},
            {f'resources__{A100}': '2'},
        ),
        crash.Kind(
            'mdev',
            hosts.four_t4,
            {f'resources__{T4_8Q}': '1', **PARAMS},
            {f'resources__{T4_4Q}': '2', **PARAMS},
        ),
        crash.Kind(
            'vendor_vfio',
            hosts.a10_vendor_vfio,
            {f'resources__{A10_12Q}': '1', **PARAMS},
            {f'resources__{A10_8Q}': '2', **PARAMS},
        ),
    )
}
#: Set it to ``all`` for every moment of every story with every kind of unit.
EVERYTHING = os.environ.get('NOVA_GPU_CRASH') == 'all'
STORIES = {story.name: story for story in crash.STORIES}
#: By kind the stories that are played with it otherwise: those that have
#: effects of its own. Mediated devices have all stories.
PLAYED = {'whole': ('delete',), 'vendor_vfio': ('create', 'delete')}


def play(
    folder: pathlib.Path, schemas: pathlib.Path, kind: str, story: str,
    kill_at: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Play a story in this process, up to a moment or its end."""
    cloud = crash.Cloud(folder, schemas, KINDS[kind], kill_at)
    cloud.setUp()
    return cloud.play(STORIES[story])


def audit(
    folder: pathlib.Path, schemas: pathlib.Path, kind: str
) -> dict[str, Any]:
    """Go on with what another process has left."""
    cloud = crash.Cloud(folder, schemas, KINDS[kind])
    cloud.setUp()
    return cloud.audit()


def scenarios(*stories: str) -> list[tuple[str, dict[str, str]]]:
    """Each of the stories, with each kind of unit that it's played with."""
    return [
        (f'{kind},{story}'.replace(' ', '_'), {'kind': kind, 'story': story})
        for kind in KINDS
        for story in stories
        if EVERYTHING or story in PLAYED.get(kind, STORIES)
    ]


@testtools.skipIf(
    'forkserver' not in multiprocessing.get_all_start_methods(),
    'eventlet leaves no way to fork a process without threads',
)
class CrashTest(testscenarios.WithScenarios, testtools.TestCase):
    """A test for each story.

    This process starts no service: it watches others.
    """

    kind: str
    story: str

    def setUp(self) -> None:
        super().setUp()
        base.skip_if_late(self)
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.number = 0

    def process(self, folder: pathlib.Path, work: Any, *args: Any) -> Any:
        schemas = self.root / 'schemas'
        process = crash.Process(folder, work.__name__)
        return process.run(work, folder, schemas, self.kind, *args)

    def folder(self) -> pathlib.Path:
        self.number += 1
        folder: pathlib.Path = self.root / str(self.number)
        folder.mkdir()
        return folder

    def check(self) -> None:
        played = self.process(self.folder(), play, self.story, None)
        moments = played['moments']
        self.assertNotEqual([], moments)
        wrong = {}
        for number in crash.chosen(moments, everything=EVERYTHING):
            folder = self.folder()
            self.assertIsNone(
                self.process(folder, play, self.story, number),
                f'not killed {moments[number]}',
            )
            found = self.process(folder, audit)['wrong']
            shutil.rmtree(folder)
            if any(found.values()):
                wrong[moments[number]] = found
        self.assertEqual({}, wrong)


class LifeTest(CrashTest):
    """What happens to a server on its host."""

    scenarios = scenarios(
        'create', 'delete', 'hard reboot', 'stop', 'start', 'rebuild',
        'rescue', 'unrescue',
    )  # fmt: skip

    def test_killed(self) -> None:
        self.check()


class ResizeTest(CrashTest):
    """A server is given another flavor on its host."""

    scenarios = scenarios('resize', 'confirm a resize', 'revert a resize')

    def test_killed(self) -> None:
        self.check()


class ShelveTest(CrashTest):
    """A server leaves its host, and gets one again."""

    scenarios = scenarios('shelve', 'unshelve', 'evacuate')

    def test_killed(self) -> None:
        self.check()


class MigrateTest(CrashTest):
    """A server goes from one host to another."""

    scenarios = scenarios(
        'cold migrate', 'confirm a cold migration', 'revert a cold migration'
    )

    def test_killed(self) -> None:
        self.check()


def print_moments() -> None:
    """Print each action, each kind of unit, and what is killed in it."""
    for kind in KINDS:
        for story in STORIES:
            with tempfile.TemporaryDirectory() as name:
                folder = pathlib.Path(name)
                process = crash.Process(folder, 'play')
                schemas = folder / 'schemas'
                played = process.run(play, folder, schemas, kind, story, None)
            for moment in (played or {})['moments']:
                print(f'{story}, {kind}, {moment}')


if __name__ == '__main__':
    print_moments()
