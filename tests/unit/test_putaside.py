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

"""What is put aside, in files."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import stat

import fixtures
import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu.putaside import PutAside, device_name
from tests.unit import base

CARD = '0000:41:00.0'
UUID = base.instance('mdev')


class PutAsideTest(testtools.TestCase):
    def setUp(self) -> None:
        super().setUp()
        root = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.folder = root / 'gpu/put-aside'
        self.aside = PutAside(self.folder)

    def test_no_folder(self) -> None:
        self.assertEqual({}, self.aside.read())
        self.assertFalse(self.aside.remove(CARD))
        self.assertFalse(self.folder.exists())

    def test_there_and_back(self) -> None:
        self.aside.add(CARD, 'the reset failed: EIO')
        self.aside.add(UUID, 'wedged\n"é"')
        # Another process, and another life.
        self.assertEqual(
            {CARD: 'the reset failed: EIO', UUID: 'wedged\n"é"'},
            PutAside(str(self.folder)).read(),
        )
        self.assertTrue(self.aside.remove(CARD))
        self.assertFalse(self.aside.remove(CARD))
        self.assertEqual([UUID], list(self.aside.read()))

    def test_file(self) -> None:
        before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        self.aside.add(CARD, 'why')
        [path] = self.folder.iterdir()
        self.assertEqual(CARD, path.name)
        self.assertEqual(0o644, stat.S_IMODE(path.stat().st_mode))
        content = json.loads(path.read_text())
        self.assertEqual('why', content['reason'])
        since = datetime.datetime.fromisoformat(content['since'])
        self.assertEqual(datetime.timedelta(0), since.utcoffset())
        self.assertGreaterEqual(since, before)
        self.assertEqual({'reason', 'since'}, set(content))

    def test_folder_is_for_all_to_read(self) -> None:
        self.addCleanup(os.umask, os.umask(0o022))
        self.aside.add(CARD, 'why')
        self.assertEqual(0o755, stat.S_IMODE(self.folder.stat().st_mode))

    def test_the_last_reason_counts(self) -> None:
        self.aside.add(CARD, 'first')
        self.aside.add('41:00.0', 'second')
        self.assertEqual({CARD: 'second'}, self.aside.read())

    def test_one_name_for_each_device(self) -> None:
        self.aside.add(UUID.upper(), 'why')
        self.assertEqual({UUID: 'why'}, self.aside.read())
        self.assertTrue(self.aside.remove('{' + UUID + '}'))

    def test_devices_that_are_none(self) -> None:
        for device in ('', '.', '..', '../' + CARD, 'mtty', CARD + '/x', '\0'):
            with self.assertRaisesRegex(ValueError, 'neither a PCI address'):
                self.aside.add(device, 'why')
            with self.assertRaisesRegex(ValueError, 'neither a PCI address'):
                self.aside.remove(device)
        self.assertFalse(self.folder.exists())

    @given(st.text())
    def test_no_name_leaves_the_folder(self, device: str) -> None:
        try:
            name = device_name(device)
        except ValueError:
            return
        self.assertRegex(name, r'\A[0-9a-f]{4}[0-9a-f:.-]+\Z')

    def test_what_can_not_be_read_stays_aside(self) -> None:
        self.folder.mkdir(parents=True)
        path = self.folder / CARD
        for content in ('', '{', '[]', '{}', '"text"', '\udc80'):
            path.write_text(content, errors='surrogateescape')
            self.assertIn(f'{path}: not readable: ', self.aside.read()[CARD])
        path.unlink()
        path.mkdir()
        self.assertEqual({CARD: f'{path}: Is a directory'}, self.aside.read())

    def test_other_files_are_not_ours(self) -> None:
        self.aside.add(CARD, 'why')
        for name in ('README', CARD.upper() + '.bak', UUID.upper(), '.x.tmp'):
            (self.folder / name).write_text('{"reason": "no"}')
        self.assertEqual({CARD: 'why'}, self.aside.read())

    def test_what_can_not_be_written(self) -> None:
        self.folder.parent.mkdir()
        self.folder.write_text('')
        self.assertRaises(OSError, self.aside.add, CARD, 'why')
        self.assertRaises(OSError, self.aside.read)
        self.folder.unlink()
        (self.folder / CARD).mkdir(parents=True)
        self.assertRaises(OSError, self.aside.add, CARD, 'why')
        # Nothing half written stays.
        self.assertEqual([CARD], os.listdir(self.folder))
