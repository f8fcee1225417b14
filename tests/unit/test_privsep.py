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

"""Privileged acts: what crosses the privilege line, and what comes back."""

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

from nova_gpu import exception, privsep
from nova_gpu.effects.host import SRIOV_MANAGE
from nova_gpu.mechanism.base import Effects
from nova_gpu.model.partition import parse
from tests.fixtures import fmpm
from tests.fixtures.sysfs import FakeSysfs, FakeType
from tests.unit import base

CARD = '0000:41:00.0'
VF = '0000:41:00.4'
UUID = base.instance('nothing')
TYPE = 'nvidia-558'

#: Tell what each call answers, in a process of its own.
CALLS = f"""
import json

from oslo_config import cfg
from oslo_privsep import capabilities, priv_context

from nova_gpu import conf, exception, privsep

def answers():
    for call, args in (
        (privsep.create_mdev, ('{CARD}', '{TYPE}', '{UUID}')),
        (privsep.set_vgpu_params, ('{VF}', 'a=b')),
        (privsep.set_vgpu_type, ('{VF}', '558')),
        (privsep.reset_function, ('{CARD}',)),
        (privsep.enable_vfs, ('{CARD}', 4)),
        (privsep.create_mdev, ('{CARD}', 'nvidia-1', '{UUID}')),
        (privsep.create_mdev, ('{CARD}', '../..', '{UUID}')),
        (privsep.enable_vfs, ('{VF}', 4)),
        (privsep.remove_mdev, ('{UUID}',)),
        (privsep.read_partitions, ()),
    ):
        try:
            yield call(*args)
        except exception.EffectFailed as exc:
            yield [exc.action, exc.path, exc.reason, exc.errno]

"""
FORK = """
conf.register_opts(cfg.CONF)
cfg.CONF.set_override('host_root', {0!r}, 'gpu')
cfg.CONF.set_override('fmpm', {0!r} + '/usr/bin/fmpm', 'gpu')
cfg.CONF.set_override('fabric_manager', '127.0.0.1', 'gpu')
# Only who has a capability can keep it.
if capabilities.CAP_DAC_OVERRIDE not in capabilities.get_caps()[1]:
    for section in ('nova_gpu_privileged', 'nova_gpu_fabric'):
        cfg.CONF.set_override('capabilities', [], section)
for context in (
    privsep.sysfs_pctxt, privsep.sriov_pctxt, privsep.fabric_pctxt
):
    context.start(priv_context.Method.FORK)
# What the caller says later, the daemons don't hear.
cfg.CONF.set_override('host_root', '/no/such/folder', 'gpu')
cfg.CONF.set_override('fmpm', '/no/such/program', 'gpu')
print(json.dumps([*answers()]))
"""
HELPER = """
for section in ('nova_gpu_privileged', 'nova_gpu_sriov', 'nova_gpu_fabric'):
    cfg.CONF.set_override('helper_command', {!r}, section)
print(json.dumps([*answers()]))
"""


class HostTest(testtools.TestCase):
    """A card that takes mdevs, with a virtual function, in files."""

    def setUp(self) -> None:
        super().setUp()
        self.fake = FakeSysfs(self.useFixture(fixtures.TempDir()).path)
        self.root = str(self.fake.root)
        self.fake.add_gpu(
            CARD, iommu_group=40, types=(FakeType(TYPE, 'NVIDIA A40-8Q', 8),),
            units=48, driver='nvidia',
        )  # fmt: skip
        self.fake.add_function(VF, 0x10DE, 0x2235, 0x0302, iommu_group=41)
        devices = 'sys/bus/pci/devices'
        for name, content in (
            (f'{VF}/nvidia/vgpu_params', ''),
            (f'{VF}/nvidia/current_vgpu_type', '0'),
            (f'{VF}/sriov_numvfs', '1'),
            (f'{CARD}/reset', ''),
            (f'{CARD}/sriov_numvfs', '0'),
        ):
            self.fake.write(f'{devices}/{name}', content)
        script = pathlib.Path(self.root, SRIOV_MANAGE)
        script.parent.mkdir(parents=True)
        script.write_text(f'#!/bin/sh\necho "$@" > {self.root}/said\n')
        script.chmod(0o755)
        self.fake.divide(fmpm.HGX_H100)
        fmpm.install(self.fake.fabric, self.fake.root / 'usr/bin/fmpm')

    def assertDone(self) -> None:
        """All that ``CALLS`` ask for is in the files."""
        types = self.fake.device(CARD) / 'mdev_supported_types'
        for path, content in (
            (types / TYPE / 'create', UUID),
            (self.fake.device(VF) / 'nvidia/vgpu_params', 'a=b'),
            (self.fake.device(VF) / 'nvidia/current_vgpu_type', '558'),
            (self.fake.device(CARD) / 'reset', '1'),
            (self.fake.root / 'said', f'-e {CARD}'),
        ):
            self.assertEqual(content, path.read_text().strip(), path)


