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


"""vGPUs that are mediated devices."""

from __future__ import annotations

import dataclasses
import errno
import re
import uuid

from nova_gpu import exception
from nova_gpu.mechanism.mdev import UUID_ATTEMPTS, MdevVgpu, is_ours, new_uuid
from nova_gpu.model.guest import GuestDevices, Hostdev
from nova_gpu.model.inventory import Offer, Unit, Use, pools
from nova_gpu.model.request import GpuRequest
from nova_gpu.model.rule import Ruling
from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs, FakeType
from tests.unit import base

NONE = GpuRequest({})
T4 = '0000:3b:00.0'
A40 = '0000:41:00.0'
T4_2Q, T4_4Q, T4_8Q = (f'CUSTOM_VGPU_NVIDIA_T4_{n}Q' for n in (2, 4, 8))
FOREIGN = '0a5c0a2e-9f1b-4c55-8d1e-0d6f6a3f9a11'


class UuidTest(base.HostTest):
    """Our mark on what we make."""

    def test_ours(self) -> None:
        made = {new_uuid() for _ in range(1000)}
        self.assertEqual(1000, len(made))
        for text in made:
            self.assertTrue(is_ours(text))
            parsed = uuid.UUID(text)
            self.assertEqual(text, str(parsed))
            self.assertEqual(
                (8, uuid.RFC_4122), (parsed.version, parsed.variant)
            )

    def test_not_ours(self) -> None:
        for text in (FOREIGN, str(uuid.uuid4()), '', 'junk',
                     new_uuid().replace('-8', '-4', 1)):  # fmt: skip
            self.assertFalse(is_ours(text))


class MdevTest(base.HostTest):
    """On the host: a T4 that takes three types."""

    def setUp(self) -> None:
        super().setUp()
        self.mdev = MdevVgpu()
        self.fake.add_gpu(
            T4, 0x1EB8, driver='nvidia', iommu_group=1,
            types=hosts.T4_TYPES[1:4], units=16,
        )  # fmt: skip

    def use(self, *held: Unit, ruling: Ruling | None = None,
            address: str = T4) -> Use:  # fmt: skip
        card = self.cards()[address]
        ruling = ruling or Ruling()
        return Use(
            card, 'mdev', self.mdev.pool_key(card),
            self.mdev.offers(card, ruling, held), ruling,
        )  # fmt: skip

    def figures(self, *held: Unit, ruling: Ruling | None = None,
                ) -> dict[str, tuple[int, int, int]]:  # fmt: skip
        offers = self.use(*held, ruling=ruling).offers
        return {o.resource_class: (o.total, o.used, o.free) for o in offers}

    def choose(self, use: Use, name: str, count: int = 1) -> list[Unit]:
        (pool,) = pools([use])
        return list(self.mdev.choose(pool, [use], name, count, [], NONE))

    def make(self, name: str = T4_8Q, count: int = 1,
             address: str = T4) -> list[Unit]:  # fmt: skip
        chosen = self.choose(self.use(address=address), name, count)
        request = GpuRequest({})
        return [self.mdev.prepare(u, request, self.fake) for u in chosen]


