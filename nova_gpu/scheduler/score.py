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

"""One request scored on many hosts."""

from __future__ import annotations

from typing import Any

from nova_gpu.model.fragmentation import Mix, score
from nova_gpu.model.request import GpuRequest
from nova_gpu.scheduler.maps import HostGpus


class Score:
    """What a request does to a host."""

    def __init__(
        self,
        mix: Mix,
        request: GpuRequest,
        wanted: frozenset[str],
        flavor: Any,
    ) -> None:
        self._mix = mix
        self._vcpus = flavor.vcpus
        self._memory_mib = flavor.memory_mb
        self._wanted = [
            (name, request.resources[name])
            for name in sorted(wanted)
            if request.resources.get(name)
        ]
        self._needs_host = bool(mix.vcpus_a_gpu or mix.memory_a_gpu)

    def __call__(self, state: Any, gpus: HostGpus) -> float:
        vcpus = memory_mib = 0.0
        if self._needs_host:
            vcpus = state.vcpus_total * state.cpu_allocation_ratio
            vcpus -= state.vcpus_used
            # What is free of what is there, and of what is beyond.
            memory_mib = state.total_usable_ram_mb
            memory_mib *= state.ram_allocation_ratio - 1
            memory_mib += state.free_ram_mb
        steps = 0
        for name, count in self._wanted:
            if name in gpus.classes:
                cards, unit = gpus.cards(name)
                steps += self._mix.effect(
                    cards,
                    unit,
                    count,
                    vcpus,
                    memory_mib,
                    self._vcpus,
                    self._memory_mib,
                )
        return score(steps, gpus.fullness)
