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

import fixtures

from nova_gpu.claimsfile import PATH, ClaimsFile
from nova_gpu.cli import audit
from nova_gpu.model.address import parse_address
from nova_gpu.model.claim import ALLOCATED, Claim
from nova_gpu.model.inventory import Unit
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
            ['warning: no --config-file: Placement is not compared'],
            result.errors,
        )

    def test_no_nova_compute(self) -> None:
        result = self.audit()
        self.assertEqual(0, result.code)
        self.assertIn(
            'warning: nova-compute with nova-gpu does not run on this host: '
            'what it holds is not compared',
            result.errors,
        )

    def test_left_over(self) -> None:
        self.fake.create_mdev(T4, TYPE, FIRST)
        expected = [('vGPU without a guest', FIRST)]
        self.assertEqual(expected, self.problems(1))
        self.assertEqual([FIRST], self.fake.mdevs)

    def test_lost(self) -> None:
        self.add_guest('a', GUEST, mdevs=[FIRST], units=[vgpu(FIRST)])
        self.assertEqual([('vGPU gone', FIRST)], self.problems(1))

    def test_repair(self) -> None:
        self.fake.create_mdev(T4, TYPE, FIRST)
        self.add_guest('a', GUEST, mdevs=[SECOND], units=[vgpu(SECOND)])
        result = self.audit('--repair')
        self.assertEqual((0, []), (result.code, result.json), result.errors)
        # The command writes files; what follows them is a fake.
        written = self.fake.device(FIRST) / 'remove'
        self.assertEqual('1', written.read_text().strip())
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
            [('vGPU without a guest', FIRST)], self.problems(1, '--repair')
        )

    def test_in_two_guests(self) -> None:
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
        path = self.useFixture(fixtures.TempDir()).join('nova.conf')
        with open(path, 'w') as file:
            file.write(
                '[placement]\nauth_type = none\n'
                'endpoint_override = http://127.0.0.1:9\n'
            )
        result = self.audit('--config-file', path)
        self.assertEqual(2, result.code)
        self.assertIn('error: Placement can not be asked: ', result.errors[0])

    def test_a_column_a_thing(self) -> None:
        self.fake.create_mdev(T4, TYPE, FIRST)
        (row,) = self.audit().json
        self.assertEqual(list(audit.COLUMNS), list(row))
        self.assertEqual('-', row['Instance'])
        self.assertIn(T4, row['Meaning'])
