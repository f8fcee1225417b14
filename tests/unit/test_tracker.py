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


"""Claim, release, rebuild: every way in which a unit changes hands."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from nova_gpu import exception
from nova_gpu.mechanism.mdev import is_ours, new_uuid
from nova_gpu.model.address import PciAddress
from nova_gpu.model.claim import ALLOCATED, CLAIMED, REMOVED, Claim, Want
from nova_gpu.model.device import Snapshot
from nova_gpu.model.guest import Hostdev, parse_guest
from nova_gpu.model.request import GpuRequest
from nova_gpu.recovery import NOBODY
from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs
from tests.unit import base

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
T4_4Q, T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q', 'CUSTOM_VGPU_NVIDIA_T4_8Q'
WHOLE = 'nvidia_a100_sxm4_40gb'
T4, T4_POOL = '0000:3b:00.0', '0000_3b_00_0'
OTHER_T4, OTHER_POOL = '0000:5e:00.0', '0000_5e_00_0'
FOREIGN = '0a5c0a2e-9f1b-4c55-8d1e-0d6f6a3f9a11'
A, B, C = map(base.instance, 'abc')


class FlakySysfs(FakeSysfs):
    """A kernel that refuses some calls: by the name, which of them."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.refused: dict[str, set[int]] = {}
        self.calls: dict[str, int] = {}

    def _fail(self, action: str, effect: str, path: Any) -> None:
        super()._fail(action, effect, path)
        number = self.calls[effect] = self.calls.get(effect, 0) + 1
        if number in self.refused.get(effect, ()):
            raise self._error(action, path, errno.EBUSY)


class TrackerTest(base.TrackerTest):
    """On the host: eight A100, four T4."""

    def setUp(self) -> None:
        super().setUp()
        self.fake = FlakySysfs(str(self.fake.root))
        hosts.a100_board(self.fake)
        hosts.four_t4(self.fake)
        self.tracker = self.new_tracker()

    def wants(self, *wants: tuple[str, str, int]) -> list[Want]:
        return [Want(*want) for want in wants]

    def state(self, consumer: str) -> str | None:
        claim = self.tracker.claim_of(consumer)
        return claim.state if claim else None

    def restart(self, *guests: Any, **kwargs: Any) -> None:
        """What nova-compute does when it starts."""
        self.tracker = self.new_tracker(**kwargs)
        self.tracker.rebuild(guests)


