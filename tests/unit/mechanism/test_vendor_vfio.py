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


"""vGPUs by NVIDIA's own VFIO interface."""

from __future__ import annotations

import dataclasses
import errno

from nova_gpu import exception
from nova_gpu.mechanism.vendor_vfio import VendorVfio
from nova_gpu.model.address import PciAddress
from nova_gpu.model.guest import GuestDevices, Hostdev
from nova_gpu.model.inventory import Unit, Use, pools
from nova_gpu.model.request import GpuRequest
from nova_gpu.model.rule import Ruling
from tests.fixtures import hosts
from tests.unit import base

A10 = '0000:41:00.0'
FIRST, SECOND = '0000:41:00.4', '0000:41:00.5'
A10_8Q, A10_24Q = 'CUSTOM_VGPU_NVIDIA_A10_8Q', 'CUSTOM_VGPU_NVIDIA_A10_24Q'
NONE = GpuRequest({})


class VendorVfioTest(base.HostTest):
    """On the host: two A10 with 32 virtual functions each."""

    def setUp(self) -> None:
        super().setUp()
        hosts.a10_vendor_vfio(self.fake)
        self.mechanism = VendorVfio()

    def use(self, *held: Unit, aside: str | None = None,
            ruling: Ruling | None = None) -> Use:  # fmt: skip
        card = self.cards()[A10]
        ruling = ruling or Ruling()
        return Use(
            card, 'vendor_vfio', self.mechanism.pool_key(card),
            self.mechanism.offers(card, ruling, held), ruling,
            aside=((aside, 'broken'),) if aside else (),
        )  # fmt: skip

    def figures(self, *held: Unit) -> dict[str, tuple[int, int, int]]:
        return {
            o.resource_class: (o.total, o.used, o.free)
            for o in self.use(*held).offers
        }

    def choose(self, name: str = A10_8Q, count: int = 1,
               aside: str | None = None) -> list[Unit]:  # fmt: skip
        use = self.use(aside=aside)
        (pool,) = pools([use])
        return list(self.mechanism.choose(pool, [use], name, count, [], NONE))

    def make(self, name: str = A10_8Q, count: int = 1) -> list[Unit]:
        return [
            self.mechanism.prepare(unit, NONE, self.fake)
            for unit in self.choose(name, count)
        ]

    def type_of(self, function: str = FIRST) -> str:
        path = self.fake.device(function) / 'nvidia/current_vgpu_type'
        return path.read_text().strip()


class OffersTest(VendorVfioTest):
    """What the card gives."""

    def test_recognized_by_the_interface(self) -> None:
        card = self.cards()[A10]
        self.assertTrue(self.mechanism.recognizes(card))
        self.assertIsNone(self.mechanism.refusal(card))
        other = dataclasses.replace(card, vendor_vfio=False)
        self.assertFalse(self.mechanism.recognizes(other))
        self.assertIn('offers no vGPU types', self.mechanism.refusal(other))

    def test_needs_an_iommu(self) -> None:
        card = dataclasses.replace(self.cards()[A10], iommu_group=None)
        self.assertIn('has no IOMMU group', self.mechanism.refusal(card))

    def test_functions_that_are_not_enabled(self) -> None:
        card = dataclasses.replace(
            self.cards()[A10], vendor_vfio=False, vfs=()
        )
        self.assertIn(
            'its virtual functions are not enabled',
            self.mechanism.refusal(card),
        )

    def test_empty_card_offers_all(self) -> None:
        figures = self.figures()
        self.assertEqual(8, len(figures))
        self.assertEqual((3, 0, 3), figures[A10_8Q])
        self.assertEqual((1, 0, 1), figures[A10_24Q])

    def test_first_one_fixes_the_card(self) -> None:
        figures = self.figures(*self.make())
        self.assertEqual((3, 1, 2), figures.pop(A10_8Q))
        self.assertEqual({0}, {free for _, _, free in figures.values()})
        self.assertEqual((1, 0, 0), figures[A10_24Q])

    def test_after_a_restart_on_a_card_in_use(self) -> None:
        held = self.make(count=2)
        self.mechanism = VendorVfio()
        self.assertEqual({A10_8Q: (3, 2, 1)}, self.figures(*held))

    def test_one_that_is_full(self) -> None:
        held = self.make(count=3)
        self.assertEqual((3, 3, 0), self.figures(*held)[A10_8Q])
        self.mechanism = VendorVfio()
        (unit,) = {u.resource_class for u in held}
        self.assertEqual({unit: (3, 3, 0)}, self.figures(*held))

    def test_used_on_a_function_that_does_not_tell(self) -> None:
        held = self.make(count=2)
        self.fake.wedge(FIRST, unreadable=True)
        # Nobody knows what is left: one, as the driver says there is any.
        self.assertEqual((3, 2, 1), self.figures(*held)[A10_8Q])

    def test_mixed_sizes(self) -> None:
        self.fake = hosts.rtx_pro_6000(self.new_host())
        name = 'CUSTOM_VGPU_NVIDIA_RTX_PRO_6000_BLACKWELL_DC_{}Q'
        (card,) = self.cards().values()
        offers = self.mechanism.offers(card, Ruling(), ())
        pool = self.mechanism.pool_key(card)
        use = Use(card, 'vendor_vfio', pool, offers)
        (unit,) = self.mechanism.choose(
            pools([use])[0], [use], name.format(48), 1, [], NONE
        )
        held = self.mechanism.prepare(unit, NONE, self.fake)
        (card,) = self.cards().values()
        free = {
            o.resource_class: o.free
            for o in self.mechanism.offers(card, Ruling(), [held])
        }
        self.assertEqual(1, free[name.format(48)])
        self.assertEqual(2, free[name.format(24)])
        self.assertEqual(0, free[name.format(96)])


