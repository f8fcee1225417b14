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

"""PCI functions one by one: links to virtual ones, BARs, drivers."""

from __future__ import annotations

from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import Card
from nova_gpu.sysfs.functions import (
    DEVICES,
    UNREADABLE,
    read_bars,
    read_bridges,
)
from nova_gpu.sysfs.tree import Tree
from tests.fixtures.sysfs import FakeType
from tests.unit import base

GIB = 1 << 30
CARD = '0000:41:00.0'
RESOURCE = f'{DEVICES}/{CARD}/resource'
NONE = ' '.join(['0x' + '0' * 16] * 3)
KIND = FakeType('nvidia-558', 'NVIDIA A40-2Q', 2, 2048, 24)


def line(start: int, size: int, flags: int) -> str:
    return f'0x{start:016x} 0x{start + size - 1:016x} 0x{flags:016x}'


class BridgesTest(base.HostTest):
    """What is above a card."""

    def bridges(self) -> list[str]:
        tree = Tree(self.fake.root)
        found = read_bridges(tree, PciAddress.parse(CARD))
        self.assertEqual([], tree.warnings)
        return list(map(str, found))

    def test_switch(self) -> None:
        way = ['0000:40:01.0', '0000:41:02.0', '0000:42:10.0']
        self.fake.add_gpu(CARD, 0x2235, bridge='/'.join(way))
        self.assertEqual(way, self.bridges())

    def test_what_is_no_address(self) -> None:
        # Intel's VMD puts a domain of its own between.
        self.fake.add_gpu(CARD, 0x2235, bridge='0000:40:01.0/pci10000:00')
        self.assertEqual(['0000:40:01.0'], self.bridges())

    def test_card_that_has_gone(self) -> None:
        self.assertEqual([], self.bridges())


class BarsTest(base.HostTest):
    """The sizes of 64-bit memory BARs, from real files' forms."""

    def setUp(self) -> None:
        super().setUp()
        self.fake.add_gpu(CARD, 0x2235)
        self.tree = Tree(self.fake.root)

    def bars(self, *lines: str) -> tuple[int, ...]:
        self.fake.write(RESOURCE, ''.join(f'{line}\n' for line in lines))
        return read_bars(self.tree, PciAddress.parse(CARD))

    def test_card(self) -> None:
        # Registers of 32 bits, memory of 64 and of 32 bits with ports, and
        # what comes after the BARs: ROM, and the virtual functions' BARs.
        lines = (
            line(0xF4000000, 1 << 24, 0x40200),
            line(0x38000000000, 64 * GIB, 0x14220C),
            NONE,
            line(0x39000000000, 1 << 25, 0x14220C),
            NONE,
            line(0x4000, 128, 0x40101),
            line(0xF5000000, 1 << 19, 0x4E200),
            line(0x3A000000000, 128 * GIB, 0x14220C),
            *[NONE] * 5,
        )
        self.assertEqual((64 * GIB, 1 << 25), self.bars(*lines))
        self.assertEqual([], self.tree.warnings)

    def test_no_file(self) -> None:
        self.assertEqual((), read_bars(self.tree, PciAddress.parse(CARD)))
        self.assertEqual([], self.tree.warnings)

    def test_wrong_content(self) -> None:
        good = line(0x38000000000, 64 * GIB, 0x14220C)
        for lines, shown in (
            ((), ''),
            ((good,), ''),
            ((good, *['many'] * 6), 'many'),
            ((good[:-1], *[NONE] * 6), good[:-1]),
            ((good.upper(), *[NONE] * 6), good.upper()),
            ((NONE[:-1] + ' ' + NONE, *[NONE] * 6), NONE[:-1] + ' 0x00'),
            ((line(8, -7, 0x14220C), *[NONE] * 6), line(8, -7, 0x14220C)),
        ):
            self.tree.warnings.clear()
            self.assertEqual((), self.bars(*lines), lines)
            self.assertEqual(
                [f'{self.path(RESOURCE)}: {shown[:60]!r} is no start, end '
                 f'and flags'],
                self.tree.warnings,
            )  # fmt: skip

    def test_functions_have_bars_of_their_own(self) -> None:
        self.fake.add_gpu(
            '0000:81:00.0', 0x2235, driver='nvidia', virtual_functions=2,
            bars=(64 * GIB, 1 << 25), vf_bars=(2 * GIB, 1 << 25),
        )  # fmt: skip
        card = self.cards()['0000:81:00.0']
        self.assertEqual((64 * GIB, 1 << 25), card.bars)
        self.assertEqual((2 * GIB, 1 << 25), card.vf_bars)


