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
from collections.abc import Iterable
from typing import Any

import nova.conf
from nova.scheduler import utils, weights

from nova_gpu import conf, exception
from nova_gpu.model.expected import mix
from nova_gpu.model.fragmentation import Mix
from nova_gpu.model.isolation import Tenant, digest
from nova_gpu.model.request import GpuRequest, gpu_classes
from nova_gpu.scheduler import numa
from nova_gpu.scheduler.maps import CACHE, HostGpus
from nova_gpu.scheduler.scores import Scores

CONF = nova.conf.CONF


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
        _expected()  # what is wrong there stops the scheduler now
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
        states = [weighed.obj for weighed in weighed_obj_list]
        return self._weights(states, CACHE.get(states), weight_properties)

    def _weigh_object(self, obj: Any, weight_properties: Any) -> float:
        return self._weights([obj], CACHE.get([obj]), weight_properties)[0]

    @abc.abstractmethod
    def _weights(
        self, states: list[Any], hosts: list[HostGpus], spec_obj: Any
    ) -> list[float]:
        """The hosts' weights."""


def _expected() -> Mix:
    """What is expected beside each request, of the configuration."""
    return mix(tuple(CONF.gpu.expected_request))


class GpuWeigher(_Weigher):
    """Places a request where most is left for those that will come.

    Best is the host of whose free GPUs the least becomes unusable, see
    :mod:`nova_gpu.model.fragmentation`, and of such the one with the most of
    its GPUs in use. Those come last that have no free cards that share what
    ``gpu:topology`` asks for, or near to the server as ``gpu:numa_affinity``
    does, and none that ``gpu:isolation`` leaves, as far as their maps tell.
    """

    option = 'weight_multiplier'

    def _weights(
        self, states: list[Any], hosts: list[HostGpus], spec_obj: Any
    ) -> list[float]:
        flavor = spec_obj.flavor
        wanted = gpu_classes(flavor.extra_specs)
        if not wanted:
            return [0.0] * len(hosts)
        try:
            request = GpuRequest.parse(flavor.extra_specs)
        except exception.InvalidExtraSpec:
            return [0.0] * len(hosts)  # the filter refuses it
        asking = Tenant(
            spec_obj.instance_uuid,
            digest(spec_obj.project_id),
            request.isolation,
        )
        expected = _expected()
        score = Scores(
            expected, request, wanted, asking, flavor.vcpus, flavor.memory_mb
        )
        if not (expected.needs_host or spec_obj.numa_topology):
            return [score(gpus) for gpus in hosts]
        return [
            score(
                gpus,
                *_free(state),
                numa.is_apart(state, spec_obj, gpus, wanted, request),
            )
            for state, gpus in zip(states, hosts, strict=True)
        ]


def _free(state: Any) -> tuple[float, float]:
    """The virtual CPUs and the MiB of memory that a host still gives."""
    vcpus = state.vcpus_total * state.cpu_allocation_ratio
    # What is free of what is there, and of what is beyond.
    beyond = state.total_usable_ram_mb * (state.ram_allocation_ratio - 1)
    return vcpus - state.vcpus_used, beyond + state.free_ram_mb


class GpuAvoidWeigher(_Weigher):
    """Keeps servers off the hosts that have GPUs, but not those they want."""

    option = 'avoid_weight_multiplier'

    def _weights(
        self, states: list[Any], hosts: list[HostGpus], spec_obj: Any
    ) -> list[float]:
        wanted = gpu_classes(spec_obj.flavor.extra_specs)
        return [
            -1.0 if gpus.classes and gpus.classes.isdisjoint(wanted) else 0.0
            for gpus in hosts
        ]
