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

"""Isolation, as the tracker keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nova_gpu import exception
from nova_gpu.model.claim import Claim, Want
from nova_gpu.model.guest import GuestDevices, Hostdev, parse_guest
from nova_gpu.model.request import EXCLUSIVE, PROJECT, SHARED, GpuRequest
from nova_gpu.tracker import NOBODY
from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs
from tests.unit import base

T4_4Q, T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q', 'CUSTOM_VGPU_NVIDIA_T4_8Q'
CARD, POOL = '0000:3b:00.0', '0000_3b_00_0'
OTHER = '0000_5e_00_0'
FOREIGN = '0a5c0a2e-9f1b-4c55-8d1e-0d6f6a3f9a11'
A, B, C, MOVE = map(base.instance, 'abcm')
#: What Nova writes into each guest.
NOVAS = (
    '<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">'
    '<nova:owner><nova:user uuid="u">u</nova:user>'
    '<nova:project uuid="p">name</nova:project></nova:owner></nova:instance>'
)


class IsolationTest(base.TrackerTest):
    """Two cards that take four 4Q each."""

    def setUp(self) -> None:
        super().setUp()
        for number, slot in enumerate(('3b', '5e')):
            self.fake.add_gpu(
                f'0000:{slot}:00.0', 0x1EB8, driver='nvidia',
                types=hosts.T4_TYPES, units=16, iommu_group=number,
            )  # fmt: skip
        self.tracker = self.new_tracker()

    def ask(
        self,
        server: str,
        project: str | None = 'p',
        isolation: str = SHARED,
        count: int = 1,
        others: Mapping[str, set[str]] | None = None,
    ) -> Claim:
        return self.tracker.claim(
            server,
            [Want(POOL, T4_4Q, count)],
            GpuRequest({}, isolation=isolation),
            others,
            project=project,
        )

    def refusal(self, *args: Any, **kwargs: Any) -> str:
        before = self.fake.mdevs
        error = self.assertRaises(
            exception.NotEnoughUnits, self.ask, *args, **kwargs
        )
        self.assertEqual(before, self.fake.mdevs)
        return str(error)

    def pools(self, server: str) -> set[str]:
        return {unit.pool for unit in self.tracker.units_of(server)}

    def restart(self, *guests: GuestDevices) -> None:
        self.tracker = self.new_tracker()
        self.tracker.rebuild(guests)

    def test_shared_by_all(self) -> None:
        self.ask(A, 'p')
        self.ask(B, 'q')
        self.ask(C, None)
        self.assertEqual((4, 0), self.inventory(POOL)[T4_4Q])

    def test_project(self) -> None:
        self.ask(A, 'p', PROJECT)
        message = self.refusal(B, 'q')
        self.assertIn(f'card {CARD} is not shared: a project', message)
        self.refusal(B, None)
        self.ask(B, 'p')
        self.ask(C, 'p', PROJECT)
        # Placement can't say for whom.
        self.assertEqual((4, 0), self.inventory(POOL)[T4_4Q])

    def test_project_where_others_are(self) -> None:
        for project in ('q', None):
            self.ask(A, project)
            self.assertIn('others', self.refusal(B, 'p', PROJECT))
            self.tracker.release(A)
        self.ask(B, 'p', PROJECT)

    def test_exclusive(self) -> None:
        self.ask(A, 'p', EXCLUSIVE, 2)
        self.assertIn('for itself', self.refusal(B, 'p'))
        # Nobody is promised the rest.
        self.assertEqual((4, 2), self.inventory(POOL)[T4_4Q])
        self.assertEqual((2, 2), self.inventory(POOL)[T4_8Q])
        self.tracker.release(A)
        self.assertEqual((4, 0), self.inventory(POOL)[T4_4Q])
        self.ask(B, 'q')

    def test_exclusive_where_others_are(self) -> None:
        self.ask(A, 'p')
        self.assertIn('others', self.refusal(B, 'p', EXCLUSIVE))

    def test_its_own_units_are_not_in_the_way(self) -> None:
        self.ask(A, 'p', EXCLUSIVE)
        self.ask(A, 'p', EXCLUSIVE)
        self.assertEqual((4, 2), self.inventory(POOL)[T4_4Q])

    def test_to_another_card(self) -> None:
        self.ask(A, 'p', PROJECT)
        claim = self.ask(B, 'q', others={POOL: {OTHER}})
        self.assertEqual([OTHER], [move.pool for move in claim.moves])
        self.ask(C, 'p', others={POOL: {OTHER}})
        self.assertEqual(({POOL}, {OTHER}, {POOL}),
                         tuple(map(self.pools, (A, B, C))))  # fmt: skip
        message = self.refusal(MOVE, 'q', EXCLUSIVE, others={POOL: {OTHER}})
        self.assertIn(POOL, message)

    def test_vgpu_that_somebody_made(self) -> None:
        self.fake.create_mdev(CARD, hosts.T4_TYPES[2].id, FOREIGN)
        self.refusal(A, 'p', EXCLUSIVE)
        self.refusal(A, 'p', PROJECT)
        self.ask(A, 'p')

    def test_what_could_not_be_given_back(self) -> None:
        """Its guest may still be there."""
        self.ask(A, 'p', EXCLUSIVE)
        (device,) = self.devices(A)
        self.fake.use(device)
        self.tracker.release(A)
        self.refusal(B, 'p')
        self.assertEqual((4, 4), self.inventory(POOL)[T4_4Q])
        self.fake.unuse(device)
        self.ask(B, 'p')

    def test_resize_on_the_host(self) -> None:
        self.ask(A, 'p', EXCLUSIVE)
        self.tracker.hand_over(A, MOVE)
        self.ask(A, 'p')
        self.refusal(B, 'p')
        self.restart(self.guest(A))
        self.refusal(B, 'p')
        self.tracker.release(MOVE)
        self.ask(B, 'q')

    def test_restart(self) -> None:
        self.ask(A, 'p', PROJECT)
        before = self.tracker.units_of(A)
        self.restart(self.guest(A))
        self.assertEqual(before, self.tracker.units_of(A))
        self.refusal(B, 'q')
        self.ask(B, 'p')

    def test_guest_of_an_earlier_release(self) -> None:
        """Nova says whose it is; there was no isolation."""
        self.ask(A, 'p')
        text = self.guest_xml(A).replace('project="p"', '')
        for novas, of_p in ((NOVAS, True), ('', False)):
            told = text.replace('<metadata>', f'<metadata>{novas}')
            self.restart(parse_guest(told, 'x'))
            if of_p:
                self.ask(B, 'p', PROJECT)
            else:
                self.assertIn('others', self.refusal(B, 'p', PROJECT))
            self.refusal(C, 'p', EXCLUSIVE)
            self.tracker.release(B)
            self.ask(B, 'q')
            self.tracker.release(B)

    def test_guest_that_does_not_parse(self) -> None:
        self.ask(A, 'p', PROJECT)
        text = self.guest_xml(A).replace('</domain>', '')
        self.restart(parse_guest(text, 'x'))
        self.refusal(B, 'q')
        self.ask(B, 'p')
        self.tracker.release(B)
        # Whatever it had asked for, it has it.
        self.restart(parse_guest(text.replace('gpu:unit ', 'lost '), 'x'))
        self.refusal(B, 'p')

    def test_isolation_of_a_later_release(self) -> None:
        self.ask(A, 'p', PROJECT)
        text = self.guest_xml(A).replace('"project"', '"galaxy"')
        self.restart(parse_guest(text, 'x'))
        self.refusal(B, 'p')

    def test_guest_that_somebody_defined(self) -> None:
        self.fake.create_mdev(CARD, hosts.T4_TYPES[2].id, FOREIGN)
        text = base.domain_xml('x', B, [Hostdev(mdev=FOREIGN)])
        self.restart(parse_guest(text, 'x'))
        self.refusal(A, 'p', PROJECT)
        self.ask(A, 'p')

    def test_leak_that_can_not_be_removed(self) -> None:
        self.ask(A, 'p')
        (device,) = self.devices(A)
        self.fake.use(device)
        self.restart()
        self.assertIsNotNone(self.tracker.claim_of(NOBODY))
        self.refusal(B, 'p', EXCLUSIVE)
        self.refusal(B, 'p', PROJECT)
        self.ask(B, 'p')


class OtherFormsTest(base.TrackerTest):
    """Where vGPUs are virtual functions, and where these are plain."""

    def check(self, pool: str, name: str) -> None:
        tracker = self.new_tracker()

        def ask(server: str, project: str, isolation: str) -> None:
            request = GpuRequest({}, isolation=isolation)
            wants = [Want(pool, name, 1)]
            tracker.claim(server, wants, request, project=project)

        ask(A, 'p', PROJECT)
        error = self.assertRaises(
            exception.NotEnoughUnits, ask, B, 'q', SHARED
        )
        self.assertIn('gpu:isolation=project', str(error))
        tracker.rebuild(
            [
                parse_guest(
                    base.domain_xml(
                        'x',
                        A,
                        tracker.hostdevs(A, self.request),
                        tracker.units_of(A),
                    ),
                    'x',
                )
            ]
        )
        self.assertRaises(exception.NotEnoughUnits, ask, B, 'q', SHARED)
        ask(B, 'p', SHARED)
        tracker.release(A)
        tracker.release(B)
        ask(C, 'q', EXCLUSIVE)
        found = tracker.view().pool(pool)
        assert found is not None
        inventory = found.inventories[name]
        self.assertEqual(inventory.total - 1, inventory.reserved)

    def host(self, make: Any) -> FakeSysfs:
        found: FakeSysfs = make(self.fake)
        return found

    def test_vendor_vfio(self) -> None:
        self.host(hosts.a10_vendor_vfio)
        pool = self.tracker.view().pools[0]
        name = next(n for n, i in pool.inventories.items() if i.total > 2)
        self.check(pool.key, name)

    def test_plain_virtual_functions(self) -> None:
        self.host(hosts.mi300x)
        pool = next(
            p for p in self.tracker.view().pools if p.mechanism == 'vf'
        )
        self.check(pool.key, next(iter(pool.inventories)))

    def test_whole_cards_are_never_shared(self) -> None:
        self.host(hosts.a100_board)
        (pool,) = self.tracker.view().pools
        (name,) = pool.inventories
        for server, project, isolation in (
            (A, 'p', EXCLUSIVE), (B, 'q', PROJECT), (C, 'r', SHARED),
        ):  # fmt: skip
            self.tracker.claim(
                server,
                [Want(pool.key, name, 2)],
                GpuRequest({}, isolation=isolation),
                project=project,
            )
        self.assertEqual((8, 0), self.inventory(pool.key)[name])

    def test_reserved_by_rule(self) -> None:
        """What is held always fits into what Placement is told."""
        self.host(hosts.four_t4)
        self.tracker = self.new_tracker('{"reserved": 1}')
        request = GpuRequest({}, isolation=EXCLUSIVE)
        for server, count, expected in ((A, 1, 3), (A, 2, 1)):
            wants = [Want(POOL, T4_4Q, count)]
            self.tracker.claim(server, wants, request, project='p')
            self.assertEqual((4, expected), self.inventory(POOL)[T4_4Q])
