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

"""Servers of several projects, and whom they share cards with."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import fixtures
from nova.compute.resource_tracker import ResourceTracker

from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs
from tests.functional import actions, base

T4_4Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q'
CARDS = ('0000:3b:00.0', '0000:5e:00.0', '0000:af:00.0', '0000:d8:00.0')


def add_t4s(fake: FakeSysfs, count: int) -> None:
    """T4 that take four 4Q each."""
    for number, address in enumerate(CARDS[:count]):
        fake.add_gpu(
            address, 0x1EB8, driver='nvidia', types=hosts.T4_TYPES, units=16,
            iommu_group=20 + number, numa_node=number // 2,
        )  # fmt: skip


class Base(base.GpuServersTest):
    """What the tests of one host and of several share."""

    def setUp(self) -> None:
        super().setUp()
        self.logs = self.useFixture(fixtures.FakeLogger())

    def start(self, name: str, cards: int) -> None:
        add_t4s(self.new_host(name), cards)
        self.start_gpu_compute(name)

    def flavor(self, isolation: str | None = None) -> str:
        specs = {f'resources__{T4_4Q}': '1'}
        if isolation is not None:
            specs['gpu__isolation'] = isolation
        return self.gpu_flavor(**specs)

    def create(
        self, project: str, isolation: str | None = None, **kwargs: Any
    ) -> Any:
        with self.project(project):
            return actions.create(self, self.flavor(isolation), **kwargs)

    def refusal(self, project: str, isolation: str | None = None) -> str:
        """What is said of a server that finds no card."""
        error = self.assertRaises(
            actions.ActionError, self.create, project, isolation
        )
        actions.delete(self, error.server)
        return error.message

    def card(self, server: Any) -> str:
        """The card that a server's vGPU is on."""
        fake = self.hosts[server['OS-EXT-SRV-ATTR:host']]
        (mdev,) = self.guest_devices(server).mdevs
        return str(fake.device(mdev).parent.name)

    def places(self, servers: Iterable[Any]) -> list[tuple[str, str]]:
        """The host and the card of each server."""
        return [
            (server['OS-EXT-SRV-ATTR:host'], self.card(server))
            for server in servers
        ]


class OneHostTest(Base):
    """One after another, on the two cards of one host."""

    def setUp(self) -> None:
        super().setUp()
        self.start('gpu1', 2)

    def check_project(self) -> None:
        """p has one card for itself, q the other; r gets none."""
        servers = [
            self.create('p', 'project'),
            self.create('q', 'project'),
            self.create('p'),
            self.create('q'),
        ]
        p, q, *more = map(self.card, servers)
        self.assertNotEqual(p, q)
        self.assertEqual([p, q], more)
        for isolation in ('shared', 'project', 'exclusive'):
            self.refusal('r', isolation)
        self.assert_consistent()
        for server in servers:
            actions.delete(self, server)
        self.assert_all_free()

    def test_project(self) -> None:
        self.check_project()

    def test_project_where_maps_are_new(self) -> None:
        create = self.create

        def create_late(*args: Any, **kwargs: Any) -> Any:
            self._run_periodics()
            return create(*args, **kwargs)

        self.create = create_late
        self.check_project()

    def test_project_where_others_are(self) -> None:
        shared = self.create('p')
        alone = self.create('q', 'project')
        self.assertNotEqual(self.card(shared), self.card(alone))
        self.refusal('r', 'project')
        self.create('r')
        self.assert_consistent()

    def test_exclusive(self) -> None:
        alone = self.create('p', 'exclusive')
        provider = 'gpu1_gpu_' + self.card(alone).replace(':', '_').replace(
            '.', '_'
        )
        inventory = self.providers_of('gpu1')[provider]
        # Placement promises nobody the rest of the card.
        for name, record in inventory.items():
            left = record['total'] - record['reserved']
            self.assertEqual(int(name == T4_4Q), left, name)
        others = [self.create('p') for _ in range(4)]
        self.assertNotIn(self.card(alone), set(map(self.card, others)))
        self.assertIn('No valid host', self.refusal('p'))
        for server in (alone, *others):
            actions.delete(self, server)
        self.assert_all_free()

    def test_exclusive_by_one_request(self) -> None:
        servers = actions.create_many(self, self.flavor('exclusive'), 2)
        self.assertEqual(set(CARDS[:2]), set(map(self.card, servers)))

    def test_wrong_value(self) -> None:
        error = self.assertRaises(base.ApiError, self.flavor, 'tenant')
        self.assertEqual(400, error.response.status_code)
        self.assertIn('shared, project, exclusive', str(error))

    def test_restart(self) -> None:
        alone = self.create('p', 'exclusive')
        own = self.create('q', 'project')
        before = self.providers_of('gpu1')
        self.restart_gpu_compute('gpu1')
        self.assertEqual(before, self.providers_of('gpu1'))
        self.refusal('p')
        self.refusal('r')
        self.assertEqual(self.card(own), self.card(self.create('q')))
        actions.reboot_hard(self, alone)
        self.restart_gpu_compute('gpu1')
        self.refusal('p')
        self.assert_consistent()

    def test_guest_of_an_earlier_release(self) -> None:
        """Its project is Nova's word; who wants to be alone avoids it."""
        servers = [self.create('p'), self.create('q', 'project')]
        before = list(map(self.card, servers))
        projects = dict(zip([s['id'] for s in servers], 'pq', strict=True))
        for domain in self.domains('gpu1'):
            project = projects[domain.UUIDString()]
            # Nova's API has no names in these tests, and writes nothing.
            for old, new in (
                (f' project="{project}"', ''),
                ('<nova:owner/>', '<nova:owner><nova:project '
                 f'uuid="{project}">x</nova:project></nova:owner>'),
            ):  # fmt: skip
                self.assertIn(old, domain.given)
                domain.given = domain.given.replace(old, new)
            domain.given = domain.given.replace(' isolation="project"', '')
            self.assertNotIn(' project=', domain.XMLDesc(0))
        self.restart_gpu_compute('gpu1')
        self.refusal('r', 'project')
        self.refusal('p', 'exclusive')
        for project, card in zip('pq', before, strict=True):
            server = self.create(project, 'project')
            self.assertEqual(card, self.card(server))
            actions.delete(self, server)
        self.create('r')

    def test_resize_keeps_the_card_closed(self) -> None:
        self.flags(allow_resize_to_same_host=True)
        server = self.create('p', 'exclusive')
        before = self.card(server)
        with self.project('p'):
            server = actions.resize(self, server, self.flavor())
            now = self.card(server)
            self.assertNotEqual(before, now)
            other = self.create('q')
            self.assertEqual(now, self.card(other))
            self.restart_gpu_compute('gpu1')
            self.assertEqual(now, self.card(self.create('q')))
            server = actions.revert(self, server)
        self.assertEqual(before, self.card(server))
        self.assertEqual(now, self.card(self.create('r')))
        self.assert_consistent()


