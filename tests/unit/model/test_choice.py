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
import dataclasses
import itertools
import random
from collections.abc import Iterable
from typing import Any, cast

import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu.model.address import PciAddress
from nova_gpu.model.choice import choose_cards, could_pack, pools_in_order
from nova_gpu.model.claim import Want
from nova_gpu.model.device import Card
from nova_gpu.model.inventory import Offer, Use
from nova_gpu.model.rule import Ruling
from nova_gpu.model.topology import Place
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


def spread(text: str) -> tuple[list[Card], dict[Any, Place]]:
    """Cards by words of a NUMA node, a switch and a clique: ``0s-``.

    ``-`` is none; those that are in use are in brackets, and not free.
    """
    free = []
    near = {}
    for index, word in enumerate(text.split()):
        node, switch, clique = word.strip('()')
        card = base.card(f'0000:{index:02x}:00.0', numa_node=int(node))
        near[card.address] = Place(
            int(node),
            None if switch == '-' else PciAddress(1, ord(switch), 0, 0),
            None if clique == '-' else clique,
        )
        if '(' not in word:
            free.append(card)
    return free, near


class CloseCardsTest(testtools.TestCase):
    """Linked cards, switches and nodes: close, and with the rest whole."""

    def chosen(self, count: int, text: str, *wish: Any) -> list[int]:
        found = choose_cards(count, *spread(text), *wish)
        return [cast(PciAddress, card.address).bus for card in found]

    def test_linked_before_near(self) -> None:
        self.assertEqual([1, 2], self.chosen(2, '0s- 0sa 1ta 0s-'))

    def test_one_node_before_one_switch(self) -> None:
        self.assertEqual([1, 2, 3], self.chosen(3, '1s- 0t- 0t- 0u- 1s-'))

    def test_one_switch_of_a_node(self) -> None:
        self.assertEqual([1, 3], self.chosen(2, '0s- 0t- 0u- 0t-'))

    def test_one_card_breaks_no_pair(self) -> None:
        self.assertEqual([4], self.chosen(1, '0-a 0-a 0-b 0-b 0--'))
        self.assertEqual([3], self.chosen(1, '0-a 0-a (0-b) 0-b'))

    def test_two_cards_of_a_board_leave_four(self) -> None:
        board = '0sa 0sa 0ta 0ta 1ua 1ua 1va 1va'
        self.assertEqual([0, 1], self.chosen(2, board))
        # Node 0 has been begun already: node 1 stays whole.
        begun = '(0sa) (0sa) 0ta 0ta 1ua 1ua 1va 1va'
        self.assertEqual([2, 3], self.chosen(2, begun))
        self.assertEqual([4, 5, 6, 7], self.chosen(4, begun))

    def test_the_board_that_is_begun(self) -> None:
        boards = '0-a 0-a (0-a) 0-a 1-b 1-b 1-b 1-b'
        self.assertEqual([0, 1], self.chosen(2, boards))
        self.assertEqual([0, 1, 3], self.chosen(3, boards))
        self.assertEqual([4, 5, 6, 7], self.chosen(4, boards))

    def test_what_is_required_and_what_is_preferred(self) -> None:
        text = '0sa 0tb 1ub 1u-'
        self.assertEqual([1, 2], self.chosen(2, text))
        self.assertEqual([1, 2], self.chosen(2, text, 'nvlink', True))
        apart = '0sa 0tb 1uc 1u-'
        for level, expected in (
            ('nvlink', []),
            ('switch', [2, 3]),
            # A switch is closer, but these two are as good.
            ('numa', [2, 3]),
        ):
            self.assertEqual(expected, self.chosen(2, apart, level, True))
        self.assertEqual([2, 3], self.chosen(2, apart, 'nvlink', False))
        self.assertEqual([], self.chosen(3, apart, 'numa', True))
        self.assertEqual([0, 2, 3], self.chosen(3, apart, 'numa', False))
        self.assertEqual([0], self.chosen(1, apart, 'nvlink', True))

    def test_switch_before_links_where_it_is_wanted(self) -> None:
        # Linked are closer still, and count.
        self.assertEqual([0, 1], self.chosen(2, '0sa 1ta 0s-', 'switch', True))

    def test_cards_without_links_are_no_set(self) -> None:
        # Three that have nothing but the node, and a pair.
        self.assertEqual([3, 4], self.chosen(2, '0-- 0-- 0-- 0-a 0-a'))

    @given(
        st.lists(
            st.tuples(
                st.integers(0, 1), st.sampled_from('-st'),
                st.sampled_from('-ab'), st.booleans(),
            ),
            max_size=8,
        ),
        st.integers(1, 4),
    )  # fmt: skip
    def test_nothing_closer_is_free(
        self, words: list[tuple[int, str, str, bool]], count: int
    ) -> None:
        """Compared with all sets that there are."""
        text = ' '.join(
            f'{node}{switch}{clique}' if free else f'({node}{switch}{clique})'
            for node, switch, clique, free in words
        )
        free, near = spread(text)
        chosen = choose_cards(count, free, near)
        self.assertEqual(count if count <= len(free) else 0, len(chosen))
        if not chosen:
            return

        def crossed(cards: Iterable[Card]) -> tuple[int, ...]:
            found = [(c, near[c.address]) for c in cards]
            return (
                len({p.clique or c.address for c, p in found}),
                len({p.numa_node for _, p in found}),
                len({p.switch or c.address for c, p in found}),
            )

        self.assertEqual(
            min(map(crossed, itertools.combinations(free, count))),
            crossed(chosen),
        )


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

    def test_what_a_rule_reserves_is_no_room(self) -> None:
        other = dataclasses.replace(
            use('other', 1, 1), ruling=Ruling(reserved=1)
        )
        uses = [use('asked', 0, 2), other]
        found = pools_in_order(uses, Want('asked', '8Q', 1), {'other'})
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
