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

"""The allocation candidates that Placement would find on a host.

As far as the host's map tells: no Placement is asked, and what isn't about
GPUs isn't looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

from nova_gpu.model.hostmap import PoolState
from nova_gpu.model.request import resource_groups
from nova_gpu.scheduler.candidates import Candidate

#: As many as Placement gives by default.
MOST = 1000

#: Amounts by resource class that come from one provider.
Part = dict[str, int]


def parts(
    extra_specs: Mapping[str, str], wanted: Collection[str]
) -> list[Part]:
    """What is asked for, split into what one provider gives.

    A group with a name comes from one provider. Of the one without each
    class may come from another.

    :param wanted: the classes that are looked at
    """
    found = []
    for name, amounts in resource_groups(extra_specs).items():
        ours = {c: n for c, n in amounts.items() if c in wanted and n}
        found += [ours] if name else [{c: n} for c, n in ours.items()]
    # Alike ones side by side: they are not told apart below.
    return sorted(filter(None, found), key=lambda part: sorted(part.items()))


def candidates(
    pools: Mapping[str, PoolState], asked: Sequence[Part], isolate: bool
) -> list[Candidate]:
    """Every way to take what is asked for from the pools of a host.

    :param pools: by the UUID of their provider
    :param isolate: whether each part has to come from another provider
    """
    providers = sorted(pools)
    rooms = {
        (p, c): room(pools[p], c) for p in providers for c in pools[p].totals
    }
    if _too_much(asked, rooms):
        return []
    ways = _ways(asked, providers, rooms, isolate)
    return [_candidate(asked, way) for way in itertools.islice(ways, MOST)]


def room(pool: PoolState, resource_class: str) -> int:
    """The units of a class that Placement would still give."""
    if pool.active not in (None, resource_class):
        return 0
    return max(0, pool.room(resource_class))


def shortage(pools: Mapping[str, PoolState], asked: Sequence[Part]) -> str:
    """Why a host has no candidate."""
    for part in asked:
        for name, count in part.items():
            giving = [p for p in pools.values() if name in p.totals]
            if not giving:
                return f'none of its GPUs gives {name}'
            most = max(pool.totals[name] for pool in giving)
            if most < count:
                return (
                    f'asks for {count} {name} at once, and has {most} in '
                    f'one place at most'
                )
            free = max(room(pool, name) for pool in giving)
            if free < count:
                others = sum(p.active not in (None, name) for p in giving)
                return f'asks for {count} {name}, and has {free} free' + (
                    f'; {others} of {len(giving)} cards hold another profile'
                    if others
                    else ''
                )
    return 'has not enough free for all groups of the flavor together'


def _too_much(
    asked: Sequence[Part], rooms: Mapping[tuple[str, str], int]
) -> bool:
    """Whether a class is short in sum: what is below would take long."""
    total: dict[str, int] = {}
    for part in asked:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return any(
        count > sum(n for (_, c), n in rooms.items() if c == name)
        for name, count in total.items()
    )


def _ways(
    asked: Sequence[Part],
    providers: Sequence[str],
    rooms: dict[tuple[str, str], int],
    isolate: bool,
    taken: tuple[str, ...] = (),
) -> Iterator[tuple[str, ...]]:
    """All ways to give each part a provider, parts that are alike once."""
    index = len(taken)
    if index == len(asked):
        yield taken
        return
    part = asked[index]
    alike = index > 0 and asked[index - 1] == part
    for provider in providers:
        if alike and provider < taken[-1]:
            continue
        if isolate and provider in taken:
            continue
        if any(rooms.get((provider, c), 0) < n for c, n in part.items()):
            continue
        left = dict(rooms)
        for name, count in part.items():
            left[provider, name] -= count
        yield from _ways(asked, providers, left, isolate, (*taken, provider))


def _candidate(asked: Sequence[Part], way: Sequence[str]) -> Candidate:
    allocations: dict[str, dict[str, dict[str, int]]] = {}
    for part, provider in zip(asked, way, strict=True):
        resources = allocations.setdefault(provider, {'resources': {}})
        for name, count in part.items():
            amounts = resources['resources']
            amounts[name] = amounts.get(name, 0) + count
    return {'allocations': allocations}
