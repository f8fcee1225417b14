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

"""Guests, Placement and the host, compared."""

from __future__ import annotations

from typing import Any

import testtools

from nova_gpu.model.address import PciAddress
from nova_gpu.model.audit import CLEAN, MAKE, balance, differences
from nova_gpu.model.claim import ALLOCATED, CLAIMED, Claim
from nova_gpu.model.guest import GuestDevices
from nova_gpu.model.inventory import Unit

CARD = PciAddress.parse('0000:3b:00.0')
POOL, NAME = '0000_3b_00_0', 'CUSTOM_VGPU_X'


def unit(device: str, name: str = NAME, **more: Any) -> Unit:
    fields = {'type_id': 'x', **more}
    return Unit('mdev', POOL, name, CARD, device, **fields)


def claim(consumer: str, *devices: str, **more: Any) -> Claim:
    fields = {'state': ALLOCATED, **more}
    return Claim(consumer, tuple(map(unit, devices)), **fields)


class BalanceTest(testtools.TestCase):
    def balance(
        self, claims: list[Claim], **allocated: int
    ) -> tuple[dict[str, list[str]], dict[str, int]]:
        held, counted = balance(
            claims, {c: {(POOL, NAME): n} for c, n in allocated.items()}
        )
        return (
            {c: sorted(devices) for c, devices in held.items()},
            {c: counts[POOL, NAME] for c, counts in counted.items()},
        )

    def test_even(self) -> None:
        self.assertEqual(
            ({'a': [], 'b': []}, {}),
            self.balance([claim('a', '1', '2'), claim('b', '3')], a=2, b=1),
        )

    def test_nothing(self) -> None:
        self.assertEqual(({}, {}), self.balance([]))

    def test_more_than_allocated(self) -> None:
        self.assertEqual(
            ({'a': ['2', '3']}, {}),
            self.balance([claim('a', '1', '2', '3')], a=1),
        )

    def test_less_than_allocated(self) -> None:
        self.assertEqual(
            ({'a': []}, {'a': 2}), self.balance([claim('a', '1')], a=3)
        )

    def test_both(self) -> None:
        self.assertEqual(
            ({'a': ['2']}, {'b': 2}),
            self.balance([claim('a', '1', '2')], a=1, b=2),
        )

    def test_a_move_stands_for_its_instance(self) -> None:
        self.assertEqual(
            ({'a': []}, {}), self.balance([claim('a', '1', '2')], move=2)
        )
        # Of two that hold as much, one is the instance that moves.
        held, left = self.balance([claim('a', '1'), claim('b', '2')], move=1)
        self.assertEqual(1, sum(map(len, held.values())))
        self.assertEqual({}, left)

    def test_who_holds_something_stands_for_nobody_else(self) -> None:
        self.assertEqual(
            ({'a': ['1'], 'b': []}, {'b': 1}),
            self.balance([claim('a', '1'), claim('b', '2')], b=2),
        )

    def test_what_others_gave_or_is_stuck_counts_nothing(self) -> None:
        foreign = unit('1', allocated=False)
        stuck = unit('2')
        claims = [
            Claim('a', (foreign,), ALLOCATED),
            Claim('b', (stuck,), ALLOCATED, (stuck,)),
        ]
        self.assertEqual(({'a': [], 'b': []}, {}), self.balance(claims))


class DifferencesTest(testtools.TestCase):
    def problems(
        self,
        guests: tuple[GuestDevices, ...] = (),
        claims: tuple[Claim, ...] = (),
        vgpus: tuple[str, ...] = (),
        devices: tuple[str, ...] = (),
        **more: Any,
    ) -> list[tuple[str, str, str, str]]:
        found = differences(
            guests, claims, {v: str(CARD) for v in vgpus}, devices, **more
        )
        for difference in found:
            self.assertTrue(difference.meaning)
            self.assertTrue(difference.remedy)
        return [(d.problem, d.device, d.holder, d.mend) for d in found]

    def test_all_is_well(self) -> None:
        guest = GuestDevices('x', 'a', units=(unit('1'),))
        self.assertEqual(
            [],
            self.problems(
                (guest,), (claim('a', '1'),), ('1',), ('1',),
                allocated={'a': {(POOL, NAME): 1}}, told=(claim('a', '1'),),
            ),
        )  # fmt: skip

    def test_left_over(self) -> None:
        self.assertEqual(
            [('vGPU without a guest', '2', '', CLEAN)],
            self.problems((), (claim('a', '1'),), ('1', '2'), ('1', '2')),
        )
        # nova-compute is about to give it to a guest.
        claimed = claim('b', '2', state=CLAIMED)
        self.assertEqual(
            [],
            self.problems(
                (), (claim('a', '1'),), ('1', '2'), ('1', '2'),
                told=(claim('a', '1'), claimed),
            ),
        )  # fmt: skip

    def test_gone(self) -> None:
        whole = Unit('whole', 'pool', 'CUSTOM_GPU_X', CARD, str(CARD))
        guest = GuestDevices(
            'x', 'a', units=(unit('1'), whole), kept=(('m', (unit('2'),)),)
        )
        self.assertEqual(
            [
                ('card gone', str(CARD), 'a', ''),
                ('vGPU gone', '1', 'a', MAKE),
                ('vGPU gone', '2', 'a', MAKE),
            ],
            self.problems((guest,)),
        )

    def test_twice(self) -> None:
        self.assertEqual(
            [('device in two guests', '1', 'a, b', '')],
            self.problems((), (claim('b', '1'), claim('a', '1'))),
        )

    def test_placement(self) -> None:
        self.assertEqual(
            [
                ('allocated and not held', f'2 {NAME} of pool {POOL}', 'c',
                 ''),
                ('held without an allocation', '1', 'a', ''),
            ],
            self.problems(
                (), (claim('a', '1'),), allocated={'c': {(POOL, NAME): 2}}
            ),
        )  # fmt: skip

    def test_nova_compute(self) -> None:
        stuck = unit('4')
        told = (
            claim('b', '2'),
            claim('c', '3', state=CLAIMED),
            Claim('d', (stuck,), ALLOCATED, (stuck,)),
        )
        self.assertEqual(
            [
                ('held for no guest', '2', 'b', ''),
                ('nova-compute does not know', '1', 'a', ''),
            ],
            self.problems((), (claim('a', '1'),), told=told),
        )
