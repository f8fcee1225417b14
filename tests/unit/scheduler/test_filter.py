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

"""GpuFilter under Nova's own filter handler."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import fixtures
import testtools
from nova.scheduler import filters as nova_filters
from nova.scheduler import host_manager

from nova_gpu.model.hostmap import STATS_KEY
from nova_gpu.scheduler.filter import GpuFilter
from nova_gpu.scheduler.refusals import tell_refused
from tests.fixtures import fmpm, hosts
from tests.fixtures.scheduler import (
    candidate,
    host_state,
    host_tracker,
    map_text,
    request_spec,
    run_filter,
    take,
)
from tests.fixtures.sysfs import FakeSysfs

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
T4_4Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q'
T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q'
T4_POOLS = ('0000_3b_00_0', '0000_5e_00_0', '0000_af_00_0', '0000_d8_00_0')


class FilterTest(testtools.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.filter = GpuFilter()
        self.log = self.useFixture(
            fixtures.FakeLogger('nova_gpu', level=logging.DEBUG)
        )

    def fake(self) -> FakeSysfs:
        return FakeSysfs(self.useFixture(fixtures.TempDir()).path)

    def a100_map(self, *rules: str) -> str:
        return map_text(host_tracker(hosts.a100_board(self.fake()), *rules))

    def t4_map(self, *rules: str) -> str:
        return map_text(host_tracker(hosts.four_t4(self.fake()), *rules))

    def passing(self, specs: dict[str, str], *states: Any) -> list[str]:
        return run_filter(self.filter, list(states), request_spec(specs))

    def a100_host(self, name: str, text: str) -> Any:
        found = [candidate(name, ('nvidia_a100_sxm4_40gb', A100, 1))]
        return host_state(name, text, found)

    def t4_host(
        self, name: str, text: str, resource_class: str = T4_4Q, **kwargs: Any
    ) -> Any:
        found = [
            candidate(name, (pool, resource_class, 1)) for pool in T4_POOLS
        ]
        return host_state(name, text, found, **kwargs)


class PartitionTest(FilterTest):
    """A board whose NVSwitches are divided."""

    def host(self, count: int, *active: int) -> Any:
        fake = hosts.divided_a100_board(self.fake())
        with fmpm.changing(fake.fabric) as fabric:
            fabric.active = [*active]
        text = map_text(host_tracker(fake))
        pool = ('nvidia_a100_sxm4_40gb', A100, count)
        return host_state('gpu1', text, [candidate('gpu1', pool)])

    def test_sizes_that_there_are(self) -> None:
        for count in range(1, 9):
            specs = {f'resources:{A100}': str(count)}
            expected = ['gpu1'] if count in (1, 2, 4, 8) else []
            self.assertEqual(
                expected, self.passing(specs, self.host(count)), count
            )
        self.assertIn(
            'wants 3 cards of pool nvidia_a100_sxm4_40gb, whose NVSwitches '
            'have partitions of 1, 2, 4, 8', self.log.output,
        )  # fmt: skip

    def test_what_is_in_use_may_have_changed(self) -> None:
        specs = {
            f'resources:{A100}': '8',
            'gpu:topology': 'nvlink:required',
        }
        self.assertEqual(['gpu1'], self.passing(specs, self.host(8, 7, 8)))


class PassingTest(FilterTest):
    def test_nova_finds_the_filter_by_its_path(self) -> None:
        found = nova_filters.HostFilterHandler().get_matching_classes(
            ['nova_gpu.scheduler.filter.GpuFilter']
        )
        self.assertEqual([GpuFilter], found)

    def test_a_request_without_gpus_looks_at_no_host(self) -> None:
        # Objects without any attribute: one look would raise.
        states = [object(), object()]
        spec = request_spec({'hw:cpu_policy': 'dedicated'})
        passed = self.filter.filter_all(states, spec)
        self.assertEqual(states, list(passed))

    def test_standard_resources_are_no_gpus(self) -> None:
        states = [object()]
        spec = request_spec({'resources:VCPU': '0', 'resources1:PCPU': '4'})
        self.assertEqual(states, list(self.filter.filter_all(states, spec)))

    def test_the_flavor_is_read_once_for_all_hosts(self) -> None:
        reads = []

        class Counting(dict[str, str]):
            def items(self) -> Any:
                reads.append(self)
                return super().items()

        text = self.a100_map()
        states = [self.a100_host(f'gpu{n}', text) for n in range(5)]
        spec = request_spec({})
        spec.flavor.extra_specs = {f'resources:{A100}': '1'}
        counting = Counting(spec.flavor.extra_specs)
        # An object's field would copy it into a plain dict.
        spec.flavor._obj_extra_specs = counting
        self.assertEqual(5, len(run_filter(self.filter, states, spec)))
        self.assertEqual(1, len(reads))

    def test_a_rebuild_stays_where_it_is(self) -> None:
        # Even if its flavor would be refused today; Nova gives no candidates.
        spec = request_spec(
            {f'resources:{A100}': '1', 'gpu:display': 'yes'},
            scheduler_hints={'_nova_check_type': ['rebuild']},
        )
        state = host_state('gpu1', self.a100_map())
        state.allocation_candidates = None
        self.assertEqual(['gpu1'], run_filter(self.filter, [state], spec))

    def test_a_host_without_a_map_passes(self) -> None:
        specs = {f'resources:{A100}': '1', 'gpu:numa_affinity': 'required'}
        state = self.a100_host('gpu1', '')
        state.stats.pop(STATS_KEY, None)
        self.assertEqual(['gpu1'], self.passing(specs, state))

    def test_a_host_that_never_reported_passes(self) -> None:
        state = host_manager.HostState('new', 'new', 'cell')
        specs = {f'resources:{A100}': '1', 'gpu:display': 'on'}
        self.assertEqual(['new'], self.passing(specs, state))

    def test_other_custom_resources_pass(self) -> None:
        state = self.a100_host('gpu1', self.a100_map())
        specs = {'resources:CUSTOM_FPGA': '1', 'gpu:display': 'on'}
        self.assertEqual(['gpu1'], self.passing(specs, state))

    def test_no_candidates_left_is_not_ours_to_judge(self) -> None:
        state = self.a100_host('gpu1', self.a100_map())
        state.allocation_candidates = []
        specs = {f'resources:{A100}': '1', 'gpu:display': 'on'}
        self.assertEqual(['gpu1'], self.passing(specs, state))
        self.assertEqual([], state.allocation_candidates)

    def test_host_passes_decides_as_the_handler_does(self) -> None:
        state = self.a100_host('gpu1', self.a100_map())
        plain = request_spec({f'resources:{A100}': '1'})
        screen = request_spec({f'resources:{A100}': '1', 'gpu:display': 'on'})
        self.assertTrue(self.filter.host_passes(state, plain))
        self.assertFalse(self.filter.host_passes(state, screen))


class RefusingTest(FilterTest):
    def test_a_display_needs_a_vgpu(self) -> None:
        states = [
            self.a100_host(
                'gpu1', self.a100_map('{"resource_class": "VGPU"}')
            ),
            self.t4_host('gpu2', self.t4_map('{"resource_class": "VGPU"}')),
        ]
        states[0].allocation_candidates = [
            candidate('gpu1', ('nvidia_a100_sxm4_40gb', 'VGPU', 1))
        ]
        specs = {'resources:VGPU': '1', 'gpu:display': 'on'}
        self.assertEqual(['gpu2'], self.passing(specs, *states))
        self.assertIn(
            'Host gpu1 is refused: gpu:display=on needs a vGPU, and the GPUs '
            'that it would give are whole cards',
            self.log.output,
        )
        self.assertNotIn('gpu2', self.log.output)

    def test_parameters_need_a_vgpu(self) -> None:
        state = self.a100_host('gpu1', self.a100_map())
        specs = {f'resources:{A100}': '1', 'gpu:vgpu_params': 'a=1'}
        self.assertEqual([], self.passing(specs, state))
        self.assertIn(
            'Host gpu1 is refused: gpu:vgpu_params needs a vGPU',
            self.log.output,
        )

    def test_a_vgpu_beside_a_whole_card_shows_the_screen(self) -> None:
        fake = hosts.four_t4(hosts.a100_board(self.fake()))
        found = [
            candidate(
                'gpu1',
                ('nvidia_a100_sxm4_40gb', A100, 1),
                (T4_POOLS[0], T4_4Q, 1),
            )
        ]
        state = host_state('gpu1', map_text(host_tracker(fake)), found)
        specs = {
            f'resources1:{A100}': '1',
            f'resources_GPU:{T4_4Q}': '1',
            'gpu:display': 'on',
        }
        self.assertEqual(['gpu1'], self.passing(specs, state))

    def test_candidates_that_can_not_work_are_dropped(self) -> None:
        rule = '{"resource_class": "VGPU"}'
        fake = hosts.four_t4(hosts.a100_board(self.fake()))
        whole = candidate('gpu1', ('nvidia_a100_sxm4_40gb', 'VGPU', 1))
        vgpu = candidate('gpu1', (T4_POOLS[2], 'VGPU', 1))
        state = host_state(
            'gpu1', map_text(host_tracker(fake, rule)), [whole, vgpu]
        )
        specs = {'resources:VGPU': '1', 'gpu:display': 'on'}
        self.assertEqual(['gpu1'], self.passing(specs, state))
        self.assertEqual([vgpu], state.allocation_candidates)

    def test_topology_that_the_host_does_not_have(self) -> None:
        """Whether such cards are free may have changed since."""
        near = self.fake()
        apart = self.fake()
        for index in range(4):
            for fake, node in ((near, index // 3), (apart, index // 2)):
                fake.add_gpu(
                    f'0000:{index:02x}:00.0', 0x2235, iommu_group=index,
                    numa_node=node,
                )  # fmt: skip
        a40 = 'CUSTOM_GPU_NVIDIA_A40'
        for level, count, expected in (
            ('numa', 2, ['apart', 'near']),
            ('numa', 3, ['near']),
            ('numa:preferred', 3, ['apart', 'near']),
            ('switch', 2, []),
            ('any', 4, ['apart', 'near']),
        ):
            states = []
            for name, fake in (('apart', apart), ('near', near)):
                tracker = host_tracker(fake)
                take(tracker, 'nvidia_a40', a40, 1)
                found = [candidate(name, ('nvidia_a40', a40, count))]
                states.append(host_state(name, map_text(tracker), found))
            specs = {f'resources:{a40}': str(count), 'gpu:topology': level}
            self.assertEqual(expected, self.passing(specs, *states))
        self.assertIn(
            'Host apart is refused: gpu:topology wants 2 cards that share '
            'switch, and it has no such',
            self.log.output,
        )

    def test_topology_is_no_question_of_vgpus(self) -> None:
        # Those of one provider are on one card.
        specs = {f'resources:{T4_4Q}': '2', 'gpu:topology': 'nvlink'}
        state = self.t4_host('gpu1', self.t4_map())
        state.allocation_candidates = [
            candidate('gpu1', (T4_POOLS[0], T4_4Q, 2))
        ]
        self.assertEqual(['gpu1'], self.passing(specs, state))

    def test_a_provider_newer_than_the_map_is_trusted(self) -> None:
        new = candidate('gpu1', ('0000_99_00_0', A100, 1))
        state = host_state('gpu1', self.a100_map(), [new])
        specs = {f'resources:{A100}': '1', 'gpu:display': 'on'}
        self.assertEqual(['gpu1'], self.passing(specs, state))

    def test_a_wrong_flavor_is_refused_once_for_all_hosts(self) -> None:
        text = self.a100_map()
        states = [self.a100_host(f'gpu{n}', text) for n in range(3)]
        specs = {f'resources:{A100}': '1', 'gpu:display': 'yes'}
        self.assertEqual([], self.passing(specs, *states))
        self.assertEqual(
            "Flavor gpu.small is refused: gpu:display='yes' is not valid; "
            'allowed: on, off\n',
            self.log.output,
        )

    def test_policy_without_a_gpu_is_refused(self) -> None:
        state = self.a100_host('gpu1', self.a100_map())
        self.assertEqual([], self.passing({'gpu:display': 'on'}, state))
        self.assertIn(
            'Flavor gpu.small is refused: it has gpu: extra specs, but no '
            'resources: extra spec asks for a GPU',
            self.log.output,
        )


class TellingTest(FilterTest):
    """What the scheduler's log says at INFO, which is what is turned on."""

    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(
            fixtures.FakeLogger('nova_gpu', level=logging.INFO)
        )
        self.specs = {f'resources:{A100}': '1', 'gpu:display': 'on'}

    def tell(self, count: int, *more: Any) -> list[str]:
        text = self.a100_map()
        states = [self.a100_host(f'gpu{n}', text) for n in range(count)]
        spec = request_spec(self.specs)
        run_filter(self.filter, [*states, *more], spec)
        self.summary = (
            f'for instance {spec.instance_uuid}, flavor gpu.small: '
            f'gpu:display=on needs a vGPU, and the GPUs that it would give '
            f'are whole cards'
        )
        return self.log.output.splitlines()

    def test_all_refused(self) -> None:
        lines = self.tell(2)
        reason = self.summary.partition('gpu.small: ')[2]
        self.assertEqual(
            [
                f'Host gpu0 is refused: {reason}',
                f'Host gpu1 is refused: {reason}',
                f'Refused 2 of 2 hosts {self.summary} (gpu0, gpu1)',
            ],
            lines,
        )

    def test_some_pass(self) -> None:
        """One line: whoever wants to know of each host turns on debug."""
        other = self.t4_host('other', self.t4_map())
        lines = self.tell(2, other)
        self.assertEqual(
            [f'Refused 2 of 3 hosts {self.summary} (gpu0, gpu1)'], lines
        )

    def test_a_cloud_full(self) -> None:
        lines = self.tell(500)
        self.assertEqual(21, len(lines))
        self.assertEqual(
            f'Refused 500 of 500 hosts {self.summary} (gpu0, gpu1, gpu2 and '
            f'497 more)',
            lines[-1],
        )

    def test_nothing_refused(self) -> None:
        self.specs = {f'resources:{A100}': '1'}
        self.assertEqual([], self.tell(2))

    def test_many_reasons(self) -> None:
        refused = {f'gpu{n}': f'reason {n // 2}' for n in range(15)}
        tell_refused(
            logging.getLogger('nova_gpu.x'), request_spec({}), refused, 1
        )
        (line,) = self.log.output.splitlines()
        self.assertIn('reason 0 (gpu0, gpu1); reason 1 (gpu2, gpu3); ', line)
        self.assertTrue(line.endswith('; 3 other reasons'), line)


