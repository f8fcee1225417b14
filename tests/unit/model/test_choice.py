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


"""Which cards and which functions serve a claim."""

from __future__ import annotations

import collections
import itertools
import random

import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu.model.address import PciAddress
from nova_gpu.model.choice import choose_cards, could_pack, pools_in_order
from nova_gpu.model.claim import Want
from nova_gpu.model.device import Card
from nova_gpu.model.inventory import Offer, Use
from tests.unit import base

nodes = st.lists(st.integers(-1, 3), max_size=12)
parents = st.lists(
    st.builds(PciAddress, st.just(0), st.integers(0, 3), st.integers(0, 3),
              st.integers(0, 3)),
    unique=True,
)  # fmt: skip


def cards(numa_nodes: list[int]) -> list[Card]:
    return [
        base.card(f'0000:{index:02x}:00.0', numa_node=node)
        for index, node in enumerate(numa_nodes)
    ]


class ChooseCardsTest(testtools.TestCase):
    """NUMA nodes are crossed only where they must be."""

    @given(nodes, st.integers(1, 12))
    def test_all_or_none(self, numa_nodes: list[int], count: int) -> None:
        free = cards(numa_nodes)
        chosen = choose_cards(count, free)
        self.assertLessEqual(set(chosen), set(free))
        self.assertEqual(len(chosen), len(set(chosen)))
        self.assertEqual(count if count <= len(free) else 0, len(chosen))

    @given(nodes, st.integers(1, 12))
    def test_one_node_and_the_fullest(
        self, numa_nodes: list[int], count: int
    ) -> None:
        sizes = collections.Counter(numa_nodes)
        fitting = [size for size in sizes.values() if size >= count]
        chosen = {c.numa_node for c in choose_cards(count, cards(numa_nodes))}
        if fitting:
            (node,) = chosen
            self.assertEqual(min(fitting), sizes[node])

    @given(nodes, st.integers(1, 12))
    def test_as_few_nodes_as_possible(
        self, numa_nodes: list[int], count: int
    ) -> None:
        chosen = choose_cards(count, cards(numa_nodes))
        sizes = sorted(collections.Counter(numa_nodes).values(), reverse=True)
        fewest = next(
            (
                number
                for number, sum_ in enumerate(itertools.accumulate(sizes), 1)
                if sum_ >= count
            ),
            0,
        )
        self.assertEqual(fewest, len({c.numa_node for c in chosen}))

    @given(nodes, st.integers(1, 12), st.randoms())
    def test_order_of_the_free_does_not_matter(
        self, numa_nodes: list[int], count: int, source: random.Random
    ) -> None:
        free = cards(numa_nodes)
        shuffled = list(free)
        source.shuffle(shuffled)
        self.assertEqual(
            choose_cards(count, free), choose_cards(count, shuffled)
        )

    def test_ties_go_to_the_lower_address(self) -> None:
        free = cards([1, 0, 1, 0])
        self.assertEqual((free[0],), choose_cards(1, free))
        self.assertEqual((free[0], free[2]), choose_cards(2, free))

    def test_large_sets_stay_whole(self) -> None:
        # Two are left on node 0, four on node 1.
        free = cards([0, 0, 1, 1, 1, 1])
        self.assertEqual(tuple(free[:2]), choose_cards(2, free))
        self.assertEqual(tuple(free[2:5]), choose_cards(3, free))


def use(pool: str, used: int, free: int, name: str = '8Q') -> Use:
    """A card that is cut, of which ``used`` and ``free`` are of one type."""
    offer = Offer(name, used + free, used, free, type_id=name, name=name)
    return Use(base.card(), 'mdev', pool, (offer,))


class PoolsInOrderTest(testtools.TestCase):
    """An empty card stays open for any profile."""

    def test_fullest_first_and_empty_last(self) -> None:
        uses = [use('empty', 0, 2), use('full', 1, 1), use('half', 1, 3),
                use('asked', 0, 4), use('other', 1, 1, '4Q')]  # fmt: skip
        found = pools_in_order(
            uses, Want('asked', '8Q', 1), {'empty', 'full', 'half', 'other'}
        )
        self.assertEqual(['full', 'half', 'asked', 'empty'], found)

    def test_what_was_asked_for_is_first_if_it_is_in_use(self) -> None:
        uses = [use('asked', 1, 5), use('other', 1, 1)]
        found = pools_in_order(uses, Want('asked', '8Q', 1), {'other'})
        self.assertEqual(['asked', 'other'], found)

    def test_only_those_that_may_and_have_room(self) -> None:
        uses = [use('asked', 0, 2), use('small', 1, 1), use('unlike', 1, 4)]
        found = pools_in_order(uses, Want('asked', '8Q', 2), {'small'})
        self.assertEqual(['asked'], found)

    def test_a_pool_that_has_gone_is_asked_all_the_same(self) -> None:
        found = pools_in_order([], Want('asked', '8Q', 2), {'small'})
        self.assertEqual(['asked'], found)

    def test_could_pack(self) -> None:
        uses = [use('asked', 0, 2), use('other', 1, 1)]
        self.assertTrue(could_pack(uses, Want('asked', '8Q', 1)))
        for want in (
            Want('asked', '4Q', 1),  # another profile
            Want('asked', '8Q', 2),  # more than there is room for
            Want('other', '8Q', 1),  # there already
            Want('elsewhere', '8Q', 1),
        ):
            self.assertFalse(could_pack(uses, want), want)
        self.assertFalse(could_pack([use('asked', 0, 2)], want))

    def test_whole_cards_need_no_packing(self) -> None:
        whole = Offer('A100', 8, 1, 7)
        uses = [
            Use(base.card(), 'whole', pool, (whole,)) for pool in ('a', 'b')
        ]
        self.assertFalse(could_pack(uses, Want('a', 'A100', 1)))