class OffersTest(MdevTest):
    """What a card gives while some of it is in use."""

    def test_empty(self) -> None:
        self.assertEqual(
            {T4_2Q: (8, 0, 8), T4_4Q: (4, 0, 4), T4_8Q: (2, 0, 2)},
            self.figures(),
        )
        self.assertEqual(
            Offer(T4_8Q, 2, 0, 2, 'nvidia-233', 'GRID T4-8Q'),
            self.use().offers[-1],
        )

    def test_taken_profile_closes_the_others(self) -> None:
        held = self.make(T4_8Q)
        self.assertEqual(
            {T4_2Q: (8, 0, 0), T4_4Q: (4, 0, 0), T4_8Q: (2, 1, 1)},
            self.figures(*held),
        )

    def test_mdev_of_another_owner(self) -> None:
        self.fake.create_mdev(T4, 'nvidia-233', FOREIGN)
        self.assertEqual(
            {T4_2Q: (8, 0, 0), T4_4Q: (4, 0, 0), T4_8Q: (2, 0, 1)},
            self.figures(),
        )
        guest = GuestDevices('a', None, mdevs=frozenset([FOREIGN]))
        (unit,) = self.mdev.held_by(guest, [self.use()])
        self.assertFalse(unit.allocated)
        self.assertEqual(
            [], self.mdev.leaked(self.snapshot(), [self.use()], [])
        )

    def test_profiles_by_name_and_id(self) -> None:
        for profile in ('T4-8Q', 'GRID T4-8Q', 'nvidia-233'):
            ruling = Ruling(profiles=(profile, 'A40-1Q'))
            self.assertEqual({T4_8Q: (2, 0, 2)}, self.figures(ruling=ruling))
        self.assertEqual({}, self.figures(ruling=Ruling(profiles=('T4',))))

    def test_profile_in_use_that_is_no_longer_allowed(self) -> None:
        held = self.make(T4_8Q)
        ruling = Ruling(profiles=('T4-4Q',))
        self.assertEqual(
            {T4_4Q: (4, 0, 0), T4_8Q: (2, 1, 0)},
            self.figures(*held, ruling=ruling),
        )

    def test_one_class_for_all_types(self) -> None:
        ruling = Ruling(resource_class='VGPU')
        self.assertEqual({'VGPU': (8, 0, 8)}, self.figures(ruling=ruling))
        # The type in use stands for the class.
        (unit,) = self.make(T4_8Q)
        guest = GuestDevices('a', None, mdevs=frozenset([unit.device]))
        use = self.use(ruling=ruling)
        (held,) = self.mdev.held_by(guest, [use])
        self.assertEqual('VGPU', held.resource_class)
        (offer,) = self.use(held, ruling=ruling).offers
        self.assertEqual(
            ('nvidia-233', 2, 1, 1),
            (offer.type_id, offer.total, offer.used, offer.free),
        )

    def test_what_is_in_use_is_offered_whatever_sysfs_shows(self) -> None:
        held = self.make(T4_8Q, 2)
        types = f'sys/class/mdev_bus/{T4}/mdev_supported_types'
        self.fake.write(f'{types}/nvidia-233/available_instances', '')
        offer = self.use(*held).offers[-1]
        self.assertEqual(
            Offer(T4_8Q, 2, 2, 0, 'nvidia-233', 'GRID T4-8Q'), offer
        )

    def test_name_that_gets_lost_renames_no_class_in_use(self) -> None:
        held = self.make(T4_8Q)
        types = f'sys/class/mdev_bus/{T4}/mdev_supported_types'
        self.fake.write(f'{types}/nvidia-233/name', '')
        self.assertEqual((2, 1, 1), self.figures(*held)[T4_8Q])
        self.assertNotIn('CUSTOM_VGPU_NVIDIA_233', self.figures(*held))

    def test_capacity_that_only_the_empty_card_told(self) -> None:
        kinds = (FakeType('i915-GVTg_V5_4', None, size=2),)
        address = '0000:00:02.0'
        self.fake.add_gpu(
            address, 0x1926, vendor=0x8086, class_code=0x0300, driver='i915',
            types=kinds, units=8,
        )  # fmt: skip
        name = 'CUSTOM_VGPU_INTEL_I915_GVTG_V5_4'
        (offer,) = self.use(address=address).offers
        self.assertEqual((name, 4, 4), (
            offer.resource_class, offer.total, offer.free,
        ))  # fmt: skip
        held = self.make(name, 2, address)
        (offer,) = self.use(*held, address=address).offers
        self.assertEqual((4, 2, 2), (offer.total, offer.used, offer.free))
        # After a restart nobody has seen it empty.
        self.mdev = MdevVgpu()
        self.fake.create_mdev(address, kinds[0].id, FOREIGN)
        (offer,) = self.use(*held, address=address).offers
        self.assertEqual((4, 2, 1), (offer.total, offer.used, offer.free))

    def test_recognizes_and_refuses_by_types(self) -> None:
        card = self.cards()[T4]
        self.assertTrue(self.mdev.recognizes(card))
        self.assertIsNone(self.mdev.refusal(card))
        bare = base.card(driver=None)
        self.assertFalse(self.mdev.recognizes(bare))
        self.assertEqual(
            'its driver (none) offers no vGPU types', self.mdev.refusal(bare)
        )


