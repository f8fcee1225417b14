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


"""What a boot of the host takes away comes back."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from nova_gpu.model.address import PciAddress, parse_address
from nova_gpu.model.claim import Want
from nova_gpu.model.guest import GuestDevices, Hostdev
from nova_gpu.model.inventory import Unit
from nova_gpu.model.request import GpuRequest
from nova_gpu.restore import PAUSE, Restorer
from nova_gpu.rules import parse_rules
from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs
from tests.unit import base

T4, T4_POOL = '0000:3b:00.0', '0000_3b_00_0'
A10, A10_POOL = '0000:41:00.0', '0000_41_00_0'
FIRST = '0000:41:00.4'
T4_8Q, A10_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q', 'CUSTOM_VGPU_NVIDIA_A10_8Q'
MI300X = '0000:0c:00.0'
A, B = map(base.instance, 'ab')
ALL = '{"address": "%s", "virtual_functions": %s}'


class RestoreTest(base.TrackerTest):
    """On the host: what each test adds."""

    def add(self, function: Callable[[FakeSysfs], Any]) -> None:
        function(self.fake)
        self.tracker = self.new_tracker()

    def restore(
        self, *guests: GuestDevices, rules: tuple[str, ...] = (),
        owned: tuple[str, ...] = (), timeout: float = 3,
        pause: Callable[[], None] = lambda: None,
    ) -> list[float]:  # fmt: skip
        """What nova-compute does at start; returns the pauses."""
        pauses: list[float] = []

        def wait(seconds: float) -> None:
            pauses.append(seconds)
            pause()

        Restorer(
            self.snapshot, base.mechanisms(), self.fake, parse_rules(rules),
            lambda snapshot: {parse_address(a) for a in owned}, wait,
        ).restore(guests, timeout)  # fmt: skip
        return pauses

    def take(self, consumer: str, *wants: Want) -> GuestDevices:
        self.tracker.claim(consumer, wants, GpuRequest({}, vgpu_params='a=b'))
        return self.guest(consumer)

    def numvfs(self, address: str = MI300X) -> int:
        return int((self.fake.device(address) / 'sriov_numvfs').read_text())


class UnitsTest(RestoreTest):
    """vGPUs come back with their UUIDs, types and parameters."""

    def test_mdevs(self) -> None:
        self.add(hosts.four_t4)
        guests = [self.take(c, Want(T4_POOL, T4_8Q, 1)) for c in (A, B)]
        before = self.fake.mdevs
        self.fake.reboot()
        self.assertEqual([], self.fake.mdevs)
        self.assertEqual([], self.restore(*guests))
        self.assertEqual(before, self.fake.mdevs)
        self.assertEqual(
            ['nvidia-233'] * 2, [kind for _, kind in self.fake.made(T4)]
        )
        for uuid in before:
            path = self.fake.device(uuid) / 'nvidia/vgpu_params'
            self.assertEqual('a=b', path.read_text())
            self.assertIn(
                f'Made {uuid} (GRID T4-8Q) of card {T4} again',
                self.logs.output,
            )

    def test_two_that_were_on_one_function(self) -> None:
        self.add(hosts.two_a40_with_functions)
        pool = self.tracker.view().pools[0]
        name = next(n for n in pool.inventories if n.endswith('A40_8Q'))
        self.take(A, Want(pool.key, name, 1))
        (unit,) = self.tracker.units_of(A)
        # It goes, another takes its function, and it comes back on one that
        # nobody had: what is recorded of it stays.
        self.fake.remove_mdev(unit.device)
        second = self.take(B, Want(pool.key, name, 1))
        self.tracker.make_again(A)
        first = self.guest(A)
        self.assertEqual(*(g.units[0].parent for g in (first, second)))
        before = self.fake.mdevs
        for guests in ((first, second), (second, first)):
            for uuid in before:
                self.fake.remove_mdev(uuid)
            self.restore(*guests)
            self.assertEqual(before, self.fake.mdevs)

    def test_types_on_functions(self) -> None:
        self.add(hosts.a10_vendor_vfio)
        guest = self.take(A, Want(A10_POOL, A10_8Q, 2))
        before = self.fake.vgpu_types(A10)
        self.fake.reboot()
        self.restore(guest)
        self.assertEqual(before, self.fake.vgpu_types(A10))

    def test_parameters_that_are_refused(self) -> None:
        self.add(hosts.four_t4)
        guest = self.take(A, Want(T4_POOL, T4_8Q, 1))
        self.fake.reboot()
        self.fake.failures['set_vgpu_params'] = errno.EINVAL
        self.restore(guest)
        # One without its parameters would pass for the one that it was.
        self.assertEqual([], self.fake.mdevs)
        self.assertIn('Could not make', self.logs.output)
        self.fake.failures.clear()
        self.restore(guest)
        self.assertEqual(sorted(guest.mdevs), self.fake.mdevs)

    def test_nothing_to_do(self) -> None:
        self.add(hosts.a10_vendor_vfio)
        guest = self.take(A, Want(A10_POOL, A10_8Q, 1))
        self.fake.failures['set_vgpu_type'] = errno.EIO
        self.fake.failures['set_vgpu_params'] = errno.EIO
        self.assertEqual([], self.restore(guest))
        self.assertNotIn('Could not', self.logs.output)

    def test_what_fails_stops_nothing(self) -> None:
        self.add(hosts.four_t4)
        guests = [self.take(c, Want(T4_POOL, T4_8Q, 1)) for c in (A, B)]
        self.fake.reboot()
        # Somebody else has taken half of the card.
        self.fake.create_mdev(
            T4, 'nvidia-233', '0a5c0a2e-9f1b-4c55-8d1e-0d6f6a3f9a11'
        )
        self.assertEqual([], self.restore(*guests))
        self.assertEqual(2, len(self.fake.mdevs))
        (lost,) = guests[1].mdevs
        self.assertIn(
            f'Could not make {lost} ({T4_8Q}) of instance {B} again: ',
            self.logs.output,
        )

    def test_card_that_is_gone_is_not_waited_for(self) -> None:
        self.add(hosts.four_t4)
        guest = self.take(A, Want(T4_POOL, T4_8Q, 1))
        self.fake.remove(T4)
        self.assertEqual([], self.restore(guest))

    def test_mechanism_that_is_not_installed(self) -> None:
        self.add(hosts.four_t4)
        self.take(A, Want(T4_POOL, T4_8Q, 1))
        text = self.guest_xml(A).replace('mechanism="mdev"', 'mechanism="z"')
        guest = base.parse_guest(text, 'x')
        self.assertEqual('z', guest.units[0].mechanism)
        self.fake.reboot()
        self.assertEqual([], self.restore(guest))
        self.assertEqual([], self.fake.mdevs)


class WaitTest(RestoreTest):
    """A vendor's driver may come late."""

    def setUp(self) -> None:
        super().setUp()
        self.add(hosts.four_t4)
        self.held = self.take(A, Want(T4_POOL, T4_8Q, 1))
        self.before = self.fake.mdevs
        self.fake.reboot(late=[T4])

    def test_it_comes(self) -> None:
        self.assertEqual(
            [PAUSE],
            self.restore(self.held, pause=lambda: self.fake.load_driver(T4)),
        )
        self.assertEqual(self.before, self.fake.mdevs)
        self.assertIn(
            f'Waiting up to 3 s for the drivers of the GPUs: card {T4} with '
            f'{self.before[0]} of instance {A}',
            self.logs.output,
        )
        self.assertNotIn('Gave up', self.logs.output)

    def test_it_does_not(self) -> None:
        self.assertEqual([PAUSE] * 3, self.restore(self.held))
        self.assertEqual(1, self.logs.output.count('Waiting up to'))
        self.assertIn(
            f'Gave up waiting for card {T4} with {self.before[0]} of '
            f'instance {A}',
            self.logs.output,
        )

    def test_no_time_at_all(self) -> None:
        self.assertEqual([], self.restore(self.held, timeout=0))
        self.assertIn('Gave up waiting', self.logs.output)


