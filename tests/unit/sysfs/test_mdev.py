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


"""Mediated devices and their types."""

from __future__ import annotations

import os
import pathlib
import shutil

from nova_gpu.model.device import Mdev
from nova_gpu.model.profile import VgpuType
from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs, FakeType
from tests.unit import base

T4 = '0000:3b:00.0'
A40 = '0000:41:00.0'
TYPES = f'sys/class/mdev_bus/{T4}/mdev_supported_types'
BUS = 'sys/bus/mdev/devices'


#: With eight functions, to be quick.
FUNCTIONS = 8


def add_a40(fake: FakeSysfs) -> None:
    fake.add_gpu(
        A40, 0x2235, iommu_group=30, driver='nvidia', types=hosts.A40_TYPES,
        units=48, virtual_functions=FUNCTIONS,
    )  # fmt: skip


class TypesTest(base.HostTest):
    """The types of one card."""

    def setUp(self) -> None:
        super().setUp()
        hosts.four_t4(self.fake)
        add_a40(self.fake)

    def available(self, address: str) -> dict[str, int]:
        return {t.id: t.available for t in self.cards()[address].types}

    def make(self, parent: str, type_id: str) -> None:
        uuid = base.instance(f'{parent}{len(self.fake.mdevs)}')
        self.fake.create_mdev(parent, type_id, uuid)

    def test_every_field(self) -> None:
        self.assertEqual(
            VgpuType(
                'nvidia-233', 'GRID T4-8Q', available=2, capacity=2,
                framebuffer_mib=8192, device_api='vfio-pci',
            ),
            self.cards()[T4].type_by_id('nvidia-233'),
        )  # fmt: skip

    def test_card_that_holds_its_mdevs_itself(self) -> None:
        self.make(T4, 'nvidia-232')
        self.assertEqual(
            {'nvidia-230': 0, 'nvidia-231': 0, 'nvidia-232': 3,
             'nvidia-233': 0, 'nvidia-234': 0},
            self.available(T4),
        )  # fmt: skip

    def test_functions_that_hold_one_each(self) -> None:
        empty = self.available(A40)
        # As many as there are functions, or as the type allows.
        self.assertEqual(FUNCTIONS, empty['nvidia-557'])
        self.assertEqual(FUNCTIONS, empty['nvidia-561'])
        self.assertEqual(6, empty['nvidia-562'])
        self.assertEqual(1, empty['nvidia-566'])
        self.make('0000:41:00.4', 'nvidia-562')
        self.make('0000:41:01.0', 'nvidia-562')
        self.assertEqual(
            {kind: 4 if kind == 'nvidia-562' else 0 for kind in empty},
            self.available(A40),
        )

    def test_all_functions_taken(self) -> None:
        for parent in self.cards()[A40].parents:
            self.make(str(parent), 'nvidia-557')
        self.assertEqual({0}, set(self.available(A40).values()))

    def test_driver_that_does_not_tell_the_capacity(self) -> None:
        kind = FakeType('nvidia-1', 'NVIDIA X-1Q', size=1)
        self.fake.add_gpu(
            '0000:01:00.0', driver='nvidia', types=(kind,), units=8,
            virtual_functions=4,
        )  # fmt: skip
        self.assertEqual({'nvidia-1': 4}, self.available('0000:01:00.0'))
        self.make('0000:01:00.4', 'nvidia-1')
        self.assertEqual({'nvidia-1': 3}, self.available('0000:01:00.0'))

    def test_gvtg(self) -> None:
        kind = FakeType('i915-GVTg_V5_4', None, size=2)
        self.fake.add_gpu(
            '0000:00:02.0', 0x1926, vendor=0x8086, class_code=0x0300,
            driver='i915', types=(kind,), units=4,
        )  # fmt: skip
        folder = 'sys/class/mdev_bus/0000:00:02.0/mdev_supported_types'
        self.fake.write(
            f'{folder}/{kind.id}/description',
            'low_gm_size: 128MB\nhigh_gm_size: 512MB\nfence: 4\n'
            'resolution: 1920x1200\nweight: 4\n',
        )
        self.assertEqual(
            (VgpuType(kind.id, kind.id, available=2, framebuffer_mib=512),),
            self.cards()['0000:00:02.0'].types,
        )

    def test_type_with_no_name(self) -> None:
        for spoil in (
            os.unlink,
            lambda path: pathlib.Path(path).write_text('\n'),
        ):
            spoil(self.fake.root / TYPES / 'nvidia-233/name')
            found = self.snapshot()
            kind = found.cards[0].type_by_id('nvidia-233')
            self.assertEqual('nvidia-233', kind and kind.name)
            self.assertIn(
                f"{self.path(TYPES)}/nvidia-233/name: no name: using "
                f"'nvidia-233'",
                found.warnings,
            )
            self.fake.write(f'{TYPES}/nvidia-233/name', 'GRID T4-8Q\n')

    def test_type_whose_room_is_unknown_is_left_out(self) -> None:
        for content in ('', '-', 'many', '0x2'):
            self.fake.write(f'{TYPES}/nvidia-233/available_instances', content)
            self.assertNotIn('nvidia-233', self.available(T4))
            self.assertEqual(4, len(self.available(T4)))
            self.assertIn(
                f'{self.path(TYPES)}/nvidia-233/available_instances: '
                f'{content!r} is not a number',
                self.snapshot().warnings,
            )

    def test_negative_room_is_none(self) -> None:
        self.fake.write(f'{TYPES}/nvidia-233/available_instances', '-1\n')
        self.assertEqual(0, self.available(T4)['nvidia-233'])

    def test_no_types_where_there_should_be(self) -> None:
        folder = (self.fake.root / TYPES).resolve()
        shutil.move(folder, folder.with_name('away'))
        self.assertEqual((), self.cards()[T4].types)
        self.assertIn(
            f'{self.path(TYPES)}: No such file or directory',
            self.snapshot().warnings,
        )