class InProcessTest(HostTest):
    """Without a daemon, as the command line works."""

    def setUp(self) -> None:
        super().setUp()
        within = privsep.in_process(self.root)
        within.__enter__()
        self.addCleanup(within.__exit__, None, None, None)
        # The module is what mechanisms take.
        self.effects: Effects = privsep

    def refusal(
        self, call: Callable[..., None], *args: object
    ) -> exception.EffectFailed:
        error: exception.EffectFailed = self.assertRaises(
            exception.EffectFailed, call, *args
        )
        for arg in args:
            self.assertIn(str(arg), error.path)
            self.assertIn(str(arg), str(error))
        return error

    def test_all(self) -> None:
        self.effects.create_mdev(CARD, TYPE, UUID)
        self.effects.set_vgpu_params(VF, 'a=b')
        self.effects.set_vgpu_type(VF, '558')
        self.effects.reset_function(CARD)
        self.effects.enable_vfs(CARD, 4)
        self.effects.remove_mdev(UUID)
        self.assertDone()

    def test_what_is_not_there(self) -> None:
        gone = 'ffff:ff:1f.7'
        for call, args, action, path in (
            (self.effects.create_mdev, (gone, TYPE, UUID), 'creating a vGPU',
             f'class/mdev_bus/{gone}'),
            (self.effects.set_vgpu_params, (UUID, 'a=b'),
             'setting vGPU parameters', f'bus/mdev/devices/{UUID}'),
            (self.effects.set_vgpu_params, (gone, 'a=b'),
             'setting vGPU parameters', f'bus/pci/devices/{gone}'),
            (self.effects.set_vgpu_type, (gone, '0'),
             'setting the vGPU type', f'bus/pci/devices/{gone}'),
            (self.effects.reset_function, (gone,), 'resetting a GPU',
             f'bus/pci/devices/{gone}'),
            (self.effects.enable_vfs, (gone, 4), 'enabling virtual functions',
             f'bus/pci/devices/{gone}'),
        ):  # fmt: skip
            error = self.refusal(call, *args)
            self.assertEqual(
                (action, errno.ENOENT), (error.action, error.errno)
            )
            # The file itself is named as well.
            self.assertIn(f'{self.root}/sys/{path}', error.reason)

    def test_wrong_arguments(self) -> None:
        for call, *args in (
            (self.effects.create_mdev, '../mtty', TYPE, UUID),
            (self.effects.create_mdev, CARD, '../..', UUID),
            (self.effects.create_mdev, CARD, TYPE, 'no-uuid'),
            (self.effects.remove_mdev, '../..'),
            (self.effects.set_vgpu_params, '../..', 'a=b'),
            (self.effects.set_vgpu_params, UUID, 'a=b\nc=d'),
            (self.effects.set_vgpu_type, VF, '1\n'),
            (self.effects.set_vgpu_type, '../..', '1'),
            (self.effects.reset_function, '../..'),
            (self.effects.enable_vfs, '../..', 1),
            (self.effects.enable_vfs, CARD, -1),
        ):
            self.assertIsNone(self.refusal(call, *args).errno)

    def test_partitions(self) -> None:
        # Machines that run tests may be busy.
        for name in ('LIST_SECONDS', 'CHANGE_SECONDS'):
            self.useFixture(
                fixtures.MonkeyPatch(f'nova_gpu.effects.fmpm.{name}', 300)
            )
        program = self.fake.root / 'usr/bin/fmpm'
        with privsep.in_process(
            self.root, fmpm=str(program), fabric_manager='127.0.0.1'
        ):
            self.assertEqual(15, len(parse(self.effects.read_partitions())))
            self.effects.activate_partition(3)
            error = self.refusal(self.effects.activate_partition, 0)
            self.assertEqual(errno.EBUSY, error.errno)
            self.effects.deactivate_partition(3, [CARD])
            self.effects.deactivate_partition(3, ['ffff:ff:1f.7'])
            for number, cards in ((-1, []), (3, ['../..'])):
                wrong = self.assertRaises(
                    exception.EffectFailed,
                    self.effects.deactivate_partition, number, cards,
                )  # fmt: skip
                self.assertIsNone(wrong.errno)
            with fmpm.changing(self.fake.fabric) as fabric:
                fabric.waits = True
            error = self.assertRaises(
                exception.EffectFailed, self.effects.read_partitions
            )
            self.assertEqual(errno.EAGAIN, error.errno)
            self.effects.set_active_partitions([3, 6])
        self.assertEqual([3, 6], fmpm.Fabric.load(self.fake.fabric).active)

    def test_no_fabric_manager(self) -> None:
        error = self.assertRaises(
            exception.EffectFailed, self.effects.read_partitions
        )
        self.assertIn("[gpu] fabric_manager '' is neither", str(error))

    def test_program_that_fails(self) -> None:
        self.fake.write(SRIOV_MANAGE, '#!/bin/sh\nexit 2\n')
        error = self.refusal(self.effects.enable_vfs, CARD, 4)
        self.assertIn(f'{SRIOV_MANAGE} -e {CARD} exited with 2', error.reason)
        self.assertIsNone(error.errno)


