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


"""PCI addresses."""

from __future__ import annotations

import dataclasses

import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu import exception
from nova_gpu.model.address import PciAddress
from tests.unit import base  # noqa: F401  (loads hypothesis' profile)

addresses = st.builds(
    PciAddress,
    domain=st.integers(0, 0xFFFFFFFF),
    bus=st.integers(0, 0xFF),
    slot=st.integers(0, 0x1F),
    function=st.integers(0, 7),
)


class AddressTest(testtools.TestCase):
    """Parsing, printing, ordering."""

    @given(addresses)
    def test_round_trip(self, address: PciAddress) -> None:
        self.assertEqual(address, PciAddress.parse(str(address)))
        self.assertEqual(address, PciAddress.parse(str(address).upper()))

    @given(st.text(max_size=16) | st.from_regex(r'\A[0-9a-g:.]{0,14}\Z'))
    def test_anything_parses_or_is_named(self, text: str) -> None:
        try:
            address = PciAddress.parse(text)
        except exception.InvalidAddress as exc:
            self.assertEqual(text, exc.value)
            self.assertIn(repr(text), str(exc))
        else:
            self.assertEqual(address, PciAddress.parse(str(address)))

    def test_forms(self) -> None:
        address = PciAddress(0, 0x84, 0x1F, 7)
        for text in ('0000:84:1f.7', '84:1f.7', '0000:84:1F.7', '84:1f.7\n'):
            self.assertEqual(address, PciAddress.parse(text))
        self.assertEqual('0000:84:1f.7', str(address))
        self.assertEqual('10000:01:00.0', str(PciAddress(0x10000, 1, 0, 0)))

    def test_invalid(self) -> None:
        for text in (
            '', '84:00', '0000:84:00.8', '0000:84:20.0', '000:84:00.0',
            'pci_0000_84_00_0', '0000:84:00.0/..', '0000:84:00.00',
        ):  # fmt: skip
            with testtools.ExpectedException(exception.InvalidAddress):
                PciAddress.parse(text)

    @given(st.lists(addresses))
    def test_order_is_that_of_the_numbers(
        self, found: list[PciAddress]
    ) -> None:
        self.assertEqual(sorted(found, key=dataclasses.astuple), sorted(found))

    def test_token(self) -> None:
        self.assertEqual(
            '0001_04_00_2', PciAddress.parse('0001:04:00.2').token
        )

    def test_same_slot(self) -> None:
        address = PciAddress.parse('0000:65:00.0')
        for text, same in (
            ('0000:65:00.3', True),
            ('0000:65:01.0', False),
            ('0000:66:00.0', False),
            ('0001:65:00.0', False),
        ):
            self.assertIs(same, address.same_slot(PciAddress.parse(text)))
