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


"""Our devices in Nova's own guest configuration."""

from __future__ import annotations

from nova.virt.libvirt import config as vconfig

from nova_gpu.model.address import PciAddress
from nova_gpu.model.guest import Hostdev, parse_guest
from nova_gpu.virt import xml
from tests.unit import documents

UUID = '5cdfbd68-3d3b-4c4f-9a3e-3c5a2ee4b2d5'
MDEV = '6e6f7661-6770-8000-8000-000000000001'
CARD = PciAddress.parse('0000:65:00.0')
SOUND = PciAddress.parse('0000:65:00.1')
ALONE = PciAddress.parse('0000:48:00.0')

DOMAIN = f"""
  <domain type='kvm'>
    <uuid>{UUID}</uuid>
    <name>instance-00000001</name>
    <memory>524288</memory>
    <vcpu>2</vcpu>
    <os>
      <type machine='q35'>hvm</type>
    </os>
    <devices>
      <disk type='file' device='disk'>
        <driver name='qemu' type='qcow2' cache='none'/>
        <source file='/var/lib/nova/instances/{UUID}/disk'/>
        <target bus='virtio' dev='vda'/>
      </disk>
      <controller type='pci' model='pcie-root'/>
      <controller type='pci' model='pcie-root-port'/>
      <controller type='pci' model='pcie-root-port' index='1'/>
      <hostdev mode='subsystem' type='pci' managed='yes'>
        <source>
          <address domain='0x0000' bus='0x65' slot='0x00' function='0x0'/>
        </source>
        <address type='pci' domain='0x0000' bus='0x01' slot='0x00'
                 function='0x0' multifunction='on'/>
      </hostdev>
      <hostdev mode='subsystem' type='pci' managed='yes'>
        <source>
          <address domain='0x0000' bus='0x65' slot='0x00' function='0x1'/>
        </source>
        <address type='pci' domain='0x0000' bus='0x01' slot='0x00'
                 function='0x1'/>
      </hostdev>
      <hostdev mode='subsystem' type='pci' managed='yes'>
        <source>
          <address domain='0x0000' bus='0x48' slot='0x00' function='0x0'/>
        </source>
      </hostdev>
      <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'
               ramfb='on'>
        <source>
          <address uuid='{MDEV}'/>
        </source>
      </hostdev>
      <rng model='virtio'>
        <backend model='random'>/dev/urandom</backend>
      </rng>
    </devices>
  </domain>
"""


class ConfigTest(documents.DocumentTest):
    def setUp(self) -> None:
        super().setUp()
        self.devices = xml.build(
            [
                Hostdev(function=CARD, slot=0),
                Hostdev(function=SOUND, slot=0),
                Hostdev(function=ALONE),
                Hostdev(mdev=MDEV, display=True),
            ],
            'q35',
        )

    def guest(self) -> vconfig.LibvirtConfigGuest:
        """A guest as Nova configures it, with our devices in it."""
        guest = vconfig.LibvirtConfigGuest()
        guest.virt_type = 'kvm'
        guest.uuid = UUID
        guest.name = 'instance-00000001'
        guest.memory = 524288
        guest.vcpus = 2
        guest.os_type = 'hvm'
        guest.os_mach_type = 'q35'
        disk = vconfig.LibvirtConfigGuestDisk()
        disk.source_type = 'file'
        disk.source_path = f'/var/lib/nova/instances/{UUID}/disk'
        disk.driver_name = 'qemu'
        disk.driver_format = 'qcow2'
        disk.driver_cache = 'none'
        disk.target_dev = 'vda'
        disk.target_bus = 'virtio'
        rng = vconfig.LibvirtConfigGuestRng()
        rng.backend = '/dev/urandom'
        for device in (
            disk,
            vconfig.LibvirtConfigGuestPCIeRootController(),
            vconfig.LibvirtConfigGuestPCIeRootPortController(),
            *self.devices,
            rng,
        ):
            guest.add_device(device)
        return guest

    def test_whole_domain(self) -> None:
        found = self.guest().to_xml()
        self.assert_document(DOMAIN, found)
        guest = parse_guest(found, 'unnamed')
        self.assertEqual({CARD, SOUND, ALONE}, guest.functions)
        self.assertEqual({MDEV}, guest.mdevs)
        self.assertEqual(UUID, guest.uuid)

    def test_twice_the_same(self) -> None:
        # An element has one parent: whoever gives out its own loses it.
        guest = self.guest()
        self.assertEqual(guest.to_xml(), guest.to_xml())
        for device in self.devices:
            self.assertEqual(device.to_xml(), device.to_xml())

    def test_nova_sees_devices_of_its_own_kinds(self) -> None:
        port, card, sound, alone, mdev = self.devices
        self.assertIsInstance(port, vconfig.LibvirtConfigGuestDevice)
        for device in (card, sound, alone):
            self.assertIsInstance(device, vconfig.LibvirtConfigGuestHostdevPCI)
        self.assertIsInstance(mdev, vconfig.LibvirtConfigGuestHostdevMDEV)
        for device in self.devices[1:]:
            self.assertIsInstance(device, vconfig.LibvirtConfigGuestHostdev)

    def test_fields_are_those_that_nova_reads_from_xml(self) -> None:
        for device in self.devices[1:]:
            theirs = (
                vconfig.LibvirtConfigGuestHostdevMDEV()
                if device.type == 'mdev'
                else vconfig.LibvirtConfigGuestHostdevPCI()
            )
            theirs.parse_str(device.to_xml())
            names = (
                ('mode', 'type', 'uuid', 'model')
                if device.type == 'mdev'
                else ('mode', 'type', 'domain', 'bus', 'slot', 'function')
            )
            for name in names:
                self.assertEqual(
                    _number(getattr(theirs, name)),
                    _number(getattr(device, name)),
                    name,
                )


def _number(text: str) -> int | str:
    """An address's part, with or without the prefix."""
    try:
        return int(text, 16)
    except ValueError:
        return text
