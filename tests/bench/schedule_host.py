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

"""A host's share of a scheduling decision, beside Nova's PCI tracking.

Ours is a filter and two weighers, with the host's map in the cache as it is
from the second request on; the cost of the first is a row of its own. Each
host brings one allocation candidate. What Nova's handlers cost beside, for
each filter and weigher whatever it does, is in a row of its own too.

With NUMA on, servers have pinned CPUs, and both sides have Nova's
NUMATopologyFilter before them, which for Nova's devices does what GpuFilter
does for ours: it fits each server to nodes that have the devices.
"""

from __future__ import annotations

import functools
import logging
import random
import tempfile
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from nova import objects
from nova.scheduler.filters import HostFilterHandler
from nova.scheduler.filters.numa_topology_filter import NUMATopologyFilter
from nova.scheduler.filters.pci_passthrough_filter import PciPassthroughFilter
from nova.scheduler.weights import HostWeightHandler, WeighedHost
from nova.scheduler.weights.pci import PCIWeigher
from nova.virt import hardware

from nova_gpu import exception
from nova_gpu.model.claim import Want
from nova_gpu.model.request import GpuRequest
from nova_gpu.scheduler import maps
from nova_gpu.scheduler.filter import GpuFilter
from nova_gpu.scheduler.weigher import GpuAvoidWeigher, GpuWeigher
from nova_gpu.tracker import Tracker
from nova_gpu.virt.numa import report
from tests.bench import measure
from tests.fixtures import hosts
from tests.fixtures.scheduler import (
    candidate,
    host_state,
    host_tracker,
    map_text,
    request_spec,
)
from tests.fixtures.sysfs import FakeSysfs

HOSTS = 10_000
#: Of these each takes a hundred times as long.
NUMA_HOSTS = 1000
CARDS = 8
ROUNDS = 7
PEER = 'PciPassthroughFilter + PCIWeigher'
A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
A40_1Q = 'CUSTOM_VGPU_NVIDIA_A40_1Q'


def run() -> Iterator[measure.Row]:
    """Hosts of whole cards, hosts of vGPUs, requests without GPUs, memory."""
    logging.disable(logging.DEBUG)
    pci = _Side([PciPassthroughFilter()], [PCIWeigher()])
    gpu = _Side([GpuFilter()], [GpuWeigher(), GpuAvoidWeigher()])
    pci_hosts = [_pci_host(f'h{n}') for n in range(HOSTS)]
    two_devices = request_spec({}, pci_requests=_pci_requests())
    plain = request_spec({})
    for what, texts, pool, name in (
        ('whole', _whole_maps(), 'nvidia_a100_sxm4_40gb', A100),
        ('vgpu', _vgpu_maps(), '0000_41_00_0', A40_1Q),
    ):
        two_units = request_spec({f'resources:{name}': '2'})
        states = _gpu_hosts(texts, pool, name)
        params = {'hosts': HOSTS, 'cards': CARDS, 'of': what}

        def compare(
            more: dict[str, str],
            ours: Callable[[], float],
            peer: Callable[[], float],
            params: dict[str, Any] = params,
        ) -> measure.Row:
            medians = measure.in_turn(ours, peer, ROUNDS)
            return measure.Row(
                'schedule_host', {**params, **more}, *medians, PEER, 'us'
            )

        memory = _memory(_gpu_hosts(texts, pool, name))
        yield compare(
            {'map': 'cached'},
            functools.partial(gpu.classes, states, two_units),
            functools.partial(pci.classes, pci_hosts, two_devices),
        )
        yield compare(
            {'map': 'cached', 'and': "Nova's handlers"},
            functools.partial(gpu.handlers, states, two_units),
            functools.partial(pci.handlers, pci_hosts, two_devices),
        )
        yield compare(
            {'map': 'first seen'},
            functools.partial(_cold, gpu, states, two_units),
            functools.partial(pci.classes, pci_hosts, two_devices),
        )
        yield compare(
            {'asks': 'no GPU'},
            functools.partial(gpu.classes, states, plain),
            functools.partial(pci.classes, pci_hosts, plain),
        )
        yield measure.Row(
            'schedule_host',
            {
                **params,
                'memory': 'cached maps',
                'different': len(set(texts)),
                'map_bytes': max(map(len, texts)),
            },
            memory / 2**20,
            None,
            None,
            'MiB',
        )
    yield _with_numa()


