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


"""The XML of a guest's GPUs: whole documents, read back afterwards."""

from __future__ import annotations

from lxml import etree

from nova_gpu import xml
from nova_gpu.model.address import PciAddress
from nova_gpu.model.guest import GuestDevices, Hostdev, parse_guest
from tests.unit import documents

UUID = '5cdfbd68-3d3b-4c4f-9a3e-3c5a2ee4b2d5'
FIRST = '6e6f7661-6770-8000-8000-000000000001'
SECOND = '6e6f7661-6770-8000-8000-000000000002'


def function(text: str, slot: int | None = None) -> Hostdev:
    return Hostdev(function=PciAddress.parse(text), slot=slot)


def card_with_companions(bus: str, slot: int) -> list[Hostdev]:
    """A workstation card: graphics, sound, USB and USB-C controller."""
    return [function(f'{bus}:00.{number}', slot) for number in range(4)]


def domain(machine: str, devices: str) -> str:
    return f"""
      <domain type='kvm'>
        <name>instance-00000001</name>
        <uuid>{UUID}</uuid>
        <memory unit='KiB'>524288</memory>
        <os>
          <type machine='{machine}'>hvm</type>
        </os>
        <devices>
          {devices}
        </devices>
      </domain>
    """


class XmlTest(documents.DocumentTest):
    def check(
        self, hostdevs: list[Hostdev], machine: str, expected: str
    ) -> None:
        """Compare the domain, then read back what it was made of."""
        found = domain(
            machine,
            ''.join(
                etree.tostring(device.element, encoding='unicode')
                for device in xml.build(hostdevs, machine)
            ),
        )
        self.assert_document(domain(machine, expected), found)
        self.assertEqual(
            GuestDevices(
                name='instance-00000001',
                uuid=UUID,
                functions=frozenset(
                    h.function for h in hostdevs if h.function
                ),
                mdevs=frozenset(h.mdev for h in hostdevs if h.mdev),
            ),
            parse_guest(found, 'unnamed'),
        )

    def test_one_card(self) -> None:
        self.check(
            [function('0000:25:00.0')],
            'q35',
            """
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0x25' slot='0x00'
                         function='0x0'/>
              </source>
            </hostdev>
            """,
        )

    def test_two_cards(self) -> None:
        self.check(
            [function('0000:25:00.0'), function('10000:2b:1f.7')],
            'pc',
            """
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0x25' slot='0x00'
                         function='0x0'/>
              </source>
            </hostdev>
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x10000' bus='0x2b' slot='0x1f'
                         function='0x7'/>
              </source>
            </hostdev>
            """,
        )

    def check_companions(self, machine: str) -> None:
        """Two cards with companions and one without, on root ports."""
        self.check(
            [
                function('0000:48:00.0'),
                *card_with_companions('0000:65', 0),
                function('0000:b3:00.0', 1),
                function('0000:b3:00.1', 1),
            ],
            machine,
            """
            <controller type='pci' model='pcie-root-port' index='1'/>
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0x65' slot='0x00'
                         function='0x0'/>
              </source>
              <address type='pci' domain='0x0000' bus='0x01' slot='0x00'
                       function='0x0' multifunction='on'/>
            </hostdev>
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0x65' slot='0x00'
                         function='0x1'/>
              </source>
              <address type='pci' domain='0x0000' bus='0x01' slot='0x00'
                       function='0x1'/>
            </hostdev>
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0x65' slot='0x00'
                         function='0x2'/>
              </source>
              <address type='pci' domain='0x0000' bus='0x01' slot='0x00'
                       function='0x2'/>
            </hostdev>
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0x65' slot='0x00'
                         function='0x3'/>
              </source>
              <address type='pci' domain='0x0000' bus='0x01' slot='0x00'
                       function='0x3'/>
            </hostdev>
            <controller type='pci' model='pcie-root-port' index='2'/>
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0xb3' slot='0x00'
                         function='0x0'/>
              </source>
              <address type='pci' domain='0x0000' bus='0x02' slot='0x00'
                       function='0x0' multifunction='on'/>
            </hostdev>
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0xb3' slot='0x00'
                         function='0x1'/>
              </source>
              <address type='pci' domain='0x0000' bus='0x02' slot='0x00'
                       function='0x1'/>
            </hostdev>
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0x48' slot='0x00'
                         function='0x0'/>
              </source>
            </hostdev>
            """,
        )

    def test_companions_on_q35(self) -> None:
        self.check_companions('q35')

    def test_companions_on_a_versioned_q35(self) -> None:
        self.check_companions('pc-q35-7.2')

    def test_companions_on_arm(self) -> None:
        self.check_companions('virt-9.1')

    def check_companions_without_pcie(self, machine: str) -> None:
        self.check(
            [
                *card_with_companions('0000:65', 0)[:2],
                *card_with_companions('0000:b3', 1)[:2],
            ],
            machine,
            """
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0x65' slot='0x00'
                         function='0x0'/>
              </source>
              <address type='pci' domain='0x0000' bus='0x00' slot='0x10'
                       function='0x0' multifunction='on'/>
            </hostdev>
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0x65' slot='0x00'
                         function='0x1'/>
              </source>
              <address type='pci' domain='0x0000' bus='0x00' slot='0x10'
                       function='0x1'/>
            </hostdev>
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0xb3' slot='0x00'
                         function='0x0'/>
              </source>
              <address type='pci' domain='0x0000' bus='0x00' slot='0x11'
                       function='0x0' multifunction='on'/>
            </hostdev>
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0xb3' slot='0x00'
                         function='0x1'/>
              </source>
              <address type='pci' domain='0x0000' bus='0x00' slot='0x11'
                       function='0x1'/>
            </hostdev>
            """,
        )

    def test_companions_on_pc(self) -> None:
        self.check_companions_without_pcie('pc')

    def test_companions_on_a_machine_with_virt_in_its_name(self) -> None:
        self.check_companions_without_pcie('s390-ccw-virtio')

    def test_card_alone_in_its_slot_is_not_multifunction(self) -> None:
        self.check(
            [function('0000:65:00.0', 0)],
            'q35',
            """
            <controller type='pci' model='pcie-root-port' index='1'/>
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0x65' slot='0x00'
                         function='0x0'/>
              </source>
              <address type='pci' domain='0x0000' bus='0x01' slot='0x00'
                       function='0x0'/>
            </hostdev>
            """,
        )

    def test_mdev(self) -> None:
        self.check(
            [Hostdev(mdev=FIRST)],
            'pc',
            f"""
            <hostdev mode='subsystem' type='mdev' model='vfio-pci'>
              <source>
                <address uuid='{FIRST}'/>
              </source>
            </hostdev>
            """,
        )

    def test_display_on_one_of_two_mdevs(self) -> None:
        self.check(
            [Hostdev(mdev=FIRST, display=True), Hostdev(mdev=SECOND)],
            'q35',
            f"""
            <hostdev mode='subsystem' type='mdev' model='vfio-pci'
                     display='on' ramfb='on'>
              <source>
                <address uuid='{FIRST}'/>
              </source>
            </hostdev>
            <hostdev mode='subsystem' type='mdev' model='vfio-pci'>
              <source>
                <address uuid='{SECOND}'/>
              </source>
            </hostdev>
            """,
        )

    def test_mdev_and_card_in_one_guest(self) -> None:
        self.check(
            [Hostdev(mdev=FIRST), function('0000:25:00.0')],
            'q35',
            f"""
            <hostdev mode='subsystem' type='mdev' model='vfio-pci'>
              <source>
                <address uuid='{FIRST}'/>
              </source>
            </hostdev>
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0x25' slot='0x00'
                         function='0x0'/>
              </source>
            </hostdev>
            """,
        )

    def test_nothing(self) -> None:
        self.assertEqual([], xml.build([], 'q35'))
