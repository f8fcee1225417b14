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

"""The candidates that a host's map tells of."""

from __future__ import annotations

from typing import Any

import testtools

from nova_gpu.model.hostmap import PoolState
from nova_gpu.scheduler import likely


def pool(key: str, used: int = 0, **fields: Any) -> PoolState:
    return PoolState(key, 'mdev', {'VGPU_4Q': 4, 'VGPU_8Q': 2}, used, **fields)


POOLS = {
    'a': pool('a'),
    'b': pool('b', 1, active='VGPU_4Q'),
    'c': pool('c', 2, active='VGPU_8Q'),
}
CLASSES = ('VGPU_4Q', 'VGPU_8Q')


class LikelyTest(testtools.TestCase):
    def taken(
        self, extra_specs: dict[str, str], isolate: bool = False
    ) -> list[dict[str, dict[str, int]]]:
        asked = likely.parts(extra_specs, CLASSES)
        return [
            {p: a['resources'] for p, a in found['allocations'].items()}
            for found in likely.candidates(POOLS, asked, isolate)
        ]

    def short(self, extra_specs: dict[str, str]) -> str:
        asked = likely.parts(extra_specs, CLASSES)
        self.assertEqual([], likely.candidates(POOLS, asked, False))
        return likely.shortage(POOLS, asked)

    def test_one_class(self) -> None:
        self.assertEqual(
            [{'a': {'VGPU_4Q': 3}}, {'b': {'VGPU_4Q': 3}}],
            self.taken({'resources:VGPU_4Q': '3', 'resources:VCPU': '2'}),
        )
        self.assertEqual(
            [{'a': {'VGPU_4Q': 4}}], self.taken({'resources:VGPU_4Q': '4'})
        )

    def test_classes_of_one_group(self) -> None:
        both = {'VGPU_4Q': 1, 'VGPU_8Q': 1}
        named = {f'resources_A:{c}': str(n) for c, n in both.items()}
        self.assertEqual([{'a': both}], self.taken(named))
        plain = {f'resources:{c}': str(n) for c, n in both.items()}
        self.assertEqual(
            [{'a': both}, {'b': {'VGPU_4Q': 1}, 'a': {'VGPU_8Q': 1}}],
            self.taken(plain),
        )

    def test_groups_that_are_alike(self) -> None:
        two = {'resources1:VGPU_4Q': '2', 'resources2:VGPU_4Q': '2'}
        apart = {'a': {'VGPU_4Q': 2}, 'b': {'VGPU_4Q': 2}}
        self.assertEqual([{'a': {'VGPU_4Q': 4}}, apart], self.taken(two))
        self.assertEqual([apart], self.taken(two, isolate=True))

    def test_as_many_as_placement_gives(self) -> None:
        pools = {f'{n:02}': pool(f'{n:02}') for n in range(32)}
        specs = {f'resources{n}:VGPU_8Q': '1' for n in range(8)}
        asked = likely.parts(specs, CLASSES)
        found = likely.candidates(pools, asked, True)
        self.assertEqual(likely.MOST, len(found))
        # Far too many ways to try: what is short in sum is seen before.
        specs = {f'resources{n}:VGPU_8Q': '2' for n in range(33)}
        asked = likely.parts(specs, CLASSES)
        self.assertEqual([], likely.candidates(pools, asked, False))

    def test_what_is_short(self) -> None:
        for expected, specs in (
            (
                'asks for 5 VGPU_4Q at once, and has 4 in one place at most',
                {'resources:VGPU_4Q': '5'},
            ),
            (
                'has not enough free for all groups of the flavor together',
                {f'resources{n}:VGPU_8Q': '1' for n in range(3)},
            ),
        ):
            self.assertEqual(expected, self.short(specs))
        full = {'c': POOLS['c'], 'd': pool('d', 4, active='VGPU_4Q')}
        asked = likely.parts({'resources:VGPU_8Q': '1'}, CLASSES)
        self.assertEqual(
            'asks for 1 VGPU_8Q, and has 0 free; 1 of 2 cards hold another '
            'profile',
            likely.shortage(full, asked),
        )
        self.assertEqual(
            'none of its GPUs gives VGPU_8Q', likely.shortage({}, asked)
        )

    def test_reserved_units_are_not_free(self) -> None:
        pools = {'a': pool('a', 1, reserved=2)}
        self.assertEqual(1, likely.room(pools['a'], 'VGPU_4Q'))
        self.assertEqual(0, likely.room(pools['a'], 'VGPU_8Q'))
