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

"""FakeSysfs answers as a kernel does, which the lab asks the same."""

from __future__ import annotations

import fixtures
import testtools

from lab.scenarios import answers, devices
from tests.fixtures.sysfs import FakeSysfs, FakeType

SIZES = (8, 12, 16, 24, 48)


class AnswersTest(answers.Answers, testtools.TestCase):
    """The lab's cards that are cut up, in files."""

    def setUp(self) -> None:
        super().setUp()
        root = self.useFixture(fixtures.TempDir()).path
        self.fake = self.effects = FakeSysfs(root)
        self.devices = devices.Devices(root)
        self.fake.add_gpu(
            devices.MDEV, 0x2235, numa_node=1, iommu_group=20,
            driver='nvidia', types=self.types('NVIDIA A40', 562), units=48,
        )  # fmt: skip
        self.fake.add_gpu(
            devices.VENDOR_VFIO, 0x26B9, numa_node=1, iommu_group=21,
            driver='nvidia', types=self.types('NVIDIA L40S', 1155), units=48,
            virtual_functions=8, vendor_vfio=True,
        )  # fmt: skip
        self.fake.add_gpu(
            devices.SRIOV, 0x74A1, vendor=0x1002, class_code=0x1200,
            numa_node=1, iommu_group=40, driver='igb', virtual_functions=4,
        )  # fmt: skip

    @staticmethod
    def types(product: str, first: int) -> list[FakeType]:
        return [
            FakeType(
                f'nvidia-{number}', f'{product}-{size}Q', size=size,
                framebuffer_mib=size * 1024, max_instance=48 // size,
            )
            for number, size in enumerate(SIZES, first)
        ]  # fmt: skip

    def disable_vfs(self, card: str) -> None:
        self.fake.disable_vfs(card)
