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

"""Partitions: what is read of them, and which one is best."""

from __future__ import annotations

import itertools
import json

import testtools

from nova_gpu.model.address import Address, PciAddress
from nova_gpu.model.partition import Board, Gpu, Partition, parse
from tests.fixtures import fmpm


def card(module: int) -> Address:
    return PciAddress(0, module, 0, 0)


def board(*active: int, of: dict[int, tuple[int, ...]]) -> Board:
    return Board(
        {n: frozenset(map(card, modules)) for n, modules in of.items()},
        frozenset(active),
    )


class ParseTest(testtools.TestCase):
    """What ``fmpm -l`` prints."""

    def test_addresses_that_are_told_and_not(self) -> None:
        gpus = [
            {'physicalId': 1, 'pciBusId': '00000000:25:00.0'},
            {'physicalId': 2, 'pciBusId': '0000:2B:00.0'},
            {'physicalId': 3, 'pciBusId': '00000000:00:00.0'},
            {'physicalId': 4, 'pciBusId': ''},
            {'physicalId': 5},
        ]
        text = json.dumps(
            {
                'partitionInfo': [
                    {
                        'partitionId': 3,
                        'isActive': 1,
                        'numGpus': 5,
                        'gpuInfo': gpus,
                    }
                ]
            }
        )
        self.assertEqual(
            (
                Partition(
                    3,
                    (
                        Gpu(1, PciAddress(0, 0x25, 0, 0)),
                        Gpu(2, PciAddress(0, 0x2B, 0, 0)),
                        Gpu(3),
                        Gpu(4),
                        Gpu(5),
                    ),
                    active=True,
                ),
            ),
            parse(text),
        )

    def test_something_else(self) -> None:
        for text in (
            '', '[]', '{}', 'null', 'Failed', '{"partitionInfo": 1}',
            '{"partitionInfo": [{"partitionId": 0}]}',
            '{"partitionInfo": [{"partitionId": "a", "isActive": 0, '
            '"gpuInfo": []}]}',
        ):  # fmt: skip
            error = self.assertRaises(ValueError, parse, text)
            self.assertIn('no list of partitions', str(error))


class ChooseTest(testtools.TestCase):
    """The set that hurts later requests least."""

    def choose(
        self, found: Board, count: int, free: set[int]
    ) -> set[int] | None:
        number = found.choose(count, frozenset(map(card, free)))
        if number is None:
            return None
        return {n for n in range(1, 9) if card(n) in found.partitions[number]}

    def test_halves_and_pairs_stay_whole(self) -> None:
        found = board(of=fmpm.HGX_H100)
        everything = set(range(1, 9))
        for free, count, expected in (
            (everything, 1, {1}),
            (everything - {1}, 1, {3}),  # of the pair that is broken
            (everything - {1}, 2, {2, 4}),  # of the half that is broken
            (everything - {1, 2}, 2, {5, 7}),
            (everything - {1, 2}, 1, {3}),
            (everything - {1, 3}, 1, {2}),
            (everything - {1}, 4, {5, 6, 7, 8}),
            (everything, 8, everything),
            ({1, 2}, 2, None),  # they are of two pairs
            ({1, 2, 3, 5, 6, 7}, 4, None),
            (everything, 3, None),
            (set(), 1, None),
        ):
            self.assertEqual(expected, self.choose(found, count, free))

    def test_what_is_active_is_left_alone(self) -> None:
        found = board(1, of=fmpm.HGX_H100)
        everything = set(range(1, 9))
        self.assertEqual({5}, self.choose(found, 1, everything))
        self.assertIsNone(self.choose(found, 8, everything))
        cards = frozenset(map(card, everything))
        self.assertEqual((1, 2, 4), found.sizes_of(cards, free=True))
        self.assertEqual((1, 2, 4, 8), found.sizes)

    def test_requests_in_any_order_fit_until_the_board_is_full(self) -> None:
        for partitions in (fmpm.HGX_A100, fmpm.HGX_H100):
            found = board(of=partitions)
            for counts in itertools.chain.from_iterable(
                set(itertools.permutations(counts))
                for counts in (
                    (4, 2, 1, 1), (2, 2, 2, 1, 1), (4, 4), (4, 2, 2),
                    (2, 2, 1, 1, 1, 1), (8,),
                )
            ):  # fmt: skip
                free = set(range(1, 9))
                for count in counts:
                    taken = self.choose(found, count, free)
                    assert taken is not None, (partitions, counts)
                    self.assertEqual(count, len(taken))
                    self.assertEqual(taken, taken & free)
                    free -= taken

    def test_the_partition_of_a_set(self) -> None:
        found = board(of=fmpm.HGX_H100)
        self.assertEqual(3, found.equal_to({card(1), card(3)}))
        self.assertIsNone(found.equal_to({card(1), card(2)}))
        self.assertIsNone(found.equal_to(()))
