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


"""The GPU map that hosts report to schedulers."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from nova_gpu import exception
from nova_gpu.model import hostmap
from nova_gpu.model.claim import Want
from nova_gpu.model.hostmap import HostMap, PoolState
from nova_gpu.model.isolation import digest
from nova_gpu.model.request import ISOLATION, PROJECT, SHARED, GpuRequest
from nova_gpu.model.topology import TIES
from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeType
from tests.unit import base

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
T4_4Q, T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q', 'CUSTOM_VGPU_NVIDIA_T4_8Q'
#: What may be in compute_nodes.stats for one host, in bytes.
LIMIT = 8 * 1024

names = st.text('ABC_19', min_size=1, max_size=6)
counts = st.integers(0, 64)


@st.composite
def pools(draw: st.DrawFn) -> PoolState:
    totals = draw(st.dictionaries(names, counts, max_size=8))
    active = st.sampled_from(sorted(totals)) if totals else st.none()
    return PoolState(
        key=draw(names),
        mechanism=draw(st.sampled_from(['whole', 'mdev', 'acme'])),
        totals=totals,
        used=draw(counts),
        reserved=draw(counts),
        numa_nodes=tuple(draw(st.lists(st.integers(-1, 7), max_size=8))),
        active=draw(st.none() | active),
        display=draw(st.booleans()),
        params=draw(st.booleans()),
        project=draw(st.none() | st.sampled_from(('', digest('p')))),
        isolation=draw(st.sampled_from(ISOLATION)),
    )


maps = st.builds(
    HostMap, st.lists(pools(), max_size=6).map(tuple), st.none() | counts
)
things = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from('kmctunardpwx'), inner)
    ),
    max_leaves=12,
)


class FormatTest(base.HostTest):
    """What is written is read back; anything else is refused."""

    @given(maps)
    def test_round_trip(self, found: HostMap) -> None:
        self.assertEqual(found, HostMap.load(found.dump()))

    @given(maps)
    def test_ascii_on_one_line(self, found: HostMap) -> None:
        self.assertTrue(found.dump().isascii())
        self.assertNotIn('\n', found.dump())

    def refusal(self, text: str) -> str:
        error = self.assertRaises(exception.InvalidHostMap, HostMap.load, text)
        return str(error)

    def test_other_version(self) -> None:
        message = self.refusal(json.dumps({'v': 99, 'pools': []}))
        self.assertIn('version 99', message)
        self.assertIn(f'reads {hostmap.VERSION}', message)

    @given(maps, st.data())
    def test_cut_as_mysql_does(self, found: HostMap, data: Any) -> None:
        text = found.dump()
        self.refusal(text[: data.draw(st.integers(0, len(text) - 1))])

    def test_not_a_map(self) -> None:
        whole = {'v': 1, 'c': ['A'], 'p': []}
        pool = {'k': 'x', 'm': 'whole', 'c': '0', 't': [1], 'u': 0, 'n': []}
        self.assertEqual('x', self.load(whole, pool).pools[0].key)
        for broken in (
            {'c': 7}, {'c': '1'}, {'c': '0-9'}, {'c': 'x'}, {'t': []},
            {'t': 1}, {'u': None}, {'n': 3}, {'a': 7}, {'a': 'A'},
            {'u': float('inf')}, {'u': float('nan')}, {'r': []},
            {'x': 3}, {'x': 'exclusive'},
        ):  # fmt: skip
            self.refusal(json.dumps({**whole, 'p': [{**pool, **broken}]}))
        for field in pool:
            rest = {k: v for k, v in pool.items() if k != field}
            self.refusal(json.dumps({**whole, 'p': [rest]}))
        for text in ('', 'null', '[]', '7', '"v"', '{}', '{"v":1}', '[' * 9**5,
                     '{"v":1,"c":[],"p":[7]}'):  # fmt: skip
            self.refusal(text)

    def load(self, whole: dict[str, Any], pool: dict[str, Any]) -> HostMap:
        return HostMap.load(json.dumps({**whole, 'p': [pool]}))

    @given(things)
    def test_anything_is_read_or_refused(self, thing: Any) -> None:
        assume(thing is not None)
        for text in (
            json.dumps(thing),
            json.dumps({'v': 1, 'c': ['A', 'B'], 'p': thing}),
            json.dumps({'v': 1, 'c': thing, 'p': [{}]}),
        ):
            try:
                found = HostMap.load(text)
            except exception.InvalidHostMap:
                continue
            self.assertIsInstance(found, HostMap)


class StateTest(base.HostTest):
    """What the figures of a pool mean."""

    @given(maps)
    def test_fullness_is_a_share(self, found: HostMap) -> None:
        self.assertGreaterEqual(found.fullness, 0.0)
        self.assertLessEqual(found.fullness, 1.0)

    def test_fullness_weighs_cards_alike(self) -> None:
        whole = PoolState('a', 'whole', {'A': 8}, 4, numa_nodes=(0,) * 8)
        vgpu = PoolState('b', 'mdev', {'B': 4, 'C': 2}, 2, active='C',
                         numa_nodes=(0,))  # fmt: skip
        self.assertEqual(0.0, HostMap().fullness)
        self.assertEqual(0.5, HostMap((whole,)).fullness)
        self.assertEqual(1.0, HostMap((vgpu,)).fullness)
        self.assertEqual(
            round((8 * 0.5 + 1) / 9, 6), HostMap((whole, vgpu)).fullness
        )

    def test_room(self) -> None:
        pool = PoolState('a', 'whole', {'A': 8}, used=3, reserved=1)
        self.assertEqual(4, pool.room('A'))
        self.assertGreaterEqual(0, pool.room('B'))

    def test_largest_sets(self) -> None:
        for free, expected in (
            ((True,) * 4, {'nvlink': 2, 'switch': 2, 'numa': 3, 'host': 4}),
            ((True, False, False, True), dict.fromkeys(TIES, 1) | {'host': 2}),
            ((False,) * 4, dict.fromkeys(TIES, 0)),
        ):
            pool = PoolState(
                'a', 'whole', {'A': 4}, 4 - sum(free),
                numa_nodes=(0, 0, 0, 1), switches=(0, 0, -1, -1),
                cliques=(0, 0, -1, -1), free=free,
            )  # fmt: skip
            self.assertEqual(
                expected,
                {level: pool.largest_set(level, free=True) for level in TIES},
            )
            self.assertEqual(
                [2, 2, 3, 4], [pool.largest_set(level) for level in TIES]
            )
            self.assertEqual(any(free), pool.has_set(1, 'host'))

    def test_pools_by_provider(self) -> None:
        node = base.instance('node')
        pool = PoolState('a', 'whole', {'A': 8}, 0)
        (key,) = HostMap((pool,)).by_provider(node)
        self.assertEqual(hostmap.provider_uuid(node, 'a'), key)


class BuildTest(base.TrackerTest):
    """The map of a real host."""

    def map(self) -> HostMap:
        return self.tracker.map(self.tracker.view(), 7)

    def states(self) -> dict[str, PoolState]:
        return {pool.key: pool for pool in self.map().pools}

    def test_empty_host(self) -> None:
        self.assertEqual(HostMap((), 7), self.map())

    def test_whole_cards(self) -> None:
        hosts.a100_board(self.fake)
        self.fake.add_gpu('0000:d0:00.0', iommu_group=99, driver='nouveau')
        key = 'nvidia_a100_sxm4_40gb'
        self.claim('a', key, A100, 3)
        state = self.states()[key]
        self.assertEqual({A100: 8}, state.totals)
        self.assertEqual((3, 0), (state.used, state.reserved))
        self.assertEqual((0,) * 4 + (1,) * 4, state.numa_nodes)
        self.assertIsNone(state.active)
        self.assertFalse(state.display or state.params)
        self.assertEqual(0.375, state.fullness)

    def test_vgpus(self) -> None:
        hosts.four_t4(self.fake)
        empty = self.states()['0000_3b_00_0']
        self.assertIsNone(empty.active)
        self.assertEqual(0, empty.used)
        self.assertTrue(empty.display and empty.params)
        self.claim('a', '0000_3b_00_0', T4_8Q)
        state = self.states()['0000_3b_00_0']
        self.assertEqual(T4_8Q, state.active)
        self.assertEqual((1, 0), (state.used, state.reserved))
        self.assertEqual(1, state.room(T4_8Q))
        self.assertEqual(0.5, state.fullness)

    def test_whose_a_card_is(self) -> None:
        hosts.four_t4(self.fake)
        request = GpuRequest({}, isolation=PROJECT)
        wants = [Want('0000_3b_00_0', T4_4Q, 1)]
        self.tracker.claim('a', wants, request, project='p')
        self.claim('b', '0000_5e_00_0', T4_4Q)
        found = {
            key: (state.project, state.isolation)
            for key, state in self.states().items()
        }
        self.assertEqual(
            {
                '0000_3b_00_0': (digest('p'), PROJECT),
                '0000_5e_00_0': ('', SHARED),
                '0000_af_00_0': (None, SHARED),
                '0000_d8_00_0': (None, SHARED),
            },
            found,
        )

    def test_one_model_in_two_classes_closes_nothing(self) -> None:
        hosts.a100_board(self.fake)
        self.tracker = self.new_tracker(
            '{"numa_node": 1, "resource_class": "PGPU"}'
        )
        key = 'nvidia_a100_sxm4_40gb'
        self.claim('a', key, 'PGPU', 2)
        state = self.states()[key]
        self.assertEqual({A100: 4, 'PGPU': 4}, state.totals)
        self.assertIsNone(state.active)

    def test_card_that_has_gone(self) -> None:
        hosts.four_t4(self.fake)
        self.claim('a', '0000_3b_00_0', T4_8Q)
        self.fake.remove('0000:3b:00.0')
        state = self.states()['0000_3b_00_0']
        self.assertEqual(({T4_8Q: 1}, 1), (state.totals, state.used))
        self.assertEqual((), state.numa_nodes)

    def test_size_of_16_whole_cards(self) -> None:
        for index in range(16):
            self.fake.add_gpu(f'0000:{index:02x}:00.0', iommu_group=index)
        self.claim('a', 'nvidia_a100_sxm4_40gb', A100, 16)
        self.assertLess(len(self.map().dump()), LIMIT / 24)

    def test_size_of_16_cards_of_20_types(self) -> None:
        kinds = tuple(
            FakeType(f'nvidia-{i}', f'NVIDIA RTX6000-Ada-{i}Q', 1 + i % 4)
            for i in range(20)
        )
        for index in range(16):
            self.fake.add_gpu(
                f'0000:{index:02x}:00.0', 0x26B1, driver='nvidia',
                numa_node=index // 8, types=kinds, units=48,
            )  # fmt: skip
        for pool in self.tracker.view().pools:
            name = sorted(pool.inventories)[0]
            self.tracker.claim(
                'a',
                [Want(pool.key, name, 2)],
                GpuRequest({}, isolation=PROJECT),
                project=base.instance('project'),
            )
        text = self.map().dump()
        self.assertEqual(16, len(HostMap.load(text).pools))
        self.assertEqual(20, len(HostMap.load(text).classes))
        self.assertLess(len(text), LIMIT)
