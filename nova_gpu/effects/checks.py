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

"""What is believed of an argument on the privileged side."""

from __future__ import annotations

import re
import uuid as uuid_module

from nova_gpu import exception
from nova_gpu.model.address import PciAddress, parse_address
from nova_gpu.model.device import CARD_CLASSES
from nova_gpu.model.request import PARAMS_PATTERN

_TYPE = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]{0,63}')
_TYPE_NUMBER = re.compile(r'0|[1-9][0-9]{0,9}')
#: A host, with a port or without, or the path of a socket.
_FABRIC_MANAGER = re.compile(
    r'[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?|(/[\w.-]+)+'
)
#: So many partitions Fabric Manager has at most.
_MAX_PARTITIONS = 64
#: An SR-IOV capability counts its functions in 16 bits.
_MAX_VFS = 0xFFFF


def address(text: str) -> str:
    """``text`` as the kernel writes a PCI address.

    :raises ValueError: not a PCI address
    """
    try:
        return str(PciAddress.parse(text))
    except exception.InvalidAddress as exc:
        raise ValueError(str(exc)) from exc


def parent(text: str) -> str:
    """``text`` as the name of a PCI function or of a virtual parent.

    :raises ValueError: neither
    """
    try:
        return str(parse_address(text))
    except exception.InvalidAddress as exc:
        raise ValueError(f'{text!r} is no PCI address and no name') from exc


def mdev_type(text: str) -> str:
    """``text`` if it can be the name of an mdev type.

    :raises ValueError: it can't
    """
    if not _TYPE.fullmatch(text):
        raise ValueError(f'{text!r} is not the name of a vGPU type')
    return text


def type_number(text: str) -> str:
    """``text`` if it is the number of a vGPU type, or 0 for none.

    :raises ValueError: it is something else
    """
    if not _TYPE_NUMBER.fullmatch(text):
        raise ValueError(f'{text!r} is not the number of a vGPU type')
    return text


def count(number: int) -> str:
    """A number of virtual functions, as sysfs takes it.

    :raises ValueError: no card has so many, or it is no number
    """
    if type(number) is not int or not 1 <= number <= _MAX_VFS:
        raise ValueError(f'{number!r} is not a number of functions')
    return str(number)


def partition(number: int) -> str:
    """The number of a partition of NVSwitches.

    :raises ValueError: there is none of that number, or it is no number
    """
    if type(number) is not int or not 0 <= number < _MAX_PARTITIONS:
        raise ValueError(f'{number!r} is not the number of a partition')
    return str(number)


def fabric_manager(text: str) -> str:
    """``text`` if Fabric Manager can be there.

    :raises ValueError: it is neither a host nor the path of a socket
    """
    if not _FABRIC_MANAGER.fullmatch(text):
        raise ValueError(
            f'[gpu] fabric_manager {text!r} is neither a host nor the path '
            f'of a socket'
        )
    return text


def uuid(text: str) -> str:
    """``text`` in the one form that the kernel prints.

    :raises ValueError: not a UUID
    """
    try:
        return str(uuid_module.UUID(text))
    except ValueError as exc:
        raise ValueError(f'{text!r} is not a UUID') from exc


def params(text: str) -> str:
    """``text`` if it is parameters of a vGPU.

    :raises ValueError: it is something else
    """
    if not re.fullmatch(PARAMS_PATTERN, text):
        raise ValueError(f'{text!r} is not key=value[,key=value]')
    return text


def is_address(text: str) -> bool:
    try:
        PciAddress.parse(text)
    except exception.InvalidAddress:
        return False
    return True


def is_card(class_code: str) -> bool:
    """Whether ``0x030200`` is the class of cards."""
    return bool(re.fullmatch('0x[0-9a-f]{6}', class_code)) and (
        int(class_code, 16) >> 8 in CARD_CLASSES
    )
