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

"""Fuller GPU hosts first for who wants GPUs, last for who doesn't."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any

import nova.conf
from nova.scheduler import utils, weights

from nova_gpu import conf, exception
from nova_gpu.model.isolation import Tenant, digest
from nova_gpu.model.request import SHARED, GpuRequest, gpu_classes
from nova_gpu.scheduler import numa, scores
from nova_gpu.scheduler.maps import CACHE, HostGpus

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
        gpus = CACHE.get([weighed.obj for weighed in weighed_obj_list])
        return self._weights(gpus, weight_properties)

    def _weigh_object(self, obj: Any, weight_properties: Any) -> float:
        return self._weights(CACHE.get([obj]), weight_properties)[0]

    @abc.abstractmethod
    def _weights(self, hosts: list[HostGpus], spec_obj: Any) -> list[float]:
        """The hosts' weights."""


class GpuWeigher(_Weigher):
    """Packs: a request for GPUs goes where most of them are in use.

    Hosts with many free cards stay whole for the requests that need many.
    Those come last that have no free cards that share what ``gpu:topology``
    asks for, or near to the server as ``gpu:numa_affinity`` does, and none
    that ``gpu:isolation`` leaves, as far as their maps tell.
    """

    option = 'pack_weight_multiplier'

    def weigh_objects(
        self, weighed_obj_list: Iterable[Any], weight_properties: Any
    ) -> list[float]:
        states = [weighed.obj for weighed in weighed_obj_list]
        weights = super().weigh_objects(weighed_obj_list, weight_properties)
        if not weight_properties.numa_topology:
            return weights
        extra_specs = weight_properties.flavor.extra_specs
        wanted = gpu_classes(extra_specs)
        try:
            request = GpuRequest.parse(extra_specs)
        except exception.InvalidExtraSpec:
            return weights  # the filter refuses it
        return [
            weight
            - (
                not gpus.classes.isdisjoint(wanted)
                and numa.is_apart(
                    state, weight_properties, gpus, wanted, request
                )
            )
            for state, gpus, weight in zip(
                states, CACHE.get(states), weights, strict=True
            )
        ]

    def _weights(self, hosts: list[HostGpus], spec_obj: Any) -> list[float]:
        extra_specs = spec_obj.flavor.extra_specs
        asking = Tenant(
            spec_obj.instance_uuid,
            digest(spec_obj.project_id),
            extra_specs.get('gpu:isolation', SHARED),
        )
        return scores.pack(hosts, extra_specs, asking)


class GpuAvoidWeigher(_Weigher):
    """Keeps servers off the hosts that have GPUs, but not those they want."""

    option = 'avoid_weight_multiplier'

    def _weights(self, hosts: list[HostGpus], spec_obj: Any) -> list[float]:
        wanted = gpu_classes(spec_obj.flavor.extra_specs)
        return [
            -1.0 if gpus.classes and gpus.classes.isdisjoint(wanted) else 0.0
            for gpus in hosts
        ]
