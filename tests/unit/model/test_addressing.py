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


"""How wide a guest's physical addresses have to be."""

from __future__ import annotations

import testtools

from nova_gpu.model.addressing import DEFAULT_BITS, bars_of, needed_bits
from nova_gpu.model.device import Snapshot
from nova_gpu.model.inventory import Unit
from tests.unit import base

GIB = 1 << 30


class BarsTest(testtools.TestCase):
    """What units show to a guest."""

    def setUp(self) -> None:
        super().setUp()
        self.card = base.card(bars=(64 * GIB, 32 << 20), vf_bars=(8 * GIB,))
        self.snapshot = Snapshot((self.card,))

    def unit(self, **fields: object) -> Unit:
        address = self.card.address
        return Unit('x', 'p', 'C', address, 'd', **fields)  # type: ignore[arg-type]

    def test_by_what_is_passed(self) -> None:
        functions = (self.card.address,)
        whole = self.unit(functions=functions)
        virtual = self.unit(functions=functions, parent=self.card.address)
        mediated = self.unit(parent=self.card.address)
        self.assertEqual(
            [64 * GIB, 32 << 20, 8 * GIB],
            bars_of(self.snapshot, [whole, virtual, mediated]),
        )

    def test_card_that_is_gone(self) -> None:
        whole = self.unit(functions=(self.card.address,))
        self.assertEqual([], bars_of(Snapshot(), [whole]))


class BitsTest(testtools.TestCase):
    """The smallest width that has room."""

    def test_small_guests_need_no_more_than_they_have(self) -> None:
        self.assertEqual(DEFAULT_BITS, needed_bits(4096, []))
        # An eighth of 2**40 is 128 GiB.
        self.assertEqual(40, needed_bits(4096, [64 * GIB, 64 * GIB]))

    def test_bars(self) -> None:
        self.assertEqual(41, needed_bits(4096, [128 * GIB, 32 << 20]))
        self.assertEqual(43, needed_bits(4096, [128 * GIB] * 8))
        self.assertEqual(45, needed_bits(4096, [256 * GIB] * 16))

    def test_memory_below_the_window(self) -> None:
        # 1024 GiB less the window of 128, less 4 of devices.
        self.assertEqual(40, needed_bits(892 * 1024, []))
        self.assertEqual(41, needed_bits(892 * 1024 + 1, []))

    def test_it_never_shrinks(self) -> None:
        widths = [needed_bits(n * 2**20, [n * GIB]) for n in range(1, 40)]
        self.assertEqual(sorted(widths), widths)
