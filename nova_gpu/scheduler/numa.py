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

"""Servers on the NUMA nodes of the GPUs that they get.

Nova's claim on a host fits a server's CPUs and memory to nodes that cover the
physical networks in the request's limits. A host with GPUs reports a name of
ours for each of its nodes among those networks, see
:mod:`nova_gpu.virt.numa`; here the names of the right nodes are put into the
limits.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from nova.objects.network_metadata import NetworkMetadata
from nova.objects.numa import NUMATopologyLimits
from nova.virt import hardware
from oslo_log import log as logging

from nova_gpu.model import numa
from nova_gpu.model.request import GpuRequest
from nova_gpu.model.topology import HOST
from nova_gpu.scheduler.candidates import Candidate
from nova_gpu.scheduler.maps import HostGpus, used_cpus

LOG = logging.getLogger(__name__)

NO_ROOM = 'has no NUMA node with room for the server and such GPUs'
#: Where Nova has what the claim on the host observes.
LIMITS = 'numa_topology'


class _HeldLimits(dict[str, Any]):
    """A host's limits for one server, which nobody changes any more.

    For each server of a request the scheduler filters the hosts that have
    passed for the one before, so Nova's filter sets limits anew; but it reads
    them when it has found hosts for all.
    """

    def __setitem__(self, key: str, value: Any) -> None:
        if key != LIMITS:
            super().__setitem__(key, value)


def concerns(host_state: Any, spec_obj: Any, request: GpuRequest) -> bool:
    """Whether the server could be on other nodes of the host than its GPUs."""
    cells = host_state.numa_topology
    return (
        request.numa_affinity != numa.NONE
        and bool(spec_obj.numa_topology)
        and cells is not None
        and len(cells) > 1
    )


def hold(
    host_state: Any,
    spec_obj: Any,
    gpus: HostGpus,
    wanted: frozenset[str],
    request: GpuRequest,
) -> tuple[Any, str | None]:
    """The host, holding the server on its GPUs' nodes, or why it can't.

    What counts against a host is where its cards are, and what Nova itself
    has counted of its nodes. Not which cards the map shows as free, which may
    be old.

    A host that holds it is a copy: other servers of the request, which go
    elsewhere on the same host, have copies of their own.
    """
    candidates = host_state.allocation_candidates
    if not candidates or not concerns(host_state, spec_obj, request):
        return host_state, None
    limits = host_state.limits.get(LIMITS)
    if limits is None:
        _warn_of_filters()
        return host_state, None  # the compute refuses what may not be
    asked = [_asked(c, gpus, wanted, request, spec_obj) for c in candidates]
    if None in asked:
        return host_state, None  # on a provider that is newer than the map
    ways = [_ways(host_state, gpus, a) for a in asked if a]
    nodes = _best(host_state, spec_obj, ways)
    if nodes is None:
        if request.numa_affinity == numa.REQUIRED:
            return host_state, NO_ROOM
        LOG.debug('Host %s: %s', host_state.host, NO_ROOM)
        nodes = frozenset()
    held = copy.copy(host_state)
    held.limits = _HeldLimits(
        {**host_state.limits, LIMITS: _narrowed(limits, nodes)}
    )
    near = [c for c, w in zip(candidates, ways, strict=True) if nodes in w]
    # Another server of the request may need what is elsewhere.
    held.allocation_candidates = [
        *near,
        *(c for c in candidates if c not in near),
    ]
    return held, None


def is_apart(
    host_state: Any,
    spec_obj: Any,
    gpus: HostGpus,
    wanted: frozenset[str],
    request: GpuRequest,
) -> bool:
    """Whether the server would hardly get GPUs near to it on a host.

    As far as the map tells, of a host that has passed the filter.
    """
    limits = host_state.limits.get(LIMITS)
    found = host_state.allocation_candidates
    if (
        limits is None
        or not found
        or not concerns(host_state, spec_obj, request)
    ):
        return False
    asked = _asked(found[0], gpus, wanted, request, spec_obj)
    if asked is None:
        return False
    nodes = numa.named(_networks(limits))
    return not nodes or not asked.are_free(nodes, _grown(host_state, gpus))


@functools.cache
def _warn_of_filters() -> None:
    """Say once what the configuration lacks."""
    LOG.warning(
        'gpu:numa_affinity has no effect on where servers are put: '
        '[filter_scheduler] enabled_filters has to name NUMATopologyFilter, '
        'and GpuFilter after it'
    )


def _asked(
    candidate: Candidate,
    gpus: HostGpus,
    wanted: frozenset[str],
    request: GpuRequest,
    spec_obj: Any,
) -> numa.Asked | None:
    """What the candidate takes; None if the map doesn't know all of it."""
    counts = []
    for provider, allocation in candidate['allocations'].items():
        count = sum(
            n for name, n in allocation['resources'].items() if name in wanted
        )
        if not count:
            continue
        pool = gpus.providers.get(provider)
        if pool is None:
            return None
        counts.append((pool, count))
    cells = spec_obj.numa_topology.cells
    return numa.Asked(
        tuple(counts),
        len(cells),
        spec_obj.flavor.vcpus / len(cells),
        request.topology if request.topology_required else HOST,
    )


