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


"""``nova-gpu xml preview``: whole documents, and why there is none."""

from __future__ import annotations

import re

from lxml import etree

from nova_gpu.mechanism import mdev
from nova_gpu.model.guest import parse_guest
from tests.fixtures import hosts
from tests.unit.cli import base

UUID = re.compile('[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')


def function(number: int, guest: str) -> str:
    return f"""
      <hostdev mode='subsystem' type='pci' managed='yes'>
        <source>
          <address domain='0x0000' bus='0x65' slot='0x00'
                   function='0x{number}'/>
        </source>
        {guest}
      </hostdev>"""


def alone(bus: int) -> str:
    return f"""
      <hostdev mode='subsystem' type='pci' managed='yes'>
        <source>
          <address domain='0x0000' bus='0x{bus:02x}' slot='0x00'
                   function='0x0'/>
        </source>
      </hostdev>"""


class PreviewTest(base.CliTest):
    def assert_xml(self, expected: str, found: str) -> None:
        self.assertEqual(canonical(expected), canonical(found))

    def assert_error(self, line: str, *args: str) -> None:
        result = self.xml_preview(*args)
        self.assertEqual(1, result.code)
        self.assertEqual('', result.out)
        self.assertEqual([f'error: {line}'], result.errors)


def canonical(fragment: str) -> str:
    parser = etree.XMLParser(remove_blank_text=True)
    document = etree.fromstring(f'<devices>{fragment}</devices>', parser)
    etree.indent(document)
    return etree.tostring(document, method='c14n').decode()


class CardTest(PreviewTest):
    def test_cards_alone_in_their_slots(self) -> None:
        hosts.a100_board(self.fake)
        # Twice the same is once, in both ways of writing it.
        result = self.xml_preview(
            '--card', '25:00.0', '0000:2B:00.0', '--card', '0000:25:00.0'
        )
        self.assertEqual(0, result.code)
        self.assertEqual([], result.errors)
        self.assert_xml(alone(0x25) + alone(0x2B), result.out)
        self.assertEqual(10, len(result.out.splitlines()))

    def test_companions_come_with_their_card(self) -> None:
        hosts.workstation(self.fake)
        place = "<address type='pci' domain='0x0000' bus='0x01' slot='0x00' "
        result = self.xml_preview('--card', '0000:65:00.0')
        self.assert_xml(
            "<controller type='pci' model='pcie-root-port' index='1'/>"
            + function(0, f"{place} function='0x0' multifunction='on'/>")
            + function(1, f"{place} function='0x1'/>")
            + function(2, f"{place} function='0x2'/>")
            + function(3, f"{place} function='0x3'/>"),
            result.out,
        )

    def test_machine_without_pcie(self) -> None:
        hosts.workstation(self.fake)
        place = "<address type='pci' domain='0x0000' bus='0x00' slot='0x10' "
        result = self.xml_preview('--card', '0000:65:00.0', '--machine', 'pc')
        self.assert_xml(
            function(0, f"{place} function='0x0' multifunction='on'/>")
            + function(1, f"{place} function='0x1'/>")
            + function(2, f"{place} function='0x2'/>")
            + function(3, f"{place} function='0x3'/>"),
            result.out,
        )

    def test_card_of_a_guest(self) -> None:
        hosts.a100_board(self.fake)
        self.add_guest('instance-1', 'g', functions=['0000:25:00.0'])
        result = self.xml_preview('--card', '0000:25:00.0')
        self.assert_xml(alone(0x25), result.out)

    def test_unknown_card(self) -> None:
        hosts.workstation(self.fake)
        self.assert_error(
            'card 0000:99:00.0: this host has no such card; it has '
            '0000:17:00.0, 0000:65:00.0, 0000:b3:00.0',
            *('--card', '0000:65:00.0', '0000:99:00.0'),
        )

    def test_host_without_cards(self) -> None:
        self.assert_error(
            'card 0000:99:00.0: this host has no such card; it has (none)',
            *('--card', '99:00.0'),
        )

    def test_not_an_address(self) -> None:
        hosts.workstation(self.fake)
        self.assert_error(
            "'pci_0000_65_00_0' is not a PCI address like 0000:84:00.0",
            *('--card', 'pci_0000_65_00_0'),
        )

    def test_card_that_is_not_handed_out(self) -> None:
        hosts.workstation(self.fake)
        self.assert_error(
            'card 0000:17:00.0: not handed out: shares IOMMU group 61 with '
            '0000:18:00.0 [0200] 8086:1521',
            *('--card', '0000:17:00.0'),
        )

    def test_card_that_is_cut_into_vgpus(self) -> None:
        hosts.four_t4(self.fake)
        self.assert_error(
            'card 0000:3b:00.0: handed out as mdev, not whole; for a vGPU '
            'give --profile with one of GRID T4-1Q, GRID T4-2Q, GRID T4-4Q, '
            'GRID T4-8Q, GRID T4-16Q',
            *('--card', '0000:3b:00.0'),
        )

    def test_options_of_profiles(self) -> None:
        hosts.a100_board(self.fake)
        for option in (('--count', '2'), ('--display',)):
            self.assert_error(
                '--card: --count and --display go with --profile',
                *('--card', '0000:25:00.0', *option),
            )


