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

"""The effects on a host of files: what is written, and what is refused."""

from __future__ import annotations

import errno
import os
import pathlib
import posix
import stat
from collections.abc import Callable
from typing import Any

import fixtures
import testtools

from nova_gpu.effects.host import SAFE_PATH, SRIOV_MANAGE, HostEffects
from tests.fixtures.sysfs import FakeSysfs, FakeType
from tests.unit import base

CARD = '0000:41:00.0'
VF = '0000:41:00.4'
NIC = '0000:18:00.0'
UUID = base.instance('mdev')
TYPE = 'nvidia-558'


class HostEffectsTest(testtools.TestCase):
    """A card with types of its own, one virtual function, and a NIC."""

    def setUp(self) -> None:
        super().setUp()
        self.fake = FakeSysfs(self.useFixture(fixtures.TempDir()).path)
        self.fake.add_gpu(
            CARD, iommu_group=40, types=(FakeType(TYPE, 'NVIDIA A40-8Q', 8),),
            units=48, driver='nvidia',
        )  # fmt: skip
        self.fake.add_function(VF, 0x10DE, 0x2235, 0x0302, iommu_group=41)
        self.fake.add_function(NIC, 0x8086, 0x1521, 0x0200, iommu_group=42)
        for name in ('current_vgpu_type', 'vgpu_params'):
            self.put(VF, f'nvidia/{name}', '0')
        for address in (CARD, VF, NIC):
            self.put(address, 'reset', '')
        for address in (CARD, NIC):
            self.put(address, 'sriov_numvfs', '0')
        self.fake.write('dev/vfio/vfio', '')
        self.effects = HostEffects(self.fake.root)
        self.opened: list[str] = []

    def put(self, address: str, name: str, content: str) -> None:
        path = self.fake.device(address) / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)

    def text(self, address: str, name: str) -> str:
        return (self.fake.device(address) / name).read_text()

    def kernel_says(self, part: str, number: int) -> None:
        """Let the kernel answer so when a file of that name is opened."""
        real = posix.open

        def answer(path: Any, flags: int, *args: Any, **more: Any) -> int:
            if part in str(path):
                self.opened.append(str(path))
                raise OSError(number, os.strerror(number), str(path))
            return real(path, flags, *args, **more)

        self.useFixture(fixtures.MonkeyPatch('posix.open', answer))

    def refusal(
        self, call: Callable[..., None], *args: object
    ) -> tuple[int | None, str]:
        with self.assertRaises(OSError) as raised:
            call(*args)
        return raised.exception.errno, str(raised.exception)


