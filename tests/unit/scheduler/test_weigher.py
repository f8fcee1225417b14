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

"""The weighers under Nova's own weight handler."""

from __future__ import annotations

import fixtures
import nova.conf
import testtools
from nova import objects
from nova.scheduler import weights as nova_weights
from oslo_config import fixture as config_fixture

from nova_gpu import exception
from nova_gpu.scheduler.weigher import GpuAvoidWeigher, GpuWeigher
from tests.fixtures import hosts
from tests.fixtures.scheduler import (
    host_state,
    host_tracker,
    map_text,
    request_spec,
    run_weighers,
    take,
)
from tests.fixtures.sysfs import FakeSysfs

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
POOL = 'nvidia_a100_sxm4_40gb'
T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q'


class WeigherTest(testtools.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.config = self.useFixture(
            config_fixture.Config(nova.conf.CONF)
        ).config
        # Options are registered by the weighers themselves.
        self.weighers = [GpuWeigher(), GpuAvoidWeigher()]

    def fake(self) -> FakeSysfs:
        return FakeSysfs(self.useFixture(fixtures.TempDir()).path)

    def a100_map(self, used: int, *rules: str) -> str:
        tracker = host_tracker(hosts.a100_board(self.fake()), *rules)
        if used:
            (name,) = tracker.view().pools[0].inventories
            take(tracker, POOL, name, used)
        return map_text(tracker)

    def states(self, rule: str = '{"use": "passthrough"}') -> list[object]:
        """Hosts without GPUs, with free, with some and with most in use."""
        return [
            host_state('plain'),
            host_state('free', self.a100_map(0, rule)),
            host_state('some', self.a100_map(2, rule)),
            host_state('most', self.a100_map(6, rule)),
        ]

    def weigh(
        self, states: list[object], **extra_specs: str
    ) -> dict[str, float]:
        specs = {k.replace('__', ':'): v for k, v in extra_specs.items()}
        return run_weighers(self.weighers, states, request_spec(specs))

    def test_nova_finds_both_by_their_paths(self) -> None:
        module = 'nova_gpu.scheduler.weigher'
        found = nova_weights.HostWeightHandler().get_matching_classes(
            [f'{module}.GpuWeigher', f'{module}.GpuAvoidWeigher']
        )
        self.assertEqual([GpuWeigher, GpuAvoidWeigher], found)

    def test_requests_for_gpus_go_where_least_is_lost(self) -> None:
        weights = self.weigh(self.states(), **{f'resources__{A100}': '1'})
        self.assertEqual(['most', 'some', 'free', 'plain'], list(weights))
        # Of four free cards one or two break what four could have had.
        odd, even = (
            host_state(name, self.a100_map(used, '{"use": "passthrough"}'))
            for name, used in (('odd', 5), ('even', 4))
        )
        for count in ('1', '2'):
            weights = self.weigh([even, odd], **{f'resources__{A100}': count})
            self.assertEqual('odd', next(iter(weights)), count)

    def test_of_equal_hosts_the_fuller_one(self) -> None:
        rule = '{"use": "passthrough", "resource_class": "PGPU"}'
        states = [
            host_state('most', self.a100_map(7, rule)),
            host_state('empty', self.a100_map(0, rule)),
        ]
        self.config(
            group='gpu', expected_request=['{"gpus": 1}'],
            weight_multiplier=1.0,
        )  # fmt: skip
        weights = self.weigh(states, resources__PGPU='1')
        self.assertEqual({'most': 1000.4375, 'empty': 1000.0}, weights)

    def test_what_is_expected_decides(self) -> None:
        states = [
            host_state(name, self.a100_map(used, '{"use": "passthrough"}'))
            for name, used in (('five', 3), ('two', 6))
        ]
        for kinds, first in (
            (['{"gpus": 2}'], 'five'),
            (['{"gpus": 5}'], 'two'),
        ):
            self.config(group='gpu', expected_request=kinds)
            weights = self.weigh(states, **{f'resources__{A100}': '1'})
            self.assertEqual(first, next(iter(weights)), kinds)

    def test_cpus_and_memory_that_run_out_beside_gpus(self) -> None:
        text = self.a100_map(4, '{"use": "passthrough"}')
        for kind, few in (
            ('{"vcpus": 4}', {'vcpus': 4}),
            ('{"memory_mib": 1024}', {'memory_mb': 1024}),
        ):
            free = {'free_ram_mb': few.get('memory_mb', 1048576)}
            states = [
                host_state('ample', text),
                host_state('few', text, **few, **free),
            ]
            self.config(group='gpu', expected_request=[])
            weights = self.weigh(states, **{f'resources__{A100}': '1'})
            self.assertEqual(weights['ample'], weights['few'])
            self.config(group='gpu', expected_request=[kind])
            weights = self.weigh(states, **{f'resources__{A100}': '1'})
            self.assertGreater(weights['ample'], weights['few'])

    def test_a_wrong_kind_stops_the_scheduler(self) -> None:
        self.config(group='gpu', expected_request=['{"gpus": 0}'])
        error = self.assertRaises(exception.InvalidExpected, GpuWeigher)
        self.assertIn("expected_request 1, field 'gpus': 0 ", str(error))

    def test_cards_that_make_up_no_partition(self) -> None:
        """A full host comes after an empty one if it can't serve."""
        tracker = host_tracker(hosts.divided_a100_board(self.fake()))
        for count in (1, 2, 4):
            take(tracker, POOL, A100, count)
        divided = host_state('divided', map_text(tracker))
        states = [divided, host_state('some', self.a100_map(2))]
        for count, first in (('1', 'divided'), ('2', 'some')):
            weights = self.weigh(states, **{f'resources__{A100}': count})
            self.assertEqual(first, next(iter(weights)), count)

    def test_requests_without_gpus_keep_off_gpu_hosts(self) -> None:
        weights = self.weigh(self.states(), hw__cpu_policy='dedicated')
        self.assertEqual('plain', next(iter(weights)))
        self.assertEqual(
            {100.0}, {weights['plain'] - weights[n] for n in ('free', 'most')}
        )

    def test_vgpus_go_to_cards_that_are_cut_so(self) -> None:
        trackers = [host_tracker(hosts.four_t4(self.fake())) for _ in range(3)]
        for card in ('0000_3b_00_0', '0000_5e_00_0'):
            take(trackers[1], card, T4_8Q, 2)
        states = [
            host_state(name, map_text(tracker))
            for name, tracker in zip(('empty', 'half'), trackers, strict=False)
        ]
        weights = self.weigh(states, **{f'resources__{T4_8Q}': '1'})
        # The cards in use are full: on both hosts an empty one is cut.
        self.assertEqual(['half', 'empty'], list(weights))
        take(trackers[0], '0000_3b_00_0', T4_8Q, 1)
        states[1:] = [host_state('part', map_text(trackers[0]))]
        states.insert(0, host_state('empty', map_text(trackers[2])))
        weights = self.weigh(states, **{f'resources__{T4_8Q}': '1'})
        self.assertEqual('part', next(iter(weights)))

    def test_other_gpus_than_the_wanted_keep_the_host_off(self) -> None:
        tracker = host_tracker(hosts.four_t4(self.fake()))
        take(tracker, '0000_3b_00_0', T4_8Q, 2)
        states = [
            host_state('t4', map_text(tracker)),
            host_state('a100', self.a100_map(1)),
        ]
        weights = self.weigh(states, **{f'resources__{A100}': '1'})
        self.assertGreater(weights['a100'], weights['t4'])
        self.assertEqual(-100.0, weights['t4'])

    def test_classes_that_a_rule_names(self) -> None:
        for name in ('VGPU', 'PGPU', 'CUSTOM_GPU_GOLD'):
            states = self.states(f'{{"resource_class": "{name}"}}')
            for key in ('resources', 'resources1', 'resources_GPU'):
                weights = self.weigh(states, **{f'{key}__{name}': '1'})
                self.assertEqual(['most', 'some'], list(weights)[:2])

    def test_hosts_with_free_cards_that_share_what_is_asked(self) -> None:
        off = '{"clique": "none"}'
        trackers = {}
        for name in ('one left of each', 'two of one node', 'empty'):
            trackers[name] = host_tracker(hosts.a100_board(self.fake()), off)
        for tracker, count in (
            (trackers['one left of each'], 3),
            (trackers['one left of each'], 3),
            (trackers['two of one node'], 4),
            (trackers['two of one node'], 2),
        ):
            take(tracker, POOL, A100, count)
        states = [
            host_state(name, map_text(tracker))
            for name, tracker in trackers.items()
        ]
        specs = {f'resources__{A100}': '2'}
        found = self.weigh(states, **specs)
        self.assertEqual(found['one left of each'], found['two of one node'])
        for level in ('numa', 'numa:preferred'):
            found = self.weigh(states, **specs, gpu__topology=level)
            self.assertEqual(
                ['two of one node', 'empty', 'one left of each'],
                sorted(found, key=lambda name: -found[name]),
            )

    def test_multipliers(self) -> None:
        self.config(
            group='gpu', weight_multiplier=-2.0,
            avoid_weight_multiplier=0.0,
        )  # fmt: skip
        weights = self.weigh(self.states(), **{f'resources__{A100}': '1'})
        self.assertEqual(['plain', 'free', 'some', 'most'], list(weights))
        weights = self.weigh(self.states())
        self.assertEqual({0.0}, set(weights.values()))

    def test_metadata_of_an_aggregate_override_the_multipliers(self) -> None:
        metadata = {
            'gpu_weight_multiplier': '8',
            'gpu_avoid_weight_multiplier': '7',
        }
        aggregate = objects.Aggregate(metadata=metadata)
        text = self.a100_map(4)
        states = [
            host_state('plain'),
            host_state('gpus', text),
            host_state('own', text, aggregates=[aggregate]),
        ]
        weights = self.weigh(states, **{f'resources__{A100}': '1'})
        self.assertEqual(['gpus', 'own', 'plain'], list(weights))
        self.assertEqual(weights['gpus'] / 100.0, weights['own'] / 8.0)
        weights = self.weigh(states)
        self.assertEqual({'plain': 0.0, 'own': -7.0, 'gpus': -100.0}, weights)

    def test_one_host_alone_is_weighed_as_among_others(self) -> None:
        (state,) = self.states()[3:]
        spec = request_spec({f'resources:{A100}': '1'})
        gpu, avoid = self.weighers
        weights = self.weigh(self.states(), **{f'resources__{A100}': '1'})
        self.assertEqual(
            weights['most'], 100.0 * gpu._weigh_object(state, spec)
        )
        self.assertEqual(-1.0, avoid._weigh_object(state, request_spec({})))
