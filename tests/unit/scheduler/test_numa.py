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

"""The filter beside Nova's own for NUMA, on hosts with cards on two nodes."""

from __future__ import annotations

import logging
from typing import Any

import fixtures
import testtools
from nova import objects
from nova.scheduler.filters import HostFilterHandler
from nova.scheduler.filters.numa_topology_filter import NUMATopologyFilter
from nova.virt import hardware

from nova_gpu.model import numa as numa_model
from nova_gpu.scheduler import numa
from nova_gpu.scheduler.filter import GpuFilter
from nova_gpu.scheduler.maps import CACHE
from nova_gpu.scheduler.weigher import GpuWeigher
from nova_gpu.tracker import Tracker
from nova_gpu.virt.numa import report
from tests.fixtures import hosts
from tests.fixtures.scheduler import (
    candidate,
    host_state,
    host_tracker,
    map_text,
    node_uuid,
    request_spec,
    run_weighers,
    take,
)
from tests.fixtures.sysfs import FakeSysfs

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
POOL = 'nvidia_a100_sxm4_40gb'
T4_4Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q'
#: Two T4 are on node 0, two on node 1.
T4 = ('0000_3b_00_0', '0000_5e_00_0', '0000_af_00_0', '0000_d8_00_0')


def host_topology(*used: int, networks: bool = True) -> str:
    """Nodes with eight CPUs each, of which the first ones are pinned."""
    cells = []
    for number, pinned in enumerate(used):
        cpus = set(range(8 * number, 8 * number + 8))
        cells.append(
            objects.NUMACell(
                id=number, cpuset=set(), pcpuset=cpus, socket=number,
                memory=8192, cpu_usage=0, memory_usage=0,
                mempages=[objects.NUMAPagesTopology(
                    size_kb=4, total=2097152, used=0, reserved=0
                )],
                pinned_cpus=set(sorted(cpus)[:pinned]),
                siblings=[{cpu} for cpu in cpus],
                network_metadata=objects.NetworkMetadata(
                    physnets={f'physnet{number}'}, tunneled=False
                ),
            )
        )  # fmt: skip
    text: str = objects.NUMATopology(cells=cells)._to_json()
    return str(report(text)) if networks else text