class MdevTest(HostEffectsTest):
    def create_file(self) -> pathlib.Path:
        return (
            self.fake.device(CARD) / 'mdev_supported_types' / TYPE / 'create'
        )

    def test_create(self) -> None:
        self.effects.create_mdev(CARD, TYPE, UUID.upper())
        self.assertEqual(UUID, self.create_file().read_text().strip())

    def test_create_on_a_virtual_parent(self) -> None:
        path = 'sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-1'
        self.fake.write(f'{path}/create', '')
        parents = self.fake.sys / 'class/mdev_bus'
        (parents / 'mtty').symlink_to('../../devices/virtual/mtty/mtty')
        self.effects.create_mdev('mtty', 'mtty-1', UUID)
        self.assertEqual(
            UUID, (self.fake.root / path / 'create').read_text().strip()
        )

    def test_create_what_is_refused(self) -> None:
        for parent, kind, uuid in (
            ('../mtty', TYPE, UUID),
            ('..', TYPE, UUID),
            (CARD, '../..', UUID),
            (CARD, TYPE, 'no-uuid'),
            (CARD, TYPE, UUID + '\n'),
        ):
            with self.assertRaisesRegex(ValueError, "^'"):
                self.effects.create_mdev(parent, kind, uuid)
        self.assertEqual('', self.create_file().read_text().strip())

    def test_create_where_nothing_is(self) -> None:
        number, text = self.refusal(
            self.effects.create_mdev, CARD, 'nvidia-1', UUID
        )
        self.assertEqual(errno.ENOENT, number)
        self.assertIn(f'{CARD}/mdev_supported_types/nvidia-1', text)

    def make(self, group: int | None = 70) -> pathlib.Path:
        """Make an mdev, and its group; returns what removes it."""
        self.fake.create_mdev(CARD, TYPE, UUID)
        device = self.fake.sys / 'bus/mdev/devices' / UUID
        link = device / 'iommu_group'
        link.unlink(missing_ok=True)
        if group is not None:
            link.symlink_to(f'/sys/kernel/iommu_groups/{group}')
            self.fake.write(f'dev/vfio/{group}', '')
        return device / 'remove'

    def test_remove(self) -> None:
        path = self.make()
        before = len(os.listdir('/proc/self/fd'))
        self.effects.remove_mdev(UUID)
        self.assertEqual('1', path.read_text().strip())
        self.assertEqual(before, len(os.listdir('/proc/self/fd')))

    def test_remove_in_use(self) -> None:
        path = self.make()
        self.kernel_says('/dev/vfio/70', errno.EBUSY)
        number, text = self.refusal(self.effects.remove_mdev, UUID)
        self.assertEqual(errno.EBUSY, number)
        self.assertIn('in use by a guest', text)
        self.assertIn(f'{self.fake.root}/dev/vfio/70', text)
        self.assertEqual('', path.read_text().strip())

    def test_remove_what_can_not_be_looked_at(self) -> None:
        path = self.make()
        self.kernel_says('/dev/vfio/70', errno.EACCES)
        number, _ = self.refusal(self.effects.remove_mdev, UUID)
        self.assertEqual(errno.EACCES, number)
        self.assertEqual('', path.read_text().strip())

    def test_remove_of_no_group_or_one_without_a_node(self) -> None:
        path = self.make(group=None)
        self.effects.remove_mdev(UUID)
        self.assertEqual('1', path.read_text().strip())
        path.write_text('')
        (path.parent / 'iommu_group').symlink_to('/sys/kernel/iommu_groups/7')
        self.effects.remove_mdev(UUID)
        self.assertEqual('1', path.read_text().strip())

    def test_remove_when_the_group_has_just_gone(self) -> None:
        path = self.make()
        self.kernel_says('/dev/vfio/70', errno.ENODEV)
        self.effects.remove_mdev(UUID)
        self.assertEqual('1', path.read_text().strip())

    def test_remove_of_a_group_that_is_none(self) -> None:
        path = self.make(group=None)
        (path.parent / 'iommu_group').symlink_to('groups/vfio')
        with self.assertRaisesRegex(ValueError, "IOMMU group 'vfio'"):
            self.effects.remove_mdev(UUID)
        self.assertEqual('', path.read_text().strip())

    def test_remove_what_is_gone(self) -> None:
        self.effects.remove_mdev(UUID)
        self.make()
        self.kernel_says(f'{UUID}/remove', errno.ENODEV)
        self.effects.remove_mdev(UUID)
        self.assertEqual(1, len(self.opened))

    def test_remove_what_is_refused(self) -> None:
        for text in ('..', CARD, f'../{UUID}', ''):
            with self.assertRaisesRegex(ValueError, 'not a UUID'):
                self.effects.remove_mdev(text)

    def test_mdev_that_leads_out_of_sysfs(self) -> None:
        self.make()
        link = self.fake.sys / 'bus/mdev/devices' / UUID
        link.unlink()
        outside = self.fake.root / 'home'
        outside.mkdir()
        (outside / 'remove').write_text('')
        link.symlink_to(outside)
        with self.assertRaisesRegex(ValueError, 'out of'):
            self.effects.remove_mdev(UUID)
        self.assertEqual('', (outside / 'remove').read_text())

    def test_params(self) -> None:
        device = self.make().parent
        self.effects.set_vgpu_params(UUID, 'frame_rate_limiter=0,a=b')
        self.assertEqual(
            'frame_rate_limiter=0,a=b',
            (device / 'nvidia/vgpu_params').read_text().strip(),
        )

    def test_params_that_are_refused(self) -> None:
        self.make()
        for device, params in (
            ('..', 'a=b'),
            ('mtty', 'a=b'),
            (NIC, 'a=b'),
            (UUID, 'a=b\nc=d'),
            (UUID, ''),
            (VF, 'a=b,'),
        ):
            with self.assertRaises(ValueError):
                self.effects.set_vgpu_params(device, params)


