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

"""The cache of the hosts' maps."""

from __future__ import annotations

import json
import logging
from typing import Any

import fixtures
import testtools
from nova.scheduler import host_manager

from nova_gpu.model.inventory import provider_uuid
from nova_gpu.scheduler import maps
from nova_gpu.scheduler.filter import GpuFilter
from nova_gpu.scheduler.weigher import GpuAvoidWeigher, GpuWeigher
from tests.fixtures import hosts
from tests.fixtures.scheduler import (
    candidate,
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

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
POOL = 'nvidia_a100_sxm4_40gb'


class Base(testtools.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(
            fixtures.FakeLogger('nova_gpu', level=logging.INFO)
        )
        self.now = 0.0
        self.cache = maps.MapCache(clock=lambda: self.now)
        root = self.useFixture(fixtures.TempDir()).path
        self.tracker = host_tracker(hosts.a100_board(FakeSysfs(root)))
        self.text = map_text(self.tracker)

    def get(
        self, state: Any, cache: maps.MapCache | None = None
    ) -> maps.HostGpus:
        (found,) = (cache or self.cache).get([state])
        return found


class MapsTest(Base):
    def test_what_is_worked_out(self) -> None:
        take(self.tracker, POOL, A100, 2)
        text = map_text(self.tracker, instances=5)
        gpus = self.get(host_state('gpu1', text))
        self.assertEqual({A100}, gpus.classes)
        self.assertEqual(0.25, gpus.fullness)
        self.assertEqual(5, gpus.instances)
        pool = gpus.providers[provider_uuid(node_uuid('gpu1'), POOL)]
        self.assertEqual((POOL, 6), (pool.key, pool.room(A100)))

    def test_a_map_is_parsed_again_only_when_it_has_changed(self) -> None:
        first = self.get(host_state('gpu1', self.text))
        # The next request brings a new HostState with a new string.
        again = self.get(host_state('gpu1', str(self.text.encode(), 'ascii')))
        self.assertIs(first, again)
        take(self.tracker, POOL, A100, 8)
        # An update in the same second has the same time.
        changed = self.get(host_state('gpu1', map_text(self.tracker)))
        self.assertEqual((0.0, 1.0), (first.fullness, changed.fullness))

    def test_alike_hosts_share_a_map_and_keep_their_providers(self) -> None:
        one, other = (
            self.get(host_state(name, self.text)) for name in ('gpu1', 'gpu2')
        )
        self.assertIs(*one.providers.values(), *other.providers.values())
        self.assertNotEqual(one.providers.keys(), other.providers.keys())

    def test_hosts_that_are_gone_are_forgotten(self) -> None:
        for number in range(100):
            self.get(host_state(f'gone{number}', self.text))
        first = self.get(host_state('gpu1', self.text))
        for hours in range(1, 4):
            self.now = hours * (maps.KEEP_SECONDS + 1)
            # Who is asked for meanwhile isn't parsed again.
            self.assertIs(first, self.get(host_state('gpu1', self.text)))
        self.assertEqual(1, len(self.cache))

    def test_no_map_is_no_gpus(self) -> None:
        never = host_manager.HostState('new', 'new', 'cell')
        empty = host_state('gpu1', '')
        without = host_state('gpu2', None)
        for state in (never, empty, without):
            self.assertIs(maps.NONE, self.get(state))
        self.assertEqual(0, len(self.cache))
        self.assertEqual('', self.log.output)


class BadMapTest(Base):
    """Maps that can't be read: the host passes, and one warning says why."""

    def schedule(self, text: str, host: str) -> None:
        """One request for GPUs and one without, through Nova's handlers."""
        weighers = [GpuWeigher(), GpuAvoidWeigher()]
        for specs in ({f'resources:{A100}': '1'}, {}):
            states = [
                host_state(name, text, [candidate(name, (POOL, A100, 1))])
                for name in (host, 'other')
            ]
            states[1].stats.clear()
            spec = request_spec(specs)
            passed = run_filter(GpuFilter(), states, spec)
            self.assertEqual([host, 'other'], passed)
            self.assertEqual(
                1, len(set(run_weighers(weighers, states, spec).values()))
            )

    def check(self, host: str, text: str, reason: str) -> None:
        self.schedule(text, host)
        self.schedule(text, host)
        self.assertIn(f'Ignoring the GPUs of host {host}: ', self.log.output)
        self.assertIn(reason, self.log.output)
        self.assertEqual(1, self.log.output.count('\n'), self.log.output)

    def test_another_version(self) -> None:
        data = {**json.loads(self.text), 'v': 2}
        self.check(
            'future',
            json.dumps(data),
            'it has version 2, this release reads 1',
        )

    def test_cut(self) -> None:
        self.check('cut', self.text[:-7], 'JSONDecodeError')

    def test_garbage(self) -> None:
        self.check('garbage', 'GPUs: eight', 'JSONDecodeError')

    def test_other_json(self) -> None:
        self.check('list', '[1]', 'TypeError')

    def test_nested_too_deep(self) -> None:
        self.check('deep', '[' * 100000, 'RecursionError')

    def test_pools_that_are_no_pools(self) -> None:
        data = {**json.loads(self.text), 'p': [[]]}
        self.check('pools', json.dumps(data), 'AttributeError')

    def test_a_number_that_is_none(self) -> None:
        data: dict[str, Any] = json.loads(self.text)
        data['p'][0]['u'] = 1e999
        self.check('number', json.dumps(data), 'OverflowError')

    def test_a_class_that_is_not_listed(self) -> None:
        data: dict[str, Any] = json.loads(self.text)
        data['p'][0]['c'] = '7'
        self.check('class', json.dumps(data), 'IndexError')

    def test_a_good_map_after_a_bad_one_counts(self) -> None:
        self.check('healed', self.text[:-3], 'JSONDecodeError')
        gpus = self.get(host_state('healed', self.text), maps.CACHE)
        self.assertEqual({A100}, gpus.classes)