class ContextTest(testtools.TestCase):
    def test_daemons_are_asked_again_after(self) -> None:
        with privsep.in_process('/no/such/folder'):
            self.assertFalse(privsep.sysfs_pctxt.client_mode)
            self.assertFalse(privsep.sriov_pctxt.client_mode)
        self.assertTrue(privsep.sysfs_pctxt.client_mode)
        self.assertTrue(privsep.sriov_pctxt.client_mode)
        self.assertEqual('/', privsep.cfg.CONF.gpu.host_root)


class DaemonTest(HostTest):
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

    def test_forked_daemons(self) -> None:
        # Without privileges they have none either: they answer the same.
        *done, missing, wrong, enabled, removed, partitions = self.answers(
            FORK.format(self.root)
        )
        self.assertEqual([None] * 5, done)
        self.assertIsNone(removed)
        self.assertEqual(15, len(parse(str(partitions))))
        self.assertDone()
        self.assertEqual(
            ['creating a vGPU', f'{CARD} nvidia-1 {UUID}'], missing[:2]
        )
        self.assertIn(
            f'{os.strerror(errno.ENOENT)}: {self.root}/sys/class/mdev_bus/'
            f'{CARD}/mdev_supported_types/nvidia-1',
            missing[2],
        )
        self.assertEqual(errno.ENOENT, missing[3])
        self.assertIn("'../..' is not the name of a vGPU type", wrong[2])
        self.assertIsNone(wrong[3])
        self.assertIn('1 functions are enabled', enabled[2])
        self.assertEqual(errno.EBUSY, enabled[3])

    def test_daemon_that_does_not_start(self) -> None:
        for answer in self.answers(HELPER.format('false')):
            self.assertIn('privsep helper command exited non-zero', answer[2])
            self.assertIsNone(answer[3])

    def test_helper_that_is_not_installed(self) -> None:
        # Not to be taken for an mdev that isn't there.
        for answer in self.answers(HELPER.format('/no/such/helper')):
            self.assertIn('/no/such/helper', answer[2])
