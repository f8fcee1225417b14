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


"""The share of vGPU requests that a cloud accepts, free and pinned.

The hosts are files, everything else is real: Placement gives the candidates,
Nova's handlers run our filter and weigher on the hosts' maps, Placement takes
the allocation, and the host's tracker claims. The peer is the same cloud with
one profile a card, by rules, spread over the cards in proportion to the load.
Nothing says that a load keeps to the shares that cards were pinned for: in
the shifting mix one profile after the other is asked for four times as often.

``ACCEPTANCE_SEEDS``, ``ACCEPTANCE_REQUESTS`` and ``ACCEPTANCE_LOAD`` (of the
hosts' memory, in %) change the runs.
"""

from __future__ import annotations

import collections
import json
import logging
import math
import os
import random
import tempfile
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import webob
from nova.compute.provider_tree import ProviderTree

from nova_gpu import exception
from nova_gpu.model.claim import Want
from nova_gpu.model.request import GpuRequest
from nova_gpu.scheduler import maps
from nova_gpu.scheduler.filter import GpuFilter
from nova_gpu.scheduler.weigher import GpuWeigher
from nova_gpu.virt import providers
from tests.bench import measure, placement
from tests.fixtures import hosts
from tests.fixtures.scheduler import (
    host_state,
    host_tracker,
    map_text,
    node_uuid,
    request_spec,
    run_filter,
    run_weighers,
)
from tests.fixtures.sysfs import FakeSysfs

HOSTS, CARDS = 2, 4
MEMORY_GIB = 48
#: How often each profile of an A40 is asked for, by its size in GiB.
MIX = {4: 4.0, 8: 3.0, 12: 2.0, 24: 1.0}
TYPES = tuple(kind for kind in hosts.A40_TYPES if kind.size in MIX)
SHIFT = 4.0
SEEDS = int(os.environ.get('ACCEPTANCE_SEEDS', '2'))
REQUESTS = int(os.environ.get('ACCEPTANCE_REQUESTS', '60'))
LOAD = int(os.environ.get('ACCEPTANCE_LOAD', '75')) / 100
PEER = 'one profile a card, by rules'


def run() -> Iterator[measure.Row]:
    """A steady mix of profiles, and one that shifts."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir=measure.ram_folder()) as folder:
        api = _Api(placement.application(folder))
        for size in MIX:
            api('PUT', f'/resource_classes/{_class_of(size)}')
        for mix in ('steady', 'shifting'):
            shares: dict[bool, list[float]] = {False: [], True: []}
            for seed in range(SEEDS):
                for pinned, found in shares.items():
                    found.append(_accepted(api, seed, mix, pinned))
            yield measure.Row(
                'vgpu_acceptance',
                {
                    'mix': mix,
                    'cards': HOSTS * CARDS,
                    'requests': REQUESTS,
                    'seeds': SEEDS,
                    'load': f'{LOAD:.0%}',
                },
                measure.middle(shares[False]),
                measure.middle(shares[True]),
                PEER,
                '%',
            )


def _accepted(api: _Api, seed: int, mix: str, pinned: bool) -> float:
    """In per cent of the requests, once the cloud has filled."""
    source = random.Random(seed)
    sizes = list(MIX)
    mean = sum(size * weight for size, weight in MIX.items()) / sum(
        MIX.values()
    )
    guests = LOAD * HOSTS * CARDS * MEMORY_GIB / mean
    ends: dict[int, list[str]] = collections.defaultdict(list)
    asked = accepted = 0
    maps.CACHE.clear()
    with tempfile.TemporaryDirectory(dir=measure.ram_folder()) as root:
        cloud = _Cloud(api, root, pinned)
        total = round(guests) + REQUESTS
        for now in range(total):
            for consumer in ends.pop(now, ()):
                cloud.delete(consumer)
            weights = dict(MIX)
            if mix == 'shifting':
                weights[sizes[now * len(sizes) // total]] *= SHIFT
            # The same memory is asked for, whatever the mix is now.
            size = source.choices(sizes, list(weights.values()))[0]
            now_mean = sum(s * w for s, w in weights.items()) / sum(
                weights.values()
            )
            life = source.expovariate(1 / (guests * mean / now_mean))
            consumer = cloud.boot(size)
            if consumer is not None:
                ends[now + max(1, round(life))].append(consumer)
            if now >= guests:
                asked += 1
                accepted += consumer is not None
        cloud.close()
    return 100 * accepted / asked


def _class_of(size: int) -> str:
    return f'CUSTOM_VGPU_NVIDIA_A40_{size}Q'


def _pins() -> list[int]:
    """The profile of each card, by the memory that each is asked for."""
    demand = {size: size * weight for size, weight in MIX.items()}
    cards = HOSTS * CARDS
    exact = {s: cards * d / sum(demand.values()) for s, d in demand.items()}
    count = {size: math.floor(share) for size, share in exact.items()}
    for size in sorted(exact, key=lambda s: count[s] - exact[s]):
        if sum(count.values()) < cards:
            count[size] += 1
    return [size for size in MIX for _ in range(count[size])]


class _Api:
    """Calls of Placement's API."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """The answer; None if it is a conflict."""
        request = webob.Request.blank(
            path,
            method=method,
            headers={
                'X-Auth-Token': 'admin',
                'OpenStack-API-Version': 'placement 1.36',
                'Content-Type': 'application/json',
            },
            body=b'' if body is None else json.dumps(body).encode(),
        )
        answer = request.get_response(self._application)
        if answer.status_code == 409:
            return None
        assert answer.status_code < 300, answer.text
        return answer.json if answer.body else {}


