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


"""What libvirt itself makes of a guest with our devices.

libvirt's QEMU driver runs inside of virsh here, below a directory of its own
(https://libvirt.org/drvqemu.html#embedded-driver): no daemon, no root, and no
card is needed to define a guest. On a machine without it the guest is looked
at as we made it.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
from typing import Any

import fixtures
import testtools
from lxml import etree

from nova_gpu import xml
from nova_gpu.model.address import PciAddress
from nova_gpu.model.guest import Hostdev, parse_guest

DRIVER = 'libvirt/connection-driver/libvirt_driver_qemu.so'
#: As root, libvirt wants a user that its daemon's package makes.
NOBODY = 65534

#: Two cards with companions, one without, a vGPU.
HOSTDEVS = [
    Hostdev(function=PciAddress.parse('0000:65:00.0'), slot=0),
    Hostdev(function=PciAddress.parse('0000:65:00.1'), slot=0),
    Hostdev(function=PciAddress.parse('0000:65:00.2'), slot=0),
    Hostdev(function=PciAddress.parse('0000:65:00.3'), slot=0),
    Hostdev(function=PciAddress.parse('0000:b3:00.0'), slot=1),
    Hostdev(function=PciAddress.parse('0000:b3:00.1'), slot=1),
    Hostdev(function=PciAddress.parse('0000:25:00.0')),
    Hostdev(mdev='6e6f7661-6770-8000-8000-000000000001', display=True),
]

#: As Nova adds them with [libvirt] num_pcie_ports = 8.
NOVA_PORTS = "<controller type='pci' model='pcie-root'/>" + (
    "<controller type='pci' model='pcie-root-port'/>" * 8
)

DOMAIN = """
  <domain type='qemu'>
    <name>guest</name>
    <uuid>5cdfbd68-3d3b-4c4f-9a3e-3c5a2ee4b2d5</uuid>
    <memory>524288</memory>
    <vcpu>2</vcpu>
    <os>
      <type arch='x86_64' machine='{machine}'>hvm</type>
      <boot dev='hd'/>
    </os>
    <features><acpi/><apic/></features>
    <devices>
      <disk type='file' device='disk'>
        <driver name='qemu' type='qcow2' cache='none'/>
        <source file='/disk'/>
        <target bus='virtio' dev='vda'/>
      </disk>
      <interface type='ethernet'>
        <mac address='fa:16:3e:0a:0b:0c'/>
        <model type='virtio'/>
      </interface>
      <graphics type='vnc' autoport='yes' listen='127.0.0.1'/>
      <video><model type='virtio'/></video>
      <controller type='usb' index='0'/>
      {ports}
      {ours}
      <memballoon model='virtio'><stats period='10'/></memballoon>
      <rng model='virtio'>
        <backend model='random'>/dev/urandom</backend>
      </rng>
    </devices>
  </domain>
"""


class DefineTest(testtools.TestCase):
    """Guests defined by libvirt, where it is installed."""

    def define(self, machine: str, ports: str = '') -> etree._Element:
        """The domain as libvirt has it once it is defined."""
        ours = ''.join(
            etree.tostring(device.element, encoding='unicode')
            for device in xml.build(HOSTDEVS, machine)
        )
        text = DOMAIN.format(machine=machine, ports=ports, ours=ours)
        virsh = shutil.which('virsh')
        driver = any(
            folder.joinpath(DRIVER).exists()
            for folder in (
                pathlib.Path('/usr/lib64'),
                pathlib.Path('/usr/lib'),
                *pathlib.Path('/usr/lib').glob('*-linux-gnu'),
            )
        )
        if virsh and driver and shutil.which('qemu-system-x86_64'):
            text = self._through_libvirt(virsh, text)
        guest = parse_guest(text, 'unnamed')
        self.assertEqual(
            {h.function for h in HOSTDEVS if h.function}, guest.functions
        )
        self.assertEqual({h.mdev for h in HOSTDEVS if h.mdev}, guest.mdevs)
        return etree.fromstring(text)

    def _through_libvirt(self, virsh: str, text: str) -> str:
        root = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        document = root / 'guest.xml'
        document.write_text(text)
        someone: dict[str, Any] = {}
        if os.geteuid() == 0:
            os.chown(root, NOBODY, NOBODY)
            someone = {'user': NOBODY, 'group': NOBODY, 'extra_groups': []}
        done = subprocess.run(
            [
                virsh, '--quiet', '--connect', f'qemu:///embed?root={root}',
                f'define --validate {document}; dumpxml guest',
            ],
            env={
                'PATH': os.environ['PATH'],
                'HOME': str(root),
                'XDG_RUNTIME_DIR': str(root),
            },
            capture_output=True,
            text=True,
            **someone,
        )  # fmt: skip
        self.assertEqual(0, done.returncode, done.stderr)
        return done.stdout

    def places(self, domain: etree._Element) -> dict[str, list[str]]:
        """All devices of the guest by the slot that they are in."""
        found: dict[str, list[str]] = {}
        for place in domain.iterfind("devices/*/address[@type='pci']"):
            device = place.getparent()
            source = device.find("source/address[@bus]")
            name = device.tag
            if source is not None:
                name = f'{source.get("bus")}.{source.get("function")}'
            if place.get('multifunction') == 'on':
                name += ' multifunction'
            found.setdefault(
                f'{place.get("bus")}:{place.get("slot")}', []
            ).append(f'{place.get("function")} {name}')
        return found

    def ports(self, domain: etree._Element) -> list[int]:
        """The buses of the guest, as far as they have a number."""
        return sorted(
            int(controller.get('index'))
            for controller in domain.iterfind(
                "devices/controller[@type='pci'][@index]"
            )
        )

    def assert_companions_together(
        self, domain: etree._Element, first: str, second: str
    ) -> None:
        places = self.places(domain)
        self.assertEqual(
            [
                '0x0 0x65.0x0 multifunction',
                '0x1 0x65.0x1',
                '0x2 0x65.0x2',
                '0x3 0x65.0x3',
            ],
            places[first],
        )
        self.assertEqual(
            ['0x0 0xb3.0x0 multifunction', '0x1 0xb3.0x1'], places[second]
        )

    def test_q35(self) -> None:
        domain = self.define('q35')
        self.assert_companions_together(domain, '0x01:0x00', '0x02:0x00')
        # Each number below the highest has a port: a gap would be filled.
        self.assertLess(max(self.ports(domain)), 16)

    def test_q35_with_ports_of_nova(self) -> None:
        domain = self.define('q35', NOVA_PORTS)
        self.assert_companions_together(domain, '0x01:0x00', '0x02:0x00')
        self.assertLess(max(self.ports(domain)), 16)

    def test_pc(self) -> None:
        domain = self.define('pc')
        self.assert_companions_together(domain, '0x00:0x10', '0x00:0x11')
        self.assertEqual([0], self.ports(domain) or [0])
