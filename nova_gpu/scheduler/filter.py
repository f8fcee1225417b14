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

"""Hosts that can serve a GPU request, and the best of their candidates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import nova.conf
from nova.scheduler import filters, utils
from oslo_log import log as logging

from nova_gpu import conf, exception
from nova_gpu.model.isolation import Tenant, digest
from nova_gpu.model.request import GpuRequest, gpu_classes
from nova_gpu.scheduler import candidates, numa, reserve
from nova_gpu.scheduler.maps import CACHE, HostGpus
from nova_gpu.scheduler.refusals import tell_refused

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


class GpuFilter(filters.BaseHostFilter):
    """Refuses hosts whose GPUs can't serve the flavor; orders the rest.

    Placement has counted already. This filter looks at what it can't know,
    and only at what can't have changed since the host reported: the map may
    be a minute old, and a wrong refusal costs a customer where a wrong pass
    costs a second attempt.
    """

    RUN_ON_REBUILD = False

    def __init__(self) -> None:
        conf.register_opts(CONF)

    def filter_all(
        self, filter_obj_list: Iterable[Any], spec_obj: Any
    ) -> Iterable[Any]:
        """Like Nova's own, but reads the flavor once and not once a host."""
        if utils.request_is_rebuild(spec_obj):
            return filter_obj_list
        flavor = spec_obj.flavor
        extra_specs = flavor.extra_specs
        wanted = gpu_classes(extra_specs)
        if CONF.gpu.reserve_gpu_hosts and reserve.wants_no_gpus(
            wanted, extra_specs
        ):
            filter_obj_list = reserve.without_gpus(filter_obj_list, wanted)
        if not _concerns_us(wanted, extra_specs):
            return filter_obj_list
        try:
            request = GpuRequest.parse(extra_specs)
        except exception.InvalidExtraSpec as exc:
            LOG.warning('Flavor %s is refused: %s', flavor.name, exc)
            return ()
        if not wanted:
            LOG.warning(
                'Flavor %s is refused: it has gpu: extra specs, but no '
                'resources: extra spec asks for a GPU',
                flavor.name,
            )
            return ()
        asking = Tenant(
            spec_obj.instance_uuid,
            digest(spec_obj.project_id),
            request.isolation,
        )
        moves = _is_move(spec_obj)
        found = list(filter_obj_list)
        passed = []
        refused = {}
        for host, gpus in zip(found, CACHE.get(found), strict=True):
            # Placement may know of GPUs that are newer than the map.
            if gpus.classes.isdisjoint(wanted):
                passed.append(host)
                continue
            refusal = _refusal(host, gpus, wanted, request, asking, moves)
            if refusal is None:
                host, refusal = numa.hold(
                    host, spec_obj, gpus, wanted, request
                )
            if refusal is None:
                passed.append(host)
            else:
                refused[host.host] = refusal
        tell_refused(LOG, spec_obj, refused, len(passed))
        return passed

    def host_passes(self, host_state: Any, spec_obj: Any) -> bool:
        """Whether the host can serve the request."""
        return bool(self.filter_all([host_state], spec_obj))


def _concerns_us(wanted: frozenset[str], extra_specs: dict[str, str]) -> bool:
    return bool(wanted) or any(key.startswith('gpu:') for key in extra_specs)


def _is_move(spec_obj: Any) -> bool:
    """Whether the server exists: only then Nova names the cell."""
    if 'requested_destination' not in spec_obj:
        return False
    destination = spec_obj.requested_destination
    return bool(destination and 'cell' in destination and destination.cell)


def _refusal(
    host_state: Any,
    gpus: HostGpus,
    wanted: frozenset[str],
    request: GpuRequest,
    asking: Tenant,
    moves: bool,
) -> str | None:
    """Why the host can't serve; one that can has its best candidate first."""
    found, refusal = candidates.able(
        host_state.allocation_candidates, gpus, wanted, request
    )
    if refusal is not None:
        return refusal
    if moves and found:
        # Nova tries a server that is moved on one host, and learns late that
        # it can't be: to stay where it is for a minute costs less.
        found = [c for c in found if not candidates.closed(c, gpus, asking)]
        if not found:
            return 'isolation closes its cards'
    if found and len(found) > 1:
        reported = int(host_state.stats.get('num_instances') or 0)
        found = candidates.order(
            found,
            gpus,
            asking,
            placed=host_state.num_instances - reported,
            current=gpus.instances in (None, reported),
        )
    host_state.allocation_candidates = found
    return None