class _Cloud:
    """Hosts with A40, and the requests that they have accepted."""

    def __init__(self, api: _Api, root: str, pinned: bool) -> None:
        self._api = api
        pins = _pins()
        self._hosts = {}
        for number in range(HOSTS):
            # The cards of a profile are on as many hosts as possible.
            mine = pins[number::HOSTS] if pinned else None
            host = _Host(api, f'{root}/host{number}', f'host{number}', mine)
            self._hosts[host.name] = host
        self._where: dict[str, _Host] = {}

    def boot(self, size: int) -> str | None:
        """The new instance, or None if no host takes it."""
        name = _class_of(size)
        query = urllib.parse.urlencode(
            {'resources': f'VCPU:1,{name}:1', 'limit': '1000'}
        )
        found = self._api('GET', f'/allocation_candidates?{query}')
        by_host = collections.defaultdict(list)
        for candidate in found['allocation_requests']:
            for host in self._hosts.values():
                if host.root in candidate['allocations']:
                    by_host[host.name].append(candidate)
        states = [
            host_state(host, self._hosts[host].map, candidates)
            for host, candidates in by_host.items()
        ]
        spec = request_spec({f'resources:{name}': '1'})
        passed = set(run_filter(GpuFilter(), states, spec))
        states = [state for state in states if state.host in passed]
        best = {state.host: state.allocation_candidates for state in states}
        consumer = str(uuid.uuid4())
        for chosen in run_weighers([GpuWeigher()], states, spec):
            if self._hosts[chosen].spawn(consumer, best[chosen][0]):
                self._where[consumer] = self._hosts[chosen]
                return consumer
        return None

    def delete(self, consumer: str) -> None:
        self._where.pop(consumer).delete(consumer)

    def close(self) -> None:
        """Leave Placement as it was."""
        for consumer in tuple(self._where):
            self.delete(consumer)
        for host in self._hosts.values():
            host.close()


class _Host:
    """A compute node: a tracker, and what it tells Placement."""

    def __init__(
        self, api: _Api, folder: str, name: str, pins: list[int] | None
    ) -> None:
        self.name = name
        self.root = node_uuid(name)
        self._api = api
        fake = FakeSysfs(folder)
        rules = []
        for index in range(CARDS):
            address = f'0000:{0x41 + index:02x}:00.0'
            fake.add_gpu(
                address, 0x2235, numa_node=index // 2,
                iommu_group=30 + index, driver='nvidia',
                types=TYPES, units=MEMORY_GIB,
            )  # fmt: skip
            if pins is not None:
                profiles = [f'A40-{pins[index]}Q']
                rules.append(
                    json.dumps({'address': address, 'profiles': profiles})
                )
        self._tracker = host_tracker(fake, *rules)
        self._tree = ProviderTree()
        self._tree.new_root(name, self.root)
        self._generations: dict[str, int] = {}
        self._told: dict[str, Mapping[str, Any]] = {}
        self._provide(self.root, {'name': name})
        self._put(self.root, {'VCPU': _record(10**6)})
        self.report()

    def report(self) -> None:
        """What nova-compute does after each claim and release."""
        view = self._tracker.view()
        providers.update(
            self._tree, self.name, view.pools, in_use=lambda provider: False
        )
        for found in self._tree.get_provider_uuids(self.name):
            data = self._tree.data(found)
            if data.uuid == self.root:
                continue
            if data.uuid not in self._generations:
                self._provide(
                    data.uuid,
                    {'name': data.name, 'parent_provider_uuid': self.root},
                )
            if self._told.get(data.uuid) != data.inventory:
                self._put(data.uuid, data.inventory)
        self.map = map_text(self._tracker)

    def spawn(self, consumer: str, candidate: dict[str, Any]) -> bool:
        """Whether the allocation and the claim succeed."""
        body = {
            'allocations': candidate['allocations'],
            'project_id': 'project',
            'user_id': 'user',
            'consumer_generation': None,
        }
        if self._api('PUT', f'/allocations/{consumer}', body) is None:
            return False
        by_uuid = {
            self._tree.data(p.provider_name(self.name)).uuid: p.key
            for p in self._tracker.view().pools
        }
        wants = [
            Want(by_uuid[provider], name, count)
            for provider, allocation in candidate['allocations'].items()
            for name, count in allocation['resources'].items()
            if provider in by_uuid
        ]
        try:
            self._tracker.claim(consumer, wants, GpuRequest({}))
        except exception.GpuError:
            self._api('DELETE', f'/allocations/{consumer}')
            return False
        self._tracker.settle(consumer)
        self.report()
        return True

    def delete(self, consumer: str) -> None:
        self._tracker.release(consumer)
        self._api('DELETE', f'/allocations/{consumer}')
        self.report()

    def close(self) -> None:
        """Take all providers out of Placement."""
        for provider in reversed(self._generations):
            self._api('DELETE', f'/resource_providers/{provider}')

    def _provide(self, provider: str, body: dict[str, str]) -> None:
        self._api('POST', '/resource_providers', {**body, 'uuid': provider})
        self._generations[provider] = 0

    def _put(self, provider: str, inventory: Mapping[str, Any]) -> None:
        path = f'/resource_providers/{provider}'
        # Each allocation counts it up.
        generation = self._api('GET', path)['generation']
        answer = self._api(
            'PUT',
            f'{path}/inventories',
            {
                'resource_provider_generation': generation,
                'inventories': inventory,
            },
        )
        assert answer is not None, 'Placement has refused an inventory'
        self._told[provider] = inventory


def _record(total: int) -> dict[str, float]:
    return {'total': total, 'max_unit': total}


if __name__ == '__main__':
    measure.emit(run())
