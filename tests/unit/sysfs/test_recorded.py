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

"""The whole card as it is read, for each form of the recorded hosts."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator

from nova_gpu.model.address import PciAddress, VirtualParent
from nova_gpu.model.device import Card, VirtualFunction
from nova_gpu.model.profile import VgpuType
from tests.fixtures import hosts
from tests.fixtures.hosts import GIB, MIB
from tests.fixtures.sysfs import FakeType
from tests.unit import base


def mdev_types(
    kinds: Iterable[FakeType], available: dict[str, int]
) -> tuple[VgpuType, ...]:
    """The types as their files tell them."""
    return tuple(
        VgpuType(
            id=kind.id,
            name=kind.name or kind.id,
            available=available.get(kind.id, 0),
            capacity=kind.max_instance,
            framebuffer_mib=None if kind.text == '' else kind.framebuffer_mib,
        )
        for kind in kinds
    )


def listed_types(
    kinds: Iterable[FakeType], without: Collection[str] = ()
) -> tuple[VgpuType, ...]:
    """The types as the vendor's own interface lists them."""
    return tuple(
        VgpuType(
            id=kind.id.removeprefix('nvidia-'),
            name=kind.name or '',
            available=1,
            framebuffer_mib=kind.framebuffer_mib,
        )
        for kind in kinds
        if kind.id not in without
    )


def functions(first: str, count: int) -> Iterator[PciAddress]:
    """So many functions, slot by slot."""
    start = PciAddress.parse(first)
    for number in range(start.function, start.function + count):
        slot = start.slot + number // 8
        yield PciAddress(start.domain, start.bus, slot, number % 8)


