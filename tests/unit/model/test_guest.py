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


"""The host devices of guests, whatever their XML looks like."""

from __future__ import annotations

import dataclasses
import re

import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu.model.address import PciAddress, VirtualParent
from nova_gpu.model.guest import Hostdev, parse_guest
from nova_gpu.model.inventory import Unit
from tests.unit import base

UUID = base.instance('guest')
CARDS = tuple(map(PciAddress.parse, ('0000:25:00.0', '0001:2b:1f.7')))
MDEVS = (
    '0a5c0a2e-9f1b-4c55-8d1e-0d6f6a3f9a11',
    '6e6f7661-6770-8c55-8d1e-0d6f6a3f9a11',
)
XML = base.domain_xml(
    'instance-1',
    UUID,
    [
        *(Hostdev(function=f) for f in CARDS),
        *(Hostdev(mdev=uuid) for uuid in MDEVS),
    ],
)


class ParseTest(testtools.TestCase):
    """XML that parses."""

    def test_whole_domain(self) -> None:
        guest = parse_guest(XML, 'file-name')
        self.assertTrue(guest.readable)
        self.assertEqual('instance-1', guest.name)
        self.assertEqual(UUID, guest.uuid)
        self.assertEqual(frozenset(CARDS), guest.functions)
        self.assertEqual(frozenset(MDEVS), guest.mdevs)

    def test_status_file_of_a_running_domain(self) -> None:
        text = f"<domstatus state='running' pid='7'>{XML}</domstatus>"
        self.assertEqual(parse_guest(XML, 'x'), parse_guest(text, 'x'))

    def test_what_is_not_of_the_host(self) -> None:
        text = f"""<?xml version='1.0' encoding='utf-8'?>
        <domain><name>a</name><uuid>{UUID}</uuid><devices>
          <hostdev type='usb'><source><address bus='1'/></source></hostdev>
          <hostdev type='pci'/>
          <hostdev type='mdev'><source><address/></source></hostdev>
          <hostdev type='pci'><source><address bus='0xzz'/></source></hostdev>
          <controller><address type='pci' bus='0x25' slot='0' function='0'/>
          </controller>
          <hostdev type='pci'>
            <source><address bus='0x25' slot='0x00' function='0x0'/></source>
            <address type='pci' bus='0x05' slot='0x00' function='0x0'/>
          </hostdev>
        </devices></domain>"""
        guest = parse_guest(text, 'x')
        self.assertTrue(guest.readable)
        self.assertEqual(frozenset(CARDS[:1]), guest.functions)
        self.assertEqual(frozenset(), guest.mdevs)

    def test_uuid_of_an_mdev_in_upper_case(self) -> None:
        guest = parse_guest(XML.replace(MDEVS[0], MDEVS[0].upper()), 'x')
        self.assertEqual(frozenset(MDEVS), guest.mdevs)

    def test_guest_without_name_and_uuid(self) -> None:
        guest = parse_guest('<domain/>', 'file-name')
        self.assertEqual('file-name', guest.name)
        self.assertIsNone(guest.uuid)


UNITS = (
    Unit(
        'mdev', 'mtty', 'CUSTOM_VGPU_MTTY_X', VirtualParent('mtty'),
        MDEVS[0], type_id='mtty-1', name='Single <port> "serial"',
        parent=VirtualParent('mtty'), params='a=b,c=d', project='p',
        isolation='exclusive',
    ),
    Unit(
        'whole', 'nvidia', 'PGPU', CARDS[0], str(CARDS[0]), functions=CARDS
    ),
)  # fmt: skip


