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
"""The share of GPUs asked for that a cloud gives, with three ways to weigh.

Filter and weighers are the real ones, called by Nova's handlers on Nova's
host states: ours with Nova's own at their defaults, Nova's own alone, and
these with RAM and CPU multipliers of -1 (stacking). Of Nova's own those two
take part that tell these hosts apart; to the others all hosts are equal. The
hosts' maps are written and read by the production code. What Placement and
nova-compute do is made up: a host's candidates are its cards with room, and a
guest has what the first candidate names.

Of 64 hosts one half has eight cards, the other four. Cards give vGPUs of one
size at a time; a whole card is the profile that takes all of it, and a
request for several has a group for each. Requests are those of the trace
openb, each share rounded up to a profile; servers fill the cloud, or come and
go so that as many GPUs are asked for as there are.

Runs are spread over the processors; ``VARIANT_SEEDS`` changes their number.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import multiprocessing
import os
import random
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import nova.conf
from nova.scheduler.filters import HostFilterHandler
from nova.scheduler.weights import HostWeightHandler
from nova.scheduler.weights.cpu import CPUWeigher
from nova.scheduler.weights.ram import RAMWeigher

from nova_gpu import conf
from nova_gpu.model.expected import dump
from nova_gpu.model.hostmap import STATS_KEY, HostMap, PoolState
from nova_gpu.model.inventory import provider_uuid
from nova_gpu.scheduler import maps
from nova_gpu.scheduler.filter import GpuFilter
from nova_gpu.scheduler.weigher import GpuAvoidWeigher, GpuWeigher
from nova_gpu.simulate.cloud import arrivals
from nova_gpu.simulate.hosts import PROFILES
from nova_gpu.simulate.policies import kinds
from nova_gpu.simulate.runs import interval
from nova_gpu.simulate.tables import WHOLE, Request
from tests.bench import measure, traces
from tests.fixtures.scheduler import host_state, node_uuid, request_spec

SEEDS = int(os.environ.get('VARIANT_SEEDS', '5'))
FIRST = 5000
HOSTS = 64
CONF = nova.conf.CONF


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to weigh: options, and whether our weighers are there."""

    name: str
    ours: bool = False
    multiplier: float = 1.0
    expects_trace: bool = False


OURS = Way('ours', ours=True, expects_trace=True)
UNTOLD = Way('ours, nothing expected', ours=True)
STOCK = Way('stock Nova')
STACKING = Way('stacking', multiplier=-1.0)


WAYS = (OURS, UNTOLD, STOCK, STACKING)


def run() -> Iterator[measure.Row]:
    """Both mixes, filling and with churn."""
    with multiprocessing.Pool(initializer=_prepare) as pool:
        for mix in traces.MIXES:
            for churn in (False, True):
                runs = [
                    (way, mix, FIRST + seed, churn)
                    for way in WAYS
                    for seed in range(SEEDS)
                ]
                shares = pool.starmap(_accepted, runs, chunksize=1)
                found = {
                    way: shares[n * SEEDS : (n + 1) * SEEDS]
                    for n, way in enumerate(WAYS)
                }
                yield from _rows(mix, churn, found)


def _rows(
    mix: str, churn: bool, found: dict[Way, list[float]]
) -> Iterator[measure.Row]:
    for mine, peer in ((OURS, STOCK), (OURS, STACKING), (UNTOLD, STACKING)):
        pairs = zip(found[mine], found[peer], strict=True)
        more, wide = interval([a - b for a, b in pairs])
        yield measure.Row(
            'nova_variant',
            {
                'mix': mix,
                'servers': 'churn' if churn else 'fill',
                'expected': 'trace' if mine is OURS else 'default',
                'seeds': SEEDS,
                'more': f'{more:+.2f}±{wide:.2f}',
            },
            statistics.fmean(found[mine]),
            statistics.fmean(found[peer]),
            peer.name,
            '%',
        )


def _prepare() -> None:
    """What each process needs once."""
    logging.disable(logging.CRITICAL)
    conf.register_opts(CONF)


def _accepted(way: Way, mix: str, seed: int, churn: bool) -> float:
    """In per cent of the GPUs asked for."""
    requests = _requests(mix)
    for name in ('ram_weight_multiplier', 'cpu_weight_multiplier'):
        CONF.set_override(name, way.multiplier, 'filter_scheduler')
    lines = [
        dump(dataclasses.replace(kind, vcpus=kind.vcpus / 1000))
        for kind in kinds(requests)
    ]
    CONF.set_override(
        'expected_request', lines if way.expects_trace else [], 'gpu'
    )
    maps.CACHE.clear()
    source, lives = random.Random(seed), random.Random(seed + 1)
    hosts = [_Host(n, 8 if n % 2 else 4) for n in range(HOSTS)]
    source.shuffle(hosts)
    scheduler = _Scheduler(way, hosts)
    coming = arrivals(requests, source)
    capacity = WHOLE * sum(len(host.cards) for host in hosts)
    mean = statistics.fmean(request.milli for request in requests)
    life = capacity / mean
    ends: dict[int, list[_Guest]] = {}
    asked = accepted = now = 0
    while now < 3 * life if churn else asked < capacity:
        for guest in ends.pop(now, ()):
            guest.end()
        request = next(coming)
        lasts = max(1, round(lives.expovariate(1 / life)))
        placed = scheduler.boot(request)
        if placed and churn:
            ends.setdefault(now + lasts, []).append(placed)
        if now >= life or not churn:
            asked += request.milli
            accepted += request.milli * (placed is not None)
        now += 1
    return 100 * accepted / asked


