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

"""What NVIDIA's management library tells of NVLink.

The library comes in as an object, so that tests can hand in another.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

from nova_gpu.cli import error
from nova_gpu.model.address import PciAddress
from nova_gpu.model.links import LinkedCard

# Numbers of nvml.h (nvmlReturn_t), which don't change.
_INVALID_ARGUMENT = 2
_NOT_SUPPORTED = 3
_NO_PERMISSION = 4
_DRIVER_NOT_LOADED = 9
_LIBRARY_NOT_FOUND = 12
_FUNCTION_NOT_FOUND = 13
_VERSION_MISMATCH = 18
#: What to do about an error.
REMEDIES = {
    _NO_PERMISSION: 'run as root',
    _DRIVER_NOT_LOADED: (
        "load NVIDIA's driver (modprobe nvidia), and record before the cards "
        'are bound to vfio-pci'
    ),
    _LIBRARY_NOT_FOUND: (
        "install libnvidia-ml.so.1, which comes with NVIDIA's driver"
    ),
    _VERSION_MISMATCH: (
        'the driver was updated since it was loaded: load it anew, or boot'
    ),
}


class Nvml:
    """NVML between its start and its end; ``library`` is pynvml."""

    def __init__(self, library: Any) -> None:
        self._library = library

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Start the library, and end it.

        :raises NvmlFailed: it can't be started, or it fails in between
        """
        with self._telling('NVML does not start'):
            self._library.nvmlInit()
        try:
            yield
        finally:
            with contextlib.suppress(self._library.NVMLError):
                self._library.nvmlShutdown()

    def driver(self) -> str:
        """The driver's version."""
        with self._telling('NVML tells no version of the driver'):
            return _text(self._library.nvmlSystemGetDriverVersion())

    def cards(self) -> list[LinkedCard]:
        """All cards that the driver has, in the order of their addresses."""
        with self._telling('NVML lists no cards'):
            count = self._library.nvmlDeviceGetCount()
        found = [self._card(index) for index in range(count)]
        return sorted(found, key=lambda card: card.address)

    def _card(self, index: int) -> LinkedCard:
        library = self._library
        with self._telling(f'NVML does not tell of its card {index}'):
            handle = library.nvmlDeviceGetHandleByIndex(index)
            info = library.nvmlDeviceGetPciInfo(handle)
        address = address_of(info)
        links: collections.Counter[PciAddress] = collections.Counter()
        switches: set[PciAddress] = set()
        switched = False
        down = 0
        with self._telling(f'NVML does not tell the links of card {address}'):
            for link in range(library.NVML_NVLINK_MAX_LINKS):
                active = self._ask('State', handle, link)
                if active is None:
                    continue  # it hasn't got so many, or none at all
                if not active:
                    down += 1
                    continue
                kind = self._ask('RemoteDeviceType', handle, link)
                remote = self._ask('RemotePciInfo', handle, link)
                other = None if remote is None else address_of(remote)
                if kind == library.NVML_NVLINK_DEVICE_TYPE_SWITCH:
                    switched = True
                    # Those that are on no PCI bus have no address.
                    if other not in (None, PciAddress(0, 0, 0, 0)):
                        switches.add(other)
                elif other is not None:
                    links[other] += 1
        return LinkedCard(
            address=address,
            vendor_id=info.pciDeviceId & 0xFFFF,
            product_id=info.pciDeviceId >> 16,
            subsystem=(
                info.pciSubSystemId & 0xFFFF,
                info.pciSubSystemId >> 16,
            ),
            links=dict(links),
            switched=switched,
            switches=tuple(sorted(switches)),
            down=down,
        )

    def _ask(self, what: str, handle: Any, link: int) -> Any:
        """Of a link; None for what the card or the driver doesn't have."""
        ask = getattr(self._library, f'nvmlDeviceGetNvLink{what}')
        try:
            return ask(handle, link)
        except self._library.NVMLError as exc:
            if exc.value not in (
                _INVALID_ARGUMENT,
                _NOT_SUPPORTED,
                _FUNCTION_NOT_FOUND,
            ):
                raise
            return None

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._library.NVMLError as exc:
            raise error.NvmlFailed(
                what, str(exc), REMEDIES.get(exc.value)
            ) from exc


def address_of(info: Any) -> PciAddress:
    # Not busId: that is bytes, and in some releases another field.
    return PciAddress(info.domain, info.bus, info.device, 0)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
