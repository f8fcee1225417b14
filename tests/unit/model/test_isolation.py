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

"""Whom a card can be shared with."""

from __future__ import annotations

import itertools

import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import Mdev
from nova_gpu.model.inventory import Offer, Unit, Use
from nova_gpu.model.isolation import (
    STRANGER,
    Tenant,
    close,
    digest,
    objection,
    summary,
    tenants,
)
from nova_gpu.model.request import EXCLUSIVE, ISOLATION, PROJECT, SHARED
from tests.unit import base

CARD = PciAddress.parse('0000:3b:00.0')
USE = Use(base.card(str(CARD)), offers=(Offer('8Q', 2, 1, 1),))

anybody = st.builds(
    Tenant,
    st.sampled_from('abc'),
    st.sampled_from((None, 'p', 'q')),
    st.sampled_from(ISOLATION),
)


def unit(device: str, project: str | None, isolation: str = SHARED) -> Unit:
    return Unit(
        'mdev', 'x', '8Q', CARD, device, project=project, isolation=isolation
    )


class ObjectionTest(testtools.TestCase):
    """Who is on a card, and who asks."""

    def test_each_pair(self) -> None:
        """Of one project, and of two."""
        agreed = {
            (SHARED, SHARED): (True, True),
            (SHARED, PROJECT): (True, False),
            (PROJECT, PROJECT): (True, False),
        }
        for pair in itertools.product(ISOLATION, repeat=2):
            expected = agreed.get(
                tuple(sorted(pair, key=ISOLATION.index)), (False, False)
            )
            found = tuple(
                objection(
                    Tenant('a', 'p', pair[0]), Tenant('b', project, pair[1])
                )
                is None
                for project in 'pq'
            )
            self.assertEqual(expected, found, pair)

    @given(anybody, anybody)
    def test_both_ways(self, one: Tenant, other: Tenant) -> None:
        self.assertEqual(
            objection(one, other) is None, objection(other, one) is None
        )

    @given(anybody)
    def test_nobody_is_in_its_own_way(self, one: Tenant) -> None:
        self.assertIsNone(objection(one, one))

    def test_project_that_is_not_known(self) -> None:
        unknown = Tenant('a', None)
        self.assertIsNone(objection(unknown, Tenant('b', None)))
        for project in (None, 'p'):
            asking = Tenant('b', project, PROJECT)
            self.assertIn('others', objection(unknown, asking) or '')

    def test_no_name_is_told(self) -> None:
        for one, other in itertools.product(ISOLATION, repeat=2):
            told = objection(
                Tenant('server-1', 'project-1', one),
                Tenant('server-2', 'project-2', other),
            )
            self.assertNotRegex(told or '', r'(server|project)-\d')


class CloseTest(testtools.TestCase):
    """Cards as who asks may have them."""

    def free(
        self, there: list[Tenant], asking: Tenant | None = None
    ) -> tuple[int, str | None]:
        (use,) = close([USE], {CARD: there}, asking)
        return use.offers[0].free, use.closed

    def test_for_who_asks(self) -> None:
        there = [Tenant('a', 'p', PROJECT), Tenant('b', 'p')]
        self.assertEqual((1, None), self.free(there, Tenant('c', 'p')))
        for project, isolation in (('q', SHARED), ('p', EXCLUSIVE)):
            free, reason = self.free(there, Tenant('c', project, isolation))
            self.assertEqual(0, free)
            self.assertIn(f'gpu:isolation={isolation}'.replace(
                SHARED, PROJECT), reason or '')  # fmt: skip

    def test_for_nobody_in_particular(self) -> None:
        for isolation, expected in (
            (SHARED, 1), (PROJECT, 1), (EXCLUSIVE, 0),
        ):  # fmt: skip
            found = self.free([Tenant('a', 'p', isolation)])
            self.assertEqual(expected, found[0], isolation)
        self.assertEqual((1, None), self.free([]))

    def test_what_somebody_made_by_hand(self) -> None:
        mdevs = tuple(Mdev(name, CARD, 't') for name in ('ours', 'foreign'))
        card = base.card(str(CARD), mdevs=mdevs)
        held = [('a', unit('ours', 'p'))]
        self.assertEqual(
            {CARD: {Tenant('a', 'p'), STRANGER}}, tenants([card], held)
        )
        held.append(('b', unit('foreign', None)))
        self.assertNotIn(STRANGER, tenants([card], held)[CARD])


class SummaryTest(testtools.TestCase):
    """What schedulers are told of a card."""

    def test_of_nobody(self) -> None:
        self.assertEqual((None, SHARED), summary([]))
        whole = unit(str(CARD), 'p', EXCLUSIVE)
        self.assertEqual((None, SHARED), summary([whole]))

    def test_of_one_project(self) -> None:
        units = [unit('a', 'p', PROJECT), unit('b', 'p')]
        self.assertEqual((digest('p'), PROJECT), summary(units))

    def test_of_several_or_unknown(self) -> None:
        for units in (
            [unit('a', 'p'), unit('b', 'q')],
            [unit('a', 'p'), unit('b', None)],
            [unit('a', None)],
        ):
            self.assertEqual(('', SHARED), summary(units))

    def test_digests_are_short_and_differ(self) -> None:
        found = {digest(base.instance(n)) for n in range(100)}
        self.assertEqual(100, len(found))
        self.assertEqual({8}, {len(name) for name in found})
