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

"""Which cards are close to each other."""

from __future__ import annotations

from typing import Any

import testtools

from nova_gpu.model.address import PciAddress
from nova_gpu.model.topology import TIES, Place, places, tie, together
from tests.unit import base

PORT, UP, DOWN, OTHER = (
    PciAddress.parse(f'0000:{bus}:00.0') for bus in ('16', '17', '18', '19')
)


def card(number: int, **fields: Any) -> Any:
    return base.card(
        f'0000:{number:02x}:00.0', **{'linked': 0, 'bridges': (), **fields}
    )


class PlacesTest(testtools.TestCase):
    def found(self, *cards: Any, said: Any = None) -> list[Place]:
        return list(places((c, (said or {}).get(c)) for c in cards).values())

    def test_switch(self) -> None:
        # Below a root port, below a switch, below another switch of that.
        alone = card(1, bridges=(PORT,))
        near = card(2, bridges=(PORT, UP, DOWN))
        deep = card(3, bridges=(PORT, UP, OTHER, DOWN, DOWN))
        self.assertEqual(
            [None, UP, UP],
            [place.switch for place in self.found(alone, near, deep)],
        )
        # There is nobody with whom it could share its switch.
        self.assertEqual([Place(0)], self.found(near))

    def test_board(self) -> None:
        linked = [card(number, linked=4, model='X') for number in range(4)]
        (clique,) = {place.clique for place in self.found(*linked)}
        self.assertEqual('board of X', clique)
        self.assertEqual([Place(0)], self.found(linked[0]))
        other = card(9, linked=4, model='Y')
        self.assertIsNone(self.found(*linked, other)[-1].clique)

    def test_more_cards_than_a_board_has(self) -> None:
        # Two boards, and nothing tells which card is on which.
        linked = [card(number, linked=4, model='X') for number in range(6)]
        self.assertEqual([Place(0)] * 6, self.found(*linked))

    def test_rules_come_before_boards(self) -> None:
        linked = [card(number, linked=4, model='X') for number in range(4)]
        one, two, three, _ = linked
        found = self.found(*linked, said={one: 'a', two: 'a', three: 'none'})
        self.assertEqual(
            ['a', 'a', None, None], [place.clique for place in found]
        )
        found = self.found(*linked, said=dict.fromkeys(linked, 'none'))
        self.assertEqual([Place(0)] * 4, found)
        self.assertEqual(
            [None, None, 'board of X', 'board of X'],
            [p.clique for p in self.found(*linked, said={one: 'a', two: 'b'})],
        )

    def test_tie(self) -> None:
        here = Place(0, UP, 'a')
        for expected, there in (
            ('nvlink', Place(1, OTHER, 'a')),
            ('switch', Place(0, UP, 'b')),
            ('numa', Place(0, OTHER, None)),
            ('host', Place(1, OTHER, None)),
        ):
            self.assertEqual(expected, tie(here, there))
            self.assertEqual(expected, tie(there, here))
        self.assertEqual('numa', tie(Place(-1), Place(-1)))

    def test_together(self) -> None:
        here = Place(0, UP, 'a')
        for there, levels in (
            (Place(1, OTHER, 'a'), ('nvlink', 'switch', 'numa', 'host')),
            (Place(0, UP, 'b'), ('switch', 'numa', 'host')),
            (Place(0, OTHER, None), ('numa', 'host')),
            (Place(1, OTHER, None), ('host',)),
        ):
            self.assertEqual(
                levels,
                tuple(n for n in TIES if together([here, there], n)),
            )
        # Two that have no clique don't share one; a single card has all.
        self.assertFalse(together([Place(0), Place(0)], 'switch'))
        self.assertTrue(together([Place(0)], 'nvlink'))
        # Each two of them share something, all three nothing.
        three = [Place(0, UP, 'a'), Place(1, OTHER, 'a'), Place(0, UP, 'b')]
        self.assertFalse(together(three, 'numa'))