def _ways(
    host_state: Any, gpus: HostGpus, asked: numa.Asked
) -> list[frozenset[int]]:
    """The sets of nodes that have the cards, best first.

    Those where they are likely to be free, then few nodes, then nodes of
    which least is in use.
    """
    cells = {cell.id: cell for cell in host_state.numa_topology.cells}
    grown = _grown(host_state, gpus)

    def cost(nodes: frozenset[int]) -> tuple[bool, int, int, int, int]:
        chosen = [cells[node] for node in nodes]
        return (
            not asked.are_free(nodes, grown),
            len(nodes),
            -sum(len(cell.free_pcpus) for cell in chosen),
            sum(cell.cpu_usage for cell in chosen),
            -sum(cell.avail_memory for cell in chosen),
        )

    return sorted((n for n in asked.ways() if n <= cells.keys()), key=cost)


def _best(
    host_state: Any, spec_obj: Any, ways: Sequence[list[frozenset[int]]]
) -> frozenset[int] | None:
    """The first set of nodes that has room for the server as well.

    :param ways: the sets of each allocation candidate
    """
    requests = spec_obj.pci_requests and spec_obj.pci_requests.requests
    full = set()
    for candidate, found in zip(
        host_state.allocation_candidates, ways, strict=True
    ):
        for nodes in found:
            if nodes in full:
                continue
            fitted = hardware.numa_fit_instance_to_host(
                host_state.numa_topology,
                # It notes in the topology what it finds.
                copy.deepcopy(spec_obj.numa_topology),
                candidate['mappings'],
                limits=_narrowed(host_state.limits[LIMITS], nodes),
                pci_requests=requests,
                pci_stats=host_state.pci_stats,
            )
            if fitted:
                return nodes
            if not requests:  # of Nova's devices others may fit
                full.add(nodes)
    return None


def _networks(limits: Any) -> set[str]:
    """The physical networks in a host's limits."""
    if 'network_metadata' not in limits:
        return set()
    return set(limits.network_metadata.physnets)


def _narrowed(limits: Any, nodes: frozenset[int]) -> Any:
    """Limits that hold a server on ``nodes``, and on no other of ours."""
    networks = {n for n in _networks(limits) if not numa.named([n])}
    return NUMATopologyLimits(
        cpu_allocation_ratio=limits.cpu_allocation_ratio,
        ram_allocation_ratio=limits.ram_allocation_ratio,
        network_metadata=NetworkMetadata(
            physnets=networks | {numa.name_of(node) for node in nodes},
            tunneled='network_metadata' in limits
            and limits.network_metadata.tunneled,
        ),
    )


def _grown(host_state: Any, gpus: HostGpus) -> Mapping[int, int]:
    """How many more CPUs of each node are in use than when the map came."""
    return {
        node: used - gpus.used_cpus.get(node, used)
        for node, used in used_cpus(host_state).items()
    }