@functools.cache
def _requests(mix: str) -> Sequence[Request]:
    return [request for request in traces.requests(mix) if request.gpus]


def _class_of(size: int) -> str:
    return f'CUSTOM_VGPU_NVIDIA_A40_{48 / size:g}Q'.replace('.', '_')


CLASSES = {size: _class_of(size) for size in PROFILES}
TOTALS = {name: size for size, name in CLASSES.items()}


@dataclasses.dataclass
class _Guest:
    """What a server has."""

    host: _Host
    cards: Sequence[int]
    vcpus: int
    memory_mib: int

    def end(self) -> None:
        self.host.change(self, -1)


class _Host:
    """A host: its state in the scheduler, and how many units of what."""

    def __init__(self, number: int, cards: int) -> None:
        self.name = f'host{number}'
        self.cards: list[tuple[int, int]] = [(0, 0)] * cards
        self.state = host_state(
            self.name,
            self._map(),
            vcpus=12 * cards,
            memory_mb=49152 * cards,
            free_ram_mb=49152 * cards,
        )
        root = node_uuid(self.name)
        self.providers = [
            provider_uuid(root, self._key(n)) for n in range(cards)
        ]

    def _key(self, card: int) -> str:
        return f'0000_{card + 0x41:02x}_00_0'

    def _map(self) -> str:
        pools = [
            PoolState(
                self._key(number), 'mdev', TOTALS, used, numa_nodes=(0,),
                active=CLASSES[size] if size else None,
            )
            for number, (size, used) in enumerate(self.cards)
        ]  # fmt: skip
        return HostMap(tuple(pools)).dump()

    def candidates(self, size: int, count: int) -> list[dict[str, Any]]:
        """Every card with room, or the first so many that are free."""
        able = [
            number
            for number, (cut, used) in enumerate(self.cards)
            if not cut or (cut == size and used < size)
        ]
        if len(able) < count:
            return []
        sets = [[n] for n in able] if count == 1 else [able[:count]]
        return [
            {
                'allocations': {
                    self.providers[n]: {'resources': {CLASSES[size]: 1}}
                    for n in cards
                }
            }
            for cards in sets
        ]

    def change(self, guest: _Guest, sign: int, size: int = 0) -> None:
        """Let a guest have what it has, or take it back."""
        for card in guest.cards:
            cut, used = self.cards[card]
            used += sign
            self.cards[card] = (cut or size, used) if used else (0, 0)
        self.state.vcpus_used += sign * guest.vcpus
        self.state.free_ram_mb -= sign * guest.memory_mib
        self.state.stats[STATS_KEY] = self._map()


class _Scheduler:
    """Nova's handlers with the filter and the weighers of a way."""

    def __init__(self, way: Way, hosts: Sequence[_Host]) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._weighers = [RAMWeigher(), CPUWeigher()]
        if way.ours:
            self._weighers += [GpuWeigher(), GpuAvoidWeigher()]

    def boot(self, request: Request) -> _Guest | None:
        """The new server, or None if no host has room."""
        size = max(n for n in PROFILES if n * request.share <= WHOLE)
        vcpus = -(-request.cpu_milli // 1000)
        able = []
        for host in self._hosts.values():
            state = host.state
            if (
                state.vcpus_used + vcpus <= state.vcpus_total
                and request.memory_mib <= state.free_ram_mb
            ):
                found = host.candidates(size, request.gpus)
                state.allocation_candidates = found
                if found:
                    able.append(state)
        if not able:
            return None
        spec = request_spec(
            {
                f'resources{n}:{CLASSES[size]}': '1'
                for n in range(request.gpus)
            },
            instance_group=None,
        )
        spec.flavor.vcpus, spec.flavor.memory_mb = vcpus, request.memory_mib
        passed = HostFilterHandler().get_filtered_objects(
            [GpuFilter()], able, spec
        )
        weighed = HostWeightHandler().get_weighed_objects(
            self._weighers, passed, spec
        )
        host = self._hosts[weighed[0].obj.host]
        chosen = host.state.allocation_candidates[0]['allocations']
        cards = [host.providers.index(provider) for provider in chosen]
        guest = _Guest(host, cards, vcpus, request.memory_mib)
        host.change(guest, 1, size)
        return guest


if __name__ == '__main__':
    measure.emit(run())
