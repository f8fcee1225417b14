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

"""The file that tells what nova-compute holds."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import pathlib

import fixtures
import testtools

from nova_gpu.claimsfile import ClaimsFile
from nova_gpu.model.address import PciAddress
from nova_gpu.model.claim import ALLOCATED, Claim
from nova_gpu.model.inventory import Unit

NODE = '0a5c0a2e-9f1b-4c55-8d1e-0d6f6a3f9a11'
CARD = PciAddress.parse('0000:3b:00.0')
KEPT, STUCK = (
    Unit('mdev', '0000_3b_00_0', 'CUSTOM_VGPU_X', CARD, device)
    for device in ('one', 'two')
)
CLAIM = Claim(
    'a', (KEPT, STUCK), ALLOCATED, (STUCK,), guest='b',
    uncounted=frozenset({'one'}),
)  # fmt: skip


def write(path: str) -> None:
    """What another process does, and ends."""
    ClaimsFile(path).write(NODE, [CLAIM])


class ClaimsFileTest(testtools.TestCase):
    def setUp(self) -> None:
        super().setUp()
        folder = self.useFixture(fixtures.TempDir()).path
        self.path = pathlib.Path(folder, 'below', 'claims.json')

    def test_round_trip(self) -> None:
        file = ClaimsFile(self.path)
        self.assertIsNone(file.read())
        file.write(NODE, [CLAIM])
        file.write(NODE, [CLAIM])
        told = ClaimsFile(self.path).read()
        assert told is not None
        self.assertEqual(NODE, told.node)
        self.assertEqual((CLAIM,), told.claims)
        self.assertTrue(told.running)

    def test_somebody_reads_when_it_is_written_first(self) -> None:
        self.path.parent.mkdir()
        lock = self.path.with_name('claims.json.lock')
        with open(lock, 'w') as reader:
            fcntl.flock(reader, fcntl.LOCK_SH)
            file = ClaimsFile(self.path)
            file.write(NODE, [])
        self.assertFalse(ClaimsFile(self.path).running())
        file.write(NODE, [CLAIM])
        self.assertTrue(ClaimsFile(self.path).running())

    def test_lock_is_no_program(self) -> None:
        ClaimsFile(self.path).write(NODE, [])
        mode = self.path.with_name('claims.json.lock').stat().st_mode
        self.assertEqual(0, mode & 0o133)

    def test_process_that_has_ended(self) -> None:
        other = multiprocessing.get_context('spawn').Process(
            target=write, args=(str(self.path),)
        )
        other.start()
        other.join()
        told = ClaimsFile(self.path).read()
        assert told is not None
        self.assertEqual((CLAIM,), told.claims)
        self.assertFalse(told.running)

    def test_file_that_is_none(self) -> None:
        self.path.parent.mkdir()
        for text in ('', '[]', '{"version": 2}', '{"version": 1}'):
            self.path.write_text(text)
            self.assertRaises(ValueError, ClaimsFile(self.path).read)
        self.path.write_text(json.dumps({'version': 7}))
        error = self.assertRaises(ValueError, ClaimsFile(self.path).read)
        self.assertIn(f'{self.path} is not of this release', str(error))

    def test_lock_that_has_gone(self) -> None:
        ClaimsFile(self.path).write(NODE, [])
        self.path.with_name('claims.json.lock').unlink()
        told = ClaimsFile(self.path).read()
        assert told is not None
        self.assertFalse(told.running)
