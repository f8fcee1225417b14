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

"""Our XML as configuration objects of Nova.

Subclasses of Nova's own, so that what looks for host devices in a guest's
configuration finds them, with the elements that Nova's lack.
"""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lxml import etree
from nova.virt.libvirt import config as vconfig

from nova_gpu import xml
from nova_gpu.model.address import PciAddress
from nova_gpu.model.guest import NAMESPACE, Hostdev, metadata
from nova_gpu.model.inventory import Unit


class GuestElement(vconfig.LibvirtConfigGuestDevice):
    """A device that is just its element: the root port of a GPU."""

    def __init__(self, element: etree._Element) -> None:
        super().__init__(root_name=element.tag)
        self._element = element

    def format_dom(self) -> etree._Element:
        return copy.deepcopy(self._element)


class Metadata(vconfig.LibvirtConfigObject):
    """What a guest's metadata records of its GPUs."""

    def __init__(
        self, units: Sequence[Unit], kept: Mapping[str, Sequence[Unit]]
    ) -> None:
        super().__init__(root_name='units', ns_prefix='gpu', ns_uri=NAMESPACE)
        self._units = units
        self._kept = kept

    def format_dom(self) -> etree._Element:
        return etree.fromstring(ET.tostring(metadata(self._units, self._kept)))


class Domain(Protocol):
    """What we need of libvirt's own object."""

    def setMetadata(
        self, kind: int, text: str | None, key: str, uri: str, flags: int
    ) -> int:
        """Replace what the metadata has of a namespace; None removes it."""


def record(
    domain: Domain,
    kind: int,
    units: Sequence[Unit],
    kept: Mapping[str, Sequence[Unit]],
    flags: int,
) -> None:
    """Write anew what a guest's metadata records, while the guest is there.

    libvirt puts the namespace in itself, and fails if its prefix is there.

    :param kind: libvirt's VIR_DOMAIN_METADATA_ELEMENT
    """
    text = None
    if units or kept:
        root = metadata(units, kept)
        for element in root.iter():
            element.tag = etree.QName(element.tag).localname
        text = ET.tostring(root, encoding='unicode')
    domain.setMetadata(kind, text, 'gpu', NAMESPACE, flags)


class HostdevPCI(vconfig.LibvirtConfigGuestHostdevPCI):
    """A PCI function, with its place in the guest if it has one."""

    def __init__(self, element: etree._Element, function: PciAddress) -> None:
        super().__init__()
        self._element = element
        self.domain = f'{function.domain:04x}'
        self.bus = f'{function.bus:02x}'
        self.slot = f'{function.slot:02x}'
        self.function = f'{function.function:x}'

    def format_dom(self) -> etree._Element:
        return copy.deepcopy(self._element)


class HostdevMDEV(vconfig.LibvirtConfigGuestHostdevMDEV):
    """A mediated device, with a display if it shows the guest's screen."""

    def __init__(self, element: etree._Element, uuid: str) -> None:
        super().__init__()
        self._element = element
        self.uuid = uuid

    def format_dom(self) -> etree._Element:
        return copy.deepcopy(self._element)


def build(hostdevs: Sequence[Hostdev], machine: str) -> list[Any]:
    """The configuration objects of a guest's GPUs."""
    objects: list[Any] = []
    for device in xml.build(hostdevs, machine):
        hostdev = device.hostdev
        if hostdev is not None and hostdev.function is not None:
            objects.append(HostdevPCI(device.element, hostdev.function))
        elif hostdev is not None and hostdev.mdev is not None:
            objects.append(HostdevMDEV(device.element, hostdev.mdev))
        else:
            objects.append(GuestElement(device.element))
    return objects