class ChooseTest(MdevTest):
    """Which units serve a claim, or why none do."""

    def refusal(self, use: Use, name: str, count: int) -> str:
        error = self.assertRaises(
            exception.NotEnoughUnits, self.choose, use, name, count
        )
        self.assertEqual((use.pool, name, count), (
            error.pool, error.resource_class, error.wanted,
        ))  # fmt: skip
        return str(error)

    def test_units(self) -> None:
        first, second = self.choose(self.use(), T4_8Q, 2)
        self.assertNotEqual(first.device, second.device)
        self.assertTrue(is_ours(first.device))
        self.assertEqual(
            ('mdev', '0000_3b_00_0', T4_8Q, 'nvidia-233', T4),
            (first.mechanism, first.pool, first.resource_class, first.type_id,
             str(first.parent)),
        )  # fmt: skip
        self.assertEqual([], self.fake.mdevs)

    def test_too_many(self) -> None:
        self.assertIn(
            f'2 of the 2 GRID T4-8Q of card {T4} are free',
            self.refusal(self.use(), T4_8Q, 3),
        )

    def test_another_profile_is_active(self) -> None:
        held = self.make(T4_4Q)
        self.assertIn(
            f'card {T4} holds GRID T4-4Q vGPUs now',
            self.refusal(self.use(*held), T4_8Q, 1),
        )

    def test_no_such_type(self) -> None:
        self.assertIn(
            f'card {T4} has no such vGPU type',
            self.refusal(self.use(), 'CUSTOM_VGPU_X', 1),
        )

    def test_card_that_is_gone(self) -> None:
        (pool,) = pools([self.use()])
        error = self.assertRaises(
            exception.NotEnoughUnits,
            self.mdev.choose, pool, [], T4_8Q, 1, [], NONE,
        )  # fmt: skip
        self.assertIn('its card is gone', str(error))

    def test_functions_one_after_the_other(self) -> None:
        self.fake.add_gpu(
            A40, 0x2235, driver='nvidia', types=hosts.A40_TYPES[4:6],
            units=48, virtual_functions=4,
        )  # fmt: skip
        name = 'CUSTOM_VGPU_NVIDIA_A40_8Q'
        self.fake.create_mdev('0000:41:00.5', 'nvidia-562', FOREIGN)
        units = self.choose(self.use(address=A40), name, 3)
        self.assertEqual(
            ['0000:41:00.4', '0000:41:00.6', '0000:41:00.7'],
            [str(u.parent) for u in units],
        )
        # The type alone would allow more, the functions don't.
        self.refusal(self.use(address=A40), name, 4)

    def test_more_promised_than_functions(self) -> None:
        # A driver whose figures don't add up.
        self.fake.add_gpu(
            A40, 0x2235, driver='nvidia', types=hosts.A40_TYPES[4:6],
            units=48, virtual_functions=2,
        )  # fmt: skip
        name = 'CUSTOM_VGPU_NVIDIA_A40_8Q'
        use = self.use(address=A40)
        offer = Offer(name, 6, 0, 6, 'nvidia-562')
        wrong = Use(use.card, 'mdev', use.pool, (offer,))
        self.assertIn(
            f'all functions of card {A40} are taken',
            self.refusal(wrong, name, 3),
        )


class CrowdedSysfs(FakeSysfs):
    """A host on which the first UUIDs are in use already."""

    taken = 0

    def create_mdev(self, parent: str, type_id: str, uuid: str) -> None:
        if self.taken:
            self.taken -= 1
            super().create_mdev(parent, type_id, uuid)
        super().create_mdev(parent, type_id, uuid)