class MdevsTest(base.HostTest):
    """The mediated devices that exist."""

    def setUp(self) -> None:
        super().setUp()
        hosts.four_t4(self.fake)
        add_a40(self.fake)
        self.first, self.second = map(base.instance, 'ab')
        self.fake.create_mdev(T4, 'nvidia-233', self.first)
        self.fake.create_mdev('0000:41:00.5', 'nvidia-562', self.second)

    def mdevs(self) -> list[Mdev]:
        return [m for c in self.snapshot().cards for m in c.mdevs]

    def test_parent_and_type(self) -> None:
        cards = self.cards()
        self.assertEqual(
            (Mdev(self.first, cards[T4].address, 'nvidia-233'),),
            cards[T4].mdevs,
        )
        self.assertEqual(
            (Mdev(self.second, cards[A40].parents[1], 'nvidia-562'),),
            cards[A40].mdevs,
        )
        self.assertEqual((), self.snapshot().warnings)

    def test_virtual_parent(self) -> None:
        # As the kernel's sample driver mtty has them.
        device = self.fake.sys / 'devices/virtual/mtty/mtty' / base.instance(1)
        device.mkdir(parents=True)
        (device / 'mdev_type').symlink_to('../mdev_supported_types/mtty-1')
        link = self.fake.root / BUS / device.name
        link.symlink_to(os.path.relpath(device, link.parent))
        self.assertEqual(2, len(self.mdevs()))
        self.assertEqual((), self.snapshot().warnings)

    def test_what_is_no_mdev(self) -> None:
        (self.fake.root / BUS / 'junk').symlink_to('../../../devices/x/junk')
        (self.fake.root / BUS / 'file').write_text('')
        (self.fake.root / BUS / base.instance(2)).symlink_to('alone')
        self.assertEqual(2, len(self.mdevs()))
        warnings = self.snapshot().warnings
        for name in ('junk', base.instance(2)):
            self.assertIn(
                f'{self.path(BUS)}/{name}: not a mediated device: ignored',
                warnings,
            )
        self.assertIn(f'{self.path(BUS)}/file: Invalid argument', warnings)

    def test_mdev_without_a_type(self) -> None:
        (self.fake.root / BUS / self.first / 'mdev_type').unlink()
        self.assertEqual([self.second], [m.uuid for m in self.mdevs()])
        self.assertIn(
            f'{self.path(BUS)}/{self.first}: not a mediated device: ignored',
            self.snapshot().warnings,
        )
