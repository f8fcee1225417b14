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


"""Mechanisms are loaded by their entry points, in a fixed order."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import fixtures
import testtools

from nova_gpu import exception, mechanism
from nova_gpu.mechanism.mdev import MdevVgpu
from nova_gpu.mechanism.whole import WholeCard

ACME = """\
from nova_gpu.mechanism import mdev

class Acme(mdev.MdevVgpu):
    name = 'acme'
"""
LOAD = """\
from nova_gpu import mechanism

print(*(m.name for m in mechanism.load()))
"""


class OrderTest(testtools.TestCase):
    """vGPUs before others before whole cards."""

    def test_others_come_between(self) -> None:
        mdev, whole = MdevVgpu(), WholeCard()
        b, a = MdevVgpu(), MdevVgpu()
        self.assertEqual(
            (mdev, a, b, whole),
            mechanism.order({'whole': whole, 'b': b, 'a': a, 'mdev': mdev}),
        )

    def test_installation_without_ours(self) -> None:
        for found in ({}, {'whole': WholeCard()}):
            error = self.assertRaises(
                exception.MissingMechanism, mechanism.order, found
            )
            self.assertEqual(('mdev', 'whole'), error.wanted)
            self.assertEqual(tuple(found), error.found)


class LoadTest(testtools.TestCase):
    """The entry points of what is installed."""

    def load_with(self, content: str) -> subprocess.CompletedProcess[str]:
        """Load in a process that has another distribution installed.

        In one of its own, since stevedore remembers what it has found.
        """
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        (folder / 'acme_gpu.py').write_text(content)
        info = folder / 'acme_gpu-1.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(
            'Metadata-Version: 2.1\nName: acme-gpu\nVersion: 1\n'
        )
        (info / 'entry_points.txt').write_text(
            f'[{mechanism.NAMESPACE}]\nacme = acme_gpu:Acme\n'
        )
        return subprocess.run(
            [sys.executable, '-c', LOAD],
            env={
                **os.environ,
                'PYTHONPATH': os.pathsep.join([str(folder), *sys.path]),
                'XDG_CACHE_HOME': str(folder),
            },
            capture_output=True,
            text=True,
        )

    def test_ours(self) -> None:
        first, *_, last = mechanism.load()
        self.assertIsInstance(first, MdevVgpu)
        self.assertIsInstance(last, WholeCard)

    def test_of_others(self) -> None:
        found = self.load_with(ACME)
        self.assertEqual(
            'mdev acme vendor_vfio vf whole\n', found.stdout, found.stderr
        )

    def test_that_does_not_load(self) -> None:
        found = self.load_with('import a_library_that_is_missing')
        self.assertEqual(1, found.returncode)
        self.assertIn('a_library_that_is_missing', found.stderr)
