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

"""How good hosts are for a request, as far as their maps tell."""

from __future__ import annotations

import math

from nova_gpu.model.fragmentation import Mix, score
from nova_gpu.model.isolation import Tenant
from nova_gpu.model.request import SHARED, GpuRequest
from nova_gpu.model.topology import HOST
from nova_gpu.scheduler.maps import HostGpus

#: The weight of a host where a request loses and gains nothing. No host can
#: lose more, so that a larger multiplier of its aggregate always attracts.
MIDDLE = 1000.0


class Scores:
    """The weights that :class:`~.weigher.GpuWeigher` gives for one request.

    :param mix: what is expected beside it
    :param wanted: the classes that it asks for, of GPUs
    :param asking: whose it is, with the digest of its project
    :param vcpus: what it asks for beside GPUs
    """

    def __init__(
        self,
        mix: Mix,
        request: GpuRequest,
        wanted: frozenset[str],
        asking: Tenant,
        vcpus: float = 0.0,
        memory_mib: float = 0.0,
    ) -> None:
        self._effect = mix.effect
        self._wanted = wanted
        self._counts = [
            (name, request.resources[name])
            for name in sorted(wanted)
            if request.resources.get(name)
        ]
        self._level = request.topology
        self._asking = asking
        self._vcpus = vcpus
        self._memory_mib = memory_mib

    def __call__(
        self,
        gpus: HostGpus,
        vcpus: float = math.inf,
        memory_mib: float = math.inf,
        apart: bool = False,
    ) -> float:
        """The weight of a host; 0 if it has no such GPUs.

        :param vcpus: those that are free on it, as is the memory
        :param apart: whether it would hand the server on for what its map
            doesn't tell
        """
        if gpus.classes.isdisjoint(self._wanted):
            return 0.0
        steps = 0
        for name, count in self._counts:
            if name in gpus.classes:
                cards, unit = gpus.cards(name)
                steps += self._effect(
                    cards,
                    unit,
                    count,
                    vcpus,
                    memory_mib,
                    self._vcpus,
                    self._memory_mib,
                )
        weight = score(steps, gpus.fullness)
        if apart or self._lacks_set(gpus) or self._is_closed(gpus):
            return weight
        return MIDDLE + weight

    def _lacks_set(self, gpus: HostGpus) -> bool:
        """Whether no free set of its cards shares what is asked for.

        Or makes up a partition of so many.
        """
        if self._level == HOST and not gpus.partitioned:
            return False
        return not any(
            pool.has_set(count, self._level)
            for pool in gpus.providers.values()
            for name, count in self._counts
            if name in pool.totals
        )

    def _is_closed(self, gpus: HostGpus) -> bool:
        """Whether others are on all of its cards, that isolation parts."""
        if self._asking.isolation == SHARED and not gpus.isolated:
            return False
        return not any(
            pool.admits(self._asking)
            for pool in gpus.providers.values()
            if not self._wanted.isdisjoint(pool.totals)
        )