class OrderTest(FilterTest):
    """The first candidate is the one that Nova claims."""

    def pools(self, state: Any) -> list[str]:
        """The cards in the order of the host's candidates."""
        by_uuid = {
            provider: pool
            for pool in T4_POOLS
            for provider in candidate(state.host, (pool, 'X', 1))[
                'allocations'
            ]
        }
        return [
            by_uuid[list(found['allocations'])[-1]]
            for found in state.allocation_candidates
        ]

    def order(
        self, text: str, resource_class: str, name: str = 'gpu1', **kwargs: Any
    ) -> list[str]:
        state = self.t4_host(name, text, resource_class, **kwargs)
        specs = {f'resources:{resource_class}': '1'}
        self.assertEqual([name], self.passing(specs, state))
        return self.pools(state)

    def test_the_fullest_card_of_the_profile_first_others_last(self) -> None:
        tracker = host_tracker(hosts.four_t4(self.fake()))
        take(tracker, T4_POOLS[0], T4_8Q, 1)
        take(tracker, T4_POOLS[1], T4_4Q, 1)
        take(tracker, T4_POOLS[2], T4_4Q, 1)
        take(tracker, T4_POOLS[2], T4_4Q, 1)
        ordered = self.order(map_text(tracker), T4_4Q)
        self.assertEqual(
            [T4_POOLS[2], T4_POOLS[1], T4_POOLS[3], T4_POOLS[0]], ordered
        )

    def test_the_fullest_pool_of_whole_cards_first(self) -> None:
        rule = '{"resource_class": "PGPU"}'
        fake = hosts.a100_board(self.fake())
        fake.add_gpu('0000:e1:00.0', 0x2235, iommu_group=90)
        fake.add_gpu('0000:e2:00.0', 0x2235, iommu_group=91)
        tracker = host_tracker(fake, rule)
        take(tracker, 'nvidia_a40', 'PGPU', 1)
        found = [
            candidate('gpu1', ('nvidia_a100_sxm4_40gb', 'PGPU', 1)),
            candidate('gpu1', ('nvidia_a40', 'PGPU', 1)),
        ]
        state = host_state('gpu1', map_text(tracker), list(found))
        self.assertEqual(
            ['gpu1'], self.passing({'resources1:PGPU': '1'}, state)
        )
        self.assertEqual(found[::-1], state.allocation_candidates)

    def test_profiles_spread_over_empty_cards(self) -> None:
        text = self.t4_map()
        first = {
            (name, resource_class): self.order(text, resource_class, name)[0]
            for name in map('gpu{}'.format, range(20))
            for resource_class in (T4_4Q, T4_8Q)
        }
        apart = sum(
            first[f'gpu{n}', T4_4Q] != first[f'gpu{n}', T4_8Q]
            for n in range(20)
        )
        # By chance 15 of 20; without the profile in the hash none.
        self.assertGreater(apart, 9)

    def test_the_same_state_gives_the_same_order(self) -> None:
        # Two vGPUs from two cards: every pair, in whatever order.
        text = self.t4_map()
        pairs = list(itertools.permutations(T4_POOLS, 2))
        orders = []
        for chosen in (
            [(a, b) for a, b in pairs if a < b],
            [(a, b) for a, b in pairs[::-1] if a > b],
        ):
            found = [
                candidate('gpu1', *((pool, T4_4Q, 1) for pool in pair))
                for pair in chosen
            ]
            state = host_state('gpu1', text, found)
            specs = {f'resources1:{T4_4Q}': '1', f'resources2:{T4_4Q}': '1'}
            self.assertEqual(['gpu1'], self.passing(specs, state))
            orders.append(
                [
                    frozenset(c['allocations'])
                    for c in state.allocation_candidates
                ]
            )
        self.assertEqual(*orders)

    def test_many_servers_of_one_request_fill_card_after_card(self) -> None:
        # Nova claims the first candidate for each and tries no other.
        state = self.t4_host('gpu1', self.t4_map(), T4_8Q)
        spec = request_spec({f'resources:{T4_8Q}': '1'})
        chosen = []
        for _ in range(8):
            self.assertEqual(['gpu1'], run_filter(self.filter, [state], spec))
            chosen.append(self.pools(state)[0])
            state.consume_from_request(spec)
        self.assertEqual(chosen[::2], chosen[1::2])
        self.assertEqual(set(T4_POOLS), set(chosen))

    def test_reserved_units_are_promised_to_nobody(self) -> None:
        text = self.t4_map('{"reserved": 1}')
        state = self.t4_host('gpu1', text, T4_8Q)
        spec = request_spec({f'resources:{T4_8Q}': '1'})
        chosen = []
        for _ in range(4):
            run_filter(self.filter, [state], spec)
            chosen.append(self.pools(state)[0])
            state.consume_from_request(spec)
        self.assertEqual(sorted(T4_POOLS), sorted(chosen))

    def test_with_an_old_map_each_server_gets_a_card_of_its_own(self) -> None:
        # The host has an instance more than when it made the map: one of
        # the cards may hold a unit that the map doesn't show.
        tracker = host_tracker(hosts.four_t4(self.fake()))
        state = self.t4_host(
            'gpu1', map_text(tracker, 2), T4_8Q, stats={'num_instances': '3'}
        )
        spec = request_spec({f'resources:{T4_8Q}': '1'})
        chosen = []
        for _ in range(4):
            run_filter(self.filter, [state], spec)
            chosen.append(self.pools(state)[0])
            state.consume_from_request(spec)
        self.assertEqual(sorted(T4_POOLS), sorted(chosen))
