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
"""What free GPUs are still good for."""

from __future__ import annotations

import testtools
from hypothesis import given, settings
from hypothesis import strategies as st

from nova_gpu.model.fragmentation import (
    DEFAULT,
    Cards,
    Kind,
    Mix,
    Room,
    cards_of,
    score,
)
from nova_gpu.model.hostmap import PoolState

SIZES = (1, 2, 4, 8)
parts = st.dictionaries(
    st.sampled_from(SIZES[1:]), st.integers(1, 20), max_size=3
).map(lambda found: tuple(sorted(found.items())))
cards = st.builds(Cards, st.integers(0, 16), parts, st.just(SIZES))
kinds = st.builds(
    Kind,
    gpus=st.integers(1, 8),
    share=st.sampled_from([1.0, 0.5, 0.3, 0.125]),
    vcpus=st.sampled_from([0.0, 1.0, 12.0]),
    memory_mib=st.sampled_from([0.0, 1024.0]),
    weight=st.floats(0.1, 10),
)
mixes = st.lists(kinds, min_size=1, max_size=5).map(Mix)
rooms = st.builds(
    Room, cards, st.integers(-4, 200), st.integers(-4096, 1 << 18)
)


class CardsTest(testtools.TestCase):
    def test_whole_cards(self) -> None:
        free = Cards(5)
        self.assertEqual(5.0, free.free)
        self.assertEqual((2, 5.0, 2.0), free.fit(2, 1.0))
        self.assertEqual(0, free.fit(8, 1.0)[0])
        self.assertEqual(Cards(2), free.take(1, 3))

    def test_vgpus_come_from_cards_in_use_first(self) -> None:
        free = Cards(2, ((4, 3),), SIZES)
        self.assertEqual(2.75, free.free)
        self.assertEqual((11, 2.75, 0.25), free.fit(1, 0.25))
        self.assertEqual((4, 2.0, 0.5), free.fit(1, 0.4))
        self.assertEqual(Cards(2, ((4, 1),), SIZES), free.take(4, 2))
        self.assertEqual(Cards(1, ((4, 3),), SIZES), free.take(4, 4))
        self.assertEqual(Cards(1, ((2, 1), (4, 3)), SIZES), free.take(2, 1))

    def test_a_share_gets_the_smallest_vgpu_that_holds_it(self) -> None:
        free = Cards(1, (), (2, 3, 8))
        found = [free.size_for(s) for s in (1.0, 0.5, 0.4, 0.3, 0.01)]
        self.assertEqual([0, 2, 2, 3, 8], found)
        self.assertEqual(0, free.fit(1, 1.0)[0])

    @settings(deadline=None)
    @given(cards, st.sampled_from(SIZES), st.integers(1, 40))
    def test_what_is_taken_is_gone(
        self, free: Cards, size: int, count: int
    ) -> None:
        after = free.take(size, count)
        units = free.empty * size + dict(free.parts).get(size, 0)
        if count <= units:
            self.assertAlmostEqual(free.free - count / size, after.free)
        self.assertGreaterEqual(after.empty, 0)
        self.assertTrue(all(left > 0 for _, left in after.parts))