class VirtualFunctionsTest(base.HostTest):
    """Where the links of a card lead."""

    def setUp(self) -> None:
        super().setUp()
        self.device = self.fake.add_gpu(
            CARD, 0x2235, driver='nvidia', types=(KIND,), units=48,
            virtual_functions=4, iommu_group=1,
        )  # fmt: skip

    def card(self) -> Card:
        (card,) = self.snapshot().cards
        return card

    def vfs(self) -> list[str]:
        return [str(vf.address) for vf in self.card().vfs]

    def lead(self, number: int, target: str) -> None:
        link = self.device / f'virtfn{number}'
        link.unlink(missing_ok=True)
        link.symlink_to(target)

    def test_order_is_that_of_addresses(self) -> None:
        # By their names the second would be the link virtfn10.
        fake = self.new_host()
        fake.add_gpu(CARD, 0x2235, virtual_functions=12, iommu_group=1)
        self.fake = fake
        expected = [f'0000:41:00.{n}' for n in range(4, 8)]
        expected += [f'0000:41:01.{n}' for n in range(8)]
        self.assertEqual(expected, self.vfs())

    def test_link_that_leads_nowhere(self) -> None:
        self.lead(1, '../0000:99:00.5')
        self.assertEqual(
            ['0000:41:00.4', '0000:41:00.6', '0000:41:00.7'], self.vfs()
        )
        self.assertEqual(
            (f'{self.path(DEVICES)}/{CARD}/virtfn1: 0000:99:00.5 is no '
             f'function of its: ignored',),
            self.snapshot().warnings,
        )  # fmt: skip

    def test_link_to_itself_and_two_links_to_one(self) -> None:
        self.lead(1, f'../{CARD}')
        self.lead(2, '../0000:41:00.4')
        self.assertEqual(['0000:41:00.4', '0000:41:00.7'], self.vfs())
        (warning,) = self.snapshot().warnings
        self.assertIn(f'virtfn1: {CARD} is no function', warning)

    def test_file_in_the_place_of_a_link(self) -> None:
        (self.device / 'virtfn1').unlink()
        (self.device / 'virtfn1').write_text('0000:41:00.5\n')
        self.assertEqual(3, len(self.vfs()))
        self.assertEqual(
            (f'{self.path(DEVICES)}/{CARD}/virtfn1: Invalid argument',),
            self.snapshot().warnings,
        )

    def test_how_many_it_can_have(self) -> None:
        self.assertEqual(4, self.card().total_vfs)
        path = self.device / 'sriov_totalvfs'
        for content, warned in (
            ('64\n', 0), ('0\n', 0), ('-1\n', 0), ('', 1), ('many', 1),
        ):  # fmt: skip
            path.write_text(content)
            expected = 64 if content == '64\n' else 0
            self.assertEqual(expected, self.card().total_vfs)
            self.assertEqual(warned, len(self.snapshot().warnings), content)
        path.unlink()
        self.assertEqual(0, self.card().total_vfs)
        self.assertEqual((), self.snapshot().warnings)

    def test_reset(self) -> None:
        self.fake.add_gpu('0000:81:00.0', resettable=True)
        self.fake.add_gpu('0000:82:00.0', resettable=False)
        self.assertEqual(
            [True, False],
            [self.cards()[f'0000:{b}:00.0'].resettable for b in (81, 82)],
        )

    def test_driver_of_a_plain_function_that_can_not_be_read(self) -> None:
        fake = self.fake = self.new_host()
        fake.add_gpu(CARD, 0x2235, virtual_functions=2, iommu_group=1)
        name = f'{DEVICES}/0000:41:00.4/driver'
        fake.write(name, '')
        self.assertEqual(
            [UNREADABLE, None], [vf.driver for vf in self.card().vfs]
        )
        self.assertEqual(
            (f'{self.path(name)}: Invalid argument',),
            self.snapshot().warnings,
        )
