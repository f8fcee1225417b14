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


from __future__ import annotations

import testtools

from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import Card
from nova_gpu.model.mig import layout
from nova_gpu.model.profile import VgpuType


def card(gib: int | None, *types: VgpuType) -> Card:
    return Card(
        address=PciAddress.parse('0000:c1:00.0'),
        vendor_id=0x10DE,
        product_id=0x20F1,
        class_code=0x0302,
        name='NVIDIA A100',
        model='NVIDIA A100',
        memory_mib=None if gib is None else gib * 1024,
        types=types,
    )


class LayoutTest(testtools.TestCase):
    def cut(self, gib: int, *profiles: str) -> str:
        found = layout(card(gib), profiles)
        self.assertIsNone(found.problem)
        self.assertEqual(profiles, found.wanted)
        return ' '.join(found.instances)

    def test_one_profile_fills_the_card(self) -> None:
        """The counts are those of NVIDIA's MIG user guide."""
        for gib, profile, name, count in (
            (40, 'A100-1-5C', '1g.5gb', 7),
            (40, 'NVIDIA A100-1-10C', '1g.10gb', 4),
            (40, 'GRID A100-2-10C', '2g.10gb', 3),
            (40, 'A100-3-20C', '3g.20gb', 2),
            (40, 'A100-4-20C', '4g.20gb', 1),
            (40, 'A100-7-40C', '7g.40gb', 1),
            (40, 'A100-1-5CME', '1g.5gb+me', 1),
            (24, 'A30-1-6C', '1g.6gb', 4),
            (24, 'A30-2-12C', '2g.12gb', 2),
            (24, 'A30-4-24C', '4g.24gb', 1),
            (80, 'H100-1-10C', '1g.10gb', 7),
            (94, 'H100L-1-12C', '1g.12gb', 7),
            (94, 'H100L-1-24C', '1g.24gb', 4),
            (94, 'H100L-3-47C', '3g.47gb', 2),
            (141, 'H200X-1-18C', '1g.18gb', 7),
            (180, 'B200X-1-45C', '1g.45gb', 4),
            (96, 'RTX Pro 6000 Blackwell DC-1-24QGFX', '1g.24gb+gfx', 4),
            (96, 'RTX Pro 6000 Blackwell DC-2-48CMEALL', '2g.48gb+me.all', 1),
            (96, 'RTX Pro 6000 Blackwell DC-4-96CNOME', '4g.96gb-me', 1),
        ):
            self.assertEqual(
                ' '.join([name] * count), self.cut(gib, profile), profile
            )

    def test_several_share_it_largest_first(self) -> None:
        for profiles, expected in (
            (('A100-1-5C', 'A100-3-20C'), '3g.20gb' + ' 1g.5gb' * 4),
            (('A100-2-10C', 'A100-1-5C'), '2g.10gb 2g.10gb' + ' 1g.5gb' * 3),
            (('A100-4-20C', 'A100-3-20C'), '4g.20gb 3g.20gb'),
            (
                ('A100-1-5C', 'A100-1-5CME', 'A100-4-20C'),
                '4g.20gb 1g.5gb+me 1g.5gb 1g.5gb',
            ),
            # The last slice of memory takes no 1g.5gb.
            (('A100-1-10C', 'A100-1-5C'), '1g.10gb ' * 3 + '1g.5gb 1g.5gb'),
        ):
            self.assertEqual(expected, self.cut(40, *profiles), profiles)

    def test_types_by_id(self) -> None:
        kind = VgpuType('nvidia-474', 'GRID A100-1-5C', 0)
        found = layout(card(40, kind), ['nvidia-474'])
        self.assertEqual(('1g.5gb',) * 7, found.instances)

    def test_types_that_need_no_instance(self) -> None:
        for names in ((), ('A100-20C',), ('i915-GVTg_V5_4', 'nvidia-1')):
            found = layout(card(40), names)
            self.assertEqual(((), None), (found.instances, found.problem))

    def test_what_does_not_go(self) -> None:
        for gib, profiles, problem in (
            (40, ('A100-1-5C', 'A100-20C'),
             'A100-1-5C needs MIG mode, and A100-20C that it is off'),
            (80, ('H100-7-80C', 'H100-1-10C'),
             'there is no room for 1g.10gb beside 7g.80gb'),
            (None, ('A100-1-5C',), 'the size of its memory is not known'),
        ):  # fmt: skip
            found = layout(card(gib), profiles)
            self.assertEqual(((), problem), (found.instances, found.problem))
