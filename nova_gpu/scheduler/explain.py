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
#: What becomes of a server that passes and can't be served.
ON = 'nova-compute would hand the server on'
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
    notes = []
    for provider, allocation in taken.items():
        pool = gpus.providers[provider]
        chosen, note = _cards(host, pool, allocation['resources'], request)
        cards += chosen
        if note is not None:
            notes.append(note)
    return Decision(
        host.name,
        reason='; '.join(notes) or None,
        weight=weight,
        pools=tuple(gpus.providers[provider].key for provider in taken),
        cards=tuple(cards),
    )


def _anybody(request: GpuRequest) -> Tenant:
    """A new server, none of those that are there, of a project without any."""
    return Tenant('new', None, request.isolation)


def _cards(
    host: Host,
    pool: PoolState,
    resources: Mapping[str, int],
    request: GpuRequest,
) -> tuple[list[str], str | None]:
    """The cards of a pool that nova-compute would choose.

    And what there is to say of them: that there are none now, or that the
    map doesn't tell.
    """
    names = host.cards.get(pool.key, ())
    if not pool.free:  # one card, which is cut
        if not pool.admits(_anybody(request)):
            return [], f'isolation closes the card of {pool.key} now: {ON}'
        return list(names) or [pool.key], None
    if len(names) != len(pool.free):
        names = [f'{pool.key}[{n}]' for n in range(len(pool.free))]
    count = sum(resources.values())
    if pool.sizes and not pool.has_set(count, request.topology):
        return [], f'no partition of {count} in {pool.key} is free now: {ON}'
    if pool.sizes and count < len(pool.free):
        return [], (
            f'the map does not tell which cards of {pool.key} make up a '
            f'partition of {count}'
        )
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
        count,
        (c for c, free in zip(stand_ins, pool.free, strict=True) if free),
        places,
        request.topology,
        request.topology_required,
    )
    if not chosen:
        return [], (
            f'no free cards of {pool.key} share {request.topology} now: {ON}'
        )
    return [names[stand_ins.index(card)] for card in chosen], None


def _stand_in(number: int) -> Card:
    """A card of which all that counts is its place, in the map's order."""
    return Card(_spot(number), 0, 0, 0, '', '')


def _spot(number: int) -> PciAddress:
    return PciAddress(0, number, 0, 0)
