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

"""The GPUs of hosts as their compute nodes report them.

Ten thousand hosts pass by at each request, and a host's map changes when one
of its units changes hands: each map is parsed once.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

from oslo_log import log as logging

from nova_gpu import exception
from nova_gpu.model.fragmentation import Cards, cards_of
from nova_gpu.model.hostmap import STATS_KEY, HostMap, PoolState
from nova_gpu.model.request import SHARED

LOG = logging.getLogger(__name__)

#: A host that no request has asked for in this time may be gone for ever.
KEEP_SECONDS = 3600.0


@dataclasses.dataclass(frozen=True, slots=True)
class HostGpus:
    """What is asked of a host's map at every request, worked out.

    ``used_cpus`` are those of each NUMA node when the map came. ``isolated``
    says whether somebody shares a card only with some.
    """

    classes: frozenset[str]
    fullness: float
    instances: int | None
    providers: dict[str, PoolState]
    used_cpus: dict[int, int] = dataclasses.field(default_factory=dict)
    partitioned: bool = False
    isolated: bool = False
    #: By class, as far as it was asked for; hosts that are alike share it.
    known: dict[str, tuple[Cards, int]] = dataclasses.field(
        default_factory=dict
    )

    def cards(self, resource_class: str) -> tuple[Cards, int]:
        """The cards that give a class, and how many units each gives."""
        found = self.known.get(resource_class)
        if found is None:
            found = cards_of(self.providers.values(), resource_class)
            self.known[resource_class] = found
        return found


_NO_STATS: dict[str, str] = {}
NONE = HostGpus(frozenset(), 0.0, None, {})


class MapCache:
    """Parsed maps by compute node.

    The text itself tells whether a map has changed: comparing it costs less
    than anything else, and the time of a node's update only has seconds. Maps
    are in two generations, of which the old one is dropped when a new one
    begins: a host asked for in between has moved on by then.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._began = self._clock()
        self._young: dict[str, tuple[str, HostGpus]] = {}
        self._old: dict[str, tuple[str, HostGpus]] = {}

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, host_states: Iterable[Any]) -> list[HostGpus]:
        """The GPUs of each host; :data:`NONE` of one that reports none.

        A map that can't be read counts as none, and is logged when it
        appears: the host may be of another release.
        """
        now = self._clock()
        if now - self._began > KEEP_SECONDS:
            self._began = now
            self._young, self._old = {}, self._young
        young = self._young
        found = []
        for host_state in host_states:
            # A host that has never reported has no stats at all.
            text = getattr(host_state, 'stats', _NO_STATS).get(STATS_KEY)
            if not text:
                found.append(NONE)
                continue
            known = young.get(host_state.uuid)
            if known is None or known[0] != text:
                known = self._renew(host_state, text)
            found.append(known[1])
        return found

    def _renew(self, host_state: Any, text: str) -> tuple[str, HostGpus]:
        known = self._old.get(host_state.uuid)
        if known is None or known[0] != text:
            known = text, _gpus(host_state, text)
        self._young[host_state.uuid] = known
        return known


def _gpus(host_state: Any, text: str) -> HostGpus:
    try:
        return read_map(host_state.uuid, text, used_cpus(host_state))
    except exception.InvalidHostMap as exc:
        LOG.warning('Ignoring the GPUs of host %s: %s', host_state.host, exc)
        return NONE


def read_map(
    node_uuid: str, text: str, used_cpus: dict[int, int] | None = None
) -> HostGpus:
    """The GPUs of the compute node, from its map.

    :param used_cpus: those of each NUMA node, if somebody counts them
    :raises nova_gpu.exception.InvalidHostMap: it can't be read
    """
    found, classes, fullness, known = _load(text)
    return HostGpus(
        classes,
        fullness,
        found.instances,
        found.by_provider(node_uuid),
        used_cpus or {},
        any(pool.sizes for pool in found.pools),
        any(pool.isolation != SHARED for pool in found.pools),
        known,
    )


def used_cpus(host_state: Any) -> dict[int, int]:
    """How many CPUs of each NUMA node are in use, as Nova counts them."""
    topology = host_state.numa_topology
    return {
        cell.id: cell.cpu_usage + len(cell.pinned_cpus)
        for cell in (topology.cells if topology else ())
    }


@functools.lru_cache(maxsize=1024)
def _load(
    text: str,
) -> tuple[HostMap, frozenset[str], float, dict[str, tuple[Cards, int]]]:
    """One map for all the hosts that are alike, which most of them are."""
    found = HostMap.load(text)
    return found, found.classes, found.fullness, {}


#: Shared by the filter and the weighers of a scheduler process.
CACHE = MapCache()
