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


"""Cards and switches as the kernel shows them."""

from __future__ import annotations

import os
from typing import Any

from nova_gpu.host import read_snapshot
from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import PciFunction, VirtualFunction
from nova_gpu.sysfs.functions import UNREADABLE
from nova_gpu.sysfs.tree import Tree
from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs, FakeType
from tests.unit import base

DEVICES = 'sys/bus/pci/devices'


class RecordedHostsTest(base.HostTest):
    """Hosts as they were recorded."""

    def test_a100_board(self) -> None:
        hosts.a100_board(self.fake)
        found = self.snapshot()
        self.assertEqual(
            list(hosts.A100_ADDRESSES), [str(c.address) for c in found.cards]
        )
        self.assertEqual((), found.warnings)
        card = found.cards[0]
        self.assertEqual(
            base.card(
                address='0000:25:00.0', numa_node=0, iommu_group=47,
                driver='vfio-pci', total_vfs=16, resettable=True,
                bridges=(PciAddress.parse('0000:25:1f.7'),), linked=8,
            ),
            card,
        )  # fmt: skip
        self.assertEqual(
            list(hosts.NVSWITCH_ADDRESSES),
            [str(s.address) for s in found.switches],
        )
        self.assertEqual(
            PciFunction(
                found.switches[0].address, 0x10DE, 0x1AF1, 0x0680, 'vfio-pci'
            ),
            found.switches[0],
        )

    def test_workstation(self) -> None:
        hosts.workstation(self.fake)
        cards = self.cards()
        self.assertEqual(
            ['0000:17:00.0', '0000:65:00.0', '0000:b3:00.0'], list(cards)
        )
        first = cards['0000:65:00.0']
        self.assertEqual(
            ['0000:65:00.1', '0000:65:00.2', '0000:65:00.3'],
            [str(c.address) for c in first.companions],
        )
        self.assertEqual(
            ['snd_hda_intel', 'xhci_hcd', None],
            [c.driver for c in first.companions],
        )
        self.assertEqual((), first.strangers)
        # The bridge in the group of the second is no stranger.
        second = cards['0000:17:00.0']
        self.assertEqual(
            ['0000:18:00.0 [0200] 8086:1521'],
            [str(s) for s in second.strangers],
        )
        self.assertIsNone(second.driver)
        self.assertEqual(
            {'0000:b3:00.0'}, {a for a, c in cards.items() if c.boot_vga}
        )

    def test_virtual_functions_are_no_cards(self) -> None:
        hosts.two_a40_with_functions(self.fake)
        cards = self.cards()
        self.assertEqual(['0000:41:00.0', '0000:81:00.0'], list(cards))
        parents = cards['0000:41:00.0'].parents
        self.assertEqual(32, len(parents))
        self.assertEqual('0000:41:00.4', str(parents[0]))
        self.assertEqual('0000:41:04.3', str(parents[-1]))

    def test_empty_machine(self) -> None:
        self.assertEqual(((), (), ()), (
            self.snapshot().cards,
            self.snapshot().switches,
            self.snapshot().warnings,
        ))  # fmt: skip


