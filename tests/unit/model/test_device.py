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


"""What a host has, as plain data."""

from __future__ import annotations

import dataclasses

import testtools

from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import PciFunction, Snapshot
from nova_gpu.model.profile import VgpuType
from tests.unit import base


class CardTest(testtools.TestCase):
    """Predicates and names."""

    def test_functions_are_in_order(self) -> None:
        companions = tuple(
            PciFunction(PciAddress.parse(a), 0x10DE, 0x1AEF, 0x0403)
            for a in ('0000:65:00.3', '0000:65:00.0')
        )
        card = base.card('0000:65:00.1', companions=companions)
        self.assertEqual(
            ['0000:65:00.0', '0000:65:00.1', '0000:65:00.3'],
            [str(f) for f in card.functions],
        )

    def test_vendor_is_a_name_or_the_id(self) -> None:
        self.assertEqual('NVIDIA', base.card().vendor)
        self.assertEqual('AMD', base.card(vendor_id=0x1002).vendor)
        self.assertEqual('1a03', base.card(vendor_id=0x1A03).vendor)

    def test_type_by_id(self) -> None:
        kind = VgpuType('nvidia-233', 'GRID T4-8Q', available=2)
        card = base.card(types=(kind,))
        self.assertIs(kind, card.type_by_id('nvidia-233'))
        self.assertIsNone(card.type_by_id('nvidia-234'))

    def test_nobody_changes_a_snapshot(self) -> None:
        card = base.card()
        with testtools.ExpectedException(dataclasses.FrozenInstanceError):
            card.driver = 'nvidia'  # type: ignore[misc]

    def test_card_of_a_snapshot(self) -> None:
        card = base.card()
        snapshot = Snapshot(cards=(card,))
        self.assertIs(card, snapshot.card(card.address))
        self.assertIsNone(snapshot.card(PciAddress(0, 1, 0, 0)))

    def test_function_as_text(self) -> None:
        function = PciFunction(
            PciAddress.parse('0000:b7:00.0'), 0x10DE, 0x1AF1, 0x0680
        )
        self.assertEqual('0000:b7:00.0 [0680] 10de:1af1', str(function))