class FunctionsTest(RestoreTest):
    """Virtual functions are enabled where a rule asks for them."""

    def setUp(self) -> None:
        super().setUp()
        self.add(lambda fake: hosts.mi300x(fake, enabled_vfs=0))

    def test_no_rule(self) -> None:
        self.restore()
        self.assertEqual(0, self.numvfs())

    def test_all_and_some(self) -> None:
        for said, expected in (('"all"', 8), ('3', 3), ('64', 8)):
            self.fake.reboot()
            # They are looked at before anything is made on them.
            self.assertEqual([], self.restore(rules=(ALL % (MI300X, said),)))
            self.assertEqual(expected, self.numvfs())
        self.assertIn(
            f'Enabled 3 virtual functions of card {MI300X}', self.logs.output
        )

    def test_enabled_ones_are_left_alone(self) -> None:
        self.fake.enable_vfs(MI300X, 2)
        self.fake.failures['enable_vfs'] = errno.EBUSY
        self.assertEqual([], self.restore(rules=(ALL % (MI300X, '"all"'),)))
        self.assertEqual(2, self.numvfs())
        self.assertNotIn('Could not', self.logs.output)

    def test_card_of_somebody_else(self) -> None:
        self.restore(rules=(ALL % (MI300X, '"all"'),), owned=(MI300X,))
        self.assertEqual(0, self.numvfs())

    def test_card_that_a_guest_names(self) -> None:
        # By its XML alone: nova-gpu has recorded nothing in it.
        text = base.domain_xml(
            'x', A, [Hostdev(function=PciAddress.parse(MI300X))]
        )
        self.restore(
            base.parse_guest(text, 'x'), rules=(ALL % (MI300X, '"all"'),)
        )
        self.assertEqual(0, self.numvfs())

    def test_card_that_a_move_keeps(self) -> None:
        card = PciAddress.parse(MI300X)
        unit = Unit('whole', 'x', 'X', card, MI300X, functions=(card,))
        text = base.domain_xml('x', A, [], kept={B: [unit]})
        self.restore(
            base.parse_guest(text, 'x'), rules=(ALL % (MI300X, '"all"'),)
        )
        self.assertEqual(0, self.numvfs())

    def test_refused(self) -> None:
        self.fake.failures['enable_vfs'] = errno.EIO
        self.assertEqual([], self.restore(rules=(ALL % (MI300X, '"all"'),)))
        self.assertEqual(
            1,
            self.logs.output.count(
                f'Could not enable 8 virtual functions of card {MI300X}'
            ),
        )

    def test_driver_that_is_late(self) -> None:
        self.fake.reboot(late=[MI300X])
        pauses = self.restore(
            rules=(ALL % (MI300X, '"all"'),),
            pause=lambda: self.fake.load_driver(MI300X),
        )
        self.assertEqual([PAUSE], pauses)
        self.assertEqual(8, self.numvfs())

    def test_driver_that_never_comes(self) -> None:
        self.fake.reboot(late=[MI300X])
        self.assertEqual(
            [PAUSE] * 3, self.restore(rules=(ALL % (MI300X, '"all"'),))
        )
        self.assertIn(
            f'Gave up waiting for card {MI300X} (driver: none), whose '
            f'virtual functions a rule asks for',
            self.logs.output,
        )

    def test_functions_then_types(self) -> None:
        address = '0000:41:00.0'
        self.fake.add_gpu(
            address, 0x2236, driver='nvidia', iommu_group=30,
            types=hosts.A10_TYPES, units=24, virtual_functions=4,
            vendor_vfio=True, enabled_vfs=0,
        )  # fmt: skip
        rules = (ALL % (address, '"all"'),)
        self.restore(rules=rules)
        self.tracker = self.new_tracker(*rules)
        guest = self.take(A, Want(A10_POOL, A10_8Q, 1))
        self.fake.reboot()
        self.restore(guest, rules=rules)
        self.assertEqual({FIRST: '595'}, self.fake.vgpu_types(address))

    def test_gpu_instances_are_left_alone(self) -> None:
        self.fake = hosts.a100_mig_vendor_vfio(self.new_host())
        card = '0000:c1:00.0'
        self.restore(rules=(ALL % (card, '"all"'),))
        self.assertEqual(5, self.cards()[card].gpu_instances)
