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

"""What the scheduler would do with a request, host by host, and why.

The decisions are the filter's and the weigher's own functions; the candidates
that Placement would find are guessed from the maps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from nova_gpu.model.address import PciAddress
from nova_gpu.model.choice import choose_cards
from nova_gpu.model.device import Card
from nova_gpu.model.fragmentation import DEFAULT, Mix
from nova_gpu.model.hostmap import PoolState
from nova_gpu.model.isolation import Tenant
from nova_gpu.model.request import GpuRequest, gpu_classes
from nova_gpu.model.topology import Place
from nova_gpu.scheduler import likely
from nova_gpu.scheduler.candidates import able, order
from nova_gpu.scheduler.maps import HostGpus
from nova_gpu.scheduler.scores import Scores

#: Whose refusal it is.
PLACEMENT, FILTER = 'Placement', 'GpuFilter'
#: Classes of ours, if no rule has given others.
_OURS = ('CUSTOM_GPU_', 'CUSTOM_VGPU_', 'PGPU', 'VGPU')


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """A host of a dump; ``gpus`` are those of its map.

    ``reported`` is how many instances its compute node has, if that is
    known. ``cards`` are the addresses of the cards of a pool, by its key.
    """

    name: str
    gpus: HostGpus
    reported: int | None = None
    cards: Mapping[str, Sequence[str]] = dataclasses.field(
        default_factory=dict
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one host.

    ``refused_by`` is None for one that passes. ``pools`` are those of the
    candidate that Nova would claim, ``cards`` what nova-compute would choose
    of them.
    """

    host: str
    refused_by: str | None = None
    reason: str | None = None
    weight: float | None = None
    pools: tuple[str, ...] = ()
    cards: tuple[str, ...] = ()


def looked_at(
    hosts: Iterable[Host], extra_specs: Mapping[str, str]
) -> frozenset[str]:
    """The classes among those asked for that are of GPUs.

    Rules can give GPUs any name: what some host gives is one.
    """
    given = frozenset().union(*(host.gpus.classes for host in hosts))
    return frozenset(
        name
        for name in gpu_classes(extra_specs)
        if name in given or name.startswith(_OURS)
    )


def explain(
    hosts: Sequence[Host],
    extra_specs: Mapping[str, str],
    expected: Mix = DEFAULT,
) -> list[Decision]:
    """Decide on each host; those that pass come first, the best before all.

    :param expected: what the weigher keeps GPUs usable for
    :raises nova_gpu.exception.InvalidExtraSpec: a key or value is wrong
    """
    request = GpuRequest.parse(extra_specs)
    wanted = looked_at(hosts, extra_specs)
    asked = likely.parts(extra_specs, wanted)
    isolate = extra_specs.get('group_policy') == 'isolate'
    score = Scores(
        expected, request, gpu_classes(extra_specs), _anybody(request)
    )
    found = [
        _decide(host, score(host.gpus), asked, isolate, wanted, request)
        for host in hosts
    ]
    return sorted(
        found, key=lambda d: (d.refused_by or '', -(d.weight or 0), d.host)
    )


def _decide(
    host: Host,
    weight: float,
    asked: Sequence[likely.Part],
    isolate: bool,
    wanted: frozenset[str],
    request: GpuRequest,
) -> Decision:
    gpus = host.gpus
    found = likely.candidates(gpus.providers, asked, isolate)
    if not found:
        reason = likely.shortage(gpus.providers, asked)
        return Decision(host.name, PLACEMENT, reason)
    found, refusal = able(found, gpus, wanted, request)
    if refusal is not None:
        return Decision(host.name, FILTER, refusal)
    current = None in (gpus.instances, host.reported) or (
        gpus.instances == host.reported
    )
    ordered = order(found, gpus, _anybody(request), current=current)
    taken = ordered[0]['allocations']
    cards: list[str] = []
    lacking = None
    for provider, allocation in taken.items():
        pool = gpus.providers[provider]
        chosen = _cards(host, pool, allocation['resources'], request)
        cards += chosen
        if not chosen:
            lacking = (
                f'no free cards of {pool.key} share {request.topology} now: '
                f'nova-compute would hand the server on'
            )
    return Decision(
        host.name,
        reason=lacking,
        weight=weight,
        pools=tuple(gpus.providers[provider].key for provider in taken),
        cards=tuple(cards),
    )


def _anybody(request: GpuRequest) -> Tenant:
    """A new server of a project that has none yet."""
    return Tenant('', None, request.isolation)


def _cards(
    host: Host,
    pool: PoolState,
    resources: Mapping[str, int],
    request: GpuRequest,
) -> list[str]:
    """The cards of a pool that nova-compute would choose."""
    names = host.cards.get(pool.key, ())
    if not pool.free:  # one card, which is cut
        return list(names) or [pool.key]
    if len(names) != len(pool.free):
        names = [f'{pool.key}[{n}]' for n in range(len(pool.free))]
    stand_ins = [_stand_in(n) for n in range(len(pool.free))]
    places = {
        card.address: Place(
            numa_node,
            None if switch < 0 else _spot(switch),
            None if clique < 0 else str(clique),
        )
        for card, numa_node, switch, clique in zip(
            stand_ins,
            pool.numa_nodes,
            pool.switches,
            pool.cliques,
            strict=True,
        )
    }
    chosen = choose_cards(
        sum(resources.values()),
        (c for c, free in zip(stand_ins, pool.free, strict=True) if free),
        places,
        request.topology,
        request.topology_required,
    )
    return [names[stand_ins.index(card)] for card in chosen]


def _stand_in(number: int) -> Card:
    """A card of which all that counts is its place, in the map's order."""
    return Card(_spot(number), 0, 0, 0, '', '')


def _spot(number: int) -> PciAddress:
    return PciAddress(0, number, 0, 0)
