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


"""Plain virtual functions, each passed through."""

from __future__ import annotations

import dataclasses
import errno

from nova_gpu import exception
from nova_gpu.mechanism.vf import PlainVf
from nova_gpu.model.address import PciAddress
from nova_gpu.model.guest import GuestDevices, Hostdev
from nova_gpu.model.inventory import Unit, Use, pools
from nova_gpu.model.request import GpuRequest
from nova_gpu.model.rule import Ruling
from tests.fixtures import hosts
from tests.unit import base

MI300X = '0000:0c:00.0'
FIRST, SECOND = '0000:0c:00.2', '0000:0c:00.3'
NAME = 'CUSTOM_GPU_AMD_INSTINCT_MI300X_VF'
NONE = GpuRequest({})


class PlainVfTest(base.HostTest):
    """On the host: an MI300X with eight virtual functions."""

    def setUp(self) -> None:
        super().setUp()
        hosts.mi300x(self.fake)
        self.mechanism = PlainVf()

    def use(self, *held: Unit, aside: str | None = None) -> Use:
        card = self.cards()[MI300X]
        blocked = [dataclasses.replace(u, allocated=u.allocated) for u in held]
        if aside:
            blocked.append(
                Unit('vf', '', '', card.address, aside, allocated=False)
            )
        return Use(
            card, 'vf', self.mechanism.pool_key(card),
            self.mechanism.offers(card, Ruling(), blocked),
            aside=((aside, 'broken'),) if aside else (),
        )  # fmt: skip

    def choose(self, count: int, *held: Unit,
               aside: str | None = None) -> list[Unit]:  # fmt: skip
        use = self.use(*held, aside=aside)
        (pool,) = pools([use])
        return list(
            self.mechanism.choose(pool, [use], NAME, count, list(held), NONE)
        )

    def figures(self, use: Use) -> tuple[str, int, int, int]:
        (offer,) = use.offers
        return offer.resource_class, offer.total, offer.used, offer.free

    def test_offers(self) -> None:
        self.assertEqual((NAME, 8, 0, 8), self.figures(self.use()))
        held = self.choose(3)
        self.assertEqual((NAME, 8, 3, 5), self.figures(self.use(*held)))
        self.assertEqual((NAME, 8, 0, 7), self.figures(self.use(aside=FIRST)))

    def test_class_by_rule(self) -> None:
        (offer,) = self.mechanism.offers(
            self.cards()[MI300X], Ruling(resource_class='PGPU'), ()
        )
        self.assertEqual('PGPU', offer.resource_class)

    def test_recognizes_functions_without_types(self) -> None:
        card = self.cards()[MI300X]
        self.assertTrue(self.mechanism.recognizes(card))
        self.assertIsNone(self.mechanism.refusal(card))
        for other in (
            dataclasses.replace(card, vfs=()),
            dataclasses.replace(card, vendor_vfio=True),
        ):
            self.assertFalse(self.mechanism.recognizes(other))
            self.assertIn(
                'has no virtual functions', self.mechanism.refusal(other)
            )

    def test_refuses_functions_with_problems(self) -> None:
        card = self.cards()[MI300X]
        first, *rest = card.vfs
        broken = dataclasses.replace(first, problem='has no IOMMU group')
        card = dataclasses.replace(card, vfs=(broken, *rest))
        self.assertIsNone(self.mechanism.refusal(card))
        (offer,) = self.mechanism.offers(card, Ruling(), ())
        self.assertEqual((8, 7), (offer.total, offer.free))
        card = dataclasses.replace(card, vfs=(broken,))
        self.assertEqual(
            f'none of its 1 virtual functions can be handed out: {FIRST} '
            f'has no IOMMU group',
            self.mechanism.refusal(card),
        )

    def test_choose_passes_over_what_is_not_to_be_had(self) -> None:
        (first,) = self.choose(1)
        self.assertEqual(
            (FIRST, (PciAddress.parse(FIRST),)),
            (first.device, first.functions),
        )
        self.assertEqual(SECOND, self.choose(1, first)[0].device)
        self.assertEqual(SECOND, self.choose(1, aside=FIRST)[0].device)
        error = self.assertRaises(
            exception.NotEnoughUnits, self.choose, 8, first
        )
        self.assertEqual('7 of its virtual functions are free', error.reason)

    def test_guest_device_is_managed(self) -> None:
        (unit,) = self.choose(1)
        self.assertEqual(unit, self.mechanism.prepare(unit, NONE, self.fake))
        self.assertEqual(unit, self.mechanism.configure(unit, NONE, self.fake))
        self.assertEqual(
            [Hostdev(function=PciAddress.parse(FIRST))],
            self.mechanism.hostdevs([unit], NONE),
        )

    def test_clean_resets(self) -> None:
        (unit,) = self.choose(1)
        self.mechanism.clean(unit, self.fake)
        self.assertEqual(1, self.fake.resets(FIRST))

    def test_clean_by_errno(self) -> None:
        (unit,) = self.choose(1)
        for number, expected in (
            (errno.ENOENT, None), (errno.ENODEV, None), (errno.ENOTTY, None),
            (errno.EBUSY, exception.EffectFailed),
            (errno.EIO, exception.UnitUnusable),
            (errno.EACCES, exception.UnitUnusable),
        ):  # fmt: skip
            self.fake.failures['reset_function'] = number
            if expected is None:
                self.mechanism.clean(unit, self.fake)
            else:
                self.assertRaises(
                    expected, self.mechanism.clean, unit, self.fake
                )

    def test_held_by_guests(self) -> None:
        (unit,) = self.choose(1)
        guest = GuestDevices('a', None, frozenset(unit.functions))
        self.assertEqual(
            [dataclasses.replace(unit, allocated=False)],
            self.mechanism.held_by(guest, [self.use()]),
        )
        recorded = dataclasses.replace(unit, resource_class='PGPU')
        guest = dataclasses.replace(guest, units=(recorded,))
        self.assertEqual(
            [recorded], self.mechanism.held_by(guest, [self.use()])
        )

    def test_nothing_is_ever_leaked(self) -> None:
        self.assertEqual(
            [], self.mechanism.leaked(self.snapshot(), [self.use()], [])
        )

    def test_restore_waits_for_the_functions(self) -> None:
        (unit,) = self.choose(1)
        self.assertTrue(
            self.mechanism.restore(unit, self.snapshot(), self.fake)
        )
        self.fake.reboot(late=[MI300X])
        self.assertFalse(
            self.mechanism.restore(unit, self.snapshot(), self.fake)
        )
        self.fake.remove(MI300X)
        self.assertTrue(
            self.mechanism.restore(unit, self.snapshot(), self.fake)
        )