class NumaTest(testtools.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(
            fixtures.FakeLogger('nova_gpu', level=logging.DEBUG)
        )
        numa._warn_of_filters.cache_clear()
        self.addCleanup(CACHE.clear)
        self.filters = [NUMATopologyFilter(), GpuFilter()]

    def fake(self) -> FakeSysfs:
        return FakeSysfs(self.useFixture(fixtures.TempDir()).path)

    def a100_tracker(self) -> Tracker:
        """Four cards on each of two nodes."""
        return host_tracker(hosts.a100_board(self.fake()))

    def a100_host(
        self, tracker: Tracker, *used: int, count: int = 1, name: str = 'gpu1'
    ) -> Any:
        return host_state(
            name,
            map_text(tracker),
            [candidate(name, (POOL, A100, count))],
            numa_topology=host_topology(*used),
        )

    def t4_host(self, *used: int) -> Any:
        return host_state(
            'gpu1',
            map_text(host_tracker(hosts.four_t4(self.fake()))),
            [candidate('gpu1', (pool, T4_4Q, 1)) for pool in T4],
            numa_topology=host_topology(*used),
        )

    def spec(
        self, affinity: str | None = 'required', cpus: int = 4, nodes: int = 1,
        resource_class: str = A100, count: int = 1, **extra_specs: str,
    ) -> objects.RequestSpec:  # fmt: skip
        specs = {
            f'resources:{resource_class}': str(count),
            'hw:cpu_policy': 'dedicated',
            'hw:numa_nodes': str(nodes),
            **{k.replace('__', ':'): v for k, v in extra_specs.items()},
        }
        if affinity is not None:
            specs['gpu:numa_affinity'] = affinity
        spec = request_spec(
            specs, image=objects.ImageMeta(properties=objects.ImageMetaProps())
        )
        spec.flavor.vcpus = cpus
        spec.flavor.memory_mb = 1024
        spec.numa_topology = hardware.numa_get_constraints(
            spec.flavor, spec.image
        )
        return spec

    def passing(self, states: list[Any], spec: objects.RequestSpec) -> Any:
        """The hosts that pass, as they do."""
        return HostFilterHandler().get_filtered_objects(
            self.filters, states, spec
        )

    def passes(self, state: Any, spec: objects.RequestSpec) -> bool:
        found = self.passing([state], spec)
        if found:
            # What becomes of a host that passes is read of the copy.
            vars(state).update(vars(found[0]))
        return bool(found)

    def nodes(self, state: Any) -> set[int]:
        """The nodes that the claim on the host has to use."""
        limits = state.limits['numa_topology']
        if 'network_metadata' not in limits:
            return set()
        return set(numa_model.named(limits.network_metadata.physnets))

    def pools(self, state: Any) -> list[str]:
        """The pools of a host's candidates."""
        gpus = CACHE.get([state])[0].providers
        return [
            gpus[provider].key
            for found in state.allocation_candidates
            for provider in found['allocations']
            if provider in gpus
        ]


class HoldTest(NumaTest):
    """A host that passes, and what its claim will be held to."""

    def test_the_node_of_free_cards(self) -> None:
        tracker = self.a100_tracker()
        take(tracker, POOL, A100, 4)
        for affinity in ('required', 'preferred', None):
            state = self.a100_host(tracker, 0, 4)
            self.assertTrue(self.passes(state, self.spec(affinity)))
            self.assertEqual({1}, self.nodes(state))
        state = self.a100_host(tracker, 0, 4)
        self.assertTrue(self.passes(state, self.spec('none')))
        self.assertEqual(set(), self.nodes(state))

    def test_nova_fits_the_server_there(self) -> None:
        tracker = self.a100_tracker()
        take(tracker, POOL, A100, 4)
        state = self.a100_host(tracker, 0, 0)
        spec = self.spec()
        self.assertTrue(self.passes(state, spec))
        fitted = hardware.numa_fit_instance_to_host(
            state.numa_topology, spec.numa_topology, {},
            limits=state.limits['numa_topology'],
        )  # fmt: skip
        self.assertEqual([1], [cell.id for cell in fitted.cells])

    def test_the_emptier_node_if_cards_are_free_on_both(self) -> None:
        for used, node in (((2, 0), 1), ((0, 2), 0), ((3, 4), 0)):
            state = self.a100_host(self.a100_tracker(), *used)
            self.assertTrue(self.passes(state, self.spec()))
            self.assertEqual({node}, self.nodes(state))

    def test_what_cpus_tell_of_cards_that_are_taken_since(self) -> None:
        tracker = self.a100_tracker()
        take(tracker, POOL, A100, 7)  # one is left, on node 1
        text = map_text(tracker)
        for used, node in (((8, 0), 1), ((4, 4), 0), ((0, 4), 0)):
            state = self.a100_host(tracker, *used)
            self.assertEqual(text, state.stats['nova_gpu'])
            self.assertTrue(self.passes(state, self.spec()))
            self.assertEqual({node}, self.nodes(state), used)

    def test_a_node_whose_cards_are_in_use_as_far_as_is_known(self) -> None:
        tracker = self.a100_tracker()
        take(tracker, POOL, A100, 4)
        state = self.a100_host(tracker, 0, 5)
        self.assertTrue(self.passes(state, self.spec()))
        self.assertEqual({0}, self.nodes(state))

    def test_networks_of_the_server_stay(self) -> None:
        state = self.a100_host(self.a100_tracker(), 0, 0)
        spec = self.spec()
        spec.network_metadata = objects.NetworkMetadata(
            physnets={'physnet1'}, tunneled=True
        )
        self.assertTrue(self.passes(state, spec))
        metadata = state.limits['numa_topology'].network_metadata
        self.assertEqual({'physnet1', 'nova-gpu:1'}, metadata.physnets)
        self.assertTrue(metadata.tunneled)
        self.assertEqual({'physnet1'}, spec.network_metadata.physnets)

    def test_cards_that_share_something(self) -> None:
        rules = [
            f'{{"numa_node": {node}, "clique": "{clique}"}}'
            for node, clique in ((0, 'none'), (1, 'pair'))
        ]
        tracker = host_tracker(hosts.a100_board(self.fake()), *rules)
        state = self.a100_host(tracker, 0, 4, count=2)
        spec = self.spec(count=2, gpu__topology='nvlink')
        self.assertTrue(self.passes(state, spec))
        self.assertEqual({1}, self.nodes(state))

    def test_servers_on_two_nodes(self) -> None:
        tracker = self.a100_tracker()
        state = self.a100_host(tracker, 0, 0, count=5)
        self.assertFalse(self.passes(state, self.spec(count=5)))
        self.assertTrue(self.passes(state, self.spec(count=5, nodes=2)))
        self.assertEqual({0, 1}, self.nodes(state))

    def test_vgpus_of_near_cards_come_first(self) -> None:
        for affinity in ('required', 'preferred'):
            state = self.t4_host(5, 0)
            spec = self.spec(affinity, resource_class=T4_4Q)
            self.assertTrue(self.passes(state, spec))
            self.assertEqual({1}, self.nodes(state))
            found = self.pools(state)
            self.assertEqual(set(T4[2:]), set(found[:2]))
            self.assertEqual(set(T4), set(found))

    def test_servers_of_one_request_are_held_one_by_one(self) -> None:
        """As Nova's scheduler does it: it reads the limits in the end."""
        for state, name in (
            (self.a100_host(self.a100_tracker(), 0, 0), A100),
            (self.t4_host(0, 0), T4_4Q),
        ):
            left = [state]
            spec = self.spec(resource_class=name, cpus=3)
            chosen, pools = [], []
            for _ in range(4):
                left = self.passing(left, spec)
                chosen.append(left[0])
                pools.append(self.pools(left[0])[0])
                left[0].consume_from_request(spec)
            self.assertEqual([], self.passing(left, spec))
            nodes = [node for state in chosen for node in self.nodes(state)]
            self.assertEqual([0, 0, 1, 1], sorted(nodes))
            if name == T4_4Q:
                self.assertEqual(nodes, [T4.index(p) // 2 for p in pools])

    def test_hosts_of_an_older_release(self) -> None:
        """They don't know our names, and pass without being held."""
        state = self.a100_host(self.a100_tracker(), 0, 0)
        state.numa_topology = objects.NUMATopology.obj_from_db_obj(
            host_topology(0, 0, networks=False)
        )
        self.assertTrue(self.passes(state, self.spec()))


class RefusedTest(NumaTest):
    def test_no_room_where_the_cards_are(self) -> None:
        fake = self.fake()
        for index in range(4):
            hosts.a100(fake, index)
        state = self.a100_host(host_tracker(fake), 5, 0)
        self.assertFalse(self.passes(state, self.spec()))
        self.assertIn(
            'Host gpu1 is refused: has no NUMA node', self.log.output
        )
        self.assertTrue(self.passes(state, self.spec('preferred')))
        self.assertEqual(set(), self.nodes(state))

    def test_more_cards_than_a_node_has(self) -> None:
        state = self.a100_host(self.a100_tracker(), 0, 0, count=5)
        self.assertFalse(self.passes(state, self.spec(count=5)))
        self.assertTrue(self.passes(state, self.spec('preferred', count=5)))

    def test_cards_on_nodes_that_nova_does_not_know(self) -> None:
        fake = self.fake()
        fake.add_gpu('0000:21:00.0', 0x2235, numa_node=2, iommu_group=21)
        name = 'CUSTOM_GPU_NVIDIA_A40'
        state = host_state(
            'gpu1',
            map_text(host_tracker(fake)),
            [candidate('gpu1', ('nvidia_a40', name, 1))],
            numa_topology=host_topology(0, 0),
        )
        spec = self.spec(resource_class=name)
        self.assertFalse(self.passes(state, spec))

    def test_a_map_that_is_full_is_no_reason(self) -> None:
        tracker = self.a100_tracker()
        take(tracker, POOL, A100, 8)
        state = self.a100_host(tracker, 0, 0)
        self.assertTrue(self.passes(state, self.spec()))


class LeftAloneTest(NumaTest):
    """Where there is nothing to hold."""

    def test_servers_that_are_not_fitted_to_nodes(self) -> None:
        state = self.a100_host(self.a100_tracker(), 8, 8)
        spec = self.spec()
        spec.numa_topology = None
        self.assertTrue(self.passes(state, spec))
        self.assertEqual({}, state.limits)

    def test_hosts_of_one_node(self) -> None:
        state = self.a100_host(self.a100_tracker(), 0)
        self.assertTrue(self.passes(state, self.spec()))
        self.assertEqual(set(), self.nodes(state))

    def test_cards_that_are_newer_than_the_map(self) -> None:
        state = self.a100_host(self.a100_tracker(), 0, 0)
        allocations = state.allocation_candidates[0]['allocations']
        (pool,) = set(allocations) - {node_uuid('gpu1')}
        allocations[node_uuid('new')] = allocations.pop(pool)
        self.assertTrue(self.passes(state, self.spec()))
        self.assertEqual(set(), self.nodes(state))

    def test_without_novas_filter(self) -> None:
        for filters in ([GpuFilter()], [GpuFilter(), NUMATopologyFilter()]):
            numa._warn_of_filters.cache_clear()
            self.filters = filters
            for _ in range(2):
                state = self.a100_host(self.a100_tracker(), 0, 0)
                self.assertTrue(self.passes(state, self.spec()))
        said = self.log.output.count('has to name NUMATopologyFilter')
        self.assertEqual(2, said)


class WeigherTest(NumaTest):
    def order(self, states: list[Any], spec: objects.RequestSpec) -> list[str]:
        found = self.passing(states, spec)
        return list(run_weighers([GpuWeigher()], found, spec))

    def test_hosts_without_free_cards_near_come_last(self) -> None:
        far, near = self.a100_tracker(), self.a100_tracker()
        take(far, POOL, A100, 4)  # those of node 0
        states = [
            self.a100_host(far, 0, 5, name='far'),
            self.a100_host(near, 0, 5, name='near'),
        ]
        for affinity, expected in (
            ('required', ['near', 'far']),
            ('preferred', ['near', 'far']),
            ('none', ['far', 'near']),
        ):
            self.assertEqual(expected, self.order(states, self.spec(affinity)))

    def test_others_are_weighed_as_ever(self) -> None:
        some, none = self.a100_tracker(), self.a100_tracker()
        take(some, POOL, A100, 2)
        states = [
            self.a100_host(none, 0, 0, name='none'),
            self.a100_host(some, 0, 0, name='some'),
        ]
        self.assertEqual(['some', 'none'], self.order(states, self.spec()))
        wrong = self.spec()
        wrong.flavor.extra_specs['gpu:display'] = 'yes'
        found = run_weighers([GpuWeigher()], states, wrong)
        self.assertEqual({'none': 0.0, 'some': 0.0}, found)
