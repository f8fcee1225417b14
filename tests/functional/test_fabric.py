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

"""Servers on a board whose NVSwitches Fabric Manager divides."""

from __future__ import annotations

from typing import Any

import fixtures

from tests.fixtures import fmpm, hosts
from tests.functional import base
from tests.functional.test_boot import A100

MODULES = dict(zip(hosts.A100_ADDRESSES, range(1, 9), strict=True))


class BoardTest(base.GpuServersTest):
    """Hosts with an A100 board in shared NVSwitch mode."""

    def setUp(self) -> None:
        super().setUp()
        self.logs = self.useFixture(fixtures.FakeLogger())
        self.flags(fabric_manager='127.0.0.1', group='gpu')
        # What happens to Fabric Manager is seen at once, and a program may
        # take its time on a busy machine.
        for name, value in (
            ('fabric.FRESH', 0.0),
            ('effects.fmpm.LIST_SECONDS', base.PATIENCE),
        ):
            self.useFixture(fixtures.MonkeyPatch(f'nova_gpu.{name}', value))

    def start(self, *names: str) -> None:
        for name in names:
            fake = hosts.divided_a100_board(self.new_host(name))
            fmpm.install(fake.fabric, fake.root / 'usr/bin/fmpm')
            self.start_gpu_compute(name)

    def change(self, name: str, **values: Any) -> None:
        """Let something happen to a host's Fabric Manager."""
        with fmpm.changing(self.hosts[name].fabric) as fabric:
            for key, value in values.items():
                setattr(fabric, key, value)

    def active(self, name: str) -> list[int]:
        return sorted(fmpm.Fabric.load(self.hosts[name].fabric).active)

    def flavor(self, count: int, **specs: str) -> str:
        return self.gpu_flavor(**{f'resources__{A100}': str(count), **specs})

    def modules(self, server: Any) -> tuple[int, ...]:
        """The modules of a server's cards."""
        functions = self.guest_devices(server).functions
        return tuple(sorted(MODULES[str(function)] for function in functions))

    def assert_divided(self, name: str, *servers: Any) -> None:
        """Each server has a partition that is active, and no other is."""
        found = sorted(
            number
            for server in servers
            for number, modules in fmpm.HGX_A100.items()
            if modules == self.modules(server)
        )
        self.assertEqual(len(servers), len(found))
        self.assertEqual(found, self.active(name))


class FabricTest(BoardTest):
    """One host, and all that can happen to it."""

    def test_every_size_and_a_restart(self) -> None:
        self.start('gpu1')
        for count in (8, 4, 2, 1):
            server = self.boot(self.flavor(count, gpu__topology='nvlink'))
            self.assertEqual(count, len(self.modules(server)))
            self.assert_divided('gpu1', server)
            if count < 8:
                self._delete_server(server)
                self.assertEqual([], self.active('gpu1'))
                continue
            self.restart_gpu_compute('gpu1')
            self.assert_divided('gpu1', server)
            self._delete_server(server)
        self.assertEqual([], self.active('gpu1'))
        self.assert_consistent()

    def test_mixed_sizes_and_a_restart(self) -> None:
        self.start('gpu1')
        servers = [self.boot(self.flavor(count)) for count in (1, 4, 2)]
        self.assert_divided('gpu1', *servers)
        # Activated, and then nova-compute dies: nobody has it.
        self.change('gpu1', active=[*self.active('gpu1'), 20])
        self.restart_gpu_compute('gpu1')
        self.assert_divided('gpu1', *servers)
        self.assertIn('Deactivating partition 20', self.logs.output)
        self._delete_server(servers.pop(1))
        self.assert_divided('gpu1', *servers)
        self.boot(self.flavor(4))
        self.assert_no_device_twice()
        self.assert_consistent()

    def test_sizes_that_there_are_not(self) -> None:
        self.start('gpu1')
        self._run_periodics()
        server = self.boot(self.flavor(3), state='ERROR')
        self.assertIn('No valid host', server['fault']['message'])
        # It never came to the compute.
        self.assertNotIn('Could not claim', self.logs.output)

    def test_fabric_manager_restarts(self) -> None:
        self.start('gpu1')
        servers = [self.boot(self.flavor(count)) for count in (4, 2)]
        for resilient in (False, True):
            with fmpm.changing(self.hosts['gpu1'].fabric) as fabric:
                fabric.stop()
                fabric.resilient = resilient
                fabric.start()
            self._run_periodics()
            self.assert_divided('gpu1', *servers)
        calls = fmpm.Fabric.load(self.hosts['gpu1'].fabric).calls
        listed = ','.join(map(str, self.active('gpu1')))
        self.assertIn(['--set-activated-list', listed], calls)

    def test_host_boots(self) -> None:
        self.start('gpu1')
        server = self.boot(self.flavor(4))
        self._stop_server(server)
        self.change('gpu1', active=[])
        self.restart_gpu_compute('gpu1')
        self.assert_divided('gpu1', server)
        self._start_server(server)
        self.assert_divided('gpu1', server)

    def test_fabric_manager_is_away(self) -> None:
        self.start('gpu1')
        server = self.boot(self.flavor(2))
        self.change('gpu1', running=False)
        self._run_periodics()
        inventory = self.providers_of('gpu1')['gpu1_gpu_nvidia_a100_sxm4_40gb']
        self.assertEqual(8, inventory[A100]['total'])
        self.assertEqual(6, inventory[A100]['reserved'])
        # A server can go all the same; its cards follow later.
        self._delete_server(server)
        self.boot(self.flavor(1), state='ERROR')
        self.change('gpu1', running=True)
        self._run_periodics()
        self.assertEqual([], self.active('gpu1'))
        self.assert_divided('gpu1', self.boot(self.flavor(8)))

    def test_guest_does_not_start_apart(self) -> None:
        self.start('gpu1')
        server = self.boot(self.flavor(2))
        self._stop_server(server)
        self.change('gpu1', active=[], running=False)
        # Casts are calls here.
        self.assertRaises(
            base.ApiError,
            self.api.post_server_action, server['id'], {'os-start': {}},
        )  # fmt: skip
        self.assertIn('is not active', self.logs.output)
        self.change('gpu1', running=True)
        self._start_server(server)
        self.assert_divided('gpu1', server)

    def test_what_the_commands_show(self) -> None:
        self.start('gpu1')
        server = self.boot(self.flavor(2))
        (number,) = self.active('gpu1')
        self.change('gpu1', active=[number, 26])
        code, found, err = self.run_audit('gpu1')
        self.assertEqual(1, code, err)
        self.assertEqual(
            [('partition without a guest', 'partition 26')],
            [(d['Problem'], d['Device']) for d in found],
        )
        self.change('gpu1', active=[])
        code, found, err = self.run_audit('gpu1')
        self.assertEqual(
            [('partition not active', f'partition {number}', server['id'])],
            [(d['Problem'], d['Device'], d['Instance']) for d in found],
        )


class TwoHostsTest(BoardTest):
    """What fails on a host is tried on the next."""

    CAST_AS_CALL = False

    def test_another_host(self) -> None:
        self.start('gpu1', 'gpu2')
        first = self.boot(self.flavor(1))
        name = first['OS-EXT-SRV-ATTR:host']
        self._run_periodics()
        # Schedulers think that this one is the best.
        self.change(name, running=False)
        second = self.boot(self.flavor(2))
        other = second['OS-EXT-SRV-ATTR:host']
        self.assertNotEqual(name, other)
        self.assert_divided(other, second)
        self.assertIn('CONNECTION_NOT_VALID', self.logs.output)
