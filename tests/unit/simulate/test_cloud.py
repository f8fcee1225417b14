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
"""Clouds that fill, and whose servers go again."""

from __future__ import annotations

import random
from collections.abc import Iterable

import testtools
from hypothesis import given, settings
from hypothesis import strategies as st

from nova_gpu.model.fragmentation import DEFAULT, Cards
from nova_gpu.simulate.cloud import Cloud, Guest, arrivals, churn, fill
from nova_gpu.simulate.hosts import Cut, Shares, State, empty
from nova_gpu.simulate.policies import POLICIES, Weights, in_milli, kinds
from nova_gpu.simulate.runs import Setting, interval
from nova_gpu.simulate.tables import Host, Request

SIZES = (1, 2, 4)
BIG = Host(8, 96000, 786432, 'A100')
SMALL = Host(2, 16000, 65536, 'T4')
requests = st.builds(
    Request,
    st.just(1),
    st.sampled_from([110, 250, 460, 500, 810, 1000]),
    st.sampled_from([1000, 12000]),
    st.sampled_from([4096, 65536]),
) | st.builds(
    Request,
    st.sampled_from([2, 4, 8]),
    st.just(1000),
    st.just(8000),
    st.just(16384),
)
sharing = st.sampled_from([(), SIZES])


def one(share: int = 1000, gpus: int = 1) -> Request:
    return Request(gpus, share, 1000, 1024)


def cloud(
    hosts: Iterable[Host],
    name: str = 'score',
    sizes: tuple[int, ...] = SIZES,
    seed: int = 1,
) -> Cloud:
    states = [empty(host, sizes) for host in hosts]
    return Cloud(states, POLICIES[name](DEFAULT, [one()], states, seed))


class HostTest(testtools.TestCase):
    def ways(self, gpus: Cut | Shares, request: Request) -> list[object]:
        state = State(BIG, gpus, 96000, 786432)
        return [after.gpus for after in state.ways(request)]

    def test_shares_lie_side_by_side(self) -> None:
        free = Shares((0, 200, 500, 500, 1000))
        self.assertEqual(
            [
                Shares((0, 50, 200, 500, 1000)),
                Shares((0, 200, 500, 500, 550)),
            ],
            self.ways(free, one(450)),
        )
        self.assertEqual([], self.ways(free, one(1000, 2)))
        self.assertEqual((5, 2.0, 0.3), free.fit(1, 0.3))

    def test_cards_are_cut_into_one_size(self) -> None:
        free = Cut(((0, 0), (2, 1), (4, 1), (4, 3)), SIZES)
        self.assertEqual(
            [Cut(((0, 0), (2, 1), (4, 1), (4, 4)), SIZES)],
            self.ways(free, one(250)),
        )
        self.assertEqual(
            [Cut(((1, 1), (2, 1), (4, 1), (4, 3)), SIZES)],
            self.ways(free, one(800)),
        )
        self.assertEqual([], self.ways(free, one(1000, 2)))

    def test_the_weigher_sees_cards(self) -> None:
        gpus = Cut(((0, 0), (2, 1), (4, 1), (4, 3), (4, 4)), SIZES)
        room = State(BIG, gpus, 7, 8).room
        self.assertEqual(
            (Cards(1, ((2, 1), (4, 4)), SIZES), 7, 8), tuple(room)
        )

    def test_what_lacks_something(self) -> None:
        state = empty(SMALL, SIZES)
        for request in (
            one(1000, 4),
            Request(1, 1000, 16001, 1),
            Request(1, 1000, 1, 65537),
            Request(1, 1000, 1, 1, ('A100',)),
        ):
            self.assertEqual([], list(state.ways(request)))
        for request in (Request(2, 1000, 16000, 65536, ('A10', 'T4')),):
            self.assertEqual(1, len(list(state.ways(request))))


class CloudTest(testtools.TestCase):
    def test_whole_cards_stay_for_who_needs_many(self) -> None:
        found = cloud([BIG, SMALL])
        for _ in range(2):
            self.assertIsNotNone(found.place(one()))
        self.assertIsNotNone(found.place(one(1000, 8)))
        spread = cloud([BIG, SMALL], 'nova')
        self.assertIsNotNone(spread.place(one()))
        self.assertIsNone(spread.place(one(1000, 8)))

    def test_none_has_room(self) -> None:
        self.assertIsNone(cloud([SMALL]).place(one(1000, 8)))

    @settings(deadline=None, max_examples=40)
    @given(
        st.lists(requests, max_size=30),
        st.sampled_from(sorted(POLICIES)),
        sharing,
        st.randoms(use_true_random=False),
    )
    def test_what_is_given_back_is_as_before(
        self,
        coming: list[Request],
        name: str,
        sizes: tuple[int, ...],
        source: random.Random,
    ) -> None:
        found = cloud([BIG, SMALL, BIG], name, sizes)
        before = list(found.states)
        guests: list[Guest] = []
        for request in coming:
            guest = found.place(request)
            if guest is not None:
                guests.append(guest)
                self.assertEqual(request.gpus, len(guest.cards))
            if guests and source.random() < 0.4:
                found.release(guests.pop(source.randrange(len(guests))))
            used = sum(s.host.gpus - s.gpus.free for s in found.states)
            if not sizes:
                held = sum(guest.request.milli for guest in guests)
                self.assertAlmostEqual(held / 1000, used)
        source.shuffle(guests)
        for guest in guests:
            found.release(guest)
        self.assertEqual(before, found.states)

    @settings(deadline=None, max_examples=25)
    @given(
        st.lists(requests, min_size=1, max_size=40),
        st.sampled_from(['score', 'nova-gpu', 'stacking', 'fgd', 'packing']),
        sharing,
    )
    def test_what_is_remembered_is_what_is_so(
        self, coming: list[Request], name: str, sizes: tuple[int, ...]
    ) -> None:
        lasting = cloud([BIG, SMALL, BIG], name, sizes)
        for request in coming:
            policy = POLICIES[name](DEFAULT, [one()], lasting.states, 1)
            fresh = Cloud(lasting.states, policy)
            fresh.place(request)
            lasting.place(request)
            self.assertEqual(fresh.states, lasting.states)


