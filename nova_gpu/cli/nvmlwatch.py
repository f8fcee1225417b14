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

"""What NVIDIA's management library tells of cards at work.

The library stays started between two looks: to start it takes longer than all
that is asked, and XID errors are only told to who has asked for them before.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from nova_gpu.cli.nvml import address_of
from nova_gpu.model import metric
from nova_gpu.model.metric import Samples

# Numbers of nvml.h (nvmlReturn_t), which don't change.
_UNINITIALIZED = 1
_TIMEOUT = 10
_NO_VALUE = frozenset(
    {
        2,  # invalid argument
        3,  # not supported
        4,  # no permission
        6,  # not found
        13,  # function not found
        21,  # no data
        25,  # argument version mismatch
    }
)
#: XID errors that are taken from a card in one look.
MOST_EVENTS = 1000


@dataclasses.dataclass(slots=True)
class _Card:
    """A card, its events, and what they were."""

    address: str
    handle: Any
    events: Any = None
    xids: int = 0
    last_xid: int = 0


class Watch:
    """Cards under NVIDIA's driver; ``library`` is pynvml."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._cards: dict[str, _Card] = {}
        self._running = False

    def look(self, samples: Samples) -> str | None:
        """Add what all cards do; returns what is wrong, if all is."""
        try:
            if not self._running:
                self._start()
        except self._library.NVMLError as exc:
            self.stop()
            return str(exc)
        problem = None
        for card in self._cards.values():
            try:
                self._look_at(card, samples)
            except self._library.NVMLError as exc:
                samples.set(metric.NVML_UP, 0, card.address)
                if exc.value == _UNINITIALIZED:
                    problem = str(exc)
            else:
                samples.set(metric.NVML_UP, 1, card.address)
            samples.set(metric.XID_ERRORS, card.xids, card.address)
            samples.set(metric.LAST_XID, card.last_xid, card.address)
        if problem is not None:
            self.stop()
        return problem

    def stop(self) -> None:
        """End the library; the next look starts it again."""
        if self._running:
            with contextlib.suppress(self._library.NVMLError):
                self._library.nvmlShutdown()
        self._running = False

    def _start(self) -> None:
        library = self._library
        library.nvmlInit()
        self._running = True
        before, self._cards = self._cards, {}
        for index in range(library.nvmlDeviceGetCount()):
            handle = library.nvmlDeviceGetHandleByIndex(index)
            address = str(address_of(library.nvmlDeviceGetPciInfo(handle)))
            card = before.get(address) or _Card(address, handle)
            card.handle = handle
            card.events = self._events(handle)
            self._cards[address] = card

    def _events(self, handle: Any) -> Any:
        """A set for this card alone: one that is lost tells no address."""
        library = self._library
        events = library.nvmlEventSetCreate()
        try:
            library.nvmlDeviceRegisterEvents(
                handle, library.nvmlEventTypeXidCriticalError, events
            )
        except library.NVMLError as exc:
            if exc.value not in _NO_VALUE:
                raise
            return None
        return events

    def _look_at(self, card: _Card, samples: Samples) -> None:
        library, handle, address = self._library, card.handle, card.address
        self._take_events(card)
        use = self._ask('DeviceGetUtilizationRates', handle)
        if use is not None:
            samples.set(metric.UTILIZATION, use.gpu / 100, address)
        memory = self._ask('DeviceGetMemoryInfo', handle)
        if memory is not None:
            samples.set(metric.MEMORY, memory.total, address)
            samples.set(metric.MEMORY_USED, memory.used, address)
        for gauge, scale, name, *more in (
            (
                metric.TEMPERATURE, 1, 'DeviceGetTemperature',
                library.NVML_TEMPERATURE_GPU,
            ),
            (metric.POWER, 1000, 'DeviceGetPowerUsage'),
            (metric.POWER_LIMIT, 1000, 'DeviceGetEnforcedPowerLimit'),
        ):  # fmt: skip
            value = self._ask(name, handle, *more)
            if value is not None:
                samples.set(gauge, value / scale, address)
        for kind in ('corrected', 'uncorrected'):
            number = getattr(library, f'NVML_MEMORY_ERROR_TYPE_{kind.upper()}')
            count = self._ask(
                'DeviceGetTotalEccErrors',
                handle,
                number,
                library.NVML_VOLATILE_ECC,
            )
            if count is not None:
                samples.set(metric.ECC_ERRORS, count, address, kind)
        self._look_at_vgpus(card, samples)

    def _take_events(self, card: _Card) -> None:
        if card.events is None:
            return
        for _ in range(MOST_EVENTS):
            try:
                event = self._library.nvmlEventSetWait_v2(card.events, 0)
            except self._library.NVMLError as exc:
                if exc.value == _TIMEOUT:
                    return
                raise
            card.xids += 1
            card.last_xid = event.eventData

    def _look_at_vgpus(self, card: _Card, samples: Samples) -> None:
        vgpus = self._ask('DeviceGetActiveVgpus', card.handle)
        if not vgpus:
            return
        used = dict(self._utilization(card))
        for vgpu in vgpus:
            told = self._ask('VgpuInstanceGetVmID', vgpu)
            if told is None or told[1] != self._library.NVML_VGPU_VM_ID_UUID:
                continue
            guest = told[0]
            if isinstance(guest, bytes):
                guest = guest.decode()
            memory = self._ask('VgpuInstanceGetFbUsage', vgpu)
            # A server may have several vGPUs of one card.
            if memory is not None:
                samples.add(
                    metric.INSTANCE_MEMORY, memory, card.address, guest
                )
            samples.add(
                metric.INSTANCE_UTILIZATION,
                used.get(vgpu, 0) / 100,
                card.address,
                guest,
            )

    def _utilization(self, card: _Card) -> Iterator[tuple[int, int]]:
        """Of each vGPU by its number, the last sample after all others."""
        found = self._ask('DeviceGetVgpuUtilization', card.handle, 0) or ()
        for sample in sorted(found, key=lambda s: int(s.timeStamp)):
            yield sample.vgpuInstance, sample.smUtil.uiVal

    def _ask(self, name: str, *arguments: Any) -> Any:
        """None for what the card or the driver doesn't have."""
        try:
            return getattr(self._library, f'nvml{name}')(*arguments)
        except self._library.NVMLError as exc:
            if exc.value not in _NO_VALUE:
                raise
            return None
