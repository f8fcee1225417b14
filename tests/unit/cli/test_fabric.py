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

"""The commands on a host whose NVSwitches Fabric Manager divides."""

from __future__ import annotations

import os
from typing import Any

import fixtures

from nova_gpu.model.address import PciAddress
from nova_gpu.model.inventory import Unit
from tests.fixtures import fmpm, hosts
from tests.unit import base as unit_base
from tests.unit.cli import base

A = unit_base.instance('a')
MODULES = {module: a for a, module in hosts.H100_MODULES.items()}


class FabricTest(base.CliTest):
    """Eight H100; a guest has partition 3, which is active."""

    def setUp(self) -> None:
        super().setUp()
        # Machines that run tests may be busy.
        self.useFixture(
            fixtures.MonkeyPatch('nova_gpu.effects.fmpm.LIST_SECONDS', 300)
        )
        hosts.divided_h100_board(self.fake)
        fmpm.install(self.fake.fabric, self.fake.root / 'usr/bin/fmpm')
        rules = ''.join(f'rule = {rule}\n' for rule in hosts.H100_RULES)
        self.fake.write(
            'nova.conf', f'[gpu]\nfabric_manager = 127.0.0.1\n{rules}'
        )
        self.args = ('--config-file', f'{self.root}/nova.conf')
        self.add_guest(
            'one',
            A,
            functions=[MODULES[1], MODULES[3]],
            units=[self.unit(1), self.unit(3)],
        )
        self.change(active=[3])

    def unit(self, module: int) -> Unit:
        address = PciAddress.parse(MODULES[module])
        return Unit(
            'whole', 'pool', 'CUSTOM_X', address, str(address), (address,),
            partition=3,
        )  # fmt: skip

    def change(self, **values: Any) -> None:
        with fmpm.changing(self.fake.fabric) as fabric:
            for name, value in values.items():
                setattr(fabric, name, value)

    @property
    def active(self) -> list[int]:
        return sorted(fmpm.Fabric.load(self.fake.fabric).active)

    def run_it(self, *args: str) -> base.Result:
        return self.nova_gpu(*args, '--root', self.root, *self.args)

    def test_host_show(self) -> None:
        cards = self.cards(*self.args)
        self.assertEqual(
            [
                {'partition': 0, 'cards': 8, 'active': False},
                {'partition': 1, 'cards': 4, 'active': False},
                {'partition': 3, 'cards': 2, 'active': True},
                {'partition': 7, 'cards': 1, 'active': False},
            ],
            cards[MODULES[1]]['Partitions'],
        )
        result = self.host_show('-f', 'value', '-c', 'Partitions', *self.args)
        self.assertIn('0 (8), 1 (4), 3 (2, active), 7 (1)', result.out)

    def test_relative_root(self) -> None:
        folder, _, name = self.root.rpartition('/')
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder)
        args = ('host', 'show', '-f', 'json', *self.args)
        result = self.nova_gpu(*args, '--root', name)
        self.assertNotIn('warning', '\n'.join(result.errors))
        self.assertEqual(self.run_it(*args), result)

    def test_host_show_without_it(self) -> None:
        cards = self.cards()
        self.assertNotIn('Partitions', cards[MODULES[1]])
        self.assertEqual([], fmpm.Fabric.load(self.fake.fabric).calls)

    def test_host_show_while_it_is_away(self) -> None:
        self.change(running=False)
        result = self.host_show('-f', 'json', *self.args)
        self.assertEqual(0, result.code)
        self.assertIn('FM_ST_CONNECTION_NOT_VALID', '\n'.join(result.errors))
        profiles = [card['Profiles'][0] for card in result.json]
        self.assertEqual([0] * 8, [profile['free'] for profile in profiles])

    def test_host_topology(self) -> None:
        result = self.topology('-f', 'json', *self.args)
        rows = {row['Address']: row for row in result.json}
        self.assertEqual(
            '0 (8), 1 (4), 4 (2), 8 (1)', rows[MODULES[2]]['Partitions']
        )
        self.assertNotIn('Partitions', self.topology('-f', 'json').json[0])

    def test_fabric_restore(self) -> None:
        for resilient in (False, True):
            with fmpm.changing(self.fake.fabric) as fabric:
                fabric.resilient = resilient
                fabric.start()
            result = self.run_it('fabric', 'restore')
            self.assertEqual(0, result.code, result.errors)
            self.assertEqual('Active partitions: 3\n', result.out)
            self.assertEqual([3], self.active)
        calls = fmpm.Fabric.load(self.fake.fabric).calls
        self.assertIn(['--set-activated-list', '3'], calls)

    def test_fabric_restore_of_none(self) -> None:
        (self.fake.root / 'etc/libvirt/qemu/one.xml').unlink()
        self.change(waits=True)
        result = self.run_it('fabric', 'restore')
        self.assertEqual('Active partitions: none\n', result.out)
        self.assertFalse(fmpm.Fabric.load(self.fake.fabric).waits)

    def test_fabric_restore_in_vain(self) -> None:
        self.change(running=False)
        result = self.run_it('fabric', 'restore', '--wait', '0')
        self.assertEqual(1, result.code)
        self.assertIn('FM_ST_CONNECTION_NOT_VALID', result.errors[-1])

    def test_fabric_restore_cuts_nobody_off(self) -> None:
        self.change(waits=True)
        self.fake.write('etc/libvirt/qemu/two.xml', '<domain')
        result = self.run_it('fabric', 'restore')
        self.assertEqual(1, result.code)
        self.assertIn(
            'not all guests could be read: the XML of guest two does not',
            result.errors[-1],
        )
        self.assertTrue(fmpm.Fabric.load(self.fake.fabric).waits)

    def test_fabric_restore_where_there_is_none(self) -> None:
        result = self.nova_gpu('fabric', 'restore', '--root', self.root)
        self.assertEqual(1, result.code)
        self.assertIn('[gpu] fabric_manager is not set', result.errors[-1])

    def audit(self, *args: str) -> list[tuple[str, str]]:
        result = self.run_it('audit', '-f', 'json', *args)
        return [(d['Problem'], d['Device']) for d in result.json]

    def test_audit(self) -> None:
        self.assertEqual([], self.audit())
        self.change(active=[2])
        self.assertEqual(
            [
                ('partition not active', 'partition 3'),
                ('partition without a guest', 'partition 2'),
            ],
            self.audit(),
        )

    def test_audit_repairs(self) -> None:
        self.change(active=[2, 3])
        self.assertEqual([], self.audit('--repair'))
        self.assertEqual([3], self.active)
