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


"""Privileged writes: what they refuse, and how their errors come back."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import fixtures
import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu import exception, privsep
from tests.unit import base

#: No machine has it: the last function of the last slot of the last bus.
PARENT = 'ffff:ff:1f.7'
UUID = base.instance('nothing')

#: Tell what each call answers, in a process of its own.
CALLS = f"""
import json

from oslo_config import cfg
from oslo_privsep import capabilities, priv_context

from nova_gpu import exception, privsep

def answers():
    for call, args in (
        (privsep.create_mdev, ('{PARENT}', 'nvidia-233', '{UUID}')),
        (privsep.set_vgpu_params, ('{UUID}', 'a=b')),
        (privsep.create_mdev, ('{PARENT}', '../..', '{UUID}')),
        (privsep.remove_mdev, ('{UUID}',)),
    ):
        try:
            yield call(*args)
        except exception.EffectFailed as exc:
            yield [exc.action, exc.path, exc.reason, exc.errno]

def override(name, value):
    cfg.CONF.set_override(name, value, 'nova_gpu_privileged')

"""
FORK = """
# Only who has a capability can keep it.
if capabilities.CAP_DAC_OVERRIDE not in capabilities.get_caps()[1]:
    override('capabilities', [])
privsep.sysfs_pctxt.start(priv_context.Method.FORK)
print(json.dumps([*answers()]))
"""
HELPER = """
override('helper_command', {!r})
print(json.dumps([*answers()]))
"""


class ArgumentTest(testtools.TestCase):
    """What a caller passes can't leave sysfs."""

    def test_path(self) -> None:
        self.assertEqual(
            'class/mdev_bus/0000:3b:00.0/mdev_supported_types/nvidia-233/'
            'create',
            privsep.create_path('3B:00.0', 'nvidia-233'),
        )
        for kind in ('i915-GVTg_V5_4', 'mtty-1', 'a.b', 'x' * 64):
            self.assertIn(f'/{kind}/', privsep.create_path(PARENT, kind))

    def test_parents_that_are_none(self) -> None:
        for parent in ('', 'mtty', '../0000:3b:00.0', '0000:3b:00.0/..',
                       '0000:3b:00.8'):  # fmt: skip
            with self.assertRaisesRegex(ValueError, 'not a PCI address'):
                privsep.create_path(parent, 'nvidia-233')

    def test_types_that_are_none(self) -> None:
        for kind in ('', '.', '..', '../x', 'a/b', 'a\n', 'a b', '-a', 'ä',
                     'x' * 65, 'a\0'):  # fmt: skip
            with self.assertRaisesRegex(ValueError, 'not the name of a vGPU'):
                privsep.create_path(PARENT, kind)

    def test_uuid(self) -> None:
        self.assertEqual(UUID, privsep.checked_uuid(UUID.upper()))
        for text in ('', '..', '../' + UUID, UUID[:-1], UUID + '\n/..'):
            with self.assertRaisesRegex(ValueError, 'not a UUID'):
                privsep.checked_uuid(text)

    @given(st.text(), st.text())
    def test_no_text_leaves_the_folder(self, parent: str, kind: str) -> None:
        for first, second in ((parent, kind), (PARENT, kind)):
            try:
                path = privsep.create_path(first, second)
            except ValueError:
                continue
            self.assertEqual(os.path.normpath(path), path)
            self.assertEqual(6, len(path.split('/')))

    @given(st.text() | st.uuids().map(str))
    def test_uuid_is_one_or_refused(self, text: str) -> None:
        try:
            found = privsep.checked_uuid(text)
        except ValueError:
            return
        self.assertRegex(
            found, r'\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z'
        )


