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
from nova_gpu.model.claim import ALLOCATED, CLAIMED, Claim
from nova_gpu.model.claimtimes import ClaimTimes
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
        self.assertEqual(['a'], list(told.times.since))
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

    def times(self, file: ClaimsFile, *claims: Claim) -> ClaimTimes:
        """What is told of the times once these are the claims."""
        file.write(NODE, claims)
        told = file.read()
        assert told is not None
        return told.times

    def test_times(self) -> None:
        now = [100.0]
        file = ClaimsFile(self.path, lambda: now[0])
        claimed = Claim('a', (KEPT,), CLAIMED)
        self.assertEqual(
            ClaimTimes({'a': ('claimed', 100.0)}), self.times(file, claimed)
        )
        now[0] = 107.5
        settled = Claim('a', (KEPT,), ALLOCATED)
        failed = Claim('c', (STUCK,), CLAIMED)
        self.assertEqual(
            ClaimTimes(
                {'a': ('allocated', 107.5), 'c': ('claimed', 107.5)}, 1, 7.5
            ),
            self.times(file, settled, failed),
        )
        now[0] = 110.0
        stuck = Claim('c', (STUCK,), CLAIMED, (STUCK,))
        found = self.times(file, settled, stuck)
        self.assertEqual((1, 1), (found.settled, found.abandoned))
        self.assertEqual(('stuck', 110.0), found.since['c'])
        # What is given back at last was abandoned before.
        found = self.times(file, settled)
        self.assertEqual(
            (1, 7.5, 1), (found.settled, found.seconds, found.abandoned)
        )
        self.assertEqual({'a': ('allocated', 107.5)}, found.since)

    def test_times_over_a_restart(self) -> None:
        before = ClaimsFile(self.path, lambda: 100.0)
        waiting = Claim('c', (STUCK,), CLAIMED)
        before.write(NODE, [Claim('a', (KEPT,), ALLOCATED), waiting])
        after = ClaimsFile(self.path, lambda: 200.0)
        found = self.times(
            after,
            Claim('a', (KEPT,), ALLOCATED),
            Claim('b', (STUCK,), ALLOCATED),
        )
        self.assertEqual(
            {'a': ('allocated', 100.0), 'b': ('allocated', 200.0)},
            found.since,
        )
        # The one that waited isn't there any more.
        self.assertEqual((0, 1), (found.settled, found.abandoned))

    def test_file_without_times(self) -> None:
        file = ClaimsFile(self.path, lambda: 300.0)
        file.write(NODE, [CLAIM])
        content = json.loads(self.path.read_text())
        for name in ('settled', 'settled_seconds', 'abandoned'):
            del content[name]
        del content['claims'][0]['since']
        self.path.write_text(json.dumps(content))
        told = ClaimsFile(self.path).read()
        assert told is not None
        self.assertEqual(((CLAIM,), ClaimTimes()), (told.claims, told.times))

    def test_clock_that_is_set_back(self) -> None:
        now = [100.0]
        file = ClaimsFile(self.path, lambda: now[0])
        file.write(NODE, [Claim('a', (KEPT,), CLAIMED)])
        now[0] = 50.0
        found = self.times(file, Claim('a', (KEPT,), ALLOCATED))
        self.assertEqual((1, 0.0), (found.settled, found.seconds))
