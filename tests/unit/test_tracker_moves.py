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

"""What a move keeps, and what others change behind the tracker's back."""

from __future__ import annotations

import errno
import uuid
from typing import Any

from nova_gpu.mechanism.mdev import new_uuid
from nova_gpu.model.claim import ALLOCATED, Want
from nova_gpu.model.guest import GuestDevices, Hostdev, parse_guest
from tests.fixtures import hosts
from tests.unit import base

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
T4_4Q, T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q', 'CUSTOM_VGPU_NVIDIA_T4_8Q'
WHOLE = 'nvidia_a100_sxm4_40gb'
T4, T4_POOL, OTHER_POOL = '0000:3b:00.0', '0000_3b_00_0', '0000_5e_00_0'
A, B, MOVE = map(base.instance, ('a', 'b', 'move'))


class MovesTest(base.TrackerTest):
    """On the host: eight A100, four T4."""

    def setUp(self) -> None:
        super().setUp()
        hosts.a100_board(self.fake)
        hosts.four_t4(self.fake)
        self.tracker = self.new_tracker()

    def resize(self, consumer: str, pool: str, name: str) -> GuestDevices:
        """Move to other units of this host; the guest as it is then."""
        self.tracker.hand_over(consumer, MOVE)
        self.claim(consumer, pool, name)
        self.tracker.settle(consumer)
        return self.guest(consumer)

    def boot(self, consumer: str, pool: str, name: str, count: int = 1) -> Any:
        self.claim(consumer, pool, name, count)
        self.tracker.settle(consumer)
        return self.guest(consumer)

    def allocated(
        self, *counts: tuple[str, str, str, int]
    ) -> dict[str, dict[tuple[str, str], int]]:
        found: dict[str, dict[tuple[str, str], int]] = {}
        for consumer, pool, name, count in counts:
            found.setdefault(consumer, {})[pool, name] = count
        return found


