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

"""``nova-gpu audit``, without Placement: functional tests have a real one."""

from __future__ import annotations

import shutil
from typing import Any

import fixtures

from nova_gpu import privsep
from nova_gpu.claimsfile import PATH, ClaimsFile
from nova_gpu.cli import audit
from nova_gpu.model.address import parse_address
from nova_gpu.model.claim import ALLOCATED, Claim
from nova_gpu.model.inventory import Unit
from nova_gpu.putaside import FOLDER, PutAside
from tests.fixtures import hosts
from tests.unit.cli import base

GUEST, OTHER = (f'11111111-2222-4333-8444-55555555555{n}' for n in (5, 6))
FIRST, SECOND = (f'6e6f7661-6770-8000-8000-00000000000{n}' for n in (1, 2))
T4, TYPE = '0000:3b:00.0', 'nvidia-233'
NODE = '0a5c0a2e-9f1b-4c55-8d1e-0d6f6a3f9a11'


def vgpu(device: str) -> Unit:
    return Unit(
        'mdev', '0000_3b_00_0', 'CUSTOM_VGPU_NVIDIA_T4_8Q', parse_address(T4),
        device, type_id=TYPE, name='GRID T4-8Q', parent=parse_address(T4),
    )  # fmt: skip


class AuditTest(base.CliTest):
    """A T4 with vGPUs of two guests, or of none."""

    def setUp(self) -> None:
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch('nova_gpu.cli.audit.PAUSE', 0.0))
        hosts.four_t4(self.fake)
        self.fake.write('etc/libvirt/qemu/networks/default.xml', '<network/>')

    def audit(self, *args: str) -> base.Result:
        return self.nova_gpu('audit', '-f', 'json', '--root', self.root, *args)

    def problems(self, code: int, *args: str) -> list[tuple[str, str]]:
        result = self.audit(*args)
        self.assertEqual(code, result.code, result.errors)
        return [(r['Problem'], r['Device']) for r in result.json]

    def tell(self, *claims: Claim) -> None:
        """What nova-compute, which is this process then, tells."""
        self.file = ClaimsFile(self.root + PATH)
        self.file.write(NODE, claims)

    def test_all_is_well(self) -> None:
        self.fake.create_mdev(T4, TYPE, FIRST)
        self.add_guest('a', GUEST, mdevs=[FIRST], units=[vgpu(FIRST)])
        self.tell(Claim(GUEST, (vgpu(FIRST),), ALLOCATED))
        result = self.audit()
        self.assertEqual((0, []), (result.code, result.json))
        self.assertEqual(
            ['warning: no nova.conf was read: Placement is not compared'],
            result.errors,
        )

    def test_no_nova_compute(self) -> None:
        result = self.audit()
        self.assertEqual((2, []), (result.code, result.json))
        self.assertIn(
            'warning: nova-compute with nova-gpu does not run on this host: '
            'what it holds is not compared',
            result.errors,
        )

    def test_left_over(self) -> None:
        self.fake.create_mdev(T4, TYPE, FIRST)
        expected = [('vGPU without a guest', FIRST)]
        self.assertEqual(expected, self.problems(2))
        self.assertEqual([FIRST], self.fake.mdevs)
        self.tell()
        self.assertEqual(expected, self.problems(1))

    def test_left_over_is_the_services(self) -> None:
        # It may be making it for a guest that is still to come.
        self.fake.create_mdev(T4, TYPE, FIRST)
        self.tell()
        result = self.audit('--repair')
        self.assertEqual(1, result.code, result.errors)
        (row,) = result.json
        self.assertIn('nova-compute removes it', row['What To Do'])
        self.assertEqual([FIRST], self.fake.mdevs)
        self.assertFalse(self.is_removed(FIRST))

    def test_service_that_starts_before_the_repair(self) -> None:
        self.fake.create_mdev(T4, TYPE, FIRST)
        in_process = privsep.in_process

        def start(root: str, **options: str) -> Any:
            self.tell()
            return in_process(root, **options)

        with fixtures.MonkeyPatch('nova_gpu.privsep.in_process', start):
            result = self.audit('--repair')
        self.assertEqual(2, result.code)
        self.assertIn(
            f'error: not repaired: {FIRST}: nova-compute runs: it removes it',
            result.errors,
        )
        self.assertFalse(self.is_removed(FIRST))

    def test_left_over_of_a_guest_that_can_not_be_read(self) -> None:
        self.fake.create_mdev(T4, TYPE, FIRST)
        self.fake.write('etc/libvirt/qemu/a.xml', '<domain>')
        result = self.audit('--repair')
        self.assertEqual(2, result.code)
        self.assertIn(
            f'error: not repaired: {FIRST}: a guest that can not be read may '
            f'hold it',
            result.errors,
        )
        self.assertFalse(self.is_removed(FIRST))

    def test_guests_of_which_nothing_is_known(self) -> None:
        shutil.rmtree(f'{self.root}/etc/libvirt')
        self.tell()
        result = self.audit()
        self.assertEqual(2, result.code)
        self.assertIn(
            f'warning: not all guests of this host could be read, and what '
            f'they hold is not known: {self.root}/etc/libvirt/qemu: No such '
            f'file or directory; install libvirt, or let nova-gpu see its '
            f'files',
            result.errors,
        )

    def test_host_that_can_not_be_looked_at(self) -> None:
        result = self.nova_gpu('audit', '--root', '/nowhere')
        self.assertEqual(2, result.code)
        self.assertIn('error: /nowhere: No such file', result.errors[0])
        result = self.audit('--config-file', '/nowhere/nova.conf')
        self.assertEqual(2, result.code)

    def is_removed(self, device: str) -> bool:
        """Whether the command wrote that; what follows is a fake."""
        path = self.fake.device(device) / 'remove'
        return path.exists() and path.read_text().strip() == '1'

    def test_lost(self) -> None:
        self.tell()
        self.add_guest('a', GUEST, mdevs=[FIRST], units=[vgpu(FIRST)])
        self.assertIn(('vGPU gone', FIRST), self.problems(1))

    def test_repair(self) -> None:
        self.fake.create_mdev(T4, TYPE, FIRST)
        self.add_guest('a', GUEST, mdevs=[SECOND], units=[vgpu(SECOND)])
        result = self.audit('--repair')
        # Nothing is left; that nova-compute doesn't run is still said.
        self.assertEqual((2, []), (result.code, result.json), result.errors)
        self.assertTrue(self.is_removed(FIRST))
        create = self.fake.device(T4) / f'mdev_supported_types/{TYPE}/create'
        self.assertEqual(SECOND, create.read_text().strip())
        for problem, device in (
            ('vGPU without a guest', FIRST),
            ('vGPU gone', SECOND),
        ):
            self.assertIn(f'note: {problem} {device}: done',
                          ' '.join(result.errors))  # fmt: skip

    def test_repair_that_fails(self) -> None:
        self.fake.create_mdev(T4, TYPE, FIRST)
        path = self.fake.device(FIRST) / 'remove'
        path.unlink(missing_ok=True)
        path.mkdir()
        self.assertEqual(
            [('vGPU without a guest', FIRST)], self.problems(2, '--repair')
        )

    def test_what_is_put_aside_is_not_left_over(self) -> None:
        self.fake.create_mdev(T4, TYPE, FIRST)
        PutAside(self.root + FOLDER).add(FIRST, 'it does not go')
        self.tell()
        self.assertEqual([], self.problems(0))

    def test_what_others_gave(self) -> None:
        """A card that Nova may hand out is only ours with its settings."""
        self.add_guest('a', GUEST, functions=[T4])
        self.tell()
        self.assertEqual([], self.problems(0))
        expected = [('nova-compute does not know', T4)]
        self.assertEqual(expected, self.problems(2, *self.config('')))
        self.assertEqual(
            [],
            self.problems(2, *self.config('[pci]\ndevice_spec = {}\n')),
        )

    def config(self, text: str) -> tuple[str, str]:
        """A nova.conf with a Placement that doesn't answer."""
        path = self.useFixture(fixtures.TempDir()).join('nova.conf')
        with open(path, 'w') as file:
            file.write(
                '[placement]\nauth_type = none\n'
                f'endpoint_override = http://127.0.0.1:9\n{text}'
            )
        return '--config-file', path

    def test_in_two_guests(self) -> None:
        self.tell(Claim(GUEST, (vgpu(FIRST),), ALLOCATED))
        self.fake.create_mdev(T4, TYPE, FIRST)
        for name, uuid in (('a', GUEST), ('b', OTHER)):
            self.add_guest(name, uuid, mdevs=[FIRST], units=[vgpu(FIRST)])
        self.assertEqual([('device in two guests', FIRST)], self.problems(1))
        # A person has to say which of them is to have it.
        self.assertEqual(
            [('device in two guests', FIRST)], self.problems(1, '--repair')
        )

    def test_what_nova_compute_holds(self) -> None:
        self.fake.create_mdev(T4, TYPE, FIRST)
        self.add_guest('a', GUEST, mdevs=[FIRST], units=[vgpu(FIRST)])
        self.tell(Claim(OTHER, (vgpu(SECOND),), ALLOCATED))
        self.assertEqual(
            [('held for no guest', SECOND),
             ('nova-compute does not know', FIRST)],
            self.problems(1),
        )  # fmt: skip

    def test_what_is_on_its_way_is_no_difference(self) -> None:
        self.tell()
        self.fake.create_mdev(T4, TYPE, FIRST)

        def meanwhile(seconds: float) -> None:
            self.add_guest('a', GUEST, mdevs=[FIRST], units=[vgpu(FIRST)])

        self.useFixture(fixtures.MonkeyPatch('time.sleep', meanwhile))
        self.assertEqual([], self.problems(0))

    def test_file_that_can_not_be_read(self) -> None:
        self.fake.write(PATH.lstrip('/'), 'not JSON')
        result = self.audit()
        self.assertEqual(2, result.code)
        self.assertIn('is not of this release', ' '.join(result.errors))

    def test_placement_that_can_not_be_asked(self) -> None:
        self.tell()
        result = self.audit(*self.config(''))
        self.assertEqual(2, result.code)
        self.assertIn('error: Placement can not be asked: ', result.errors[0])

    def test_a_column_a_thing(self) -> None:
        self.tell()
        self.fake.create_mdev(T4, TYPE, FIRST)
        (row,) = self.audit().json
        self.assertEqual(list(audit.COLUMNS), list(row))
        self.assertEqual('-', row['Instance'])
        self.assertIn(T4, row['Meaning'])
