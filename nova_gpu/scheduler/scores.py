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

"""How good a host is for a request, as far as its map tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from nova_gpu import exception
from nova_gpu.model.isolation import Tenant
from nova_gpu.model.request import SHARED, GpuRequest, gpu_classes
from nova_gpu.scheduler.maps import HostGpus


def pack(
    hosts: Iterable[HostGpus],
    extra_specs: Mapping[str, str],
    asking: Tenant,
) -> list[float]:
    """The weights that :class:`~.weigher.GpuWeigher` gives to hosts.

    :param asking: whose the request is, with the digest of its project
    """
    wanted = gpu_classes(extra_specs)
    if not wanted:
        return [0.0 for _ in hosts]
    apart = _apart(extra_specs)
    closed = _closed(asking, wanted)
    return [
        0.0
        if gpus.classes.isdisjoint(wanted)
        else gpus.fullness - max(apart(gpus), closed(gpus))
        for gpus in hosts
    ]


def _apart(
    extra_specs: Mapping[str, str],
) -> Callable[[HostGpus], float]:
    """1 of a host without a free set of cards that share what is asked.

    Also of one whose free cards make up no partition of so many.
    """
    everywhere = 'gpu:topology' in extra_specs
    try:
        request = GpuRequest.parse(extra_specs)
    except exception.InvalidExtraSpec:
        return lambda gpus: 0.0  # the filter refuses it

    def apart(gpus: HostGpus) -> float:
        if not (everywhere or gpus.partitioned):
            return 0.0
        return float(
            not any(
                pool.has_set(count, request.topology)
                for pool in gpus.providers.values()
                for name, count in request.resources.items()
                if name in pool.totals
            )
        )

    return apart


def _closed(
    asking: Tenant, wanted: frozenset[str]
) -> Callable[[HostGpus], float]:
    """1 of a host on all of whose cards others are, that isolation parts."""

    def closed(gpus: HostGpus) -> float:
        if asking.isolation == SHARED and not gpus.isolated:
            return 0.0
        return float(
            not any(
                pool.admits(asking)
                for pool in gpus.providers.values()
                if not wanted.isdisjoint(pool.totals)
            )
        )

    return closed