class ClaimTest(TrackerTest):
    """All that is wanted, or nothing."""

    def test_whole_and_vgpus_in_one_claim(self) -> None:
        claim = self.tracker.claim(
            A, self.wants((WHOLE, A100, 2), (T4_POOL, T4_8Q, 2)), self.request
        )
        self.assertEqual(CLAIMED, claim.state)
        self.assertEqual(claim, self.tracker.claim_of(A))
        self.assertEqual([A100, A100, T4_8Q, T4_8Q],
                         [u.resource_class for u in claim.units])  # fmt: skip
        self.assertEqual(
            sorted(u.device for u in claim.units[2:]), self.fake.mdevs
        )
        for device in self.devices(A):
            self.assertIn(f'Claimed {device}', self.logs.output)
        hostdevs = self.tracker.hostdevs(A, self.request)
        self.assertEqual(2, sum(h.mdev is not None for h in hostdevs))
        self.assertEqual(2, sum(h.function is not None for h in hostdevs))

    def test_inventories_follow(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        self.assertEqual({
            'CUSTOM_VGPU_NVIDIA_T4_1Q': (16, 16),
            'CUSTOM_VGPU_NVIDIA_T4_2Q': (8, 8),
            T4_4Q: (4, 4),
            T4_8Q: (2, 0),
            'CUSTOM_VGPU_NVIDIA_T4_16Q': (1, 1),
        }, self.inventory(T4_POOL))  # fmt: skip
        self.tracker.release(A)
        self.assertEqual(
            {0}, {reserved for _, reserved in self.inventory(T4_POOL).values()}
        )

    def test_card_that_a_rule_reserves_is_not_chosen(self) -> None:
        first, *others = hosts.A100_ADDRESSES
        self.tracker = self.new_tracker(
            f'{{"address": "{first}", "reserved": 1}}'
        )
        self.assertEqual((8, 1), self.inventory(WHOLE)[A100])
        view = self.tracker.view()
        (free,) = [p.free for p in self.tracker.map(view).pools if p.free]
        self.assertEqual((False, *[True] * 7), free)
        claim = self.claim(A, WHOLE, A100, 7)
        self.assertEqual(set(others), {u.device for u in claim.units})
        self.assertEqual((8, 1), self.inventory(WHOLE)[A100])

    def test_nothing_wanted(self) -> None:
        self.assertEqual((), self.tracker.claim(A, [], self.request).units)
        self.assertIsNone(self.tracker.claim_of(A))
        self.assertEqual([], self.tracker.hostdevs(A, self.request))

    def test_more_for_who_has_some(self) -> None:
        self.claim(A, WHOLE, A100)
        self.tracker.settle(A)
        claim = self.claim(A, WHOLE, A100, 2)
        self.assertEqual(3, len({u.device for u in claim.units}))
        self.assertEqual(CLAIMED, claim.state)

    def test_one_class_twice_in_a_claim(self) -> None:
        claim = self.tracker.claim(
            A, self.wants((WHOLE, A100, 4), (WHOLE, A100, 4)), self.request
        )
        self.assertEqual(8, len({u.device for u in claim.units}))

    def test_what_is_missing_of_an_allocation(self) -> None:
        wants = self.wants((WHOLE, A100, 3), (T4_POOL, T4_8Q, 1))
        self.assertEqual(wants, self.tracker.missing(A, wants))
        self.tracker.claim(
            A, self.wants((WHOLE, A100, 2), (T4_POOL, T4_8Q, 1)), self.request
        )
        self.assertEqual(
            self.wants((WHOLE, A100, 1)), self.tracker.missing(A, wants)
        )
        # What is stuck is no use to the guest.
        self.fake.failures['remove_mdev'] = errno.EBUSY
        self.tracker.release(A)
        self.assertEqual(wants, self.tracker.missing(A, wants))

    def test_params_are_written(self) -> None:
        self.tracker.claim(
            A, self.wants((T4_POOL, T4_8Q, 1)),
            GpuRequest({}, vgpu_params='a=b'),
        )  # fmt: skip
        (uuid,) = self.fake.mdevs
        path = self.fake.sys / f'bus/mdev/devices/{uuid}/nvidia/vgpu_params'
        self.assertEqual('a=b', path.read_text())


class RefusedTest(TrackerTest):
    """A claim that fails leaves the host as it was."""

    def assert_refused(
        self, error: type[exception.GpuError], *wants: tuple[str, str, int],
        request: GpuRequest | None = None,
    ) -> Any:  # fmt: skip
        before = self.tracker.view().pools
        raised = self.assertRaises(
            error, self.tracker.claim, A, self.wants(*wants),
            request or self.request,
        )  # fmt: skip
        self.fake.failures.clear()
        self.fake.refused.clear()
        self.assertIsNone(self.tracker.claim_of(A))
        self.assertEqual([], self.fake.mdevs)
        self.assertEqual(before, self.tracker.view().pools)
        return raised

    def test_unknown_pool(self) -> None:
        error = self.assert_refused(
            exception.UnknownProvider, (WHOLE, A100, 1), ('elsewhere', A100, 1)
        )
        self.assertEqual('elsewhere', error.provider)
        self.assertIn('elsewhere', str(error))

    def test_unknown_class(self) -> None:
        error = self.assert_refused(
            exception.UnknownProvider,
            (T4_POOL, T4_8Q, 1), (T4_POOL, 'CUSTOM_X', 1),
        )  # fmt: skip
        self.assertEqual('CUSTOM_X', error.resource_class)
        self.assertIn(T4_POOL, str(error))

    def test_too_many(self) -> None:
        self.assert_refused(exception.NotEnoughUnits, (WHOLE, A100, 9))
        self.assert_refused(
            exception.NotEnoughUnits, (T4_POOL, T4_8Q, 2), (WHOLE, A100, 9)
        )

    def test_two_profiles_of_one_card(self) -> None:
        self.assert_refused(
            exception.NotEnoughUnits, (T4_POOL, T4_8Q, 1), (T4_POOL, T4_4Q, 1)
        )

    def test_each_of_three_vgpus_fails(self) -> None:
        for number in (1, 2, 3):
            self.fake.calls.clear()
            self.fake.refused['create_mdev'] = {number}
            error = self.assert_refused(
                exception.EffectFailed, (WHOLE, A100, 1), (T4_POOL, T4_4Q, 3)
            )
            self.assertEqual(errno.EBUSY, error.errno)
            self.assertEqual(number, self.fake.calls['create_mdev'])

    def test_params_that_the_driver_refuses(self) -> None:
        self.fake.refused['set_vgpu_params'] = {2}
        self.assert_refused(
            exception.EffectFailed, (T4_POOL, T4_4Q, 3),
            request=GpuRequest({}, vgpu_params='a=b'),
        )  # fmt: skip

    def test_undo_that_fails_loses_nothing(self) -> None:
        # The second of two can't be configured, the first not removed.
        self.fake.refused['set_vgpu_params'] = {2}
        self.fake.refused['remove_mdev'] = {1}
        self.assertRaises(
            exception.EffectFailed, self.tracker.claim, A,
            self.wants((T4_POOL, T4_4Q, 2)), GpuRequest({}, vgpu_params='a=b'),
        )  # fmt: skip
        (left,) = self.fake.mdevs
        self.assertEqual([left], self.devices(A))
        self.assertIn(f'Could not give back {left}', self.logs.output)
        # No guest gets it, and the next look at the host frees it.
        self.assertEqual([], self.tracker.hostdevs(A, self.request))
        self.assertEqual((4, 0), self.inventory(T4_POOL)[T4_4Q])
        self.assertEqual([], self.fake.mdevs)
        self.assertIsNone(self.tracker.claim_of(A))

    def test_undo_keeps_what_was_held_before(self) -> None:
        self.claim(A, WHOLE, A100)
        self.tracker.settle(A)
        before = self.tracker.claim_of(A)
        self.assertRaises(
            exception.NotEnoughUnits, self.claim, A, WHOLE, A100, 8
        )
        self.assertEqual(before, self.tracker.claim_of(A))

    def test_uuid_in_use(self) -> None:
        self.fake.failures['create_mdev'] = errno.EEXIST
        error = self.assert_refused(
            exception.EffectFailed, (T4_POOL, T4_8Q, 1)
        )
        self.assertEqual(errno.EEXIST, error.errno)
        self.assertEqual(1, len(self.claim(A, T4_POOL, T4_8Q).units))

    def test_card_that_is_closed_while_in_use(self) -> None:
        self.claim(B, T4_POOL, T4_8Q)
        guest = self.guest(B)
        rule = '{"address": "0000:3b:00.0", "use": "ignore"}'
        self.tracker = self.new_tracker(rule)
        self.tracker.rebuild([guest])
        error = self.assertRaises(
            exception.NotEnoughUnits, self.claim, A, T4_POOL, T4_8Q
        )
        self.assertIn(
            f'card {T4} is not handed out: rule 1 says to ignore it',
            str(error),
        )

    def test_card_that_is_closed_gives_nothing(self) -> None:
        for address in hosts.A100_ADDRESSES[2:]:
            self.fake.bind(address, 'nouveau')
        self.assert_refused(exception.NotEnoughUnits, (WHOLE, A100, 3))
        self.assertEqual(2, len(self.claim(A, WHOLE, A100, 2).units))


class ReleaseTest(TrackerTest):
    """Units go back, or stay held."""

    def test_everything_goes_back(self) -> None:
        before = self.tracker.view().pools
        self.tracker.claim(
            A, self.wants((WHOLE, A100, 8), (T4_POOL, T4_8Q, 2)), self.request
        )
        self.tracker.release(A)
        self.assertIsNone(self.tracker.claim_of(A))
        self.assertEqual([], self.fake.mdevs)
        self.assertEqual(before, self.tracker.view().pools)

    def test_who_holds_nothing(self) -> None:
        self.tracker.release(A)
        self.tracker.settle(A)
        self.assertIsNone(self.tracker.claim_of(A))

    def test_only_ones_own(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        self.claim(B, T4_POOL, T4_8Q)
        kept = self.devices(B)
        self.tracker.release(A)
        self.assertEqual(kept, self.fake.mdevs)
        self.assertEqual(kept, self.devices(B))

    def test_stuck(self) -> None:
        self.claim(A, T4_POOL, T4_8Q, 2)
        devices = self.devices(A)
        self.fake.failures['remove_mdev'] = errno.EBUSY
        self.tracker.release(A)
        self.assertEqual(devices, self.devices(A))
        # Nova deletes the allocation: Placement must not promise them.
        self.assertEqual((2, 2), self.inventory(T4_POOL)[T4_8Q])
        for device in devices:
            self.assertIn(f'Could not give back {device}', self.logs.output)
        self.assertIn('Device or resource busy', self.logs.output)
        # Said once; the attempts at each look are not errors anew.
        self.assertEqual(2, self.logs.output.count('Could not give back'))
        self.assertRaises(
            exception.NotEnoughUnits, self.claim, B, T4_POOL, T4_8Q
        )
        self.fake.failures.clear()
        self.tracker.release(A)
        self.assertEqual([], self.fake.mdevs)
        self.assertIsNone(self.tracker.claim_of(A))
        self.assertEqual(2, len(self.claim(B, T4_POOL, T4_8Q, 2).units))

    def test_one_of_two_stuck(self) -> None:
        self.claim(A, T4_POOL, T4_8Q, 2)
        self.fake.refused['remove_mdev'] = {1}
        self.tracker.release(A)
        self.assertEqual(self.fake.mdevs, self.devices(A))
        self.assertEqual(1, len(self.fake.mdevs))

    def test_what_was_stuck_before_stays_so(self) -> None:
        self.claim(A, WHOLE, A100)
        (first,) = self.devices(A)
        self.tracker.settle(A)
        self.fake.use(first)
        self.tracker.release(A)
        self.claim(A, WHOLE, A100)
        (second,) = (u.device for u in self.tracker.units_of(A))
        self.assertNotEqual(first, second)
        self.tracker.trim(A, ())
        claim = self.tracker.claim_of(A)
        assert claim is not None
        self.assertEqual([first], [u.device for u in claim.stuck])
        self.assertEqual((), self.tracker.units_of(A))

    def test_stuck_is_freed_by_the_next_look(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        self.fake.refused['remove_mdev'] = {1, 2}
        self.tracker.release(A)
        self.tracker.view()
        self.assertEqual(1, len(self.fake.mdevs))
        self.tracker.view()
        self.assertEqual([], self.fake.mdevs)
        self.assertIsNone(self.tracker.claim_of(A))

    def test_stuck_is_freed_by_the_claim_that_needs_it(self) -> None:
        self.claim(A, T4_POOL, T4_8Q, 2)
        self.fake.refused['remove_mdev'] = {1, 2}
        self.tracker.release(A)
        self.assertEqual(2, len(self.claim(B, T4_POOL, T4_8Q, 2).units))
        self.assertIsNone(self.tracker.claim_of(A))

    def test_stuck_goes_to_no_guest(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        old = self.devices(A)
        self.fake.failures['remove_mdev'] = errno.EBUSY
        self.tracker.release(A)
        self.claim(A, OTHER_POOL, T4_8Q)
        self.assertEqual(2, len(self.devices(A)))
        (hostdev,) = self.tracker.hostdevs(A, self.request)
        self.assertNotIn(hostdev.mdev, old)
        self.fake.failures.clear()
        self.tracker.view()
        self.assertEqual([hostdev.mdev], self.devices(A))
        self.assertEqual([hostdev.mdev], self.fake.mdevs)

    def test_error_that_is_none_of_ours(self) -> None:
        self.claim(A, T4_POOL, T4_8Q, 2)

        def broken(uuid: str) -> None:
            raise RuntimeError('the daemon has died')

        self.fake.remove_mdev = broken  # type: ignore[method-assign]
        self.tracker.release(A)
        self.assertEqual(2, len(self.devices(A)))
        self.assertIn('the daemon has died', self.logs.output)

    def test_keeping(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        with self.tracker.keeping(A):
            self.tracker.release(A)
            self.assertEqual(self.fake.mdevs, self.devices(A))
            self.assertEqual(1, len(self.fake.mdevs))
        self.tracker.release(A)
        self.assertEqual([], self.fake.mdevs)

    def test_keeping_ends_with_an_error(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        with self.assertRaisesRegex(ValueError, 'x'):
            with self.tracker.keeping(A):
                raise ValueError('x')
        self.tracker.release(A)
        self.assertEqual([], self.fake.mdevs)


class CardPutAsideTest(TrackerTest):
    """A card that is put aside as a whole gives nothing more."""

    def test_while_a_guest_holds_a_part_of_it(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        self.aside.add(T4, 'its fan has stopped')
        self.assertEqual((2, 1), self.inventory(T4_POOL)[T4_8Q])
        self.assertRaises(
            exception.NotEnoughUnits, self.claim, B, T4_POOL, T4_8Q
        )
        self.aside.remove(T4)
        self.assertEqual(1, len(self.claim(B, T4_POOL, T4_8Q).units))


class UndoTest(TrackerTest):
    """What a claim has added goes back, and nothing else."""

    def test_only_what_was_added(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        self.tracker.settle(A)
        before = self.tracker.claim_of(A)
        assert before is not None
        self.claim(A, OTHER_POOL, T4_8Q, 2)
        self.tracker.undo(A, before.units)
        self.assertEqual(before.units, self.tracker.units_of(A))
        self.assertEqual([before.units[0].device], self.fake.mdevs)

    def test_everything(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        self.tracker.undo(A, ())
        self.assertIsNone(self.tracker.claim_of(A))
        self.assertEqual([], self.fake.mdevs)

    def test_who_holds_nothing(self) -> None:
        self.tracker.undo(A, ())
        self.assertIsNone(self.tracker.claim_of(A))

    def test_what_can_not_be_cleaned_stays(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        before = self.tracker.units_of(A)
        self.claim(A, OTHER_POOL, T4_8Q)
        self.fake.refused['remove_mdev'] = {1}
        self.tracker.undo(A, before)
        self.assertEqual(before, self.tracker.units_of(A))
        self.assertEqual(2, len(self.devices(A)))


class HandOverTest(TrackerTest):
    """A migration's record holds the old units."""

    def test_all_units(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        self.tracker.settle(A)
        devices = self.devices(A)
        self.tracker.hand_over(A, B)
        self.assertIsNone(self.tracker.claim_of(A))
        self.assertEqual(devices, self.devices(B))
        self.assertEqual(ALLOCATED, self.state(B))
        self.assertEqual(B, self.tracker.claim_of(B).consumer)
        self.tracker.release(A)
        self.assertEqual(devices, self.fake.mdevs)

    def test_nothing(self) -> None:
        self.tracker.hand_over(A, B)
        self.assertIsNone(self.tracker.claim_of(B))

    def test_idle_while_nobody_holds_units(self) -> None:
        self.assertTrue(self.tracker.idle)
        self.claim(A, T4_POOL, T4_8Q)
        self.assertFalse(self.tracker.idle)
        self.tracker.hand_over(A, B)
        self.assertFalse(self.tracker.idle)
        self.tracker.release(B)
        self.assertTrue(self.tracker.idle)

    def test_to_somebody_who_holds_units(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        self.claim(B, WHOLE, A100, 2)
        self.tracker.hand_over(A, B)
        self.assertEqual(3, len(self.devices(B)))
        self.tracker.release(B)
        self.assertEqual([], self.fake.mdevs)
        self.assertEqual({A100: (8, 0)}, self.inventory(WHOLE))


class GoneTest(TrackerTest):
    """Cards leave the host and come back."""

    def test_free_card(self) -> None:
        self.claim(A, WHOLE, A100, 3)
        self.fake.remove('0000:cb:00.0')
        self.assertEqual({A100: (7, 0)}, self.inventory(WHOLE))
        self.assertEqual(4, len(self.claim(B, WHOLE, A100, 4).units))
        self.assertRaises(exception.NotEnoughUnits, self.claim, C, WHOLE, A100)

    def test_last_card_of_a_pool(self) -> None:
        self.fake.remove(T4)
        self.assertIsNone(self.tracker.view().pool(T4_POOL))
        self.assertEqual(5, len(self.inventory(OTHER_POOL)))
        self.assertRaises(
            exception.UnknownProvider, self.claim, A, T4_POOL, T4_8Q
        )

    def test_held_card_counts_until_its_release(self) -> None:
        self.claim(A, WHOLE, A100)
        self.tracker.settle(A)
        (address,) = self.devices(A)
        self.fake.remove(address)
        self.assertEqual({A100: (8, 0)}, self.inventory(WHOLE))
        self.assertEqual(REMOVED, self.state(A))
        self.assertIn(
            f'Card {address} has left the host while instance {A} holds it',
            self.logs.output,
        )
        self.tracker.view()
        self.assertEqual(1, self.logs.output.count('has left the host'))
        # It's no use to anybody else meanwhile.
        self.assertRaises(
            exception.NotEnoughUnits, self.claim, B, WHOLE, A100, 8
        )
        self.tracker.release(A)
        self.assertEqual({A100: (7, 0)}, self.inventory(WHOLE))

    def test_held_card_that_comes_back(self) -> None:
        self.claim(A, WHOLE, A100)
        self.tracker.settle(A)
        (address,) = self.devices(A)
        self.fake.remove(address)
        self.tracker.view()
        self.fake.add_gpu(address, 0x20B0, iommu_group=47)
        self.assertEqual({A100: (8, 0)}, self.inventory(WHOLE))
        self.assertEqual(ALLOCATED, self.state(A))
        self.assertIn('is back in the host', self.logs.output)
        self.claim(B, WHOLE, A100, 7)
        self.assertNotIn(address, self.devices(B))

    def test_held_vgpu_card(self) -> None:
        self.claim(A, T4_POOL, T4_8Q, 2)
        self.tracker.settle(A)
        self.fake.remove(T4)
        self.assertEqual({T4_8Q: (2, 0)}, self.inventory(T4_POOL))
        self.assertEqual(REMOVED, self.state(A))
        self.assertRaises(
            exception.NotEnoughUnits, self.claim, B, T4_POOL, T4_8Q
        )
        self.tracker.release(A)
        self.assertIsNone(self.tracker.view().pool(T4_POOL))

    def test_claim_that_is_not_settled(self) -> None:
        self.claim(A, WHOLE, A100)
        self.fake.remove(*self.devices(A))
        self.tracker.view()
        self.assertEqual(CLAIMED, self.state(A))

    def test_comes_back_after_a_restart(self) -> None:
        # The guest's XML names a card that isn't there when nova-compute
        # starts: it must not be given away when it appears.
        self.claim(A, WHOLE, A100, 2)
        guest = self.guest(A)
        address = self.devices(A)[0]
        self.fake.remove(address)
        self.restart(guest)
        self.assertEqual(1, len(self.devices(A)))
        self.fake.add_gpu(address, 0x20B0, iommu_group=47)
        self.claim(B, WHOLE, A100, 6)
        self.assertEqual(2, len(self.devices(A)))
        self.assertEqual(set(), set(self.devices(A)) & set(self.devices(B)))
        self.assertEqual({A100: (8, 0)}, self.inventory(WHOLE))
        self.assertEqual(ALLOCATED, self.state(A))

    def test_comes_back_after_the_release(self) -> None:
        self.claim(A, WHOLE, A100)
        guest = self.guest(A)
        (address,) = self.devices(A)
        self.fake.remove(address)
        self.restart(guest)
        self.tracker.release(A)
        self.fake.add_gpu(address, 0x20B0, iommu_group=47)
        self.assertEqual(8, len(self.claim(B, WHOLE, A100, 8).units))
        self.assertIsNone(self.tracker.claim_of(A))

    def test_comes_back_for_a_guest_that_has_another_now(self) -> None:
        self.claim(A, WHOLE, A100)
        guest = self.guest(A)
        (address,) = self.devices(A)
        self.fake.remove(address)
        self.restart(guest)
        (unit,) = self.claim(A, WHOLE, A100).units
        self.fake.add_gpu(address, 0x20B0, iommu_group=47)
        self.tracker.view()
        self.assertEqual([unit.device], self.devices(A))
        self.assertEqual(7, len(self.claim(B, WHOLE, A100, 7).units))

    def test_comes_back_for_who_took_over(self) -> None:
        self.claim(A, WHOLE, A100)
        guest = self.guest(A)
        (address,) = self.devices(A)
        self.fake.remove(address)
        self.restart(guest)
        self.tracker.hand_over(A, B)
        self.fake.add_gpu(address, 0x20B0, iommu_group=47)
        self.tracker.view()
        self.assertEqual([address], self.devices(B))


class RebuildTest(TrackerTest):
    """Everything is read back from guest XML and sysfs."""

    def test_nothing_is_lost(self) -> None:
        self.tracker.claim(
            A, self.wants((WHOLE, A100, 3), (T4_POOL, T4_8Q, 1)), self.request
        )
        self.claim(B, T4_POOL, T4_8Q)
        guests = [self.guest(A, 'a'), self.guest(B, 'b')]
        before = {c: self.tracker.claim_of(c) for c in (A, B)}
        pools = self.tracker.view().pools
        self.restart(*guests)
        for consumer, claim in before.items():
            after = self.tracker.claim_of(consumer)
            self.assertEqual(ALLOCATED, after.state)
            self.assertCountEqual(claim.units, after.units)
        self.assertEqual(pools, self.tracker.view().pools)
        self.tracker.release(A)
        self.tracker.release(B)
        self.assertEqual([], self.fake.mdevs)

    def test_again_in_one_process(self) -> None:
        self.claim(A, WHOLE, A100)
        self.claim(B, WHOLE, A100)
        self.tracker.rebuild([self.guest(A)])
        self.assertEqual(1, len(self.devices(A)))
        self.assertIsNone(self.tracker.claim_of(B))

    def test_guest_without_uuid_goes_by_its_name(self) -> None:
        self.claim(A, WHOLE, A100)
        text = self.guest_xml(A, 'strange').replace(f'<uuid>{A}</uuid>', '')
        self.restart(parse_guest(text, 'strange'))
        self.assertEqual(1, len(self.devices('strange')))

    def test_leaks_are_removed(self) -> None:
        leaked, kept = new_uuid(), new_uuid()
        self.fake.create_mdev(T4, 'nvidia-233', leaked)
        self.fake.create_mdev(T4, 'nvidia-233', kept)
        text = base.domain_xml('a', A, [Hostdev(mdev=kept)])
        self.restart(parse_guest(text, 'a'))
        self.assertEqual([kept], self.fake.mdevs)
        self.assertEqual([kept], self.devices(A))
        self.assertIn(
            f'Removing {leaked} ({T4_8Q}) of card {T4}', self.logs.output
        )

    def test_leak_that_is_stuck(self) -> None:
        self.fake.create_mdev(T4, 'nvidia-233', new_uuid())
        self.fake.failures['remove_mdev'] = errno.EBUSY
        self.restart()
        self.assertEqual(self.fake.mdevs, self.devices(NOBODY))
        self.assertEqual((2, 1), self.inventory(T4_POOL)[T4_8Q])
        self.fake.failures.clear()
        self.assertEqual(0, self.inventory(T4_POOL)[T4_4Q][1])
        self.assertEqual([], self.fake.mdevs)
        self.assertIsNone(self.tracker.claim_of(NOBODY))

    def test_mdev_of_another_owner(self) -> None:
        self.fake.create_mdev(T4, 'nvidia-233', FOREIGN)
        text = base.domain_xml('a', A, [Hostdev(mdev=FOREIGN)])
        for guests in ([], [parse_guest(text, 'a')]):
            self.restart(*guests)
            self.assertEqual((2, 1), self.inventory(T4_POOL)[T4_8Q])
            self.assertEqual((4, 4), self.inventory(T4_POOL)[T4_4Q])
            self.claim(B, T4_POOL, T4_8Q)
            self.assertRaises(
                exception.NotEnoughUnits, self.claim, C, T4_POOL, T4_8Q
            )
            self.assertEqual([], self.tracker.hostdevs(A, self.request))
            self.tracker.release(B)
            self.assertEqual([FOREIGN], self.fake.mdevs)
        # Nova keeps what it makes for ever; the card is ours now.
        self.tracker.release(A)
        self.assertEqual([], self.fake.mdevs)
        self.assertNotIn('does not exist', self.logs.output)

    def test_guest_whose_xml_does_not_parse(self) -> None:
        self.tracker.claim(
            A, self.wants((WHOLE, A100, 3), (T4_POOL, T4_8Q, 1)), self.request
        )
        self.claim(B, OTHER_POOL, T4_8Q)
        leaked = new_uuid()
        self.fake.create_mdev(OTHER_T4, 'nvidia-233', leaked)
        devices = self.devices(A)
        broken = self.guest_xml(A).replace('</domain>', '')
        self.restart(parse_guest(broken, 'broken'), self.guest(B, 'b'))
        self.assertIn('XML of guests broken does not parse', self.logs.output)
        self.assertEqual(devices, self.devices(A))
        # It may be the one that holds it.
        self.assertIn(leaked, self.fake.mdevs)
        self.assertEqual((2, 1), self.inventory(OTHER_POOL)[T4_8Q])
        self.claim(C, WHOLE, A100, 5)
        self.assertEqual(set(), set(devices) & set(self.devices(C)))

    def test_mdev_that_does_not_exist(self) -> None:
        lost = new_uuid()
        text = base.domain_xml('a', A, [Hostdev(mdev=lost)])
        self.restart(parse_guest(text, 'a'))
        self.assertIn(
            f'Guest a names the mediated device {lost}, which does not exist',
            self.logs.output,
        )
        self.assertIsNone(self.tracker.claim_of(A))

    def test_device_in_two_guests(self) -> None:
        self.tracker.claim(
            A, self.wants((WHOLE, A100, 1), (T4_POOL, T4_8Q, 1)), self.request
        )
        text = self.guest_xml(A, 'a')
        devices = self.devices(A)
        self.restart(
            parse_guest(text, 'a'), parse_guest(text.replace(A, B), 'b')
        )
        for device in devices:
            self.assertIn(
                f'Device {device} is in the XML of instance {A} and of '
                f'instance {B}',
                self.logs.output,
            )
        # The release of one takes nothing from the other.
        self.tracker.release(A)
        self.assertEqual(devices, self.devices(B))
        self.assertEqual([d for d in devices if is_ours(d)], self.fake.mdevs)
        self.tracker.release(B)
        self.assertEqual([], self.fake.mdevs)

    def test_unreadable_host(self) -> None:
        self.claim(A, WHOLE, A100)
        guest = self.guest(A)
        devices = self.fake.sys / 'bus/pci/devices'
        devices.rename(devices.with_name('away'))
        self.restart(guest)
        self.assertEqual((), self.tracker.view().pools)
        self.assertIn(f'{devices}: No such file', self.logs.output)
        devices.with_name('away').rename(devices)
        self.claim(B, WHOLE, A100, 7)
        self.assertEqual(1, len(self.devices(A)))


class OwnedTest(TrackerTest):
    """Cards that Nova itself hands out: one owner a card."""

    def owned(self, snapshot: Snapshot) -> Mapping[PciAddress, str]:
        return {
            PciAddress.parse(address): "Nova's [pci] device_spec"
            for address in ('0000:25:00.0', T4)
        }

    def test_nothing_of_them_is_given(self) -> None:
        self.restart(owned=self.owned)
        self.assertEqual({A100: (7, 0)}, self.inventory(WHOLE))
        self.assertEqual({}, self.inventory(T4_POOL))
        self.assertRaises(
            exception.UnknownProvider, self.claim, A, T4_POOL, T4_8Q
        )

    def test_what_nova_gave_a_guest_is_not_ours(self) -> None:
        # Nova takes any mdev of the right type, also one with our mark.
        uuid = new_uuid()
        self.fake.create_mdev(T4, 'nvidia-233', uuid)
        card = PciAddress.parse('0000:25:00.0')
        text = base.domain_xml(
            'a', A, [Hostdev(mdev=uuid), Hostdev(function=card)]
        )
        self.restart(parse_guest(text, 'a'), owned=self.owned)
        self.assertIsNone(self.tracker.claim_of(A))
        self.assertEqual({A100: (7, 0)}, self.inventory(WHOLE))
        self.assertEqual([uuid], self.fake.mdevs)
        self.tracker.release(A)
        self.assertEqual([uuid], self.fake.mdevs)

    def test_its_mdevs_are_no_leaks(self) -> None:
        uuid = new_uuid()
        self.fake.create_mdev(T4, 'nvidia-233', uuid)
        self.restart(owned=self.owned)
        self.assertEqual([uuid], self.fake.mdevs)


class ReportTest(TrackerTest):
    """What an operator reads."""

    def report(self, *rules: str) -> str:
        tracker = self.new_tracker(*rules)
        tracker.report_rules(tracker.view())
        return str(self.logs.output)

    def test_rules_that_are_fine(self) -> None:
        self.assertEqual('', self.report(
            '{"product_id": "1eb8", "mechanism": "mdev", "reserved": 1}',
            '{"mechanism": "whole", "resource_class": "PGPU"}',
        ))  # fmt: skip

    def test_rule_that_matches_nothing(self) -> None:
        output = self.report(
            '{"address": "0000:25:00.0", "use": "ignore"}',
            '{"address": "0000:26:00.0", "use": "ignore"}',
            '{"mechanism": "mdve", "reserved": 1}',
        )
        self.assertNotIn('rule 1', output)
        for number in (2, 3):
            self.assertIn(
                f'[gpu] rule {number} matches no card of this host', output
            )

    def test_rules_that_contradict(self) -> None:
        output = self.report(
            '{"address": "0000:25:00.0", "use": "ignore"}',
            '{"address": "0000:2?:00.0", "use": "passthrough"}',
        )
        self.assertIn(
            "Rules in [gpu] contradict: card 0000:25:00.0: rule 2 says use "
            "'passthrough', but rule 1 already said 'ignore'",
            output,
        )
        self.assertEqual(1, output.count('contradict'))

    def test_rule_that_leaves_profiles_out(self) -> None:
        output = self.report(
            '{"profiles": ["T4-8Q", "T4-4Q"], "resource_class": "VGPU"}'
        )
        self.assertIn(
            '[gpu] rule 1 gives one class, VGPU, to several profiles of '
            'NVIDIA Tesla T4: offered is GRID T4-4Q, and not GRID T4-8Q; name '
            'one alone in profiles',
            output,
        )
        self.assertEqual(1, output.count('offered is'))

    def test_other_cards_of_such_rules(self) -> None:
        self.tracker = self.new_tracker(
            '{"address": "0000:25:00.0", "use": "ignore"}',
            '{"product_id": "1eb8", "profiles": ["T4-7Q"]}',
        )
        self.assertEqual({A100: (7, 0)}, self.inventory(WHOLE))
        reasons = {
            str(use.card.address): use.reason
            for use in self.tracker.view().uses
            if use.reason
        }
        self.assertEqual(
            'rule 1 says to ignore it', reasons.pop('0000:25:00.0')
        )
        self.assertEqual(
            {'no rule allows any of its vGPU types; allowed: T4-7Q'},
            set(reasons.values()),
        )
        self.assertEqual(4, len(reasons))

    def test_warning_is_logged_when_it_appears(self) -> None:
        name = f'sys/bus/pci/devices/{T4}/numa_node'
        self.fake.write(name, 'many')
        text = f"While reading the host: {self.path(name)}: 'many' is not"
        for _ in range(3):
            self.tracker.view()
        self.assertEqual(1, self.logs.output.count(text))
        self.fake.write(name, '0')
        self.tracker.view()
        self.fake.write(name, 'many')
        self.tracker.view()
        self.assertEqual(2, self.logs.output.count(text))

    def test_cards_and_map_of_a_spoiled_host(self) -> None:
        # Units in use keep their class, whatever can't be read.
        self.claim(A, T4_POOL, T4_8Q)
        types = f'sys/class/mdev_bus/{T4}/mdev_supported_types/nvidia-233'
        for name in ('available_instances', 'name'):
            self.fake.write(f'{types}/{name}', '')
            record = self.inventory(T4_POOL)[T4_8Q]
            self.assertEqual(1, record[0] - record[1], record)
            view = self.tracker.view()
            state = next(
                p for p in self.tracker.map(view).pools if p.key == T4_POOL
            )
            self.assertEqual((T4_8Q, 1), (state.active, state.used))
        self.tracker.release(A)
        self.assertEqual([], self.fake.mdevs)


class OthersTest(TrackerTest):
    """What other pools of the host do for a request."""

    ALIKE = {T4_POOL: {OTHER_POOL}, OTHER_POOL: {T4_POOL}}

    def claim_somewhere(self, consumer: str, *wants: Any) -> Claim:
        return self.tracker.claim(
            consumer, self.wants(*wants), self.request, self.ALIKE
        )

    def test_taken_card(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        claim = self.claim_somewhere(B, (T4_POOL, T4_4Q, 2))
        (move,) = claim.moves
        self.assertEqual(Want(T4_POOL, T4_4Q, 2), move.want)
        self.assertEqual(OTHER_POOL, move.pool)
        self.assertEqual({OTHER_POOL}, {u.pool for u in claim.units})
        # The claim as it is kept tells of no moves.
        self.assertEqual((), self.tracker.claim_of(B).moves)

    def test_nothing_moves_that_fits(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        claim = self.claim_somewhere(B, (T4_POOL, T4_8Q, 1))
        self.assertEqual((), claim.moves)
        self.assertEqual([T4_POOL], [u.pool for u in claim.units])

    def test_card_that_holds_the_profile_spares_an_empty_one(self) -> None:
        self.claim(A, OTHER_POOL, T4_8Q)
        claim = self.claim_somewhere(B, (T4_POOL, T4_8Q, 1))
        self.assertEqual([OTHER_POOL], [m.pool for m in claim.moves])
        self.assertEqual([], self.fake.mdevs_of(T4))

    def test_no_two_wants_in_one_pool(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        self.assertRaises(
            exception.NotEnoughUnits,
            self.claim_somewhere,
            B,
            (T4_POOL, T4_4Q, 1),
            (OTHER_POOL, T4_4Q, 1),
        )
        self.assertIsNone(self.tracker.claim_of(B))

    def test_driver_that_refuses_on_one_card(self) -> None:
        self.fake.refused['create_mdev'] = {1}
        claim = self.claim_somewhere(A, (T4_POOL, T4_8Q, 2))
        self.assertEqual([OTHER_POOL], [m.pool for m in claim.moves])
        self.assertEqual([], self.fake.mdevs_of(T4))

    def test_first_error_is_told(self) -> None:
        self.claim(A, T4_POOL, T4_8Q, 2)
        self.claim(B, OTHER_POOL, T4_8Q, 2)
        error = self.assertRaises(
            exception.NotEnoughUnits,
            self.claim_somewhere,
            C,
            (T4_POOL, T4_8Q, 1),
        )
        self.assertEqual(T4_POOL, error.pool)


class MakeAgainTest(TrackerTest):
    """What has gone of a guest's units comes back as it was."""

    def test_removed_by_hand(self) -> None:
        self.tracker.claim(
            A, self.wants((T4_POOL, T4_8Q, 1)),
            GpuRequest({}, vgpu_params='a=b'),
        )  # fmt: skip
        (device,) = self.devices(A)
        self.fake.remove_mdev(device)
        self.tracker.make_again(A)
        self.assertEqual([device], self.fake.mdevs)
        path = self.fake.sys / 'bus/mdev/devices' / device
        self.assertEqual('a=b', (path / 'nvidia/vgpu_params').read_text())

    def test_nothing_is_missing(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        before = self.fake.mdevs
        self.tracker.make_again(A)
        self.tracker.make_again(B)
        self.assertEqual(before, self.fake.mdevs)

    def test_driver_that_is_not_loaded(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        self.fake.unload_driver(T4)
        error = self.assertRaises(
            exception.UnitUnusable, self.tracker.make_again, A
        )
        self.assertIn(f'driver of card {T4} is not loaded', str(error))