class VirtualFunctionTest(HostEffectsTest):
    def current(self) -> str:
        return self.text(VF, 'nvidia/current_vgpu_type').strip()

    def test_type(self) -> None:
        self.effects.set_vgpu_type(VF, '558')
        self.assertEqual('558', self.current())

    def test_what_the_kernel_says(self) -> None:
        self.kernel_says('current_vgpu_type', errno.EPERM)
        number, text = self.refusal(self.effects.set_vgpu_type, VF, '558')
        self.assertEqual(errno.EPERM, number)
        self.assertIn(f'{VF}/nvidia/current_vgpu_type', text)

    def test_free(self) -> None:
        self.put(VF, 'nvidia/current_vgpu_type', '5\n')
        self.fake.write('dev/vfio/41', '')
        self.effects.set_vgpu_type(VF, '0')
        self.assertEqual('0', self.current())

    def test_free_what_is_empty_writes_nothing(self) -> None:
        self.put(VF, 'nvidia/current_vgpu_type', '0\n')
        self.kernel_says('/dev/vfio/41', errno.EBUSY)
        self.effects.set_vgpu_type(VF, '0')
        # Nothing at all: not even the same content.
        self.assertEqual('0\n', self.text(VF, 'nvidia/current_vgpu_type'))
        self.assertEqual([], self.opened)

    def test_free_what_is_in_use(self) -> None:
        self.put(VF, 'nvidia/current_vgpu_type', '558\n')
        self.kernel_says('/dev/vfio/41', errno.EBUSY)
        number, _ = self.refusal(self.effects.set_vgpu_type, VF, '0')
        self.assertEqual(errno.EBUSY, number)
        self.assertEqual('558', self.current())

    def test_params(self) -> None:
        self.effects.set_vgpu_params(VF, 'a=b')
        self.assertEqual('a=b', self.text(VF, 'nvidia/vgpu_params').strip())

    def test_what_is_refused(self) -> None:
        for function, number in (
            (VF, '-1'),
            (VF, '5\n'),
            (VF, ''),
            (VF, TYPE),
            ('..', '558'),
            (f'../{VF}', '558'),
            (UUID, '558'),
        ):
            with self.assertRaisesRegex(ValueError, "^'"):
                self.effects.set_vgpu_type(function, number)
        self.assertEqual('0', self.current())

    def test_function_of_another_class_than_its_card(self) -> None:
        self.put(VF, 'class', '0x020000\n')
        with self.assertRaisesRegex(ValueError, 'no GPU but of class 0x0200'):
            self.effects.set_vgpu_type(VF, '558')
        (self.fake.device(VF) / 'physfn').symlink_to(f'../{CARD}')
        self.effects.set_vgpu_type(VF, '558')
        self.assertEqual('558', self.current())