class WhatIsACardTest(base.HostTest):
    """Vendor and class decide, nothing else."""

    def test_classes(self) -> None:
        for slot, (vendor, code, is_card) in enumerate(
            (
                (0x10DE, 0x0300, True),
                (0x10DE, 0x0302, True),
                (0x1002, 0x0380, True),
                (0x1002, 0x1200, True),
                (0x8086, 0x0300, True),
                (0x1A03, 0x0300, False),
                (0x10DE, 0x0403, False),
                (0x8086, 0x1200, True),
                (0x8086, 0x0280, False),
                (0x8086, 0x0680, False),
            )
        ):
            self.fake.add_function(
                f'0000:01:{slot:02x}.0', vendor, 0x1234, code
            )
            address = f'0000:01:{slot:02x}.0'
            self.assertIs(is_card, address in self.cards(), address)
        self.assertEqual((), self.snapshot().switches)

    def test_domain_that_is_not_0(self) -> None:
        kind = FakeType('nvidia-1', 'NVIDIA X-1Q', 1)
        self.fake.add_gpu(
            '0001:04:00.0', 0x2BB5, driver='nvidia', types=(kind,), units=2,
            virtual_functions=2,
        )  # fmt: skip
        (card,) = self.snapshot().cards
        self.assertEqual(
            ['0001:04:00.4', '0001:04:00.5'], [str(p) for p in card.parents]
        )

    def test_functions_in_another_domain(self) -> None:
        # Before the card in the list of functions, and behind it.
        for card, function in (
            ('0001:04:00.0', '0000:02:00.0'), ('0000:04:00.0', '0001:02:00.0'),
        ):  # fmt: skip
            self.fake = self.new_host()
            device = self.fake.add_gpu(card, iommu_group=1)
            virtual = self.fake.add_function(
                function, 0x10DE, 0x20B0, 0x0302, iommu_group=2
            )
            for link, target in (
                (device / 'virtfn0', virtual), (virtual / 'physfn', device),
            ):  # fmt: skip
                link.symlink_to(os.path.relpath(target, link.parent))
            (found,) = self.snapshot().cards
            self.assertEqual(card, str(found.address))
            self.assertEqual(
                (VirtualFunction(PciAddress.parse(function)),), found.vfs
            )
            self.assertEqual((), self.snapshot().warnings)

    def test_function_whose_card_can_not_be_read(self) -> None:
        self.fake.add_gpu('0000:01:00.0', virtual_functions=2)
        for name in ('class', 'vendor', 'device'):
            path = f'{DEVICES}/0000:01:00.0/{name}'
            content = (self.fake.root / path).read_text()
            self.fake.write(path, '')
            self.assertEqual((), self.snapshot().cards)
            self.fake.write(path, content)
        self.assertEqual(1, len(self.snapshot().cards))

    def test_numa_node(self) -> None:
        self.fake.add_gpu('0000:01:00.0', numa_node=-1)
        self.fake.add_gpu('0000:02:00.0', numa_node=3)
        device = self.fake.add_gpu('0000:03:00.0')
        (device / 'numa_node').unlink()  # a kernel without NUMA
        self.assertEqual(
            [-1, 3, -1], [c.numa_node for c in self.snapshot().cards]
        )
        self.assertEqual((), self.snapshot().warnings)

    def test_machine_without_iommu(self) -> None:
        self.fake.add_gpu('0000:01:00.0')
        (card,) = self.snapshot().cards
        self.assertIsNone(card.iommu_group)
        self.assertEqual((), self.snapshot().warnings)