def _with_numa() -> measure.Row:
    """Servers on the NUMA node of their cards."""
    pci = _Side([NUMATopologyFilter(), PciPassthroughFilter()], [PCIWeigher()])
    gpu = _Side(
        [NUMATopologyFilter(), GpuFilter()], [GpuWeigher(), GpuAvoidWeigher()]
    )
    devices = _numa_request({}, pci_requests=_pci_requests())
    units = _numa_request(
        {f'resources:{A100}': '2', 'gpu:numa_affinity': 'required'}
    )
    topology = _topology()
    names = [f'h{n}' for n in range(NUMA_HOSTS)]
    pci_hosts = [_pci_host(n, numa_topology=topology) for n in names]
    states = _gpu_hosts(
        _whole_maps(), 'nvidia_a100_sxm4_40gb', A100, NUMA_HOSTS,
        numa_topology=report(topology),
    )  # fmt: skip
    medians = measure.in_turn(
        lambda: gpu.classes(states, units),
        lambda: pci.classes(pci_hosts, devices),
        ROUNDS,
    )
    return measure.Row(
        'schedule_host',
        {'hosts': NUMA_HOSTS, 'cards': CARDS, 'of': 'whole', 'numa': 'on'},
        *medians,
        f'NUMATopologyFilter + {PEER}',
        'us',
    )


class _Side:
    def __init__(self, filters: list[Any], weighers: list[Any]) -> None:
        self.filters = filters
        self.weighers = weighers

    def classes(self, states: list[Any], spec: Any) -> float:
        """What the filter and weighers alone take, in µs a host.

        The calls are those of Nova's handlers.
        """

        def work() -> None:
            passed = states
            for found in self.filters:
                passed = list(found.filter_all(passed, spec))
            assert len(passed) == len(states)
            weighed = [WeighedHost(state, 0.0) for state in passed]
            for weigher in self.weighers:
                weigher.weigh_objects(weighed, spec)
                for state in passed:
                    weigher.weight_multiplier(state)

        return self._measure(work, states)

    def handlers(self, states: list[Any], spec: Any) -> float:
        """The same with what Nova's handlers add, in µs a host."""

        def work() -> None:
            passed = HostFilterHandler().get_filtered_objects(
                self.filters, states, spec
            )
            HostWeightHandler().get_weighed_objects(
                self.weighers, passed, spec
            )

        return self._measure(work, states)

    def _measure(self, work: Callable[[], None], states: list[Any]) -> float:
        before = [state.allocation_candidates for state in states]
        took = measure.seconds(work)
        for state, candidates in zip(states, before, strict=True):
            state.allocation_candidates = candidates
        return took / len(states) * 1e6


def _gpu_hosts(
    texts: list[str], pool: str, name: str, count: int = HOSTS, **fields: Any
) -> list[Any]:
    """Hosts with one candidate each, and strings of their own."""
    return [
        host_state(
            f'h{n}',
            texts[n % len(texts)].encode().decode(),
            [candidate(f'h{n}', (pool, name, 2))],
            **fields,
        )
        for n in range(count)
    ]


def _cold(side: _Side, states: list[Any], spec: Any) -> float:
    """The microseconds that a host takes when its map is new."""
    maps.CACHE.clear()
    return side.classes(states, spec)


def _memory(states: list[Any]) -> int:
    """What the cache holds of these hosts, in bytes."""
    maps.CACHE.clear()
    tracemalloc.start()
    maps.CACHE.get(states)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size


