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

"""Cards that were recorded as linked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import testtools

from nova_gpu.model.address import PciAddress
from nova_gpu.model.links import LinkedCard, cliques, recall
from tests.unit import base

BOARD = (0x10DE, 0x144E)


def at(number: int) -> PciAddress:
    return PciAddress.parse(f'0000:{number:02x}:00.0')


def linked(
    number: int, links: Mapping[int, int] | None = None, **fields: Any
) -> LinkedCard:
    others = {at(other): count for other, count in (links or {}).items()}
    return LinkedCard(at(number), 0x10DE, 0x2235, BOARD, others, **fields)


class CliquesTest(testtools.TestCase):
    def found(self, *cards: LinkedCard) -> list[str]:
        return list(cliques(cards).values())

    def test_bridges(self) -> None:
        one, two = linked(1, {2: 4}), linked(2, {1: 4})
        # One of a pair may have been asked when the other was not there.
        three, four = linked(3), linked(4, {3: 4})
        pair, other = f'NVLink {at(1)}', f'NVLink {at(3)}'
        self.assertEqual(
            [pair, pair, other, other, 'none'],
            self.found(one, two, three, four, linked(5)),
        )

    def test_cards_that_are_not_here_link_nothing(self) -> None:
        self.assertEqual(['none'], self.found(linked(1, {9: 4})))

    def test_cube_mesh(self) -> None:
        """Eight V100: in each half all are linked, and pairs across."""
        cards = []
        for number in range(8):
            half = number & 4
            others = {half + n: 1 for n in range(4) if half + n != number}
            cards.append(linked(number, {**others, number ^ 4: 2}))
        self.assertEqual(
            [f'NVLink {at(0)}'] * 4 + [f'NVLink {at(4)}'] * 4,
            self.found(*cards),
        )

    def test_most_links_of_sets_as_large(self) -> None:
        ring = [
            linked(n, {(n + 1) % 4: 1 + n % 2, (n - 1) % 4: 1 + (n - 1) % 2})
            for n in range(4)
        ]
        names = cliques(ring)
        self.assertEqual(names[at(1)], names[at(2)])
        self.assertEqual(names[at(3)], names[at(0)])

    def test_switches(self) -> None:
        first = [
            linked(n, switched=True, switches=(at(100), at(101)))
            for n in range(2)
        ]
        # Linked through a card that has both.
        second = [
            linked(3, switched=True, switches=(at(102),)),
            linked(4, switched=True, switches=(at(102), at(103))),
            linked(5, switched=True, switches=(at(103),)),
        ]
        alone = linked(6, switched=True, switches=(at(110),))
        a, b = self.found(*first, *second, alone)[:3:2]
        self.assertEqual(
            [a, a, b, b, b, 'none'], self.found(*first, *second, alone)
        )
        self.assertNotIn('none', (a, b))
        self.assertNotEqual(a, b)

    def test_switches_without_address(self) -> None:
        cards = [linked(n, switched=True) for n in range(8)]
        self.assertEqual(['NVSwitch'] * 8, self.found(*cards))


class RecallTest(testtools.TestCase):
    """Cards of today, beside those that were recorded."""

    def setUp(self) -> None:
        super().setUp()
        self.recorded = [linked(1, {2: 4}), linked(2, {1: 4})]

    def recall(
        self,
        *cards: Any,
        boards: Mapping[int, tuple[int, int]] | None = None,
    ) -> tuple[list[str | None], tuple[str, ...]]:
        subsystems: dict[Any, Any] = {c.address: BOARD for c in cards}
        subsystems.update({at(n): s for n, s in (boards or {}).items()})
        found, warnings = recall(cards, self.recorded, subsystems)
        return [card.clique for card in found], warnings

    def card(self, number: int, product: int = 0x2235) -> Any:
        return base.card(str(at(number)), product_id=product, linked=0)

    def test_as_recorded(self) -> None:
        name = f'NVLink {at(1)}'
        self.assertEqual(
            ([name, name, None], ()),
            self.recall(self.card(1), self.card(2), self.card(3, 0x1EB8)),
        )

    def test_another_card(self) -> None:
        for found, warnings in (
            self.recall(self.card(1), self.card(2, 0x2236)),
            self.recall(self.card(1), self.card(2), boards={2: (1, 2)}),
        ):
            self.assertEqual(['none', None], found)
            self.assertEqual(
                (
                    f'at {at(2)} is another card than was recorded: its links '
                    f'are not known',
                ),
                warnings,
            )

    def test_card_that_has_gone(self) -> None:
        self.recorded += [linked(3, {1: 4, 2: 4})]
        name = f'NVLink {at(1)}'
        self.assertEqual(
            ([name, name], ()), self.recall(self.card(1), self.card(2))
        )

    def test_addresses_that_have_changed(self) -> None:
        """A card put in before them can shift the numbers of all buses."""
        found, (warning,) = self.recall(self.card(2), self.card(3))
        self.assertEqual([None, None], found)
        self.assertIn(f'{at(1)} was recorded and is not there', warning)