class EffectsTest(MdevTest):
    """What a unit is on the host."""

    def setUp(self) -> None:
        super().setUp()
        self.crowded = CrowdedSysfs(self.fake.root)

    def prepare(self) -> Unit:
        (unit,) = self.choose(self.use(), T4_8Q)
        return self.mdev.prepare(unit, GpuRequest({}), self.crowded)

    def test_make_and_clean(self) -> None:
        unit = self.prepare()
        self.assertEqual([unit.device], self.fake.mdevs)
        self.mdev.clean(unit, self.fake)
        self.assertEqual([], self.fake.mdevs)
        self.mdev.clean(unit, self.fake)  # at any time

    def test_uuid_in_use_means_another(self) -> None:
        # CrowdedSysfs makes each of the first twice: the second is EEXIST.
        self.crowded.taken = UUID_ATTEMPTS - 1
        (unit,) = self.choose(self.use(), T4_2Q)
        made = self.mdev.prepare(unit, GpuRequest({}), self.crowded)
        self.assertEqual(UUID_ATTEMPTS, len(self.fake.mdevs))
        self.assertIn(made.device, self.fake.mdevs)
        self.assertIn(unit.device, self.fake.mdevs)  # somebody else's
        self.assertNotEqual(unit.device, made.device)
        self.assertTrue(is_ours(made.device))
        self.assertIn('Trying another UUID, this is in use', self.logs.output)

    def test_uuids_that_are_all_in_use(self) -> None:
        self.crowded.failures['create_mdev'] = errno.EEXIST
        error = self.assertRaises(exception.EffectFailed, self.prepare)
        self.assertEqual(errno.EEXIST, error.errno)
        self.assertEqual(
            UUID_ATTEMPTS - 1,
            len(re.findall('Trying another', self.logs.output)),
        )
        self.assertEqual([], self.fake.mdevs)

    def test_other_errors_are_final(self) -> None:
        self.crowded.failures['create_mdev'] = errno.EIO
        error = self.assertRaises(exception.EffectFailed, self.prepare)
        self.assertEqual(errno.EIO, error.errno)
        self.assertNotIn('Trying another', self.logs.output)

    def test_params(self) -> None:
        unit = self.prepare()
        path = self.fake.sys / f'bus/mdev/devices/{unit.device}/nvidia'
        self.mdev.configure(unit, GpuRequest({}), self.fake)
        self.assertEqual('', (path / 'vgpu_params').read_text())
        request = GpuRequest({}, vgpu_params='frame_rate_limiter=0')
        self.mdev.configure(unit, request, self.fake)
        self.assertEqual(
            'frame_rate_limiter=0', (path / 'vgpu_params').read_text()
        )


class GuestTest(MdevTest):
    """What a unit is in a guest, and back."""

    def test_held_by_a_guest(self) -> None:
        first, second = self.make(T4_8Q, 2)
        guest = GuestDevices('a', None, mdevs=frozenset([second.device, 'x']))
        self.assertEqual([second], self.mdev.held_by(guest, [self.use()]))
        self.assertEqual(
            [first], self.mdev.leaked(self.snapshot(), [self.use()], [second])
        )

    def test_held_of_a_type_that_can_not_be_read(self) -> None:
        (unit,) = self.make(T4_8Q)
        types = f'sys/class/mdev_bus/{T4}/mdev_supported_types'
        self.fake.write(f'{types}/nvidia-233/available_instances', '')
        guest = GuestDevices('a', None, mdevs=frozenset([unit.device]))
        (held,) = self.mdev.held_by(guest, [self.use()])
        self.assertEqual(
            (unit.device, T4_8Q), (held.device, held.resource_class)
        )
        # One that has never seen the type knows it by what was recorded, or
        # by its id.
        self.mdev = MdevVgpu()
        (held,) = self.mdev.held_by(guest, [self.use()])
        self.assertEqual('CUSTOM_VGPU_NVIDIA_233', held.resource_class)
        guest = dataclasses.replace(guest, units=(unit,))
        (held,) = self.mdev.held_by(guest, [self.use()])
        self.assertEqual(T4_8Q, held.resource_class)

    def test_first_shows_the_screen(self) -> None:
        units = self.make(T4_8Q, 2)
        self.assertEqual(
            [Hostdev(mdev=unit.device) for unit in units],
            self.mdev.hostdevs(units, GpuRequest({})),
        )
        request = GpuRequest({}, display=True)
        self.assertEqual(
            [True, False],
            [h.display for h in self.mdev.hostdevs(units, request)],
        )
