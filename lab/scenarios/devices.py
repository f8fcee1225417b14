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

"""A host's devices, read by other means than nova-gpu's.

libvirt isn't imported: unit tests read their made-up hosts with this too, and
the cloud's scenarios are outside of the guest.
"""

from __future__ import annotations

import os
import pathlib
from xml.etree import ElementTree as ET

#: Where :file:`lab/guest/files/lab/devices` puts what reads as which.
GPU_WITH_AUDIO = '0000:81:00.0'
H100S = ('0000:41:00.0', '0000:82:00.0', '0000:83:00.0')
VENDOR_VFIO = '0000:84:00.0'
MDEV = '0000:85:00.0'
SRIOV = '0000:86:00.0'
BEHIND_BRIDGE = '0000:88:01.0'


class Devices:
    """The PCI functions and mediated devices below ``root``."""

    def __init__(self, root: str | os.PathLike[str] = '/') -> None:
        self.pci = pathlib.Path(root, 'sys/bus/pci/devices')
        self.mediated = pathlib.Path(root, 'sys/bus/mdev/devices')
        self._probe = pathlib.Path(root, 'sys/bus/pci/drivers_probe')

    def read(self, device: str, name: str) -> str:
        """An attribute of a PCI function."""
        return (self.pci / device / name).read_text().strip()

    def group(self, device: str) -> str:
        """The IOMMU group of a PCI function or of a mediated device."""
        base = self.pci if ':' in device else self.mediated
        return (base / device / 'iommu_group').readlink().name

    def driver(self, device: str) -> str | None:
        path = self.pci / device / 'driver'
        return path.readlink().name if path.exists() else None

    def bind(self, device: str, name: str) -> None:
        """Give a function another driver, as an operator does."""
        if self.driver(device):
            (self.pci / device / 'driver/unbind').write_text(device)
        (self.pci / device / 'driver_override').write_text(name + '\n')
        self._probe.write_text(device)

    def functions(self, card: str) -> list[str]:
        """The virtual functions of a card, by their number."""
        links = (self.pci / card).glob('virtfn*')
        in_order = sorted(links, key=lambda link: int(link.name[6:]))
        return [link.readlink().name for link in in_order]

    def available(self, parent: str, type_id: str) -> int:
        """How many more mediated devices of a type can be made."""
        path = f'mdev_supported_types/{type_id}/available_instances'
        return int(self.read(parent, path))

    def mdevs(self) -> dict[str, str]:
        """All mediated devices, with their types."""
        return {
            path.name: (path / 'mdev_type').readlink().name
            for path in self.mediated.iterdir()
        }

    def creatable(self, function: str) -> set[str]:
        """The names of the types that a virtual function can take."""
        text = self.read(function, 'nvidia/creatable_vgpu_types')
        return {
            line.partition(':')[2].strip() for line in text.splitlines()[1:]
        }


def source(address: ET.Element) -> str:
    """What libvirt's XML calls a host device by: an address or a UUID."""
    if uuid := address.get('uuid'):
        return uuid
    d, b, s, f = (
        int(address.get(part) or '', 16)
        for part in ('domain', 'bus', 'slot', 'function')
    )
    return f'{d:04x}:{b:02x}:{s:02x}.{f:x}'