class ManyTest(Base):
    """At once: all are allocated before the first of them is claimed."""

    CAST_AS_CALL = False

    def setUp(self) -> None:
        super().setUp()
        self.start('gpu1', 4)

    def at_once(self, wanted: list[tuple[str, str]]) -> list[Any]:
        """Ask for servers of (project, isolation)."""
        barrier = threading.Barrier(len(wanted))
        claim = ResourceTracker.instance_claim

        def claim_together(*args: Any, **kwargs: Any) -> Any:
            try:
                return claim(*args, **kwargs)
            finally:
                barrier.wait(base.PATIENCE)

        flavors = {name: self.flavor(name) for _, name in wanted}
        with fixtures.MockPatchObject(
            ResourceTracker, 'instance_claim', claim_together
        ):
            ids = []
            for project, isolation in wanted:
                with self.project(project):
                    body = self._build_server(
                        flavor_id=flavors[isolation], networks='none'
                    )
                    ids.append(self.api.post_server({'server': body})['id'])
            servers = [self.wait_until_built(id) for id in ids]
        self.assert_no_device_twice()
        return servers

    def test_exclusive(self) -> None:
        """Schedulers have sent both to one card: one moves."""
        servers = self.at_once([('p', 'exclusive')] * 2)
        self.assertEqual(2, len(set(map(self.card, servers))))
        self.assertIn('Moved the allocation of 1', self.logs.output)
        self.assert_consistent()

    def test_more_projects_than_cards(self) -> None:
        servers = self.at_once([(name, 'project') for name in 'pqrst'])
        served = [s for s in servers if s['status'] == 'ACTIVE']
        self.assertEqual(set(CARDS), set(map(self.card, served)))
        (refused,) = [s for s in servers if s not in served]
        self.assertEqual('ERROR', refused['status'])
        self.assertIn('Exhausted all hosts', refused['fault']['message'])
        actions.delete(self, refused)
        self.assert_consistent()

    def test_of_each_kind(self) -> None:
        """Two of each project: cards for all, if none is shared."""
        wanted = [('p', 'project'), ('q', 'project'), ('r', 'exclusive')]
        servers = self.at_once(
            [*wanted, ('p', 'shared'), ('q', 'shared'), ('s', 'shared')]
        )
        self.assertEqual(['ACTIVE'] * 6, [s['status'] for s in servers])
        p, q, r, *shared = map(self.card, servers)
        self.assertEqual(3, len({p, q, r}))
        self.assertNotIn(r, shared)
        self.assertNotIn(shared[2], (p, q, r))
        self.assertIn(shared[0], (p, shared[2]))
        self.assertIn(shared[1], (q, shared[2]))
        self.assert_consistent()


class SeveralHostsTest(Base):
    """Servers that another host takes."""

    # What fails on a host is tried on the next.
    CAST_AS_CALL = False

    def setUp(self) -> None:
        super().setUp()
        for name in ('gpu1', 'gpu2'):
            self.start(name, 1)

    def host(self, server: Any) -> str:
        name: str = server['OS-EXT-SRV-ATTR:host']
        return name

    def test_where_the_card_is_closed(self) -> None:
        """One is tried first by an old map, the other by a new one."""
        first = self.create('p', 'project', host='gpu1')
        other = self.create('q', 'exclusive')
        self.assertEqual('gpu2', self.host(other))
        actions.delete(self, other)
        self._run_periodics()
        second = self.create('q', 'project')
        self.assertEqual('gpu2', self.host(second))
        self._run_periodics()
        # Both have as much in use.
        for project, server in (('p', first), ('q', second)):
            found = self.create(project)
            self.assertEqual(self.host(server), self.host(found))

    def test_moves(self) -> None:
        alone = self.create('p', 'exclusive', host='gpu1')
        moved = actions.cold_migrate(self, alone)
        self.assertEqual('gpu2', self.host(moved))
        # Its old card is kept for it, and so is the new one.
        self.assertIn('No valid host', self.refusal('p'))
        confirmed = actions.confirm(self, moved)
        other = self.create('q')
        self.assertEqual('gpu1', self.host(other))
        self._run_periodics()
        error = self.assertRaises(
            actions.ActionError, actions.cold_migrate, self, confirmed
        )
        self.assertIn('No valid host', error.message)
        self.assertEqual('ACTIVE', error.server['status'])
        self.assert_consistent()
