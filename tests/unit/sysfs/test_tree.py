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


"""Reading small files, whatever is in them."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import fixtures
import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu.sysfs.tree import ATTRIBUTE, Tree
from tests.unit import base  # noqa: F401  (loads hypothesis' profile)

EVENTLET = """
import eventlet
eventlet.monkey_patch()

import sys
from nova_gpu.sysfs.tree import Tree

tree = Tree(sys.argv[1])
tree.text('a')
print(*tree.warnings)
"""


class TreeTest(testtools.TestCase):
    """None and a warning that names path and value, never an exception."""

    def setUp(self) -> None:
        super().setUp()
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.tree = Tree(self.root)

    def write(self, content: bytes) -> None:
        (self.root / 'a').write_bytes(content)

    def assert_warned(self, reason: str, name: str = 'a') -> None:
        self.assertEqual([f'{self.root}/{name}: {reason}'], self.tree.warnings)

    def test_text(self) -> None:
        self.write(b' vfio-pci\n')
        self.assertEqual('vfio-pci', self.tree.text('a'))
        self.assertEqual([], self.tree.warnings)

    def test_text_is_never_endless(self) -> None:
        self.write(b'x' * (ATTRIBUTE + 1))
        self.assertEqual(ATTRIBUTE, len(self.tree.text('a') or ''))
        self.assertEqual('xx', self.tree.text('a', limit=2))

    def test_bytes_that_are_no_text(self) -> None:
        self.write(b'\xff\xfe')
        self.assertEqual('\ufffd\ufffd', self.tree.text('a'))

    def test_missing(self) -> None:
        self.assertIsNone(self.tree.text('a', optional=True))
        self.assertIsNone(self.tree.number('a', optional=True))
        self.assertEqual([], self.tree.warnings)
        self.assertIsNone(self.tree.text('a'))
        self.assert_warned('No such file or directory')

    def test_below_a_file(self) -> None:
        self.write(b'1')
        self.assertIsNone(self.tree.text('a/b', optional=True))
        self.assertIsNone(self.tree.link('a/b'))
        self.assertEqual([], self.tree.names('a/b'))
        self.assertEqual([], self.tree.warnings)

    def test_unreadable_is_no_missing_file(self) -> None:
        # A directory, since root may read any file.
        (self.root / 'a').mkdir()
        self.assertIsNone(self.tree.text('a', optional=True))
        self.assert_warned('Is a directory')

    def test_unreadable_on_eventlet(self) -> None:
        # Its os.read would wait for the directory, and forget about that.
        (self.root / 'a').mkdir()
        found = subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', EVENTLET, self.root],
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        self.assertEqual(
            f'{self.root}/a: Is a directory\n', found.stdout, found.stderr
        )

    def test_number(self) -> None:
        for content, expected in ((b'7\n', 7), (b'-1\n', -1), (b'007', 7)):
            self.write(content)
            self.assertEqual(expected, self.tree.number('a'))
        self.assertEqual([], self.tree.warnings)

    def test_not_a_number(self) -> None:
        for content in (b'', b'\n', b'x', b'0x10', b'1_0', b'1.5', b'1 2',
                        b'9' * 5000, b'--1', '\u0661'.encode()):  # fmt: skip
            self.tree.warnings.clear()
            self.write(content)
            self.assertIsNone(self.tree.number('a', optional=True))
            shown = content.decode().strip()[:40]
            self.assert_warned(f'{shown!r} is not a number')

    def test_hexadecimal(self) -> None:
        self.write(b'0x10de\n')
        self.assertEqual(0x10DE, self.tree.hex_number('a', 4))
        self.assertEqual([], self.tree.warnings)
        self.assertIsNone(self.tree.hex_number('b', 4))
        self.assert_warned('No such file or directory', 'b')

    def test_hexadecimal_number_that_is_cut(self) -> None:
        whole = b'0x030200'
        for cut in range(len(whole)):
            self.tree.warnings.clear()
            self.write(whole[:cut])
            self.assertIsNone(self.tree.hex_number('a', 6))
            self.assert_warned(
                f'{whole[:cut].decode()!r} is not a number of 6 hexadecimal '
                f'digits'
            )

    def test_link(self) -> None:
        # As in sysfs: relative, and it may point to nothing.
        os.symlink('../../../bus/pci/drivers/vfio-pci', self.root / 'a')
        self.assertEqual('vfio-pci', self.tree.link('a'))
        self.assertEqual(
            '../../../bus/pci/drivers/vfio-pci', self.tree.target('a')
        )
        self.assertIsNone(self.tree.link('b'))
        self.assertEqual([], self.tree.warnings)

    def test_file_in_the_place_of_a_link(self) -> None:
        self.write(b'')
        self.assertIsNone(self.tree.link('a'))
        self.assert_warned('Invalid argument')

    def test_names(self) -> None:
        for name in 'cab':
            (self.root / name).mkdir()
        self.assertEqual(['a', 'b', 'c'], self.tree.names(''))
        self.assertEqual([], self.tree.names('d'))
        self.assertEqual([], self.tree.warnings)
        self.assertEqual([], self.tree.names('d', optional=False))
        self.assert_warned('No such file or directory', 'd')

    def test_link_that_leads_to_itself(self) -> None:
        os.symlink('a', self.root / 'a')
        reason = os.strerror(40)
        self.assertEqual([], self.tree.names('a'))
        self.assert_warned(reason)
        self.assertIsNone(self.tree.text('a', optional=True))
        self.assertEqual(2, len(self.tree.warnings))

    def test_reads_are_counted(self) -> None:
        for method in (
            self.tree.text, self.tree.number, self.tree.link,
            self.tree.target, self.tree.names,
        ):  # fmt: skip
            before = self.tree.reads
            method('a')
            self.assertEqual(before + 1, self.tree.reads)

    def test_root_of_the_machine(self) -> None:
        self.assertEqual('/sys/x', Tree().path('sys/x'))
        self.assertEqual(f'{self.root}/sys/x', self.tree.path('sys/x'))

    @given(st.binary(max_size=64))
    def test_anything_is_read(self, content: bytes) -> None:
        self.write(content)
        number = self.tree.number('a')
        if number is not None:
            self.assertEqual(number, int(content))
        self.tree.hex_number('a', 4)
        self.assertIsInstance(self.tree.text('a'), str)
