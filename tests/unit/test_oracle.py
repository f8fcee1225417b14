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

"""The functional tests' oracle sees each difference."""

from __future__ import annotations

import dataclasses
from typing import Any

import fixtures
import testtools

from nova_gpu.model.address import PciAddress
from nova_gpu.model.inventory import Unit
from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs
from tests.functional import oracle

CARD = PciAddress.parse('0000:3b:00.0')
MDEV, OTHER = (f'6e6f7661-6770-8000-8000-00000000000{n}' for n in (1, 2))
T4_4Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q'
PROVIDER = 'gpu1_gpu_0000_3b_00_0'
UNIT = Unit('mdev', CARD.token, T4_4Q, CARD, MDEV, type_id='nvidia-232')
SERVER = {
    'id': 'one',
    'OS-EXT-SRV-ATTR:host': 'gpu1',
    'status': 'ACTIVE',
    'flavor': {'extra_specs': {f'resources:{T4_4Q}': '1'}},
}
MOVE = {
    'uuid': 'move',
    'instance_uuid': 'one',
    'migration_type': 'resize',
    'source_compute': 'gpu1',
    'status': 'finished',
}


class OracleTest(testtools.TestCase):
    """A server with one vGPU, of which everything is told alike or not."""

    def setUp(self) -> None:
        super().setUp()
        root = self.useFixture(fixtures.TempDir()).path
        self.fake = hosts.four_t4(FakeSysfs(root))
        self.fake.create_mdev(str(CARD), 'nvidia-232', MDEV)
        self.state = oracle.HostState(
            name='gpu1',
            fake=self.fake,
            guests={'one': frozenset({MDEV})},
            claims={'one': (UNIT,)},
            allocations={'one': {PROVIDER: {T4_4Q: 1}}},
        )

    def judge(
        self, server: dict[str, Any] = SERVER, move: Any = None, **said: Any
    ) -> list[str]:
        state = dataclasses.replace(self.state, **said)
        return oracle.differences(
            [state], [server] if server else [], [move] if move else []
        )

    def test_all_alike(self) -> None:
        self.assertEqual([], self.judge())

    def test_each_account_alone(self) -> None:
        for said in ('guests', 'claims', 'allocations'):
            self.assertNotEqual([], self.judge(**{said: {}}), said)
        self.fake.remove_mdev(MDEV)
        self.assertEqual(
            [f'gpu1: {MDEV}, claimed for server one, does not exist'],
            self.judge(),
        )

    def test_a_vgpu_that_nobody_holds(self) -> None:
        self.fake.create_mdev(str(CARD), 'nvidia-232', OTHER)
        self.assertEqual(
            [
                f'gpu1: {OTHER} (GRID T4-4Q) of card {CARD} exists, '
                f'nobody holds it'
            ],
            self.judge(),
        )

    def test_other_class_or_card(self) -> None:
        wrong = dataclasses.replace(
            UNIT,
            resource_class='CUSTOM_VGPU_NVIDIA_T4_8Q',
            pool='0000_5e_00_0',
        )
        found = '\n'.join(self.judge(claims={'one': (wrong,)}))
        self.assertIn('as CUSTOM_VGPU_NVIDIA_T4_8Q, is a GRID T4-4Q', found)
        self.assertIn(f'from pool 0000_5e_00_0, is on card {CARD}', found)

    def test_a_device_twice(self) -> None:
        found = '\n'.join(
            self.judge(
                guests={'one': frozenset({MDEV}), 'two': frozenset({MDEV})},
                claims={'one': (UNIT,), 'two': (UNIT,)},
            )
        )
        self.assertIn('is claimed for server one and for server two', found)
        self.assertIn('is in the domains of server one and of', found)

    def test_another_flavor(self) -> None:
        flavor = {'extra_specs': {f'resources:{T4_4Q}': '2'}}
        self.assertEqual(
            [
                f'gpu1: the flavor of server one asks for 2 {T4_4Q}, '
                f'Placement allocates 1 {T4_4Q}'
            ],
            self.judge({**SERVER, 'flavor': flavor}),
        )

    def test_an_offloaded_server_that_shows_its_host(self) -> None:
        offloaded = {**SERVER, 'status': 'SHELVED_OFFLOADED'}
        self.assertEqual(
            [
                f'gpu1: {MDEV} (GRID T4-4Q) of card {CARD} exists, '
                f'nobody holds it'
            ],
            self.judge(offloaded, guests={}, claims={}, allocations={}),
        )
        self.fake.remove_mdev(MDEV)
        self.assertEqual(
            [], self.judge(offloaded, guests={}, claims={}, allocations={})
        )

    def test_what_a_move_keeps(self) -> None:
        away = {**SERVER, 'OS-EXT-SRV-ATTR:host': 'gpu2'}
        kept = {'move': self.state.allocations['one']}
        self.assertEqual([], self.judge(away, MOVE, allocations=kept))
        over = {**MOVE, 'status': 'confirmed'}
        self.assertEqual(
            [
                'gpu1: Placement allocates to migration move, which is '
                'confirmed'
            ],
            self.judge(away, over, allocations=kept),
        )

    def test_what_is_left_behind(self) -> None:
        away = {**SERVER, 'OS-EXT-SRV-ATTR:host': 'gpu2'}
        self.assertEqual(
            ['gpu1: Placement allocates to server one, which is on gpu2'],
            self.judge(away),
        )
        # Its host is down: it keeps everything until it is back.
        move = {**MOVE, 'migration_type': 'evacuation', 'status': 'done'}
        self.assertEqual([], self.judge(away, move))
        self.assertEqual(
            ['gpu1: Placement allocates to one, which is no server'],
            self.judge({}),
        )
