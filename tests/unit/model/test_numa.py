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

"""Where guests and cards come together: what is decided of a host's map."""

from __future__ import annotations

import dataclasses

import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu.model import numa
from nova_gpu.model.claim import Want
from nova_gpu.model.hostmap import PoolState
from nova_gpu.model.inventory import Use
from tests.unit import base

#: Two free cards and one in use on node 0, one of each on node 1.
CARDS = PoolState(
    'a40', 'whole', {'A40': 5}, used=2,
    numa_nodes=(0, 0, 0, 1, 1), switches=(0, 0, 1, 1, -1),
    cliques=(-1,) * 5, free=(True, False, True, True, False),
)  # fmt: skip
#: A card that is cut into vGPUs, in use but for one.
CUT = PoolState(
    '0000_3b_00_0', 'mdev', {'T4-4Q': 4, 'T4-8Q': 2}, used=3,
    numa_nodes=(1,), active='T4-4Q',
)  # fmt: skip
UNKNOWN = dataclasses.replace(CUT, numa_nodes=(-1,))


def nodes(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


class NamesTest(testtools.TestCase):
    @given(st.frozensets(st.integers(0, 99)))
    def test_round_trip(self, numbers: frozenset[int]) -> None:
        names = {numa.name_of(n) for n in numbers}
        self.assertEqual(numbers, numa.named(names))

    def test_networks_are_no_nodes(self) -> None:
        for name in ('physnet0', '1', 'nova-gpu', 'nova-gpu:', 'nova-gpu:x',
                     'x:nova-gpu:1', 'nova-gpu:-1'):  # fmt: skip
            self.assertEqual(nodes(), numa.named([name]), name)


class ReachTest(testtools.TestCase):
    def test_where_cards_are_looked_for(self) -> None:
        for affinity, expected in (
            ('required', (nodes(1),)),
            ('preferred', (nodes(1), None)),
            ('none', (None,)),
        ):
            self.assertEqual(expected, numa.reach(affinity, nodes(1)))
            self.assertEqual((None,), numa.reach(affinity, None))

    def test_cards_on_nodes(self) -> None:
        uses = [
            Use(base.card(f'0000:{bus}:00.0', numa_node=node), pool=pool)
            for bus, node, pool in ((21, 0, 'a'), (22, 1, 'a'), (23, -1, 'b'))
        ]
        self.assertEqual(uses, numa.on(uses, None))
        self.assertEqual(uses[1:2], numa.on(uses, nodes(1, 2)))
        for pool, where, expected in (
            ('a', nodes(0), False),
            ('a', nodes(2), True),
            ('b', nodes(0, 1), True),
            ('b', None, False),
        ):
            want = Want(pool, 'X', 1)
            self.assertEqual(expected, numa.is_off(uses, want, where))


class CardsTest(testtools.TestCase):
    def test_free_or_not(self) -> None:
        for where, there, free in (
            (nodes(0), 3, 2), (nodes(1), 2, 1), (nodes(0, 1), 5, 3),
            (nodes(2), 0, 0),
        ):  # fmt: skip
            self.assertEqual(there, numa.cards_on(CARDS, where))
            self.assertEqual(free, numa.cards_on(CARDS, where, free=True))

    def test_such_as_share_something(self) -> None:
        for level, where, there, free in (
            ('switch', nodes(0), 2, 1),
            ('switch', nodes(0, 1), 2, 2),
            ('numa', nodes(0, 1), 3, 2),
            ('nvlink', nodes(0), 1, 1),
        ):
            self.assertEqual(there, numa.cards_on(CARDS, where, level))
            self.assertEqual(
                free, numa.cards_on(CARDS, where, level, free=True)
            )

    def test_none_is_free(self) -> None:
        pool = dataclasses.replace(CARDS, free=(False,) * 5)
        for level in ('host', 'numa', 'nvlink'):
            self.assertEqual(
                0, numa.cards_on(pool, nodes(0), level, free=True)
            )

    def test_units_of_one_card(self) -> None:
        self.assertEqual(4, numa.cards_on(CUT, nodes(0, 1)))
        self.assertEqual(0, numa.cards_on(CUT, nodes(0)))
        self.assertEqual(0, numa.cards_on(UNKNOWN, nodes(0, 1)))


class WaysTest(testtools.TestCase):
    def ways(
        self, *counts: tuple[PoolState, int], size: int = 1, **kwargs: str
    ) -> list[set[int]]:
        asked = numa.Asked(counts, size, **kwargs)
        return [set(way) for way in asked.ways()]

    def test_cards_in_use_count(self) -> None:
        self.assertEqual([{0}, {1}], self.ways((CARDS, 2)))
        self.assertEqual([{0}], self.ways((CARDS, 3)))
        self.assertEqual([], self.ways((CARDS, 4)))

    def test_guests_of_two_nodes(self) -> None:
        self.assertEqual([{0}, {0, 1}], self.ways((CARDS, 3), size=2))
        self.assertEqual([{0, 1}], self.ways((CARDS, 4), size=2))
        self.assertEqual([], self.ways((CARDS, 6), size=2))

    def test_several_pools(self) -> None:
        self.assertEqual([{1}], self.ways((CARDS, 1), (CUT, 1)))
        self.assertEqual(
            [{1}, {0, 1}], self.ways((CARDS, 1), (CUT, 1), size=2)
        )
        self.assertEqual([{0, 1}], self.ways((CARDS, 3), (CUT, 1), size=2))

    def test_cards_that_share_something(self) -> None:
        self.assertEqual([{0}], self.ways((CARDS, 2), level='switch'))

    def test_cards_of_which_the_node_is_not_known(self) -> None:
        self.assertEqual([], self.ways((UNKNOWN, 1)))
        self.assertEqual([], self.ways((CARDS, 1), (UNKNOWN, 1), size=2))


class FreeTest(testtools.TestCase):
    def free(self, count: int, *where: int, **grown: int) -> bool:
        asked = numa.Asked(((CARDS, count), (CUT, 4)), cpus=2)
        changes = {int(node[1:]): cpus for node, cpus in grown.items()}
        return asked.are_free(nodes(*where), changes)

    def test_as_the_map_says(self) -> None:
        for count, where, expected in (
            (2, [0], True), (3, [0], False), (1, [1], True), (2, [1], False),
            (3, [0, 1], True),
        ):  # fmt: skip
            self.assertEqual(expected, self.free(count, *where))

    def test_cards_go_with_cpus(self) -> None:
        self.assertTrue(self.free(1, 0, n0=2))
        self.assertFalse(self.free(1, 0, n0=3))
        self.assertFalse(self.free(2, 0, n0=2))
        self.assertTrue(self.free(2, 0, n1=8))

    def test_cards_come_with_cpus(self) -> None:
        self.assertFalse(self.free(2, 1, n1=-1))
        self.assertTrue(self.free(2, 1, n1=-2))
        # There are no more than there are.
        self.assertFalse(self.free(3, 1, n1=-8))