class MakeTest(VendorVfioTest):
    """A type is written, and taken away."""

    def test_made_and_cleaned(self) -> None:
        (unit,) = self.make()
        address = PciAddress.parse(FIRST)
        self.assertEqual((address,), unit.functions)
        self.assertEqual((FIRST, address), (unit.device, unit.parent))
        self.assertEqual(('595', 'NVIDIA A10-8Q'), (unit.type_id, unit.name))
        self.assertEqual('595', self.type_of())
        self.mechanism.clean(unit, self.fake)
        self.assertEqual('0', self.type_of())
        self.mechanism.clean(unit, self.fake)

    def test_params(self) -> None:
        (unit,) = self.make()
        request = GpuRequest({}, vgpu_params='a=b')
        unit = self.mechanism.configure(unit, request, self.fake)
        self.assertEqual('a=b', unit.params)
        path = self.fake.device(FIRST) / 'nvidia/vgpu_params'
        self.assertEqual('a=b', path.read_text())
        self.assertEqual(unit, self.mechanism.configure(unit, NONE, self.fake))

    def test_guest_device_is_not_managed(self) -> None:
        units = self.make(count=2)
        self.assertEqual(
            [
                Hostdev(function=PciAddress.parse(f), managed=False)
                for f in (FIRST, SECOND)
            ],
            self.mechanism.hostdevs(units, NONE),
        )

    def test_put_aside_functions_are_passed_over(self) -> None:
        (unit,) = self.choose(aside=FIRST)
        self.assertEqual(SECOND, unit.device)

    def test_more_than_fit(self) -> None:
        error = self.assertRaises(
            exception.NotEnoughUnits, self.choose, A10_8Q, 4
        )
        self.assertEqual(
            f'3 of the 3 NVIDIA A10-8Q of card {A10} are free', error.reason
        )
        self.make()
        error = self.assertRaises(
            exception.NotEnoughUnits, self.choose, A10_24Q
        )
        self.assertEqual(
            f'0 of the 1 NVIDIA A10-24Q of card {A10} are free', error.reason
        )

    def prepare_with(self, number: int, name: str = A10_8Q) -> Exception:
        (unit,) = self.choose(name)
        self.fake.failures['set_vgpu_type'] = number
        return self.assertRaises(
            exception.GpuError, self.mechanism.prepare, unit, NONE, self.fake
        )

    def test_occupied_meanwhile(self) -> None:
        (unit,) = self.choose()
        self.fake.set_vgpu_type(FIRST, '595')
        error = self.assertRaises(
            exception.UnitTaken, self.mechanism.prepare, unit, NONE, self.fake
        )
        self.assertEqual(FIRST, error.device)

    def test_wedged(self) -> None:
        self.fake.wedge(FIRST)
        (unit,) = self.choose()
        error = self.assertRaises(
            exception.UnitUnusable, self.mechanism.prepare, unit, NONE,
            self.fake,
        )  # fmt: skip
        self.assertEqual(FIRST, error.device)

    def test_room_that_is_gone_is_no_fault_of_the_function(self) -> None:
        for number in (errno.EINVAL, errno.ENOSPC, errno.ENOENT):
            self.assertIsInstance(
                self.prepare_with(number), exception.EffectFailed
            )
            self.fake.failures.clear()

    def test_no_gpu_instance_is_no_fault_of_the_function(self) -> None:
        self.fake = hosts.a100_mig_vendor_vfio(self.new_host())
        (card,) = self.cards().values()
        offers = self.mechanism.offers(card, Ruling(), ())
        use = Use(card, 'vendor_vfio', self.mechanism.pool_key(card), offers)
        (unit,) = self.mechanism.choose(
            pools([use])[0],
            [use],
            'CUSTOM_VGPU_NVIDIA_A100_2_10C',
            1,
            [],
            NONE,
        )
        self.fake.set_gpu_instances(str(card.address), (1, 1))
        error = self.assertRaises(
            exception.EffectFailed, self.mechanism.prepare, unit, NONE,
            self.fake,
        )  # fmt: skip
        self.assertEqual(errno.EIO, error.errno)

    def test_clean_by_errno(self) -> None:
        (unit,) = self.make()
        for number, expected in (
            (errno.ENOENT, None), (errno.ENODEV, None),
            (errno.EBUSY, exception.EffectFailed),
            (errno.EIO, exception.UnitUnusable),
            (errno.EPERM, exception.UnitUnusable),
        ):  # fmt: skip
            self.fake.failures['set_vgpu_type'] = number
            if expected is None:
                self.mechanism.clean(unit, self.fake)
            else:
                self.assertRaises(
                    expected, self.mechanism.clean, unit, self.fake
                )

    def test_clean_while_a_guest_uses_it(self) -> None:
        (unit,) = self.make()
        self.fake.use(FIRST)
        error = self.assertRaises(
            exception.EffectFailed, self.mechanism.clean, unit, self.fake
        )
        self.assertEqual(errno.EBUSY, error.errno)
        self.assertEqual('595', self.type_of())


