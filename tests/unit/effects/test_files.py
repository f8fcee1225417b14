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

"""One attribute, in one call, below one folder."""

from __future__ import annotations

import errno
import os
import pathlib

import fixtures
import testtools

from nova_gpu.effects.files import Attributes


class AttributesTest(testtools.TestCase):
    def setUp(self) -> None:
        super().setUp()
        root = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.sys = root / 'sys'
        self.outside = root / 'system'  # begins with the same letters
        for folder in (self.sys / 'devices/card', self.outside):
            folder.mkdir(parents=True)
            (folder / 'reset').write_text('as it was')
        (self.sys / 'bus').mkdir()
        (self.sys / 'bus/card').symlink_to('../devices/card')
        self.attributes = Attributes(self.sys)

    def refusal(self, folder: str, name: str = 'reset') -> OSError:
        with self.assertRaises(OSError) as raised:
            self.attributes.write(folder, name, '1')
        return raised.exception

    def assertOutside(self, folder: str, name: str = 'reset') -> None:
        with self.assertRaisesRegex(ValueError, f'out of {self.sys}$'):
            self.attributes.write(folder, name, '1')
        with self.assertRaisesRegex(ValueError, f'out of {self.sys}$'):
            self.attributes.read(folder, name)
        self.assertEqual('as it was', (self.outside / 'reset').read_text())

    def test_through_the_links_of_sysfs(self) -> None:
        self.attributes.write('bus/card', 'reset', '1')
        path = self.sys / 'devices/card/reset'
        self.assertTrue(path.read_text().startswith('1'))
        path.write_text(' some text \n')
        self.assertEqual(
            'some text', self.attributes.read('bus/card', 'reset')
        )

    def test_sysfs_itself_may_be_a_link(self) -> None:
        link = self.sys.with_name('link')
        link.symlink_to('sys')
        self.assertEqual(
            'as it was', Attributes(link).read('bus/card', 'reset')
        )

    def test_name_of_a_link(self) -> None:
        self.assertEqual('card', self.attributes.link('bus', 'card'))

    def test_link_that_leaves(self) -> None:
        (self.sys / 'bus/out').symlink_to('../../system')
        (self.sys / 'bus/far').symlink_to(self.outside)
        for folder in ('bus/out', 'bus/far'):
            self.assertOutside(folder)

    def test_dots_that_leave(self) -> None:
        for folder in ('..', '../system', 'bus/../../system', '.'):
            self.assertOutside(folder)

    def test_path_that_leaves(self) -> None:
        self.assertOutside(str(self.outside))

    def test_link_at_the_end(self) -> None:
        for target in ('../../../system/reset', 'other'):
            path = self.sys / 'devices/card/link'
            path.unlink(missing_ok=True)
            path.symlink_to(target)
            (self.sys / 'devices/card/other').write_text('as it was')
            self.assertEqual(
                errno.ELOOP, self.refusal('bus/card', 'link').errno
            )
            with self.assertRaises(OSError):
                self.attributes.read('bus/card', 'link')
            self.assertEqual('as it was', path.read_text())

    def test_link_in_a_circle(self) -> None:
        (self.sys / 'bus/circle').symlink_to('circle')
        self.assertEqual(errno.ELOOP, self.refusal('bus/circle').errno)

    def test_values(self) -> None:
        for value in ('', '1\n', '1\n2', '1 2', '\0', '1\0', 'ä', '\x7f'):
            with self.assertRaisesRegex(ValueError, 'one word of plain text'):
                self.attributes.write('bus/card', 'reset', value)
        self.assertEqual(
            'as it was', self.attributes.read('bus/card', 'reset')
        )

    def test_nothing_is_made(self) -> None:
        path = self.sys / 'devices/card/new'
        error = self.refusal('bus/card', 'new')
        self.assertEqual(
            (errno.ENOENT, str(path)), (error.errno, error.filename)
        )
        self.assertFalse(path.exists())
        error = self.refusal('bus/none')
        self.assertEqual(errno.ENOENT, error.errno)
        self.assertEqual(str(self.sys / 'bus/none'), error.filename)

    def test_folder_in_place_of_an_attribute(self) -> None:
        self.assertEqual(errno.EISDIR, self.refusal('devices', 'card').errno)

    def test_what_the_kernel_says_to_the_value(self) -> None:
        # A device that opens and takes nothing, as attributes do.
        attributes = Attributes('/')
        with self.assertRaises(OSError) as raised:
            attributes.write('dev', 'full', '1')
        self.assertEqual(errno.ENOSPC, raised.exception.errno)

    def test_nothing_stays_open(self) -> None:
        before = len(os.listdir('/proc/self/fd'))
        for _ in range(10):
            self.attributes.write('bus/card', 'reset', '1')
            self.attributes.read('bus/card', 'reset')
        self.assertEqual(before, len(os.listdir('/proc/self/fd')))
