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

"""Allocation candidates of one host: which can work, and which are best.

A candidate is what Placement's API calls an allocation request, as a dict;
Nova claims a host's first.
"""

from __future__ import annotations

import collections
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from nova_gpu.model.isolation import Tenant
from nova_gpu.model.request import EXCLUSIVE, SHARED, GpuRequest
from nova_gpu.scheduler.maps import HostGpus

Candidate = dict[str, Any]

NO_VGPU = 'needs a vGPU, and the GPUs that it would give are whole cards'


def able(
    found: list[Candidate],
    gpus: HostGpus,
    wanted: frozenset[str],
    request: GpuRequest,
) -> tuple[list[Candidate], str | None]:
    """The candidates that can work; if none of them can, also why."""
    if not found or not (
        request.display
        or request.vgpu_params
        or request.topology_required
        or gpus.partitioned
    ):
        return found, None
    lacking = [lacks(c, gpus, wanted, request) for c in found]
    left = [c for c, key in zip(found, lacking, strict=True) if not key]
    return left, None if left else '; '.join(dict.fromkeys(map(str, lacking)))


def lacks(
    candidate: Candidate,
    gpus: HostGpus,
    wanted: frozenset[str],
    request: GpuRequest,
) -> str | None:
    """What the candidate's GPUs can't do, as they are, for the request.

    Whether cards that share something are free is no question here: the map
    may be old. A provider with a wanted class that the map doesn't know is
    newer than the map, and gets the benefit of the doubt.
    """
    pools = []
    apart = 0
    for provider, allocation in candidate['allocations'].items():
        pool = gpus.providers.get(provider)
        if pool is not None:
            pools.append(pool)
            count = sum(
                n for c, n in allocation['resources'].items() if c in wanted
            )
            if count > pool.largest_set(request.topology):
                apart = count
            if count and pool.sizes and count not in pool.sizes:
                sizes = ', '.join(map(str, pool.sizes))
                return (
                    f'wants {count} cards of pool {pool.key}, whose '
                    f'NVSwitches have partitions of {sizes}'
                )
        elif not wanted.isdisjoint(allocation['resources']):
            return None
    if request.display and not any(pool.display for pool in pools):
        return f'gpu:display=on {NO_VGPU}'
    if request.vgpu_params and not any(pool.params for pool in pools):
        return f'gpu:vgpu_params {NO_VGPU}'
    if request.topology_required and apart:
        return (
            f'gpu:topology wants {apart} cards that share '
            f'{request.topology}, and it has no such'
        )
    return None


def closed(candidate: Candidate, gpus: HostGpus, asking: Tenant) -> bool:
    """Whether isolation keeps ``asking`` off a card, if the map is right."""
    return any(
        provider in gpus.providers
        and not gpus.providers[provider].admits(asking)
        for provider in candidate['allocations']
    )


def order(
    candidates: Sequence[Candidate],
    gpus: HostGpus,
    asking: Tenant,
    placed: int = 0,
    current: bool = True,
) -> list[Candidate]:
    """The candidates, best first.

    :param asking: who is to get them, with the digest of its project
    :param placed: how many servers of the same request have been put on the
        host before. Each took the first candidate of its time; neither the
        map nor Placement's answer, both older, show it. Without this the
        third of four servers would be sent to a card that the first two have
        filled, and all four refused.
    :param current: whether the map shows all that the host's instances hold
    """
    promised: collections.Counter[tuple[str, str]] = collections.Counter()

    def cost(candidate: Candidate) -> tuple[int, bool, float, str]:
        return _cost(candidate, gpus, asking, promised, current)

    for _ in range(placed):
        promised.update(_amounts(min(candidates, key=cost)))
    return sorted(candidates, key=cost)


def _amounts(candidate: Candidate) -> dict[tuple[str, str], int]:
    return {
        (provider, name): amount
        for provider, allocation in candidate['allocations'].items()
        for name, amount in allocation['resources'].items()
    }


def _cost(
    candidate: Candidate,
    gpus: HostGpus,
    asking: Tenant,
    promised: Mapping[tuple[str, str], int],
    current: bool,
) -> tuple[int, bool, float, str]:
    """How late a candidate comes.

    Last are cards that hold another profile (Placement may not know it yet),
    that isolation closes (Placement never knows for whom) or that this
    request itself has filled. If the map is old, cards of which
    this request has had nothing come before those of which it has: Placement
    has found room for one server there, and not for two. Then the fullest
    comes first. Empty cards are ordered by a hash of profile and card, so
    that requests for different profiles that come at once go to different
    cards; and of projects that share with no other, by their hash as well.
    """
    misfits = 0
    unsure = False
    left = 0.0
    cards = []
    for provider, allocation in candidate['allocations'].items():
        pool = gpus.providers.get(provider)
        if pool is None:
            continue
        for name, amount in allocation['resources'].items():
            taken = promised.get((provider, name), 0)
            alone = asking.isolation == EXCLUSIVE and taken
            if (
                pool.active not in (None, name)
                or not pool.admits(asking)
                or alone
            ):
                misfits += 1
            elif taken:
                misfits += taken + amount > pool.room(name)
                unsure = unsure or not current
            total = max(1, pool.totals.get(name, 0))
            left += 1.0 - min(1.0, pool.used / total)
            cards.append(f'{provider} {name}')
    if asking.isolation != SHARED:
        cards.append(str(asking.project))
    return misfits, unsure, round(left, 6), _digest(','.join(sorted(cards)))


@functools.lru_cache(maxsize=1 << 16)
def _digest(text: str) -> str:
    """The same for the same cards, and as good as random else."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