class KeptTest(MovesTest):
    """The new guest's metadata records what the old one had."""

    def test_over_a_restart(self) -> None:
        self.boot(A, T4_POOL, T4_8Q)
        (old,) = self.devices(A)
        guest = self.resize(A, OTHER_POOL, T4_4Q)
        (new,) = self.devices(A)
        self.assertNotIn(old, guest.mdevs)
        self.tracker = self.new_tracker()
        self.tracker.rebuild([guest])
        self.assertEqual([new], self.devices(A))
        self.assertEqual([old], self.devices(MOVE))
        self.assertEqual(sorted([old, new]), self.fake.mdevs)
        self.assertEqual({MOVE}, self.tracker.kept_for(A).keys())
        # Taken back, it is the guest's own again.
        self.tracker.release(A)
        self.tracker.hand_over(MOVE, A)
        self.assertEqual([old], self.devices(A))
        self.assertEqual({}, self.tracker.kept_for(A))

    def test_whole_cards(self) -> None:
        self.boot(A, WHOLE, A100, 2)
        old = self.devices(A)
        guest = self.resize(A, T4_POOL, T4_8Q)
        self.tracker = self.new_tracker()
        self.tracker.rebuild([guest])
        self.assertEqual(old, self.devices(MOVE))
        self.claim(B, WHOLE, A100, 6)
        self.assertTrue(set(old).isdisjoint(self.devices(B)))

    def test_what_has_another_owner_by_now(self) -> None:
        self.boot(A, WHOLE, A100)
        (old,) = self.devices(A)
        stale = self.resize(A, T4_POOL, T4_8Q)
        self.tracker.release(MOVE)
        self.boot(B, WHOLE, A100, 8)
        other = self.guest(B)
        self.tracker = self.new_tracker()
        self.tracker.rebuild([stale, other])
        self.assertIn(old, self.devices(B))
        self.assertIsNone(self.tracker.claim_of(MOVE))
        self.assertNotIn('Device', self.logs.output)

    def test_resize_to_none(self) -> None:
        self.boot(A, T4_POOL, T4_8Q)
        (old,) = self.devices(A)
        self.tracker.hand_over(A, MOVE)
        guest = self.guest(A)
        self.assertEqual(frozenset(), guest.mdevs)
        self.tracker = self.new_tracker()
        self.tracker.rebuild([guest])
        self.assertEqual([old], self.devices(MOVE))
        self.assertEqual([old], self.fake.mdevs)

    def test_over_a_boot_of_the_host(self) -> None:
        self.boot(A, T4_POOL, T4_8Q)
        guest = self.resize(A, OTHER_POOL, T4_4Q)
        before = self.fake.mdevs
        self.fake.reboot()
        self.restorer().restore([guest], 0)
        self.assertEqual(before, self.fake.mdevs)

    def test_own_units_come_first_after_a_boot_of_the_host(self) -> None:
        # A's move is over, and B has taken the card with another profile.
        self.boot(A, T4_POOL, T4_8Q)
        stale = self.resize(A, OTHER_POOL, T4_4Q)
        self.tracker.release(MOVE)
        other = self.boot(B, T4_POOL, T4_4Q)
        wanted = self.fake.mdevs
        self.fake.reboot()
        self.restorer().restore([stale, other], 0)
        self.assertEqual(wanted, self.fake.mdevs)

    def test_card_that_comes_back_for_a_move(self) -> None:
        # It left the host while nova-compute was away.
        self.boot(A, WHOLE, A100)
        (old,) = self.devices(A)
        guest = self.resize(A, T4_POOL, T4_8Q)
        self.fake.remove(old)
        self.tracker = self.new_tracker()
        self.tracker.rebuild([guest])
        self.assertEqual({}, self.tracker.kept_for(A))
        self.fake.add_gpu(old, 0x20B0, iommu_group=47)
        self.tracker.view()
        self.assertEqual({MOVE}, self.tracker.kept_for(A).keys())

    def test_card_that_comes_back_after_a_move(self) -> None:
        # The same, and what waits for it changes hands meanwhile.
        for state in ('taken back', 'resized'):
            self.boot(A, WHOLE, A100)
            (old,) = self.devices(A)
            guest = self.guest(A)
            if state == 'taken back':
                guest = self.resize(A, T4_POOL, T4_8Q)
            self.fake.remove(old)
            self.tracker = self.new_tracker()
            self.tracker.rebuild([guest])
            if state == 'taken back':
                self.tracker.release(A)
                self.tracker.hand_over(MOVE, A)
            else:
                self.tracker.hand_over(A, MOVE)
            self.fake.add_gpu(old, 0x20B0, iommu_group=47)
            self.tracker.view()
            if state == 'taken back':
                self.assertEqual([old], self.devices(A))
                self.assertEqual({}, self.tracker.kept_for(A))
                self.tracker.release(A)
            else:
                self.assertEqual({MOVE}, self.tracker.kept_for(A).keys())
                self.assertEqual([old], self.devices(MOVE))

    def test_guests_without_gpus_are_not_waited_for(self) -> None:
        self.assertTrue(self.tracker.idle)
        guests = [
            parse_guest(base.domain_xml('x', A, []), 'x'),
            parse_guest('<domain>', 'mine'),
        ]
        self.tracker.rebuild(guests)
        self.assertTrue(self.tracker.idle)
        self.tracker.reconcile([], {}, lambda: guests)
        self.assertTrue(self.tracker.idle)
        self.tracker.rebuild([self.boot(A, WHOLE, A100)])
        self.assertFalse(self.tracker.idle)
        self.tracker.release(A)
        self.assertTrue(self.tracker.idle)


class TrimTest(MovesTest):
    """What is held beyond an allocation goes back."""

    def test_some(self) -> None:
        self.boot(A, WHOLE, A100, 4)
        self.boot(A, T4_POOL, T4_8Q)
        self.tracker.trim(A, [Want(WHOLE, A100, 3)])
        units = self.tracker.units_of(A)
        self.assertEqual(3, len(units))
        self.assertEqual({A100}, {u.resource_class for u in units})
        self.assertEqual([], self.fake.mdevs)

    def test_nothing(self) -> None:
        self.boot(A, WHOLE, A100, 4)
        before = self.devices(A)
        self.tracker.trim(A, [Want(WHOLE, A100, 5)])
        self.assertEqual(before, self.devices(A))
        self.tracker.trim(B, [])
        self.assertIsNone(self.tracker.claim_of(B))


