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

"""What is explained is what the filter and the weigher do."""

from __future__ import annotations

import dataclasses

import fixtures
import nova.conf
import testtools
from oslo_config import fixture as config_fixture

from nova_gpu import exception
from nova_gpu.model.claim import Want
from nova_gpu.model.expected import mix
from nova_gpu.model.request import GpuRequest
from nova_gpu.scheduler import likely
from nova_gpu.scheduler.explain import Decision, Host, explain, looked_at
from nova_gpu.scheduler.filter import GpuFilter
from nova_gpu.scheduler.maps import NONE, read_map
from nova_gpu.scheduler.weigher import GpuWeigher
from tests.fixtures import hosts
from tests.fixtures.scheduler import (
    host_state,
    host_tracker,
    map_text,
    node_uuid,
    request_spec,
    run_filter,
    run_weighers,
    take,
)
from tests.fixtures.sysfs import FakeSysfs
from tests.unit import base

A40 = 'CUSTOM_GPU_NVIDIA_A40'
A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
T4_4Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q'
T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q'
T4_POOLS = ('0000_3b_00_0', '0000_5e_00_0', '0000_af_00_0', '0000_d8_00_0')


class ExplainTest(testtools.TestCase):
    """Six hosts: A40 near and apart, T4, A100 with and without a guest."""

    def setUp(self) -> None:
        super().setUp()
        trackers = {
            name: host_tracker(self.a40(nodes))
            for name, nodes in (
                ('near', (0, 0, 0, 1)),
                ('apart', (0, 1, 0, 1)),
            )
        }
        trackers['t4'] = host_tracker(hosts.four_t4(self.fake()))
        for name in ('a100', 'a100-used'):
            trackers[name] = host_tracker(hosts.a100_board(self.fake()))
        take(trackers['a100-used'], 'nvidia_a100_sxm4_40gb', A100, 3)
        take(trackers['apart'], 'nvidia_a40', A40, 1)
        take(trackers['t4'], T4_POOLS[0], T4_8Q, 1)
        take(trackers['t4'], T4_POOLS[1], T4_4Q, 1)
        self.maps = {name: map_text(t, 1) for name, t in trackers.items()}
        self.known = [
            Host(name, read_map(node_uuid(name), text), 1)
            for name, text in self.maps.items()
        ]

    def fake(self) -> FakeSysfs:
        return FakeSysfs(self.useFixture(fixtures.TempDir()).path)

    def a40(self, nodes: tuple[int, ...]) -> FakeSysfs:
        fake = self.fake()
        for number, node in enumerate(nodes):
            fake.add_gpu(
                f'0000:{number + 1:02x}:00.0', 0x2235, iommu_group=number,
                numa_node=node,
            )  # fmt: skip
        return fake

    def explained(self, specs: dict[str, str]) -> dict[str, Decision]:
        return {found.host: found for found in explain(self.known, specs)}

    def test_same_as_nova_decides(self) -> None:
        for specs in (
            {f'resources:{A40}': '1'},
            {f'resources:{A40}': '2', 'gpu:topology': 'numa'},
            {f'resources:{A40}': '3', 'gpu:topology': 'numa'},
            {f'resources:{A40}': '3', 'gpu:topology': 'numa:preferred'},
            {f'resources:{A40}': '1', 'gpu:display': 'on'},
            {f'resources:{A100}': '4', 'gpu:topology': 'nvlink'},
            {f'resources:{A100}': '6'},
            {f'resources:{T4_8Q}': '1', 'gpu:display': 'on'},
            {f'resources:{T4_4Q}': '1', 'gpu:vgpu_params': 'a=1'},
            {f'resources1:{T4_4Q}': '2', f'resources2:{T4_8Q}': '1'},
        ):
            wanted = looked_at(self.known, specs)
            asked = likely.parts(specs, wanted)
            states = []
            for host in self.known:
                found = likely.candidates(host.gpus.providers, asked, False)
                if found:
                    text = self.maps[host.name]
                    state = host_state(
                        host.name, text, found, stats={'num_instances': '1'}
                    )
                    states.append(state)
            spec = request_spec(specs)
            passed = run_filter(GpuFilter(), states, spec)
            left = [state for state in states if state.host in passed]
            weighed = run_weighers([GpuWeigher()], left, spec)
            explained = self.explained(specs)
            passing = {
                name: found
                for name, found in explained.items()
                if found.refused_by is None
            }
            self.assertEqual(set(passed), set(passing), specs)
            # Nova doesn't weigh a host that is the only one.
            if len(weighed) > 1:
                self.assertEqual(
                    weighed,
                    {n: 100 * (d.weight or 0) for n, d in passing.items()},
                    specs,
                )
            for state in left:
                first = state.allocation_candidates[0]['allocations']
                known = read_map(node_uuid(state.host), self.maps[state.host])
                self.assertEqual(
                    tuple(known.providers[p].key for p in first),
                    passing[state.host].pools,
                )
            self.assertEqual(
                {s.host for s in states} - set(passed),
                {
                    name
                    for name, found in explained.items()
                    if found.refused_by == 'GpuFilter'
                },
            )

    def test_what_is_expected_decides(self) -> None:
        """As the real weigher, told the same."""
        config = self.useFixture(config_fixture.Config(nova.conf.CONF)).config
        weigher = GpuWeigher()
        specs = {f'resources:{A100}': '3'}
        names = ('a100', 'a100-used')
        states = [host_state(name, self.maps[name]) for name in names]
        firsts = []
        for kinds in (['{"gpus": 5}'], ['{"gpus": 2}'], []):
            config(group='gpu', expected_request=kinds)
            weighed = run_weighers([weigher], states, request_spec(specs))
            found = explain(self.known, specs, mix(tuple(kinds)))[:2]
            self.assertEqual(
                weighed, {d.host: 100 * (d.weight or 0) for d in found}
            )
            self.assertEqual(list(weighed), [d.host for d in found])
            firsts.append(found[0].host)
        self.assertEqual(list(names), firsts[:2])

    def test_cards(self) -> None:
        self.known = [
            Host(h.name, h.gpus, 1, {'nvidia_a40': list('abcd')})
            for h in self.known
        ]
        specs = {f'resources:{A40}': '2', 'gpu:topology': 'numa'}
        found = self.explained(specs)
        self.assertEqual(('a', 'b'), found['near'].cards)
        # One of its cards on node 0 is taken.
        self.assertEqual(('b', 'd'), found['apart'].cards)
        found = self.explained({f'resources:{T4_4Q}': '1'})
        self.assertEqual((T4_POOLS[1],), found['t4'].cards)

    def test_cards_without_addresses(self) -> None:
        specs = {f'resources:{A40}': '2', 'gpu:topology': 'numa'}
        self.assertEqual(
            ('nvidia_a40[0]', 'nvidia_a40[1]'),
            self.explained(specs)['near'].cards,
        )

    def test_linked_cards_that_are_not_free(self) -> None:
        """What passes on an old map may be handed on by the compute node."""
        near = self.known[0].gpus
        providers = {
            uuid: dataclasses.replace(
                pool, used=2, free=(True, False, False, True)
            )
            for uuid, pool in near.providers.items()
        }
        gpus = dataclasses.replace(near, providers=providers)
        specs = {f'resources:{A40}': '2', 'gpu:topology': 'numa'}
        (found,) = explain([Host('near', gpus)], specs)
        self.assertEqual(
            (None, ('nvidia_a40',), ()),
            (found.refused_by, found.pools, found.cards),
        )
        self.assertEqual(
            'no free cards of nvidia_a40 share numa now: nova-compute would '
            'hand the server on',
            found.reason,
        )

    def test_partitions(self) -> None:
        name = 'nvidia_a100_sxm4_40gb'
        tracker = host_tracker(hosts.divided_a100_board(self.fake()))
        gpus = read_map(node_uuid('divided'), map_text(tracker))

        def explained(count: int) -> Decision:
            specs = {f'resources:{A100}': str(count)}
            (found,) = explain([Host('divided', gpus)], specs)
            return found

        found = explained(8)
        self.assertEqual((8, None), (len(found.cards), found.reason))
        found = explained(2)
        self.assertEqual((None, ()), (found.refused_by, found.cards))
        self.assertEqual(
            f'the map does not tell which cards of {name} make up a '
            f'partition of 2',
            found.reason,
        )
        providers = {
            uuid: dataclasses.replace(pool, used=4, free_sizes=(1,))
            for uuid, pool in gpus.providers.items()
        }
        gpus = dataclasses.replace(gpus, providers=providers)
        found = explained(2)
        self.assertEqual((None, ()), (found.refused_by, found.cards))
        self.assertEqual(
            f'no partition of 2 in {name} is free now: nova-compute would '
            f'hand the server on',
            found.reason,
        )

    def test_isolation_that_closes_all_cards(self) -> None:
        tracker = host_tracker(hosts.four_t4(self.fake()))
        for number, pool in enumerate(T4_POOLS):
            tracker.claim(
                base.instance(number),
                [Want(pool, T4_4Q, 1)],
                GpuRequest({}, isolation='project'),
                project='p',
            )
        gpus = read_map(node_uuid('t4'), map_text(tracker))
        (found,) = explain([Host('t4', gpus)], {f'resources:{T4_4Q}': '1'})
        self.assertEqual((None, ()), (found.refused_by, found.cards))
        self.assertIn('isolation closes the card of', str(found.reason))

    def test_order_and_reasons(self) -> None:
        found = explain(self.known, {f'resources:{A100}': '6'})
        self.assertEqual(
            [
                ('a100', None, None),
                ('a100-used', 'Placement',
                 f'asks for 6 {A100}, and has 5 free'),
                ('apart', 'Placement', f'none of its GPUs gives {A100}'),
                ('near', 'Placement', f'none of its GPUs gives {A100}'),
                ('t4', 'Placement', f'none of its GPUs gives {A100}'),
            ],
            [(d.host, d.refused_by, d.reason) for d in found],
        )  # fmt: skip
        found = explain(self.known, {f'resources:{A100}': '2'})
        self.assertEqual(['a100-used', 'a100'], [d.host for d in found[:2]])
        found = explain(
            self.known, {f'resources:{A40}': '2', 'gpu:topology': 'switch'}
        )
        self.assertEqual(
            ('near', 'GpuFilter',
             'gpu:topology wants 2 cards that share switch, and it has no '
             'such'),
            (found[1].host, found[1].refused_by, found[1].reason),
        )  # fmt: skip

    def test_host_without_gpus(self) -> None:
        (found,) = explain([Host('none', NONE)], {f'resources:{A40}': '1'})
        self.assertEqual('Placement', found.refused_by)

    def test_classes_that_are_of_no_gpu(self) -> None:
        specs = {f'resources:{A40}': '1', 'resources1:CUSTOM_FPGA': '1'}
        self.assertEqual({A40}, looked_at(self.known, specs))
        self.assertIsNone(self.explained(specs)['near'].refused_by)

    def test_wrong_extra_spec(self) -> None:
        self.assertRaises(
            exception.InvalidExtraSpec,
            explain, self.known, {f'resources:{A40}': '1', 'gpu:x': '1'},
        )  # fmt: skip
        self.assertRaises(
            exception.InvalidExtraSpec,
            explain, self.known, {f'resources:{A40}': 'two'},
        )  # fmt: skip
