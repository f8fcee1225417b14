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
import shutil

from nova_gpu.host import read_snapshot
from nova_gpu.model.address import VirtualParent
from nova_gpu.model.device import Card, Mdev, VirtualFunction
from nova_gpu.model.profile import VgpuType
from nova_gpu.sysfs.tree import Tree
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
        # What one free function says: the rest is for the model.
        self.assertEqual({1}, set(self.available(A40).values()))
        self.make('0000:41:00.4', 'nvidia-562')
        self.make('0000:41:01.0', 'nvidia-562')
        self.assertEqual(
            {t.id: int(t.id == 'nvidia-562') for t in hosts.A40_TYPES},
            self.available(A40),
        )

    def test_all_functions_taken(self) -> None:
        for parent in self.cards()[A40].parents:
            self.make(str(parent), 'nvidia-557')
        self.assertEqual({0}, set(self.available(A40).values()))

    def test_functions_are_known_by_address_alone(self) -> None:
        card = self.cards()[A40]
        self.assertEqual(FUNCTIONS, len(card.vfs))
        self.assertEqual(tuple(map(VirtualFunction, card.parents)), card.vfs)
        self.assertFalse(card.vendor_vfio)

    def test_driver_that_does_not_tell_the_capacity(self) -> None:
        kind = FakeType('nvidia-1', 'NVIDIA X-1Q', size=1)
        self.fake.add_gpu(
            '0000:01:00.0', driver='nvidia', types=(kind,), units=8,
        )  # fmt: skip
        (found,) = self.cards()['0000:01:00.0'].types
        self.assertEqual((None, 8), (found.capacity, found.available))

    def test_gvtg(self) -> None:
        kind = FakeType(
            'i915-GVTg_V5_4', None, size=2,
            text='low_gm_size: 128MB\nhigh_gm_size: 512MB\nfence: 4\n'
            'resolution: 1920x1200\nweight: 4',
        )  # fmt: skip
        self.fake.add_gpu(
            '0000:00:02.0', 0x1926, vendor=0x8086, class_code=0x0300,
            driver='i915', types=(kind,), units=4,
        )  # fmt: skip
        found = self.snapshot()
        self.assertEqual(
            (VgpuType(kind.id, kind.id, available=2, framebuffer_mib=512),),
            found.cards[0].types,
        )
        # Its driver has no names: nothing is wrong.
        self.assertEqual((), found.warnings)

    def test_type_with_no_name(self) -> None:
        path = self.fake.root / TYPES / 'nvidia-233/name'
        for content, warned in ((None, False), (b'\n', True), (b'', True)):
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            found = self.snapshot()
            kind = found.cards[0].type_by_id('nvidia-233')
            self.assertEqual('nvidia-233', kind and kind.name)
            warning = f"{self.path(TYPES)}/nvidia-233/name: no name: using "
            warnings = (warning + "'nvidia-233'",) if warned else ()
            self.assertEqual(warnings, found.warnings)

    def test_type_is_read_once_for_all_cards(self) -> None:
        before = Tree(self.fake.root)
        read_snapshot(before)
        self.fake.add_gpu(
            '0000:d9:00.0', 0x1EB8, iommu_group=29, driver='nvidia',
            types=hosts.T4_TYPES, units=16,
        )  # fmt: skip
        after = Tree(self.fake.root)
        first, *_, last = (
            c for c in read_snapshot(after).cards if c.product_id == 0x1EB8
        )
        self.assertEqual(first.types, last.types)
        # The card itself, and how many are free of each type.
        self.assertLessEqual(
            after.reads - before.reads, 12 + len(hosts.T4_TYPES)
        )

    def test_type_without_names_is_read_once_too(self) -> None:
        reads = []
        for cards in (1, 2, 3):
            self.fake = self.new_host()
            for index in range(cards):
                self.fake.add_gpu(
                    f'0000:0{index}:02.0', 0x1926, vendor=0x8086,
                    types=tuple(
                        FakeType(f'i915-{n}', None, size=1, text='')
                        for n in range(9)
                    ), units=9,
                )  # fmt: skip
            tree = Tree(self.fake.root)
            self.assertEqual(cards, len(read_snapshot(tree).cards))
            self.assertEqual([], tree.warnings)
            reads.append(tree.reads)
        self.assertEqual(reads[2] - reads[1], reads[1] - reads[0])
        self.assertLessEqual(reads[1] - reads[0], 12 + 9)

    def test_spoiled_type_is_not_given_to_other_cards(self) -> None:
        first, *others = (t.types for t in self.snapshot().cards[:1] * 4)
        for field in ('name', 'description', 'device_api'):
            path = self.fake.root / TYPES / 'nvidia-233' / field
            content = path.read_text()
            path.unlink()
            path.mkdir()
            found = [c.types for c in self.snapshot().cards]
            path.rmdir()
            path.write_text('\n')
            found_empty = [c.types for c in self.snapshot().cards]
            path.write_text(content)
            for card in (found[2:], found_empty[2:]):
                self.assertEqual([first] * 3, card)
        self.assertEqual(others, [first] * 3)

    def test_type_that_has_gone(self) -> None:
        folder = (self.fake.root / TYPES / 'nvidia-233').resolve()

        class GoingTree(Tree):
            def names(self, name: str, *, optional: bool = True) -> list[str]:
                if name.endswith('nvidia-233'):
                    shutil.rmtree(folder, ignore_errors=True)
                return super().names(name, optional=optional)

        tree = GoingTree(self.fake.root)
        first, _, second = read_snapshot(tree).cards[:3]
        self.assertIsNone(first.type_by_id('nvidia-233'))
        self.assertEqual('GRID T4-8Q', second.types[3].name)
        self.assertEqual(
            [f'{self.path(TYPES)}/nvidia-233: No such file or directory'],
            tree.warnings,
        )

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

    def test_mdev_of_a_parent_that_has_gone(self) -> None:
        # As the kernel's sample driver mtty has them.
        device = self.fake.sys / 'devices/virtual/mtty/mtty' / base.instance(1)
        device.mkdir(parents=True)
        (device / 'mdev_type').symlink_to('../mdev_supported_types/mtty-1')
        link = self.fake.root / BUS / device.name
        link.symlink_to(os.path.relpath(device, link.parent))
        self.assertEqual(2, len(self.mdevs()))
        self.assertEqual((), self.snapshot().warnings)

    def test_mdev_of_what_is_no_parent_of_ours(self) -> None:
        # As s390's channels have them.
        device = self.fake.sys / 'devices/css0/0.0.1234' / base.instance(1)
        device.mkdir(parents=True)
        (device / 'mdev_type').symlink_to('../mdev_supported_types/x-1')
        link = self.fake.root / BUS / device.name
        link.symlink_to(os.path.relpath(device, link.parent))
        self.assertEqual(2, len(self.mdevs()))
        self.assertEqual(
            (f'{self.path(BUS)}/{device.name}: neither a PCI function nor '
             f'virtual',),
            self.snapshot().warnings,
        )  # fmt: skip

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