class ReconcileTest(MovesTest):
    """What guests hold, compared with what Placement has allocated."""

    def reconcile(
        self,
        *counts: tuple[str, str, str, int],
        guests: tuple[GuestDevices, ...] = (),
        known: Any = None,
        at_start: bool = False,
    ) -> None:
        self.tracker.reconcile(
            self.tracker.consumers() if known is None else known,
            self.allocated(*counts),
            lambda: guests,
            at_start=at_start,
        )

    def test_all_is_well(self) -> None:
        guest = self.boot(A, WHOLE, A100, 2)
        before = self.logs.output
        self.reconcile((A, WHOLE, A100, 2), guests=(guest,))
        self.assertEqual(before, self.logs.output)
        self.assertEqual({A100: (8, 0)}, self.inventory(WHOLE))

    def test_guest_without_an_allocation(self) -> None:
        guest = self.boot(A, WHOLE, A100, 2)
        (first, second) = self.devices(A)
        self.reconcile(guests=(guest,))
        self.assertIn(
            f'Reserving {first}, {second}: instance {A} holds it without an '
            f'allocation in Placement',
            self.logs.output,
        )
        # Nobody is promised them, and the guest has them still.
        self.assertEqual({A100: (8, 2)}, self.inventory(WHOLE))
        self.assertEqual(2, len(self.tracker.hostdevs(A, self.request)))
        self.reconcile(guests=(guest,))
        self.assertEqual(1, self.logs.output.count('Reserving'))
        # Somebody has healed the allocation.
        self.reconcile((A, WHOLE, A100, 2), guests=(guest,))
        self.assertEqual({A100: (8, 0)}, self.inventory(WHOLE))

    def test_a_part_of_it(self) -> None:
        guest = self.boot(A, WHOLE, A100, 3)
        self.reconcile((A, WHOLE, A100, 2), guests=(guest,))
        self.assertEqual({A100: (8, 1)}, self.inventory(WHOLE))

    def test_claim_of_which_no_guest_came(self) -> None:
        said = (
            f'Giving back what instance {A} holds: it has no allocation in '
            f'Placement, and no guest'
        )
        self.claim(A, T4_POOL, T4_8Q)
        # Its guest may just be made, and its allocation on its way to it.
        self.reconcile()
        self.assertEqual(self.fake.mdevs, self.devices(A))
        self.assertEqual((2, 0), self.inventory(T4_POOL)[T4_8Q])
        self.assertNotIn(said, self.logs.output)
        self.reconcile()
        self.assertEqual([], self.fake.mdevs)
        self.assertIn(said, self.logs.output)

    def test_doubts_that_were_wrong(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        allocated = (A, T4_POOL, T4_8Q, 1)
        for counts in ((), (allocated,), ()):
            self.reconcile(*counts)
            self.assertEqual(self.fake.mdevs, self.devices(A))

    def test_doubts_of_what_it_held_before(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        self.reconcile()
        self.tracker.release(A)
        self.claim(A, T4_POOL, T4_8Q)
        self.reconcile()
        self.assertEqual(self.fake.mdevs, self.devices(A))

    def test_no_doubts_at_the_start(self) -> None:
        self.boot(A, T4_POOL, T4_8Q)
        guest = self.resize(A, OTHER_POOL, T4_4Q)
        self.tracker = self.new_tracker()
        self.tracker.rebuild([guest])
        self.reconcile(
            (A, OTHER_POOL, T4_4Q, 1), guests=(guest,), at_start=True
        )
        self.assertEqual(self.fake.mdevs, self.devices(A))

    def test_vgpu_of_nobody(self) -> None:
        device = new_uuid()
        other = str(uuid.uuid4())
        for name in (device, other):
            self.fake.create_mdev(T4, 'nvidia-233', name)
        broken = parse_guest('<domain>', 'mine')
        self.reconcile(guests=(broken,))
        self.assertEqual(sorted([device, other]), self.fake.mdevs)
        self.reconcile()
        self.assertEqual([other], self.fake.mdevs)
        self.assertIn(f'Removing {device}', self.logs.output)

    def test_claim_that_is_younger_than_the_question(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        self.reconcile(known=())
        self.assertEqual(self.fake.mdevs, self.devices(A))

    def test_allocation_without_a_guest_keeps_the_units(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        self.reconcile((A, T4_POOL, T4_8Q, 1))
        self.assertEqual(self.fake.mdevs, self.devices(A))

    def test_migration_to_another_host(self) -> None:
        # The guest waits here; Placement counts for the migration.
        guest = self.boot(A, WHOLE, A100, 2)
        self.reconcile((MOVE, WHOLE, A100, 2), guests=(guest,))
        self.assertEqual({A100: (8, 0)}, self.inventory(WHOLE))
        self.assertEqual(2, len(self.devices(A)))

    def test_move_that_is_over(self) -> None:
        self.boot(A, T4_POOL, T4_8Q)
        guest = self.resize(A, OTHER_POOL, T4_4Q)
        kept = (MOVE, T4_POOL, T4_8Q, 1)
        new = (A, OTHER_POOL, T4_4Q, 1)
        self.reconcile(kept, new, guests=(guest,))
        self.assertEqual(2, len(self.fake.mdevs))
        self.reconcile(new, guests=(guest,))
        # Nobody is promised it any more.
        self.assertEqual(2, len(self.fake.mdevs))
        self.assertEqual((2, 1), self.inventory(T4_POOL)[T4_8Q])
        self.reconcile(new, guests=(guest,))
        self.assertEqual(self.fake.mdevs, self.devices(A))
        self.assertIn(
            f'Giving back what move {MOVE} of instance {A} holds',
            self.logs.output,
        )

    def test_guest_defined_by_hand(self) -> None:
        text = base.domain_xml(
            'mine', B, self.hostdevs_of_a_card('0000:25:00.0')
        )
        guest = parse_guest(text, 'mine')
        self.reconcile(guests=(guest,))
        self.assertEqual(['0000:25:00.0'], self.devices(B))
        self.assertEqual({A100: (8, 1)}, self.inventory(WHOLE))
        self.claim(A, WHOLE, A100, 7)
        self.assertNotIn('0000:25:00.0', self.devices(A))
        self.reconcile((A, WHOLE, A100, 7), guests=(self.guest(A),))
        self.assertEqual({A100: (8, 0)}, self.inventory(WHOLE))
        self.assertIn(f'Guest {B}, not of Nova, has gone', self.logs.output)

    def test_guest_that_is_changed_by_hand(self) -> None:
        first, second = '0000:25:00.0', '0000:2b:00.0'
        for _ in range(2):
            for held, free in ((first, second), (second, first)):
                text = base.domain_xml(
                    'mine', B, self.hostdevs_of_a_card(held)
                )
                for _ in range(2):
                    self.reconcile(guests=(parse_guest(text, 'mine'),))
                self.assertEqual([held], self.devices(B))
                self.assertEqual({A100: (8, 1)}, self.inventory(WHOLE))
                self.claim(A, WHOLE, A100, 7)
                self.assertIn(free, self.devices(A))
                self.tracker.release(A)
        # Once for each change.
        self.assertEqual(4, self.logs.output.count(f'Instance {B} holds'))

    def test_what_is_stuck_stays(self) -> None:
        self.claim(A, T4_POOL, T4_8Q)
        self.fake.failures['remove_mdev'] = errno.EBUSY
        self.tracker.release(A)
        self.reconcile()
        self.reconcile()
        self.assertEqual(self.fake.mdevs, self.devices(A))

    def test_placement_is_away(self) -> None:
        guest = self.boot(A, WHOLE, A100)
        self.tracker.reconcile([A], None, lambda: [guest])
        self.assertEqual({A100: (8, 0)}, self.inventory(WHOLE))
        claim = self.tracker.claim_of(A)
        assert claim is not None
        self.assertEqual(ALLOCATED, claim.state)

    def hostdevs_of_a_card(self, address: str) -> list[Any]:
        (card,) = (c for a, c in self.cards().items() if a == address)
        return [Hostdev(function=f) for f in card.functions]


class ChangedTest(MovesTest):
    """Who listens is told of every change, and of nothing else."""

    def test_every_change(self) -> None:
        told: list[list[str]] = []
        self.tracker = self.new_tracker(
            changed=lambda claims: told.append(
                sorted(c.consumer for c in claims)
            )
        )
        self.claim(A, T4_POOL, T4_8Q)
        self.assertEqual([[A]], told)
        self.tracker.view()
        self.tracker.units_of(A)
        self.assertEqual(1, len(told))
        self.tracker.settle(A)
        self.tracker.hand_over(A, B)
        self.assertEqual([[A], [A], [B]], told)
        self.tracker.release(B)
        self.assertEqual([], told[-1])