class BrokenTest(base.HostTest):
    """What can't be read closes a card rather than opening it."""

    def setUp(self) -> None:
        super().setUp()
        hosts.workstation(self.fake)

    def assert_warned(self, name: str, reason: str) -> None:
        self.assertIn(f'{self.path(name)}: {reason}', self.snapshot().warnings)

    def test_no_devices_at_all(self) -> None:
        tree = Tree(self.fake.root / 'elsewhere')
        found = read_snapshot(tree)
        self.assertEqual((), found.cards)
        self.assertEqual(
            (f'{tree.root}/{DEVICES}: No such file or directory',),
            found.warnings,
        )

    def test_name_that_is_no_address(self) -> None:
        for field, value in (
            ('class', '0x030200'), ('vendor', '0x10de'), ('device', '0x20b0'),
        ):  # fmt: skip
            self.fake.write(f'{DEVICES}/junk/{field}', value)
        self.assertEqual(3, len(self.snapshot().cards))
        self.assert_warned(
            f'{DEVICES}/junk', "'junk' is not a PCI address like 0000:84:00.0"
        )

    def test_driver_that_can_not_be_read_is_not_none(self) -> None:
        device = self.fake.device('0000:17:00.0')
        self.fake.write(f'{DEVICES}/0000:17:00.0/driver', '')
        self.assertEqual(UNREADABLE, self.cards()['0000:17:00.0'].driver)
        self.assert_warned(
            f'{DEVICES}/{device.name}/driver', 'Invalid argument'
        )

    def test_group_without_a_number(self) -> None:
        link = self.fake.device('0000:65:00.0') / 'iommu_group'
        link.unlink()
        link.symlink_to('../../../kernel/iommu_groups/many')
        self.assertIsNone(self.cards()['0000:65:00.0'].iommu_group)
        self.assert_warned(
            f'{DEVICES}/0000:65:00.0/iommu_group', "'many' is not a number"
        )

    def test_group_whose_members_can_not_be_read(self) -> None:
        folder = self.fake.sys / 'kernel/iommu_groups/61/devices'
        folder.rename(folder.with_name('gone'))
        self.assertIsNone(self.cards()['0000:17:00.0'].iommu_group)
        self.assert_warned(
            'sys/kernel/iommu_groups/61/devices', 'No such file or directory'
        )
        self.assertEqual(60, self.cards()['0000:65:00.0'].iommu_group)

    def test_stranger_that_can_not_be_read_is_a_stranger(self) -> None:
        self.fake.write(f'{DEVICES}/0000:18:00.0/class', '')
        self.assertEqual(
            ['0000:18:00.0 [0000] 8086:1521'],
            [str(s) for s in self.cards()['0000:17:00.0'].strangers],
        )
        for field in ('vendor', 'device'):
            self.fake.write(f'{DEVICES}/0000:18:00.0/{field}', 'junk')
        self.assertEqual(
            ['0000:18:00.0 [0000] 0000:0000'],
            [str(s) for s in self.cards()['0000:17:00.0'].strangers],
        )

    def test_member_that_is_not_there_is_nobody(self) -> None:
        folder = self.fake.sys / 'kernel/iommu_groups/60/devices'
        (folder / '0000:99:00.0').symlink_to('nowhere')
        self.assertEqual((), self.cards()['0000:65:00.0'].strangers)
        self.assert_warned(
            f'{DEVICES}/0000:99:00.0/class', 'No such file or directory'
        )

    def test_member_that_is_no_pci_function(self) -> None:
        folder = 'sys/kernel/iommu_groups/60/devices'
        self.fake.write(f'{DEVICES}/arm-smmu/class', '0x088000')
        self.fake.write(f'{folder}/arm-smmu/class', '')
        self.assertEqual((), self.cards()['0000:65:00.0'].strangers)
        self.assert_warned(
            f'{folder}/arm-smmu',
            "'arm-smmu' is not a PCI address like 0000:84:00.0",
        )

    def test_virtual_function_that_leads_nowhere(self) -> None:
        hosts.two_a40_with_functions(self.fake)
        before = self.cards()
        link = self.fake.device('0000:41:00.0') / 'virtfn0'
        link.unlink()
        link.symlink_to('../junk')
        after = self.cards()
        self.assertEqual(
            before['0000:41:00.0'].parents[1:], after['0000:41:00.0'].parents
        )
        self.assertEqual(before['0000:81:00.0'], after['0000:81:00.0'])
        self.assertEqual(before.keys(), after.keys())
        self.assert_warned(
            f'{DEVICES}/0000:41:00.0/virtfn0',
            "'junk' is not a PCI address like 0000:84:00.0",
        )