class ProfileTest(PreviewTest):
    def setUp(self) -> None:
        super().setUp()
        hosts.four_t4(self.fake)

    def test_names_of_a_profile(self) -> None:
        for name in ('GRID T4-8Q', 'T4-8Q', 't4-8q', 'nvidia-233'):
            result = self.xml_preview('--profile', name)
            self.assertEqual(0, result.code, name)
            [found] = UUID.finditer(result.out)
            self.assertTrue(mdev.is_ours(found[0]))
            self.assert_xml(
                f"<hostdev mode='subsystem' type='mdev' model='vfio-pci'>"
                f"<source><address uuid='{found[0]}'/></source></hostdev>",
                result.out,
            )

    def test_display_is_on_one_of_them(self) -> None:
        result = self.xml_preview(
            '--profile', 'T4-4Q', '--count', '3', '--display'
        )
        first, second, third = (m[0] for m in UUID.finditer(result.out))
        self.assertEqual(3, len({first, second, third}))
        self.assert_xml(
            f"<hostdev mode='subsystem' type='mdev' model='vfio-pci' "
            f"display='on' ramfb='on'>"
            f"<source><address uuid='{first}'/></source></hostdev>"
            f"<hostdev mode='subsystem' type='mdev' model='vfio-pci'>"
            f"<source><address uuid='{second}'/></source></hostdev>"
            f"<hostdev mode='subsystem' type='mdev' model='vfio-pci'>"
            f"<source><address uuid='{third}'/></source></hostdev>",
            result.out,
        )
        guest = parse_guest(
            f'<domain><devices>{result.out}</devices></domain>', 'preview'
        )
        self.assertEqual({first, second, third}, guest.mdevs)

    def test_nothing_is_made(self) -> None:
        self.xml_preview('--profile', 'T4-8Q')
        self.assertEqual([], self.fake.mdevs)

    def test_help_says_that_the_uuid_is_an_example(self) -> None:
        result = self.nova_gpu('xml', 'preview', '--help')
        self.assertEqual(0, result.code)
        self.assertIn('is an example', ' '.join(result.out.split()))

    def test_unknown_profile(self) -> None:
        self.assert_error(
            "profile 'A40-8Q': no card of this host takes it; the profiles "
            'here are GRID T4-1Q, GRID T4-2Q, GRID T4-4Q, GRID T4-8Q, '
            'GRID T4-16Q',
            *('--profile', 'A40-8Q'),
        )

    def test_profile_that_no_rule_allows(self) -> None:
        self.assert_error(
            "profile 'T4-8Q': not handed out: card 0000:3b:00.0: no rule "
            'allows it',
            *('--profile', 'T4-8Q', '--rule', '{"profiles": ["T4-4Q"]}'),
        )

    def test_profile_of_ignored_cards(self) -> None:
        self.assert_error(
            "profile 'T4-8Q': not handed out: card 0000:3b:00.0: rule 1 "
            'says to ignore it',
            *('--profile', 'T4-8Q', '--rule', '{"use": "ignore"}'),
        )

    def test_count(self) -> None:
        for count in ('0', '-1', '5'):
            self.assert_error(
                f"profile 'T4-16Q': {count} of it: this host takes 1 to 4",
                *('--profile', 'T4-16Q', '--count', count),
            )
        result = self.xml_preview('--profile', 'T4-16Q', '--count', '4')
        self.assertEqual(4, result.out.count('<hostdev'))

    def test_neither_card_nor_profile(self) -> None:
        self.assertEqual(2, self.xml_preview().code)
        self.assertEqual(
            2, self.xml_preview('--card', '3b:00.0', '--profile', 'x').code
        )


class FunctionTest(PreviewTest):
    """What is on virtual functions."""

    def test_vendor_vfio_is_not_rebound(self) -> None:
        hosts.a10_vendor_vfio(self.fake)
        result = self.xml_preview('--profile', 'A10-8Q', '--count', '4')
        self.assertEqual((0, []), (result.code, result.errors))
        guest = parse_guest(
            f'<domain><devices>{result.out}</devices></domain>', 'a'
        )
        # Three of them fill the first card.
        first = {f'0000:41:00.{number}' for number in (4, 5, 6)}
        self.assertEqual(
            {*first, '0000:81:00.4'}, {str(f) for f in guest.functions}
        )
        self.assertEqual(4, result.out.count('managed="no"'))

    def test_one_virtual_function(self) -> None:
        hosts.mi300x(self.fake)
        (card,) = self.cards()
        function = self.fake.functions(card)[1]
        result = self.xml_preview('--card', function)
        self.assertEqual((0, []), (result.code, result.errors))
        guest = parse_guest(
            f'<domain><devices>{result.out}</devices></domain>', 'a'
        )
        self.assertEqual([function], [str(f) for f in guest.functions])
        self.assertIn('managed="yes"', result.out)

    def test_card_that_is_handed_out_by_function(self) -> None:
        hosts.mi300x(self.fake)
        (card,) = self.cards()
        self.assert_error(
            f'card {card}: handed out as vf, '
            f'not whole; give --card with one of its virtual functions',
            '--card',
            card,
        )