class VirtualParentTest(base.HostTest):
    """Parents of mdevs that are no hardware."""

    MTTY = (
        FakeType('mtty-1', 'Single port serial', size=1, text=''),
        FakeType('mtty-2', 'Dual port serial', size=2, text=''),
    )

    def setUp(self) -> None:
        super().setUp()
        self.device = self.fake.add_virtual_parent('mtty', self.MTTY, 24)

    def test_card(self) -> None:
        self.fake.create_mdev('mtty', 'mtty-2', base.instance(1))
        self.fake.add_gpu('0000:01:00.0')
        found = self.snapshot()
        parent = VirtualParent('mtty')
        self.assertEqual(
            Card(
                address=parent, vendor_id=0, product_id=0, class_code=0,
                name='mtty', model='mtty',
                types=(
                    VgpuType('mtty-1', 'Single port serial', available=22),
                    VgpuType('mtty-2', 'Dual port serial', available=11),
                ),
                parents=(parent,),
                mdevs=(Mdev(base.instance(1), parent, 'mtty-2'),),
            ),
            found.cards[1],
        )  # fmt: skip
        self.assertEqual((), found.warnings)

    def test_after_all_cards_in_the_order_of_names(self) -> None:
        for name in ('mdpy', 'mbochs'):
            self.fake.add_virtual_parent(name, self.MTTY, 1)
        self.fake.add_gpu('0000:01:00.0')
        self.assertEqual(
            ['0000:01:00.0', 'mbochs', 'mdpy', 'mtty'],
            [str(c.address) for c in self.snapshot().cards],
        )

    def test_name_that_is_neither(self) -> None:
        (self.fake.root / 'sys/class/mdev_bus/0.0.1234').symlink_to('nowhere')
        found = self.snapshot()
        self.assertEqual(1, len(found.cards))
        self.assertEqual(
            (f'{self.path("sys/class/mdev_bus")}/0.0.1234: neither a PCI '
             f'function nor virtual',),
            found.warnings,
        )  # fmt: skip

    def test_gone_while_it_is_read(self) -> None:
        fake = self.fake

        class GoingTree(Tree):
            def number(self, name: str, *, optional: bool = False) -> None:
                if 'mtty-2' in name:
                    fake.remove('mtty')
                return super().number(name, optional=optional)

        tree = GoingTree(fake.root)
        self.assertEqual((), read_snapshot(tree).cards)
        self.assertEqual(1, len(tree.warnings))
