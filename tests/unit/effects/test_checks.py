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

"""Arguments that the privileged side believes, and those it doesn't."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu.effects import checks
from tests.unit import base

UUID = base.instance('nothing')


class ChecksTest(testtools.TestCase):
    """Each takes what it is for, and says what was wrong with the rest."""

    def refused(
        self, check: Callable[[Any], str], message: str, *values: object
    ) -> None:
        for value in values:
            with self.assertRaisesRegex(ValueError, message):
                check(value)

    def test_address(self) -> None:
        self.assertEqual('0000:3b:00.0', checks.address('3B:00.0'))
        self.assertEqual('0001:04:03.7', checks.address('0001:04:03.7'))
        self.refused(
            checks.address, 'not a PCI address', '', '..', 'mtty', '3b:00.8',
            '../0000:3b:00.0', '0000:3b:00.0/..', '0000:3b:00.0\0',
            '0000:3b:00.0\n1',
        )  # fmt: skip

    def test_parent(self) -> None:
        for name in ('0000:3b:00.0', 'mtty', 'my_mdpy-1'):
            self.assertEqual(name, checks.parent(name))
        self.refused(
            checks.parent, 'no PCI address and no name', '', '.', '..', '-a',
            'a/b', '../mtty', 'mtty\n', 'mt ty', 'mtty\0', 'ä', 'x' * 65,
        )  # fmt: skip

    def test_mdev_type(self) -> None:
        for kind in ('nvidia-233', 'i915-GVTg_V5_4', 'a.b', 'x' * 64):
            self.assertEqual(kind, checks.mdev_type(kind))
        self.refused(
            checks.mdev_type, 'not the name of a vGPU type', '', '.', '..',
            '../x', 'a/b', 'a\n', 'a b', '-a', 'ä', 'x' * 65, 'a\0',
        )  # fmt: skip

    def test_type_number(self) -> None:
        for number in ('0', '558', '4294967295'):
            self.assertEqual(number, checks.type_number(number))
        self.refused(
            checks.type_number, 'not the number of a vGPU type', '', '-1',
            '00', '0558', '5 8', '558\n', '0x22', '٣', '1' * 11, '..',
        )  # fmt: skip

    def test_count(self) -> None:
        self.assertEqual('1', checks.count(1))
        self.assertEqual('65535', checks.count(65535))
        self.refused(
            checks.count, 'not a number of functions', 0, -1, 65536, True,
            1.0, '4', None,
        )  # fmt: skip

    def test_params(self) -> None:
        for text in ('a=b', 'frame_rate_limiter=0,disable_vnc=1'):
            self.assertEqual(text, checks.params(text))
        self.refused(
            checks.params, 'not key=value', '', 'a', 'a=', 'a=b,', 'a=b\n',
            'a=b\nc=d', 'a=b c=d', 'a=b\0', 'a=../x',
        )  # fmt: skip

    def test_uuid(self) -> None:
        self.assertEqual(UUID, checks.uuid(UUID.upper()))
        self.refused(
            checks.uuid, 'not a UUID', '', '..', '../' + UUID, UUID[:-1],
            UUID + '\n/..',
        )  # fmt: skip

    def test_cards_by_class(self) -> None:
        for code in ('0x030000', '0x030200', '0x038000', '0x120000'):
            self.assertTrue(checks.is_card(code))
        for code in ('0x020000', '0x010802', '0x0302', '030200', '', 'x'):
            self.assertFalse(checks.is_card(code))

    @given(st.text() | st.uuids().map(str))
    def test_no_text_is_more_than_one_name(self, text: str) -> None:
        for check in (
            checks.address,
            checks.parent,
            checks.mdev_type,
            checks.type_number,
            checks.params,
            checks.uuid,
        ):
            try:
                found = check(text)
            except ValueError:
                continue
            self.assertRegex(found, r'\A[!-.0-~]+\Z')
            self.assertNotIn(found, (os.curdir, os.pardir))
