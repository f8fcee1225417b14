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

"""Cards that are shared with some: what schedulers make of it."""

from __future__ import annotations

from typing import Any

import fixtures
import testtools
from nova import objects

from nova_gpu.model.claim import Want
from nova_gpu.model.request import EXCLUSIVE, PROJECT, SHARED, GpuRequest
from nova_gpu.scheduler.filter import GpuFilter
from nova_gpu.scheduler.weigher import GpuWeigher
from nova_gpu.tracker import Tracker
from tests.fixtures import hosts
from tests.fixtures.scheduler import (
    candidate,
    host_state,
    host_tracker,
    map_text,
    request_spec,
    run_filter,
    run_weighers,
)
from tests.fixtures.sysfs import FakeSysfs
from tests.unit import base

T4_4Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q'
POOLS = ('0000_3b_00_0', '0000_5e_00_0', '0000_af_00_0', '0000_d8_00_0')


class SchedulerTest(testtools.TestCase):
    """Four T4, with servers of some projects."""

    def tracker(self, *servers: tuple[int, str, str]) -> Tracker:
        """A host with servers on cards: (card, project, isolation)."""
        fake = FakeSysfs(self.useFixture(fixtures.TempDir(base.MEMORY)).path)
        tracker = host_tracker(hosts.four_t4(fake))
        for number, (card, project, isolation) in enumerate(servers):
            tracker.claim(
                base.instance(number),
                [Want(POOLS[card], T4_4Q, 1)],
                GpuRequest({}, isolation=isolation),
                project=project,
            )
        return tracker

    def spec(self, project: str | None, isolation: str, **more: Any) -> Any:
        specs = {f'resources:{T4_4Q}': '1', 'gpu:isolation': isolation}
        return request_spec(specs, project_id=project, **more)


class OrderTest(SchedulerTest):
    """The candidates of a host: what the compute would refuse is last."""

    def order(
        self,
        servers: list[tuple[int, str, str]],
        project: str | None,
        isolation: str,
        name: str = 'gpu1',
        **fields: Any,
    ) -> list[str]:
        found = {pool: candidate(name, (pool, T4_4Q, 1)) for pool in POOLS}
        text = map_text(self.tracker(*servers))
        state = host_state(name, text, list(found.values()), **fields)
        state.num_instances = fields.get('num_instances', 0)
        passed = run_filter(
            GpuFilter(), [state], self.spec(project, isolation)
        )
        self.assertEqual([name], passed)
        self.assertEqual(4, len(state.allocation_candidates))
        return [
            pool
            for one in state.allocation_candidates
            for pool, other in found.items()
            if one == other
        ]

    def test_own_project_first_others_last(self) -> None:
        servers = [
            (0, 'p', PROJECT), (1, 'q', SHARED), (2, 'q', PROJECT),
        ]  # fmt: skip
        for project, isolation, first, last in (
            ('p', PROJECT, POOLS[0], POOLS[1:3]),
            ('p', SHARED, None, POOLS[2:3]),
            ('r', SHARED, POOLS[1], (POOLS[0], POOLS[2])),
            ('p', EXCLUSIVE, POOLS[3], POOLS[:3]),
            (None, PROJECT, POOLS[3], POOLS[:3]),
        ):
            ordered = self.order(servers, project, isolation)
            if first is not None:
                self.assertEqual(first, ordered[0], (project, isolation))
            self.assertEqual(set(last), set(ordered[-len(last) :]))

    def test_where_all_is_closed(self) -> None:
        """The map may be old: the compute decides."""
        servers = [(n, 'p', EXCLUSIVE) for n in range(4)]
        self.assertEqual(4, len(self.order(servers, 'q', SHARED)))

    def test_move_where_all_is_closed(self) -> None:
        """Nova would learn too late that it can't be done."""
        destination = objects.Destination(cell=objects.CellMapping())
        for isolation, expected in ((EXCLUSIVE, []), (SHARED, ['gpu1'])):
            text = map_text(self.tracker((0, 'p', isolation)))
            found = [candidate('gpu1', (POOLS[0], T4_4Q, 1))]
            passed = run_filter(
                GpuFilter(),
                [host_state('gpu1', text, found)],
                self.spec('q', SHARED, requested_destination=destination),
            )
            self.assertEqual(expected, passed)

    def test_projects_spread_over_empty_cards(self) -> None:
        def first(project: str, isolation: str) -> list[str]:
            return [
                self.order([], project, isolation, f'gpu{n}')[0]
                for n in range(12)
            ]

        for isolation in (PROJECT, EXCLUSIVE):
            self.assertNotEqual(first('p', isolation), first('q', isolation))
        # Who shares with others goes to where they go.
        self.assertEqual(first('p', SHARED), first('q', SHARED))

    def test_several_by_one_request(self) -> None:
        found = [
            self.order([], 'p', EXCLUSIVE, num_instances=placed)[0]
            for placed in range(4)
        ]
        self.assertEqual(set(POOLS), set(found))


class WeigherTest(SchedulerTest):
    """Hosts on which nothing would do come after those that are empty."""

    def test_hosts(self) -> None:
        texts = {
            'empty': map_text(self.tracker()),
            'shared': map_text(self.tracker((0, 'q', SHARED))),
            'full': map_text(
                self.tracker(*((n, 'q', SHARED) for n in range(4)))
            ),
            'closed': map_text(
                self.tracker(*((n, 'q', PROJECT) for n in range(4)))
            ),
        }
        for project, isolation, first, last in (
            ('p', SHARED, 'full', {'closed'}),
            ('q', SHARED, None, {'empty'}),
            ('p', PROJECT, 'shared', {'full', 'closed'}),
            ('q', PROJECT, None, {'empty'}),
            ('q', EXCLUSIVE, 'shared', {'full', 'closed'}),
        ):
            states = [host_state(name, text) for name, text in texts.items()]
            spec = self.spec(project, isolation)
            weights = run_weighers([GpuWeigher()], states, spec)
            names = list(weights)
            if first is not None:
                self.assertEqual(first, names[0], (project, isolation))
            self.assertEqual(last, set(names[-len(last) :]))
