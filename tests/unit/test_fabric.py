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

"""Fabric Manager restarts, falls silent, and forgets."""

from __future__ import annotations

from typing import Any

from nova_gpu import exception
from nova_gpu.fabric import FRESH, FabricManager
from nova_gpu.model.address import PciAddress
from nova_gpu.model.inventory import Unit
from tests.fixtures import fmpm, hosts
from tests.unit import base


def unit(partition: int | None) -> Unit:
    address = PciAddress(0, 1, 0, 0)
    return Unit(
        'whole', 'pool', 'CUSTOM_X', address, str(address),
        partition=partition,
    )  # fmt: skip


class FabricManagerTest(base.HostTest):
    """On a board with partitions 0 to 14."""

    def setUp(self) -> None:
        super().setUp()
        hosts.divided_h100_board(self.fake)
        self.now = 0.0
        self.manager = FabricManager(self.fake, True, lambda: self.now)

    def change(self, **values: Any) -> None:
        with fmpm.changing(self.fake.fabric) as fabric:
            for name, value in values.items():
                setattr(fabric, name, value)

    def restart(self, *, resilient: bool = False) -> None:
        with fmpm.changing(self.fake.fabric) as fabric:
            fabric.resilient = resilient
            fabric.start()
        self.now += FRESH

    @property
    def state(self) -> fmpm.Fabric:
        return fmpm.Fabric.load(self.fake.fabric)

    def asked(self) -> int:
        return self.state.calls.count(['-l'])

    def test_is_asked_once_in_a_while(self) -> None:
        for _ in range(3):
            found = self.manager.look()
        assert found is not None
        self.assertEqual(15, len(found.partitions))
        self.assertEqual(1, self.asked())
        self.manager.look(fresh=True)
        self.manager.activate([unit(3), unit(3), unit(None)])
        self.assertEqual([3], self.state.active)
        self.assertEqual(2, self.asked())
        found = self.manager.look()  # what it has changed is seen at once
        assert found is not None
        self.assertEqual([3], [p.number for p in found.partitions if p.active])
        self.now += FRESH
        self.manager.look()
        self.assertEqual(4, self.asked())

    def test_none(self) -> None:
        manager = FabricManager(self.fake, False)
        self.assertIsNone(manager.look())
        manager.activate([unit(3)])
        manager.deactivate(3, ())
        self.assertEqual('', manager.restore({3}))
        self.assertEqual([], self.state.calls)

    def test_silence_is_logged_once_and_structure_is_kept(self) -> None:
        self.manager.look()
        self.change(running=False)
        for _ in range(3):
            self.now += FRESH
            found = self.manager.look()
        assert found is not None
        self.assertEqual(15, len(found.partitions))
        self.assertIn('CONNECTION_NOT_VALID', str(found.problem))
        self.assertFalse(found.waits)
        self.assertEqual(1, self.logs.output.count('No card of the NVSw'))
        self.change(running=True)
        self.now += FRESH
        self.manager.look()
        self.assertIn('answers again', self.logs.output)

    def test_nonsense(self) -> None:
        class Talking:
            def read_partitions(self) -> str:
                return 'hello'

        manager = FabricManager(Talking(), True)  # type: ignore[arg-type]
        found = manager.look()
        assert found is not None
        self.assertIn('no list of partitions', str(found.problem))

    def test_restart_that_forgets(self) -> None:
        self.manager.activate([unit(3), unit(2)])
        self.restart()
        self.assertEqual([], self.state.active)
        self.assertEqual('', self.manager.restore({2, 3}))
        self.assertEqual([2, 3], self.state.active)
        self.assertIn('Activated partition 3 again', self.logs.output)
        calls = len(self.state.calls)
        self.manager.restore({2, 3})
        self.assertNotIn(['-a', '2'], self.state.calls[calls:])

    def test_restart_that_waits_to_be_told(self) -> None:
        self.manager.activate([unit(3), unit(2)])
        self.restart(resilient=True)
        self.assertEqual('', self.manager.restore({2, 3}))
        self.assertEqual([2, 3], self.state.active)
        self.assertIn(['--set-activated-list', '2,3'], self.state.calls)
        self.assertNotIn('again:', self.logs.output)
        self.restart(resilient=True)
        self.assertEqual('', self.manager.restore(()))
        self.assertIn(['--set-activated-list', ''], self.state.calls)
        self.assertEqual([], self.state.active)

    def test_fmpm_that_loses_the_list(self) -> None:
        self.manager.activate([unit(3)])
        self.change(bug=True)
        self.restart(resilient=True)
        self.assertEqual('', self.manager.restore({3}))
        self.assertEqual([3], self.state.active)
        self.assertIn('Activated partition 3 again', self.logs.output)

    def test_what_can_not_be_active_again(self) -> None:
        self.change(active=[1])
        problem = self.manager.restore({3, 2})
        self.assertIn('partition 3', problem)
        self.assertEqual([1, 2], self.state.active)
        self.manager.restore({3, 2})
        self.assertEqual(1, self.logs.output.count('partition 3 is taken'))

    def test_what_it_refuses(self) -> None:
        self.manager.activate([unit(1)])
        error = self.assertRaises(
            exception.UnitTaken, self.manager.activate, [unit(3)]
        )
        self.assertEqual('partition 3', error.device)
        self.change(running=False)
        self.assertRaises(
            exception.EffectFailed, self.manager.activate, [unit(2)]
        )
        self.assertRaises(
            exception.EffectFailed, self.manager.deactivate, 1, ()
        )
        self.assertIn(
            'CONNECTION_NOT_VALID', self.manager.restore({1}, fresh=True)
        )