class RecordedCardsTest(base.HostTest):
    """Each field of a card of each form, and no warning."""

    def assert_cards(self, *expected: Card) -> None:
        found = self.snapshot()
        self.assertEqual((), found.warnings)
        self.assertEqual(len(expected), len(found.cards))
        for card, read in zip(expected, found.cards, strict=True):
            if isinstance(card.address, PciAddress):
                # Each has the fake's root port for itself.
                port = dataclasses.replace(card.address, slot=31, function=7)
                card = dataclasses.replace(
                    card, bridges=(port,), linked=read.linked
                )
            self.assertEqual(card, read)

    def test_boards(self) -> None:
        hosts.a100_board(self.fake)
        hosts.four_t4(self.fake)
        hosts.mi300x(self.fake)
        self.assertEqual(
            {'NVIDIA A100 SXM4 40GB': 8, 'NVIDIA Tesla T4': 0,
             'AMD Instinct MI300X': 8},
            {card.model: card.linked for card in self.snapshot().cards},
        )  # fmt: skip

    def test_a100_board(self) -> None:
        hosts.a100_board(self.fake)
        self.assert_cards(
            *(
                base.card(
                    address, numa_node=index // 4, iommu_group=47 + index,
                    total_vfs=16, resettable=True,
                )
                for index, address in enumerate(hosts.A100_ADDRESSES)
            )
        )  # fmt: skip

    def test_four_t4(self) -> None:
        hosts.four_t4(self.fake)
        available = {
            'nvidia-230': 16, 'nvidia-231': 8, 'nvidia-232': 4,
            'nvidia-233': 2, 'nvidia-234': 1,
        }  # fmt: skip
        self.assert_cards(
            *(
                base.card(
                    address, product_id=0x1EB8, name='NVIDIA Tesla T4',
                    model='NVIDIA Tesla T4', memory_mib=16 * 1024,
                    numa_node=index // 2, iommu_group=20 + index,
                    driver='nvidia',
                    types=mdev_types(hosts.T4_TYPES, available),
                    parents=(PciAddress.parse(address),),
                )
                for index, address in enumerate(
                    ('0000:3b:00.0', '0000:5e:00.0',
                     '0000:af:00.0', '0000:d8:00.0')
                )
            )
        )  # fmt: skip

    def a10(self, index: int, types: tuple[VgpuType, ...]) -> Card:
        bus = ('41', '81')[index]
        parents = tuple(functions(f'0000:{bus}:00.4', 32))
        return base.card(
            f'0000:{bus}:00.0', product_id=0x2236, name='NVIDIA A10',
            model='NVIDIA A10', memory_mib=24 * 1024, numa_node=index,
            iommu_group=30 + index, driver='nvidia', types=types,
            parents=parents, vfs=tuple(map(VirtualFunction, parents)),
            total_vfs=32, vf_product_id=0x2236, bars=(32 * GIB, 32 * MIB),
        )  # fmt: skip

    def test_two_a10(self) -> None:
        hosts.two_a10(self.fake)
        # One on each function.
        types = mdev_types(hosts.A10_TYPES, {t.id: 1 for t in hosts.A10_TYPES})
        self.assert_cards(self.a10(0, types), self.a10(1, types))
        self.assertEqual(
            '0000:41:04.3', str(self.snapshot().cards[0].parents[-1])
        )

    def test_a10_vendor_vfio(self) -> None:
        for draft in (False, True):
            self.fake = self.new_host()
            hosts.a10_vendor_vfio(self.fake, draft)
            types = listed_types(hosts.A10_TYPES)
            self.assert_cards(
                *(
                    dataclasses.replace(
                        self.a10(index, types), vendor_vfio=True
                    )
                    for index in (0, 1)
                )
            )

    def test_rtx_pro_6000(self) -> None:
        hosts.rtx_pro_6000(self.fake)
        self.fake.set_vgpu_type('0001:04:00.2', '1527')
        self.fake.set_vgpu_type('0001:04:05.7', '1538')
        parents = tuple(functions('0001:04:00.2', 48))
        made = {'0001:04:00.2': '1527', '0001:04:05.7': '1538'}
        name = 'NVIDIA RTX PRO 6000 Blackwell Server Edition'
        self.assert_cards(
            base.card(
                '0001:04:00.0', product_id=0x2BB5, name=name, model=name,
                memory_mib=96 * 1024, iommu_group=40, driver='nvidia',
                # 56 GiB are left, and sizes go together.
                types=listed_types(
                    hosts.RTX_PRO_6000_TYPES, {'nvidia-1543'}
                ),
                parents=parents,
                vfs=tuple(
                    VirtualFunction(p, type_id=made.get(str(p)))
                    for p in parents
                ),
                total_vfs=48, vf_product_id=0x2BB5, vendor_vfio=True,
                bars=(128 * GIB, 32 * MIB),
            )
        )  # fmt: skip

    def a100_mig(self, types: tuple[VgpuType, ...]) -> Card:
        parents = tuple(functions('0000:c1:00.4', 16))
        return base.card(
            '0000:c1:00.0', product_id=0x20F1, name='NVIDIA A100 PCIe 40GB',
            model='NVIDIA A100 PCIe 40GB', iommu_group=50, driver='nvidia',
            types=types, parents=parents,
            vfs=tuple(map(VirtualFunction, parents)), total_vfs=16,
            vf_product_id=0x20F1,
            gpu_instances=5, bars=(64 * GIB, 32 * MIB),
        )  # fmt: skip

    def test_a100_mig(self) -> None:
        hosts.a100_mig(self.fake)
        # Three instances of one slice, two of two.
        available = {'nvidia-474': 1, 'nvidia-475': 1, 'nvidia-706': 1}
        self.assert_cards(
            self.a100_mig(mdev_types(hosts.A100_TYPES, available))
        )

    def test_a100_mig_vendor_vfio(self) -> None:
        hosts.a100_mig_vendor_vfio(self.fake)
        kinds = [k for k in hosts.A100_TYPES if k.slices in (1, 2)]
        self.assert_cards(
            dataclasses.replace(
                self.a100_mig(listed_types(kinds)), vendor_vfio=True
            )
        )

    def test_gvt_g(self) -> None:
        hosts.gvt_g(self.fake)
        available = {
            'i915-GVTg_V5_1': 1, 'i915-GVTg_V5_2': 2, 'i915-GVTg_V5_4': 5,
            'i915-GVTg_V5_8': 7,
        }  # fmt: skip
        self.assert_cards(
            base.card(
                '0000:00:02.0', vendor_id=0x8086, product_id=0x591D,
                class_code=0x0300, name='Intel 591d', model='Intel 591d',
                memory_mib=None, iommu_group=1, driver='i915', boot_vga=True,
                types=mdev_types(hosts.GVT_TYPES, available),
                parents=(PciAddress(0, 0, 2, 0),),
            )
        )  # fmt: skip

    def test_mi300x(self) -> None:
        for enabled in (8, 3, 0):
            self.fake = self.new_host()
            hosts.mi300x(self.fake, enabled)
            name = 'AMD Instinct MI300X'
            self.assert_cards(
                base.card(
                    '0000:0c:00.0', vendor_id=0x1002, product_id=0x74A1,
                    class_code=0x1200, name=name, model=name,
                    memory_mib=192 * 1024, iommu_group=60, driver='gim',
                    vfs=tuple(
                        map(
                            VirtualFunction,
                            functions('0000:0c:00.2', enabled),
                        )
                    ),
                    total_vfs=8, vf_product_id=0x74B5 if enabled else None,
                    bars=(256 * GIB, 2 * MIB),
                    vf_bars=(32 * GIB, 2 * MIB) if enabled else (),
                    resettable=True,
                )
            )  # fmt: skip

    def test_grid_k2(self) -> None:
        available = {
            'nvidia-1': 8, 'nvidia-2': 8, 'nvidia-3': 4, 'nvidia-4': 2,
            'nvidia-5': 1,
        }  # fmt: skip
        for vgpu in (False, True):
            self.fake = self.new_host()
            hosts.grid_k2(self.fake, vgpu)
            types = mdev_types(hosts.K2_TYPES, available) if vgpu else ()
            self.assert_cards(
                *(
                    base.card(
                        str(address), product_id=0x11BF, class_code=0x0300,
                        name='NVIDIA GRID K2', model='NVIDIA GRID K2',
                        memory_mib=4096, iommu_group=14 + index,
                        driver='nvidia' if vgpu else 'vfio-pci',
                        types=types, parents=(address,) if vgpu else (),
                        resettable=not vgpu,
                    )
                    for index, address in enumerate(
                        (PciAddress(0, 6, 0, 0), PciAddress(0, 7, 0, 0))
                    )
                )
            )  # fmt: skip

    def test_mtty(self) -> None:
        hosts.mtty(self.fake)
        parent = VirtualParent('mtty')
        self.assert_cards(
            Card(
                address=parent, vendor_id=0, product_id=0, class_code=0,
                name='mtty', model='mtty',
                types=mdev_types(
                    hosts.MTTY_TYPES, {'mtty-1': 24, 'mtty-2': 12}
                ),
                parents=(parent,),
            )
        )  # fmt: skip