class GuestTest(VendorVfioTest):
    """What guests hold, and what they left."""

    def test_held_as_it_was_recorded(self) -> None:
        (unit,) = self.make()
        recorded = dataclasses.replace(unit, resource_class='VGPU')
        guest = GuestDevices(
            'a', None, frozenset(unit.functions), units=(recorded,)
        )
        self.assertEqual(
            [recorded], self.mechanism.held_by(guest, [self.use()])
        )

    def test_given_by_somebody_else(self) -> None:
        (unit,) = self.make()
        guest = GuestDevices('a', None, frozenset(unit.functions))
        (held,) = self.mechanism.held_by(guest, [self.use()])
        self.assertEqual(dataclasses.replace(unit, allocated=False), held)

    def test_leaked(self) -> None:
        first, second = self.make(count=2)
        leaked = self.mechanism.leaked(self.snapshot(), [self.use()], [first])
        self.assertEqual([second], leaked)

    def test_restored(self) -> None:
        (unit,) = self.make()
        request = GpuRequest({}, vgpu_params='a=b')
        unit = self.mechanism.configure(unit, request, self.fake)
        self.fake.reboot()
        self.assertEqual('0', self.type_of())
        for _ in range(2):
            self.assertTrue(
                self.mechanism.restore(unit, self.snapshot(), self.fake)
            )
            self.assertEqual('595', self.type_of())
        path = self.fake.device(FIRST) / 'nvidia/vgpu_params'
        self.assertEqual('a=b', path.read_text())

    def test_restore_waits_for_the_driver(self) -> None:
        (unit,) = self.make()
        self.fake.reboot(late=[A10])
        self.assertFalse(
            self.mechanism.restore(unit, self.snapshot(), self.fake)
        )
        self.fake.remove(A10)
        self.assertTrue(
            self.mechanism.restore(unit, self.snapshot(), self.fake)
        )

    def test_restore_where_there_is_another_type(self) -> None:
        (unit,) = self.make()
        self.fake.reboot()
        self.fake.set_vgpu_type(FIRST, '590')
        error = self.assertRaises(
            exception.UnitTaken, self.mechanism.restore, unit,
            self.snapshot(), self.fake,
        )  # fmt: skip
        self.assertIn('it has vGPU type 590', str(error))