def _whole_maps() -> list[str]:
    """Hosts of eight A100 with none to all in use, and other servers."""
    with tempfile.TemporaryDirectory(dir=measure.ram_folder()) as root:
        tracker = host_tracker(hosts.a100_board(FakeSysfs(root)))
        texts = []
        for _ in range(CARDS):
            texts += [map_text(tracker, n) for n in range(10)]
            _claim(tracker, 'nvidia_a100_sxm4_40gb', A100)
    return texts


def _vgpu_maps() -> list[str]:
    """As many different maps as there are hosts, of eight A40 each."""
    random.seed(7)
    with tempfile.TemporaryDirectory(dir=measure.ram_folder()) as root:
        fake = FakeSysfs(root)
        cards = [f'0000:{0x41 + n:02x}:00.0' for n in range(CARDS)]
        for index, address in enumerate(cards):
            fake.add_gpu(
                address, 0x2235, numa_node=index // 4, iommu_group=30 + index,
                driver='nvidia', types=hosts.A40_TYPES, units=48,
            )  # fmt: skip
        tracker = host_tracker(fake)
        texts = []
        while len(texts) < HOSTS:
            view = tracker.view()
            texts += [tracker.map(view, n).dump() for n in range(100)]
            pool = random.choice(view.pools)
            open_classes = [
                name
                for name, inventory in pool.inventories.items()
                if inventory.reserved < inventory.total
            ]
            try:
                _claim(tracker, pool.key, random.choice(open_classes))
            except exception.NotEnoughUnits:
                continue
    return texts


def _claim(tracker: Tracker, pool: str, resource_class: str) -> None:
    consumer = str(uuid.uuid4())
    want = Want(pool, resource_class, 1)
    tracker.claim(consumer, [want], GpuRequest({}))


def _pci_requests() -> objects.InstancePCIRequests:
    spec = [{'vendor_id': '10de', 'product_id': '20b0'}]
    request = objects.InstancePCIRequest(
        count=2, spec=spec, alias_name='a100', request_id=str(uuid.uuid4()),
        requester_id=None, numa_policy=None,
    )  # fmt: skip
    return objects.InstancePCIRequests(requests=[request])


def _numa_request(extra_specs: dict[str, str], **fields: Any) -> Any:
    """For a server that has four CPUs of one node to itself."""
    spec = request_spec(
        {**extra_specs, 'hw:cpu_policy': 'dedicated'},
        image=objects.ImageMeta(properties=objects.ImageMetaProps()),
        **fields,
    )
    spec.flavor.vcpus = 4
    spec.numa_topology = hardware.numa_get_constraints(spec.flavor, spec.image)
    return spec


def _topology() -> str:
    """Two nodes with 32 CPUs each, none of them in use."""
    cells = [
        objects.NUMACell(
            id=node, cpuset=set(), socket=node, memory=524288,
            pcpuset=set(range(32 * node, 32 * node + 32)), cpu_usage=0,
            memory_usage=0, pinned_cpus=set(),
            siblings=[{cpu} for cpu in range(32 * node, 32 * node + 32)],
            mempages=[objects.NUMAPagesTopology(
                size_kb=4, total=134217728, used=0, reserved=0
            )],
            network_metadata=objects.NetworkMetadata(
                physnets=set(), tunneled=False
            ),
        )
        for node in range(2)
    ]  # fmt: skip
    text: str = objects.NUMATopology(cells=cells)._to_json()
    return text


def _pci_host(name: str, **fields: Any) -> Any:
    """A host whose eight cards Nova's PCI tracker has in two pools."""
    pools = [
        objects.PciDevicePool(
            vendor_id='10de', product_id='20b0', numa_node=node,
            count=CARDS // 2, tags={'dev_type': 'type-PCI'},
        )
        for node in range(2)
    ]  # fmt: skip
    pool_list = objects.PciDevicePoolList(objects=pools)
    found = candidate(name)
    return host_state(
        name, None, [found], pci_device_pools=pool_list, **fields
    )


if __name__ == '__main__':
    measure.emit(run())