class MetadataTest(testtools.TestCase):
    """What a guest was given is recorded with it."""

    def test_there_and_back(self) -> None:
        text = base.domain_xml('a', UUID, [], UNITS)
        guest = parse_guest(text, 'x')
        self.assertEqual(UNITS, guest.units)
        self.assertEqual(UNITS[0], guest.recorded(MDEVS[0]))
        self.assertEqual(UNITS[1], guest.recorded(str(CARDS[0])))
        self.assertIsNone(guest.recorded(MDEVS[1]))

    def test_beside_others(self) -> None:
        text = base.domain_xml('a', UUID, [], UNITS).replace(
            '<metadata>',
            '<metadata><nova:instance xmlns:nova="x"><nova:unit/>'
            '</nova:instance>',
        )
        self.assertEqual(UNITS, parse_guest(text, 'x').units)

    def test_kept(self) -> None:
        text = base.domain_xml('a', UUID, [], UNITS[:1], {'b': UNITS[1:]})
        guest = parse_guest(text, 'x')
        self.assertEqual((('b', UNITS[1:]),), guest.kept)
        self.assertEqual({MDEVS[0], *map(str, CARDS)}, set(guest.devices))
        (keeper,) = guest.keepers()
        self.assertEqual(('b', UUID), (keeper.uuid, keeper.keeper))
        # Edited by hand: nobody to whom it could be given back.
        text = text.replace('consumer="b"', '')
        self.assertEqual((), parse_guest(text, 'x').kept)

    def test_whose_it_is(self) -> None:
        novas = (
            '<n:instance xmlns:n="http://openstack.org/xmlns/libvirt/nova/1.1">'
            '<n:flavor name="gpu.small" id="f"/>'
            '<n:owner><n:user uuid="u">U</n:user><n:project uuid="q">Q'
            '</n:project></n:owner></n:instance>'
        )
        text = base.domain_xml('a', UUID, [], UNITS, {'b': UNITS[1:]}).replace(
            '<metadata>', f'<metadata>{novas}'
        )
        for read in (text, text.replace('</domain>', '')):
            guest = parse_guest(read, 'x')
            self.assertEqual('q', guest.project)
            # What we have recorded comes before what Nova says.
            self.assertEqual(UNITS[0], guest.own(UNITS[0]))
            self.assertEqual('q', guest.own(UNITS[1]).project)
            other = guest.own(dataclasses.replace(UNITS[0], device='x'))
            self.assertEqual('q', other.project)
            self.assertEqual(
                'shared' if guest.readable else 'exclusive', other.isolation
            )
        (keeper,) = parse_guest(text, 'x').keepers()
        self.assertEqual('q', keeper.own(UNITS[1]).project)
        self.assertEqual('gpu.small', parse_guest(text, 'x').flavor)
        (keeper,) = parse_guest(text, 'x').keepers()
        self.assertEqual('gpu.small', keeper.flavor)
        self.assertIsNone(parse_guest(XML, 'x').project)
        self.assertIsNone(parse_guest(XML, 'x').flavor)

    def test_nothing_recorded(self) -> None:
        text = base.domain_xml('a', UUID, [])
        self.assertEqual((), parse_guest(text, 'x').units)

    def test_edited_by_hand(self) -> None:
        text = base.domain_xml('a', UUID, [], UNITS)
        for old, new in (
            ('card="0000:25:00.0"', 'card="0000:zz"'),
            ('class="PGPU"', ''),
            ('functions="0000', 'functions="junk 0000'),
        ):
            guest = parse_guest(text.replace(old, new), 'x')
            self.assertTrue(guest.readable)
            self.assertEqual(UNITS[:1], guest.units)

    def test_xml_that_does_not_parse(self) -> None:
        text = base.domain_xml('a', UUID, [], UNITS[1:])
        guest = parse_guest(text.replace('</domain>', ''), 'x')
        self.assertFalse(guest.readable)
        self.assertEqual(UNITS[1:], guest.units)


class SalvageTest(testtools.TestCase):
    """XML that doesn't parse: what it may hold counts as held."""

    def test_every_cut(self) -> None:
        ends = {
            device: match.end()
            for device, match in zip(
                (*CARDS, *MDEVS), re.finditer('<address[^>]*', XML),
                strict=True,
            )
        }  # fmt: skip
        for cut in range(len(XML.rstrip())):
            guest = parse_guest(XML[:cut], 'file-name')
            self.assertFalse(guest.readable)
            self.assertEqual('file-name', guest.name)
            self.assertIn(guest.uuid, (UUID, None))
            for device, end in ends.items():
                if end <= cut:
                    self.assertIn(device, guest.functions | guest.mdevs)
            if cut > XML.index('</uuid>') + 7:
                self.assertEqual(UUID, guest.uuid)

    def test_garbage_between(self) -> None:
        for broken in (XML.replace('</devices>', '<&'), XML + XML):
            guest = parse_guest(broken, 'x')
            self.assertFalse(guest.readable)
            self.assertEqual(frozenset(CARDS), guest.functions)
            self.assertEqual(frozenset(MDEVS), guest.mdevs)

    def test_another_document(self) -> None:
        for text in ('', 'junk', '<network/>', '<domstatus/>', '\ud800'):
            guest = parse_guest(text, 'x')
            self.assertFalse(guest.readable)
            self.assertEqual(frozenset(), guest.functions | guest.mdevs)

    def test_address_that_is_none(self) -> None:
        text = "<domain><address bus='0xzz' function='0'/>"
        self.assertEqual(frozenset(), parse_guest(text, 'x').functions)

    @given(st.text() | st.text(alphabet='<address uid=\'"/>0fx'))
    def test_anything_is_read(self, text: str) -> None:
        self.assertIsInstance(parse_guest(text, 'x').readable, bool)
