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

"""Where least is lost for who wants GPUs, GPU hosts last for who doesn't."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import nova.conf
from nova.scheduler import utils, weights

from nova_gpu import conf, exception
from nova_gpu.model.expected import mix
from nova_gpu.model.fragmentation import Mix
from nova_gpu.model.request import GpuRequest, gpu_classes
from nova_gpu.scheduler.maps import CACHE, HostGpus
from nova_gpu.scheduler.score import Score

CONF = nova.conf.CONF

#: The weight of a host where a request loses and gains nothing. No host can
#: lose more, so that a larger multiplier of its aggregate always attracts.
MIDDLE = 1000.0


class _Weigher(weights.BaseHostWeigher):
    """What both have in common; ``option`` is that of the multiplier.

    The flavor and the option are read once a request and not once a host,
    of which there may be ten thousand.
    """

    option: str
    # Weights are taken as they are: 0 is a host that doesn't matter to the
    # weigher, and stays 0 whatever the multipliers of other hosts are.
    minval = 0.0
    maxval = 1.0

    def __init__(self) -> None:
        conf.register_opts(CONF)
        self._key = f'gpu_{self.option}'
        self._multiplier = self._configured()

    def _configured(self) -> float:
        return float(CONF.gpu[self.option])

    def weight_multiplier(self, host_state: Any) -> float:
        """The option, or what the host's aggregates say."""
        if not host_state.aggregates:
            return self._multiplier
        return float(
            utils.get_weight_multiplier(
                host_state, self._key, self._multiplier
            )
        )

    def weigh_objects(
        self, weighed_obj_list: Iterable[Any], weight_properties: Any
    ) -> list[float]:
        self._multiplier = self._configured()
        hosts = [weighed.obj for weighed in weighed_obj_list]
        return self._weights(hosts, CACHE.get(hosts), weight_properties.flavor)

    def _weigh_object(self, obj: Any, weight_properties: Any) -> float:
        flavor = weight_properties.flavor
        return self._weights([obj], CACHE.get([obj]), flavor)[0]

    @abc.abstractmethod
    def _weights(
        self, states: list[Any], hosts: list[HostGpus], flavor: Any
    ) -> list[float]:
        """The hosts' weights."""


class GpuWeigher(_Weigher):
    """Places a request where most is left for those that will come.

    Best is the host of whose free GPUs the least becomes unusable, see
    :mod:`nova_gpu.model.fragmentation`, and of such the one with the most of
    its GPUs in use. Those come last that have no free cards that share what
    ``gpu:topology`` asks for, as far as their maps tell.
    """

    option = 'weight_multiplier'

    def __init__(self) -> None:
        super().__init__()
        self._mix()  # what is wrong there stops the scheduler now

    def _mix(self) -> Mix:
        return mix(tuple(CONF.gpu.expected_request))

    def _weights(
        self, states: list[Any], hosts: list[HostGpus], flavor: Any
    ) -> list[float]:
        wanted = gpu_classes(flavor.extra_specs)
        if not wanted:
            return [0.0] * len(hosts)
        try:
            request = GpuRequest.parse(flavor.extra_specs)
        except exception.InvalidExtraSpec:
            return [0.0] * len(hosts)  # the filter refuses it
        score = Score(self._mix(), request, wanted, flavor)
        apart = _apart(request, flavor.extra_specs)
        return [
            0.0
            if gpus.classes.isdisjoint(wanted)
            else MIDDLE + score(state, gpus) - MIDDLE * apart(gpus)
            for state, gpus in zip(states, hosts, strict=True)
        ]


def _apart(
    request: GpuRequest, extra_specs: Mapping[str, str]
) -> Callable[[HostGpus], float]:
    """1 of a host without a free set of cards that share what is asked."""
    if 'gpu:topology' not in extra_specs:
        return lambda gpus: 0.0

    def apart(gpus: HostGpus) -> float:
        return float(
            not any(
                pool.largest_set(request.topology, free=True) >= count
                for pool in gpus.providers.values()
                for name, count in request.resources.items()
                if name in pool.totals
            )
        )

    return apart


class GpuAvoidWeigher(_Weigher):
    """Keeps servers off the hosts that have GPUs, but not those they want."""

    option = 'avoid_weight_multiplier'

    def _weights(
        self, states: list[Any], hosts: list[HostGpus], flavor: Any
    ) -> list[float]:
        wanted = gpu_classes(flavor.extra_specs)
        return [
            -1.0 if gpus.classes and gpus.classes.isdisjoint(wanted) else 0.0
            for gpus in hosts
        ]