class ResetTest(HostEffectsTest):
    def test_reset(self) -> None:
        self.fake.write('dev/vfio/40', '')
        self.effects.reset_function(CARD)
        self.assertEqual('1', self.text(CARD, 'reset').strip())

    def test_in_use(self) -> None:
        self.kernel_says('/dev/vfio/40', errno.EBUSY)
        for call in (self.effects.reset_function, self.effects.refuse_in_use):
            number, _ = self.refusal(call, CARD)
            self.assertEqual(errno.EBUSY, number)

    def test_not_in_use(self) -> None:
        self.fake.write('dev/vfio/40', '')
        self.effects.refuse_in_use(CARD)
        self.effects.refuse_in_use('ffff:ff:1f.7')  # it has gone
        self.assertEqual('', self.text(CARD, 'reset').strip())
        self.assertEqual('', self.text(CARD, 'reset'))

    def test_what_does_not_reset(self) -> None:
        (self.fake.device(CARD) / 'reset').unlink()
        number, text = self.refusal(self.effects.reset_function, CARD)
        self.assertEqual(errno.ENOENT, number)
        self.assertIn(f'{CARD}/reset', text)

    def test_no_gpu(self) -> None:
        with self.assertRaisesRegex(ValueError, f'{NIC} is no GPU'):
            self.effects.reset_function(NIC)
        self.assertEqual('', self.text(NIC, 'reset'))

    def test_no_address(self) -> None:
        for text in ('', '..', 'mtty', f'{CARD}/..'):
            with self.assertRaisesRegex(ValueError, 'not a PCI address'):
                self.effects.reset_function(text)

    def test_link_in_place_of_the_attribute(self) -> None:
        path = self.fake.device(CARD) / 'reset'
        path.unlink()
        path.symlink_to(self.fake.device(NIC) / 'reset')
        number, _ = self.refusal(self.effects.reset_function, CARD)
        self.assertEqual(errno.ELOOP, number)
        self.assertEqual('', self.text(NIC, 'reset'))


class EnableTest(HostEffectsTest):
    """NVIDIA's driver has a script for it, which is a program here too."""

    def script(self, text: str) -> None:
        path = self.fake.root / SRIOV_MANAGE
        path.parent.mkdir(parents=True)
        path.write_text(f'#!/bin/sh\n{text}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def test_script(self) -> None:
        said = self.fake.root / 'said'
        self.script(f'echo "$@" "$PATH" $HOME > {said}')
        self.effects.enable_vfs(CARD, 4)
        self.assertEqual(f'-e {CARD} {SAFE_PATH}\n', said.read_text())
        self.assertEqual('0', self.text(CARD, 'sriov_numvfs').strip())

    def test_script_that_fails(self) -> None:
        self.script('echo no such GPU >&2; exit 3')
        with self.assertRaisesRegex(
            RuntimeError,
            f'{SRIOV_MANAGE} -e {CARD} exited with 3: no such GPU$',
        ):
            self.effects.enable_vfs(CARD, 4)

    def test_script_that_is_silent(self) -> None:
        self.script('exit 1')
        with self.assertRaisesRegex(RuntimeError, 'with 1: no output$'):
            self.effects.enable_vfs(CARD, 4)

    def test_no_script(self) -> None:
        number, text = self.refusal(self.effects.enable_vfs, CARD, 4)
        self.assertEqual(errno.ENOENT, number)
        self.assertIn(SRIOV_MANAGE, text)

    def test_other_drivers(self) -> None:
        self.script('exit 1')
        self.fake.bind(CARD, 'gim')
        self.effects.enable_vfs(CARD, 8)
        self.assertEqual('8', self.text(CARD, 'sriov_numvfs').strip())

    def test_some_are_enabled(self) -> None:
        for driver in ('nvidia', 'gim'):
            self.fake.bind(CARD, driver)
            self.put(CARD, 'sriov_numvfs', '2\n')
            number, text = self.refusal(self.effects.enable_vfs, CARD, 8)
            self.assertEqual(errno.EBUSY, number)
            self.assertIn('2 functions are enabled', text)
            self.assertEqual('2\n', self.text(CARD, 'sriov_numvfs'))

    def test_what_is_refused(self) -> None:
        self.fake.bind(CARD, 'gim')
        for address, count, message in (
            (CARD, 0, 'not a number of functions'),
            (CARD, '4', 'not a number of functions'),
            (NIC, 4, 'no GPU'),
            ('ALL', 4, 'not a PCI address'),
            ('-d', 4, 'not a PCI address'),
        ):
            with self.assertRaisesRegex(ValueError, message):
                self.effects.enable_vfs(address, count)  # type: ignore
        for address in (CARD, NIC):
            self.assertEqual('0', self.text(address, 'sriov_numvfs').strip())
