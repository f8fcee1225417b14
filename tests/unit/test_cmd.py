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

"""``nova-gpu-compute`` where there is no Nova; with it: test_loading."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import fixtures
import testtools

import nova_gpu


class ComputeTest(testtools.TestCase):
    def setUp(self) -> None:
        super().setUp()
        # Not where nova_gpu is: Nova may be beside it.
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        package = pathlib.Path(nova_gpu.__file__).parent
        (self.folder / 'nova_gpu').symlink_to(package)

    def errors(self) -> str:
        """What it says where the folder has all packages."""
        done = subprocess.run(
            [sys.executable, '-S', '-m', 'nova_gpu.cmd.compute'],
            env={**os.environ, 'PYTHONPATH': str(self.folder)},
            cwd='/',
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual((1, ''), (done.returncode, done.stdout))
        return done.stderr

    def test_no_nova(self) -> None:
        (line,) = self.errors().splitlines()
        self.assertTrue(
            line.startswith(f'error: {sys.executable} has no Nova: '), line
        )
        # So does what our wheel puts below the name.
        (self.folder / 'nova/virt/gpu').mkdir(parents=True)
        self.assertEqual(f'{line}\n', self.errors())

    def test_nova_that_lacks_something(self) -> None:
        """That is another matter, and the traceback says which."""
        path = self.folder / 'nova/cmd/compute.py'
        path.parent.mkdir(parents=True)
        path.write_text('import eventlet')
        self.assertIn("No module named 'eventlet'", self.errors())