class RunTest(testtools.TestCase):
    def test_the_first_arrivals_are_the_requests(self) -> None:
        asked = [one(share) for share in (100, 200, 300)]
        coming = arrivals(asked, random.Random(1))
        self.assertEqual(asked, sorted(next(coming) for _ in range(3)))
        self.assertIn(next(coming), asked)

    def test_filling(self) -> None:
        told: list[float] = []
        outcome = fill(
            cloud([BIG, SMALL]),
            iter([one()] * 3 + [one(1000, 8), one(500)] + [one()] * 9),
            load=1.2,
            tell=told.append,
        )
        # One of the first three is on the large host.
        self.assertEqual({0: 1.0, 1: 1.0, 8: 0.0}, outcome.by_size())
        self.assertEqual(12500, outcome.asked.total())
        self.assertEqual(0.45, outcome.allocated)
        self.assertEqual(4.5 / 12.5, outcome.acceptance)
        self.assertEqual((1.25, 0.45), outcome.curve[-1])
        self.assertEqual(sorted(told), told)

    def test_churn_counts_after_a_mean_life(self) -> None:
        outcome = churn(
            cloud([BIG]), iter([one()] * 100), random.Random(1), 1000
        )
        self.assertEqual(16000, outcome.asked.total())
        self.assertGreater(outcome.acceptance, 0.5)
        self.assertEqual([], outcome.curve)

    def test_the_same_seed_the_same_outcome(self) -> None:
        asked = [one(share) for share in (110, 460, 1000)] + [one(1000, 4)]
        for again in (False, True):
            setting = Setting(asked, [BIG, SMALL] * 3, DEFAULT, churn=again)
            for name, make in POLICIES.items():
                first, second, other = (
                    setting.run(make, seed) for seed in (1, 1, 2)
                )
                self.assertEqual(first, second, name)
                self.assertNotEqual(first, other, name)

    def test_interval(self) -> None:
        self.assertEqual((2.0, 0.0), interval([2.0, 2.0, 2.0]))
        mean, wide = interval([1.0, 2.0, 3.0])
        self.assertEqual((2.0, 2.48), (mean, round(wide, 2)))


class PolicyTest(testtools.TestCase):
    def first(self, name: str, *hosts: tuple[Host, int]) -> int:
        """Where one GPU goes, if so many of each host are in use."""
        states = []
        for host, used in hosts:
            state = empty(host)
            for _ in range(used):
                (state,) = state.ways(one())
            states.append(state)
        make = POLICIES[name]
        placed = Cloud(states, make(DEFAULT, [one()], states, 1)).place(one())
        assert placed is not None
        return placed.host

    def test_each_has_its_way(self) -> None:
        used = ((BIG, 0), (BIG, 6), (SMALL, 0))
        self.assertEqual(1, self.first('score', *used))
        self.assertEqual(1, self.first('nova-gpu', *used))
        self.assertEqual(0, self.first('nova', *used))
        self.assertEqual(2, self.first('stacking', *used))
        self.assertEqual(2, self.first('best-fit', *used))
        self.assertEqual(1, self.first('packing', *used))

    def test_multipliers_add_up(self) -> None:
        states = [empty(BIG), empty(SMALL)]
        for policy, host in (
            (Weights(DEFAULT, ram=1.0), 0),
            (Weights(DEFAULT, ram=1.0, cpu=-2.0), 1),
            (Weights(DEFAULT, gpu=1.0, ram=1000.0), 0),
        ):
            placed = Cloud(states, policy).place(one())
            assert placed is not None
            self.assertEqual(host, placed.host, policy)

    def test_kinds(self) -> None:
        asked = [one(460), one(460), one(1000, 8), Request(0, 0, 5, 5)]
        found = kinds(asked)
        self.assertEqual([2, 1], [kind.weight for kind in found])
        self.assertEqual((1, 0.46, 1000), (
            found[0].gpus, found[0].share, found[0].vcpus,
        ))  # fmt: skip
        self.assertEqual(DEFAULT.kinds, in_milli(DEFAULT).kinds)