class MixTest(testtools.TestCase):
    def test_what_is_lost_for_one_kind(self) -> None:
        eights, pairs = Mix([Kind(8)]), Mix([Kind(2)])
        self.assertEqual(7.0, eights.lost(Room(Cards(7))))
        self.assertEqual(0.0, eights.lost(Room(Cards(8))))
        # The next pair could be any of seven cards; one will be left.
        self.assertEqual(0.5, pairs.lost(Room(Cards(7))))
        self.assertEqual(1.0, pairs.lost(Room(Cards(1))))

    def test_what_lacks_cpus_or_memory_is_lost(self) -> None:
        room = Room(Cards(4), 8, 4096)
        self.assertEqual(0.0, Mix([Kind()]).lost(room))
        for kind in (Kind(vcpus=4), Kind(memory_mib=2048)):
            self.assertEqual(1.0, Mix([kind]).lost(room))
        self.assertEqual(4.0, Mix([Kind(vcpus=9)]).lost(room))
        self.assertEqual(4.0, Mix([Kind(vcpus=1)]).lost(Room(Cards(4), -1)))

    def test_kinds_count_by_their_weight(self) -> None:
        mix = Mix([Kind(1, weight=3), Kind(8, weight=1)])
        self.assertEqual(1.0, mix.lost(Room(Cards(4))))

    def test_cards_of_another_size_are_lost(self) -> None:
        halves = Mix([Kind(share=0.5)])
        self.assertEqual(0.75, halves.lost(Room(Cards(0, ((4, 3),), SIZES))))

    def test_small_differences_are_none(self) -> None:
        mix = Mix([Kind(1, weight=99), Kind(8, weight=0.2)])
        self.assertEqual(-1, mix.steps(Room(Cards(8)), Room(Cards(7))))
        self.assertEqual(0, mix.steps(Room(Cards(7)), Room(Cards(6))))

    @settings(deadline=None)
    @given(mixes, rooms)
    def test_never_more_is_lost_than_is_free(
        self, mix: Mix, room: Room
    ) -> None:
        lost = mix.lost(room)
        self.assertLessEqual(-1e-9, lost)
        self.assertLessEqual(lost, room.gpus.free + 1e-9)

    @settings(deadline=None)
    @given(mixes, rooms, st.sampled_from(SIZES), st.integers(0, 64))
    def test_what_no_gpu_could_need_decides_nothing(
        self, mix: Mix, room: Room, size: int, vcpus: int
    ) -> None:
        cards, free_vcpus, free_memory = room
        after = Room(
            cards.take(size, 1), free_vcpus - vcpus, free_memory - 64 * vcpus
        )
        self.assertEqual(
            mix.steps(room, after),
            mix.effect(
                cards, size, 1, free_vcpus, free_memory, vcpus, 64 * vcpus
            ),
        )

    @settings(deadline=None)
    @given(rooms, st.sampled_from(SIZES), st.floats(0, 1))
    def test_a_tie_counts_for_less_than_a_step(
        self, room: Room, size: int, fullness: float
    ) -> None:
        after = room._replace(gpus=room.gpus.take(size, 1))
        steps = DEFAULT.steps(room, after)
        found = score(steps, fullness)
        self.assertLessEqual(steps, found)
        self.assertLess(found, steps + 1)


class CardsOfTest(testtools.TestCase):
    """From the map of a host."""

    def test_whole_cards(self) -> None:
        pool = PoolState('a', 'whole', {'A': 8}, 3, 1, numa_nodes=(0,) * 8)
        self.assertEqual((Cards(4), 1), cards_of([pool], 'A'))
        self.assertEqual((Cards(0), 1), cards_of([pool], 'B'))

    def test_vgpus(self) -> None:
        totals = {'HALF': 2, 'QUARTER': 4, 'WHOLE': 1}
        pools = [
            PoolState(
                str(index), 'mdev', totals, used, numa_nodes=(0,),
                active=active,
            )
            for index, (active, used) in enumerate(
                [(None, 0), ('HALF', 1), ('QUARTER', 1), ('QUARTER', 3),
                 ('WHOLE', 1), ('HALF', 2)]
            )
        ]  # fmt: skip
        found = Cards(1, ((2, 1), (4, 4)), (1, 2, 4))
        self.assertEqual((found, 4), cards_of(pools, 'QUARTER'))
        self.assertEqual((found, 1), cards_of(pools, 'WHOLE'))

    def test_virtual_functions(self) -> None:
        pools = [
            PoolState(str(used), 'vf', {'VF': 8}, used, numa_nodes=(0,))
            for used in (0, 3, 8)
        ]
        self.assertEqual((Cards(1, ((8, 5),), (8,)), 8), cards_of(pools, 'VF'))