class WriteTest(testtools.TestCase):
    """One attribute, in one call."""

    def setUp(self) -> None:
        super().setUp()
        self.path = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path, 'attribute'
        )

    def refusal(self, *, missing_ok: bool = False) -> int | None:
        with self.assertRaises(OSError) as raised:
            privsep.write(self.path, '1', missing_ok=missing_ok)
        return raised.exception.errno

    def test_content(self) -> None:
        self.path.write_text('')
        privsep.write(self.path, UUID)
        self.assertEqual(UUID, self.path.read_text())

    def test_nothing_is_made(self) -> None:
        self.assertEqual(errno.ENOENT, self.refusal())
        privsep.write(self.path, '1', missing_ok=True)
        self.assertFalse(self.path.exists())

    def test_link(self) -> None:
        target = self.path.with_name('target')
        target.write_text('as it was')
        self.path.symlink_to('target')
        self.assertEqual(errno.ELOOP, self.refusal())
        self.assertEqual(errno.ELOOP, self.refusal(missing_ok=True))
        self.assertEqual('as it was', target.read_text())

    def test_folder(self) -> None:
        self.path.mkdir()
        self.assertEqual(errno.EISDIR, self.refusal(missing_ok=True))

    def test_nothing_stays_open(self) -> None:
        self.path.write_text('')
        before = len(os.listdir('/proc/self/fd'))
        for _ in range(10):
            privsep.write(self.path, '1')
        self.assertEqual(before, len(os.listdir('/proc/self/fd')))


class EffectsTest(testtools.TestCase):
    """Errors name what was tried; here in one process."""

    def setUp(self) -> None:
        super().setUp()
        privsep.sysfs_pctxt.set_client_mode(False)
        self.addCleanup(privsep.sysfs_pctxt.set_client_mode, True)

    def refusal(
        self, call: Callable[..., None], *args: str
    ) -> exception.EffectFailed:
        error: exception.EffectFailed = self.assertRaises(
            exception.EffectFailed, call, *args
        )
        for arg in args:
            self.assertIn(arg, error.path)
            self.assertIn(arg, str(error))
        return error

    def test_what_is_not_there(self) -> None:
        error = self.refusal(privsep.create_mdev, PARENT, 'nvidia-233', UUID)
        self.assertEqual('creating a vGPU', error.action)
        self.assertEqual(errno.ENOENT, error.errno)
        # The file itself is named as well.
        self.assertIn(
            f'/sys/class/mdev_bus/{PARENT}/mdev_supported_types/nvidia-233/'
            f'create',
            str(error),
        )
        error = self.refusal(privsep.set_vgpu_params, UUID, 'a=b')
        self.assertEqual('setting vGPU parameters', error.action)
        self.assertEqual(errno.ENOENT, error.errno)

    def test_removing_what_is_not_there(self) -> None:
        privsep.remove_mdev(UUID)

    def test_wrong_arguments(self) -> None:
        for call, *args in (
            (privsep.create_mdev, 'mtty', 'nvidia-233', UUID),
            (privsep.create_mdev, PARENT, '../..', UUID),
            (privsep.create_mdev, PARENT, 'nvidia-233', 'no-uuid'),
            (privsep.remove_mdev, '../..'),
            (privsep.set_vgpu_params, '../..', 'a=b'),
            (privsep.set_vgpu_params, UUID, 'a=b\nc=d'),
            (privsep.set_vgpu_params, UUID, ''),
        ):
            error = self.refusal(call, *args)
            self.assertIsNone(error.errno)


class DaemonTest(testtools.TestCase):
    """What crosses the privilege line."""

    def answers(self, script: str) -> list[list[Any] | None]:
        """What a process tells; a test runner itself should not fork."""
        found = subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', CALLS + script],
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        self.assertEqual(0, found.returncode, found.stderr)
        answers: list[list[Any] | None] = json.loads(found.stdout)
        return answers

    def test_errors_of_a_forked_daemon(self) -> None:
        # Without privileges the daemon has none either: it answers the same.
        created, params, wrong, removed = self.answers(FORK)
        self.assertEqual(
            ['creating a vGPU', f'{PARENT} nvidia-233 {UUID}'], created[:2]
        )
        self.assertIn(os.strerror(errno.ENOENT), created[2])
        self.assertEqual(errno.ENOENT, created[3])
        self.assertEqual('setting vGPU parameters', params[0])
        self.assertEqual(errno.ENOENT, params[3])
        self.assertIn("'../..' is not the name of a vGPU type", wrong[2])
        self.assertIsNone(wrong[3])
        self.assertIsNone(removed)

    def test_daemon_that_does_not_start(self) -> None:
        for answer in self.answers(HELPER.format('false')):
            self.assertIn('privsep helper command exited non-zero', answer[2])
            self.assertIsNone(answer[3])

    def test_helper_that_is_not_installed(self) -> None:
        # Not to be taken for an mdev that isn't there.
        for answer in self.answers(HELPER.format('/no/such/helper')):
            self.assertIn('/no/such/helper', answer[2])
