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

"""Plain virtual functions and their IOMMU groups."""

from __future__ import annotations

from typing import Any

from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import VirtualFunction
from nova_gpu.sysfs.functions import DEVICES
from tests.unit import base

CARD = '0000:05:00.0'


class PlainFunctionsTest(base.HostTest):
    """Which of them can go to a guest alone."""

    def add(self, **kwargs: Any) -> None:
        self.fake.add_gpu(
            CARD, 0x74A1, vendor=0x1002, class_code=0x1200, driver='gim',
            iommu_group=9, virtual_functions=3, vf_product=0x74B5,
            vf_offset=16, **kwargs,
        )  # fmt: skip

    def vfs(self) -> tuple[VirtualFunction, ...]:
        (card,) = self.snapshot().cards
        return card.vfs

    def problems(self) -> list[str | None]:
        return [vf.problem for vf in self.vfs()]

    def test_each_in_a_group_of_its_own(self) -> None:
        self.add(vf_driver='vfio-pci')
        self.assertEqual(
            tuple(
                VirtualFunction(PciAddress(0, 5, 2, n), driver='vfio-pci')
                for n in range(3)
            ),
            self.vfs(),
        )
        (card,) = self.snapshot().cards
        self.assertFalse(card.vendor_vfio)
        self.assertEqual(((), ()), (card.types, card.parents))

    def test_no_iommu(self) -> None:
        self.fake.add_gpu(CARD, virtual_functions=2, driver='gim')
        self.assertEqual(['has no IOMMU group'] * 2, self.problems())
        self.assertEqual((), self.snapshot().warnings)

    def test_one_group_for_all(self) -> None:
        self.add(vf_iommu_group=70)
        self.assertEqual(
            'shares IOMMU group 70 with 0000:05:02.1, 0000:05:02.2',
            self.problems()[0],
        )
        self.assertEqual(3, len(set(self.problems())))

    def test_with_the_card_and_a_bridge(self) -> None:
        self.add(vf_iommu_group=9)
        self.fake.add_function(
            '0000:04:00.0', 0x8086, 0x2030, 0x0604, iommu_group=9
        )
        self.assertEqual(
            f'shares IOMMU group 9 with {CARD}, 0000:05:02.0, 0000:05:02.1',
            self.problems()[2],
        )

    def test_bridge_alone_is_nobody(self) -> None:
        self.add()
        self.fake.add_function(
            '0000:04:00.0', 0x8086, 0x2030, 0x0604, iommu_group=1901
        )
        self.assertEqual([None] * 3, self.problems())

    def test_what_can_not_be_read_is_no_bridge(self) -> None:
        self.add()
        self.fake.add_function(
            '0000:04:00.0', 0x8086, 0x2030, 0x0604, iommu_group=1901
        )
        self.fake.write(f'{DEVICES}/0000:04:00.0/class', '0x06')
        self.assertEqual(
            [None, 'shares IOMMU group 1901 with 0000:04:00.0', None],
            self.problems(),
        )

    def test_many_are_not_all_named(self) -> None:
        self.fake.add_gpu(
            CARD, virtual_functions=40, vf_iommu_group=3, iommu_group=2,
            driver='gim', vf_offset=8,
        )  # fmt: skip
        self.assertEqual(
            'shares IOMMU group 3 with 0000:05:01.1, 0000:05:01.2, '
            '0000:05:01.3, 0000:05:01.4 and 35 more',
            self.problems()[0],
        )

    def test_group_that_can_not_be_read(self) -> None:
        self.add()
        groups = self.fake.sys / 'kernel/iommu_groups'
        (groups / '1900/devices').rename(groups / '1900/gone')
        link = self.fake.device('0000:05:02.1') / 'iommu_group'
        link.unlink()
        link.symlink_to('../../../kernel/iommu_groups/many')
        self.assertEqual(
            ['has no IOMMU group', 'has no IOMMU group', None],
            self.problems(),
        )
        self.assertEqual(
            (
                f'{self.path("sys/kernel/iommu_groups/1900/devices")}: '
                f'No such file or directory',
                f"{self.path(DEVICES)}/0000:05:02.1/iommu_group: 'many' is "
                f'not a number',
            ),
            self.snapshot().warnings,
        )