class CostTest(base.HostTest):
    """Files read: by cards and used units, not by functions times types."""

    def reads(self, types: int, functions: int, mdevs: int = 0) -> int:
        """What one pass over 16 cards reads."""
        fake = self.new_host()
        kinds = tuple(
            FakeType(f'nvidia-{i:03}', f'NVIDIA X-{i}Q', 1, max_instance=32)
            for i in range(types)
        )
        for index in range(16):
            fake.add_gpu(
                f'0000:{index * 8:02x}:00.0', 0x2235, driver='nvidia',
                iommu_group=index, types=kinds, units=64,
                virtual_functions=functions,
            )  # fmt: skip
        for card in read_snapshot(Tree(fake.root)).cards:
            for parent in card.parents[: mdevs // 16]:
                self.add_mdev(fake, str(parent))
        tree = Tree(fake.root)
        cards = read_snapshot(tree).cards
        self.assertEqual(16, len(cards))
        self.assertEqual([functions] * 16, [len(c.parents) for c in cards])
        self.assertEqual([types] * 16, [len(c.types) for c in cards])
        self.assertEqual(mdevs, sum(len(c.mdevs) for c in cards))
        self.assertEqual([], tree.warnings)
        return tree.reads

    def add_mdev(self, fake: FakeSysfs, parent: str) -> None:
        """Make an mdev; FakeSysfs would write all types anew for each."""
        uuid = base.instance(parent)
        device = fake.device(parent) / uuid
        device.mkdir()
        (device / 'mdev_type').symlink_to('../mdev_supported_types/nvidia-000')
        link = fake.sys / 'bus/mdev/devices' / uuid
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(device, link.parent))

    def test_growth(self) -> None:
        small = self.reads(types=3, functions=4)
        self.assertLessEqual(self.reads(types=4, functions=4) - small, 4 * 16)
        self.assertLessEqual(self.reads(types=3, functions=5) - small, 1 * 16)
        self.assertLessEqual(
            self.reads(types=3, functions=4, mdevs=16) - small, 2 * 16
        )

    def test_full_host(self) -> None:
        # 16 cards of 32 functions with 20 types each, and 256 vGPUs. Of a
        # type only the number that is free is read of each card.
        per_card = 15 + 32 + 20
        self.assertLessEqual(
            self.reads(types=20, functions=32, mdevs=256),
            16 * per_card + 4 * 20 + 2 * 256 + 8,
        )

    def other_reads(self, functions: int, **kwargs: Any) -> int:
        """What a pass over 4 cards reads, of another form."""
        fake = self.new_host()
        for index in range(4):
            fake.add_gpu(
                f'0000:{index * 8:02x}:00.0', 0x2235, iommu_group=index + 1,
                virtual_functions=functions, **kwargs,
            )  # fmt: skip
        tree = Tree(fake.root)
        cards = read_snapshot(tree).cards
        self.assertEqual([functions] * 4, [len(c.vfs) for c in cards])
        self.assertEqual([], tree.warnings)
        return tree.reads

    def test_vendor_vfio(self) -> None:
        kwargs = {
            'driver': 'nvidia', 'types': hosts.A40_TYPES, 'units': 48,
            'vendor_vfio': True,
        }  # fmt: skip
        few, many = (self.other_reads(n, **kwargs) for n in (8, 48))
        # The link, and the type that is set.
        self.assertLessEqual(many - few, 4 * 40 * 2)
        self.assertLessEqual(few, 4 * (18 + 8 * 2) + 8)

    def test_plain_functions(self) -> None:
        for driver, each in (('gim', 4), ('nvidia', 5)):
            few, many = (self.other_reads(n, driver=driver) for n in (8, 48))
            self.assertLessEqual(many - few, 4 * 40 * each)
            self.assertLessEqual(few, 4 * (18 + 8 * each) + 8)

    def test_plain_functions_in_one_group(self) -> None:
        # What the others in it are is known, but of cards still to come:
        # those of three of the four are asked for their class, once.
        few, many = (
            self.other_reads(n, driver='gim', vf_iommu_group=99)
            for n in (8, 48)
        )
        self.assertLessEqual(many - few, 4 * 40 * 4 + 3 * 40)
