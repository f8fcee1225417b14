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
import functools
import re

from nova_gpu import exception

_PATTERN = re.compile(
    r'(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])'
)
_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_-]{0,63}')


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class PciAddress:
    """Where a PCI function sits: ``domain:bus:slot.function``, ordered."""

    domain: int
    bus: int
    slot: int
    function: int

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def parse(cls, text: str) -> PciAddress:
        """Read ``0000:84:00.0`` or ``84:00.0``, upper or lower case.

        :raises InvalidAddress: ``text`` is something else
        """
        match = _PATTERN.fullmatch(text.strip().lower())
        if match is None:
            raise exception.InvalidAddress(text)
        domain, bus, slot, function = match.groups(default='0')
        return cls(int(domain, 16), int(bus, 16), int(slot, 16), int(function))

    def __str__(self) -> str:
        return (
            f'{self.domain:04x}:{self.bus:02x}:{self.slot:02x}'
            f'.{self.function:x}'
        )

    @property
    def token(self) -> str:
        """The address as part of a name: ``0000_84_00_0``."""
        return str(self).replace(':', '_').replace('.', '_')

    def same_slot(self, other: PciAddress) -> bool:
        """Whether both are functions of one device."""
        return (self.domain, self.bus, self.slot) == (
            other.domain,
            other.bus,
            other.slot,
        )


@functools.total_ordering
@dataclasses.dataclass(frozen=True, slots=True)
class VirtualParent:
    """A device below ``/sys/devices/virtual`` that takes mediated devices.

    The samples of the Linux tree (``mtty``, ``mdpy``, ``mbochs``) are such;
    they come after all PCI addresses.
    """

    name: str

    @classmethod
    def parse(cls, text: str) -> VirtualParent:
        """Read the name of a device, as sysfs has it.

        :raises InvalidAddress: ``text`` can't be such a name
        """
        if not _NAME.fullmatch(text):
            raise exception.InvalidAddress(text)
        return cls(text)

    def __str__(self) -> str:
        return self.name

    def __lt__(self, other: object) -> bool:
        if isinstance(other, VirtualParent):
            return self.name < other.name
        return NotImplemented if not isinstance(other, PciAddress) else False

    @property
    def token(self) -> str:
        """The name as part of another: ``my_parent``."""
        return re.sub(r'[^A-Za-z0-9]', '_', self.name)

    def same_slot(self, other: PciAddress) -> bool:
        """It is in no slot."""
        return False


#: Where a card is.
Address = PciAddress | VirtualParent


def parse_address(text: str) -> Address:
    """Read a PCI address, or the name of a virtual parent.

    :raises InvalidAddress: ``text`` is neither
    """
    try:
        return PciAddress.parse(text)
    except exception.InvalidAddress:
        return VirtualParent.parse(text)
