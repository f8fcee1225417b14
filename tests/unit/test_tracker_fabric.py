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

"""Claims on a board whose cards are handed out in partitions."""

from __future__ import annotations

import errno
from typing import Any

from nova_gpu import exception
from nova_gpu.fabric import FabricManager
from nova_gpu.model.address import PciAddress
from nova_gpu.model.claim import Want
from nova_gpu.model.device import Snapshot
from nova_gpu.model.guest import Hostdev, parse_guest
from nova_gpu.model.request import GpuRequest
from nova_gpu.tracker import Tracker
from tests.fixtures import fmpm, hosts
from tests.unit import base

H100 = 'CUSTOM_GPU_NVIDIA_H100_SXM5_80GB'
POOL = 'nvidia_h100_sxm5_80gb'
A, B, C = map(base.instance, 'abc')


class BoardTest(base.TrackerTest):
    """Eight H100, whose modules rules tell."""

    def setUp(self) -> None:
        super().setUp()
        hosts.divided_h100_board(self.fake)
        self.now = 0.0
        self.tracker = self.start()

    def start(self, *rules: str, **kwargs: Any) -> Tracker:
        """Another tracker, which asks Fabric Manager as well."""
        manager = FabricManager(self.fake, True, lambda: self.now)
        self.manager = manager

        def read() -> Snapshot:
            return manager.complete(self.snapshot())

        return self.new_tracker(
            *(rules or hosts.H100_RULES), read=read, manager=manager, **kwargs
        )

    def take(self, consumer: str, count: int) -> list[int]:
        """Claim cards; which modules these are."""
        self.claim(consumer, POOL, H100, count)
        return self.modules(consumer)

    def modules(self, consumer: str) -> list[int]:
        return sorted(hosts.H100_MODULES[d] for d in self.devices(consumer))

    def change(self, **values: Any) -> None:
        """Let something happen to Fabric Manager."""
        with fmpm.changing(self.fake.fabric) as fabric:
            for name, value in values.items():
                setattr(fabric, name, value)
        self.now += 60

    @property
    def active(self) -> list[int]:
        return sorted(fmpm.Fabric.load(self.fake.fabric).active)

    def resets(self) -> int:
        return sum(map(self.fake.resets, hosts.H100_MODULES))

    def refusal(self, consumer: str, count: int) -> str:
        """Why a claim fails, which then leaves nothing."""
        before = self.active
        error = self.assertRaises(
            exception.NotEnoughUnits, self.take, consumer, count
        )
        self.assertEqual([], self.devices(consumer))
        self.assertEqual(before, self.active)
        return str(error)


class LifeTest(BoardTest):
    """Partitions come and go with those who hold their cards."""

    def test_every_size(self) -> None:
        for count in (1, 2, 4, 8):
            modules = self.take(A, count)
            (number,) = self.active
            self.assertEqual(
                sorted(fmpm.HGX_H100[number]), modules, f'size {count}'
            )
            self.tracker.release(A)
            self.assertEqual([], self.active)
            self.assertEqual({H100: (8, 0)}, self.inventory(POOL))

    def test_several_at_once(self) -> None:
        self.assertEqual([5], self.take(A, 1))
        self.assertEqual([6, 8], self.take(B, 2))
        self.assertEqual([1, 2, 3, 4], self.take(C, 4))
        self.assertEqual([1, 6, 11], self.active)
        self.tracker.release(B)
        self.assertEqual([1, 11], self.active)

    def test_sizes_that_there_are_not(self) -> None:
        for count in (3, 5, 6, 7):
            self.assertIn(
                'partitions of its NVSwitches have 1, 2, 4, 8 cards',
                self.refusal(A, count),
            )
        self.take(A, 1)
        self.take(B, 2)
        self.take(C, 4)
        # One card is free.
        self.assertIn(
            'make up no partition of 2', self.refusal(base.instance('d'), 2)
        )

    def test_part_of_what_is_asked_is_no_partition(self) -> None:
        request = GpuRequest({H100: 4})
        error = self.assertRaises(
            exception.NotEnoughUnits,
            self.tracker.claim, A, [Want(POOL, H100, 2)], request,
        )  # fmt: skip
        self.assertIn('asks for 4 in all', str(error))

    def test_trimmed_as_a_whole(self) -> None:
        self.take(A, 4)
        self.tracker.trim(A, [Want(POOL, H100, 2)])
        self.assertEqual([], self.devices(A))
        self.assertEqual([], self.active)
        # What is asked for then comes from one partition.
        self.assertEqual([5, 7], self.take(A, 2))

    def test_move_keeps_both(self) -> None:
        self.take(A, 2)
        self.tracker.hand_over(A, B)
        self.take(A, 4)
        self.assertEqual([1, 5], self.active)
        self.tracker.release(A)
        self.tracker.hand_over(B, A)
        self.assertEqual([5], self.active)
        self.assertEqual([5, 7], self.modules(A))

    def test_it_is_separated_before_cards_are_reset(self) -> None:
        for address in hosts.H100_MODULES:
            (self.fake.device(address) / 'reset').write_text('')
        self.take(A, 2)
        self.fake.failures['deactivate_partition'] = errno.EIO
        self.tracker.release(A)
        self.assertEqual(0, self.resets())
        del self.fake.failures['deactivate_partition']
        self.tracker.view()
        self.assertEqual([], self.active)
        self.assertEqual(2, self.resets())

    def test_a_guest_that_dies_late_keeps_its_links(self) -> None:
        self.take(A, 2)
        device = self.devices(A)[0]
        self.fake.use(device)
        self.tracker.release(A)
        self.assertEqual([5], self.active)
        self.assertEqual({H100: (8, 2)}, self.inventory(POOL))
        self.fake.unuse(device)
        self.assertEqual({H100: (8, 0)}, self.inventory(POOL))
        self.assertEqual([], self.active)


class FaultTest(BoardTest):
    """Fabric Manager doesn't do as it should."""

    def test_away(self) -> None:
        self.take(A, 2)
        self.change(running=False)
        # Nothing is promised to anybody.
        self.assertEqual({H100: (8, 6)}, self.inventory(POOL))
        self.assertIn('CONNECTION_NOT_VALID', self.refusal(B, 1))
        self.tracker.release(A)
        self.assertEqual({H100: (8, 8)}, self.inventory(POOL))
        self.change(running=True)
        self.assertEqual({H100: (8, 0)}, self.inventory(POOL))
        self.assertEqual([], self.active)

    def test_away_when_the_service_starts(self) -> None:
        self.change(running=False)
        self.tracker = self.start()
        self.tracker.rebuild(())
        self.assertEqual({H100: (8, 8)}, self.inventory(POOL))
        self.assertIn('CONNECTION_NOT_VALID', self.refusal(A, 1))
        self.change(running=True)
        self.assertEqual([5], self.take(A, 1))

    def test_goes_away_in_the_middle_of_a_claim(self) -> None:
        self.tracker.view()
        with fmpm.changing(self.fake.fabric) as fabric:
            fabric.failures = {'-a': [fmpm.NO_CONNECTION]}
        error = self.assertRaises(exception.EffectFailed, self.take, A, 2)
        self.assertIn('activating a partition failed', str(error))
        self.assertEqual([], self.devices(A))
        self.assertEqual([5, 7], self.take(A, 2))

    def test_stranger_before(self) -> None:
        self.change(active=[1])
        self.assertEqual({H100: (8, 4)}, self.inventory(POOL))
        self.assertEqual([5, 7], self.take(A, 2))
        self.assertIn('make up no partition of 4', self.refusal(B, 4))

    def test_stranger_who_is_faster(self) -> None:
        self.tracker.view()
        with fmpm.changing(self.fake.fabric) as fabric:
            fabric.active = [6]  # not seen yet
        self.assertEqual([1, 2, 3, 4], self.take(A, 4))
        self.assertEqual([5, 7], self.take(B, 2))

    def test_stranger_who_is_always_faster(self) -> None:
        self.tracker.view()
        self.change(failures={'-a': [fmpm.IN_USE] * 9})
        self.assertIn('is taken', self.refusal(A, 2))
        self.assertIn('Choosing again', self.logs.output)

    def test_forgets_everything(self) -> None:
        self.take(A, 2)
        self.take(B, 4)
        self.change(active=[])
        self.tracker.view()
        self.assertEqual([1, 5], self.active)

    def test_waits_to_be_told(self) -> None:
        self.take(A, 2)
        self.take(B, 4)
        self.tracker.release(B)
        self.change(waits=True, active=[1, 5])
        self.tracker.view()
        self.assertEqual([5], self.active)

    def test_guest_does_not_start_apart(self) -> None:
        self.take(A, 2)
        self.change(running=False)
        error = self.assertRaises(
            exception.NotLinked, self.tracker.make_again, A
        )
        self.assertEqual((5,), error.partitions)
        self.change(running=True, active=[])
        self.tracker.make_again(A)
        self.assertEqual([5], self.active)

    def test_other_guests_do_not_matter(self) -> None:
        self.take(A, 2)
        self.take(B, 2)
        self.change(active=[12])  # a card of B's partition
        self.tracker.make_again(A)
        self.assertEqual([5, 12], self.active)
        self.assertRaises(exception.NotLinked, self.tracker.make_again, B)


class RestartTest(BoardTest):
    """What a service that starts finds."""

    def test_what_guests_have_is_theirs(self) -> None:
        self.take(A, 2)
        guest = self.guest(A)
        self.assertEqual({5}, {unit.partition for unit in guest.units})
        self.tracker = self.start()
        self.tracker.rebuild([guest])
        self.assertEqual([5], self.active)
        self.assertEqual([6, 8], self.take(B, 2))
        self.tracker.release(A)
        self.assertEqual([6], self.active)

    def test_what_nobody_has_is_deactivated(self) -> None:
        self.take(A, 2)
        self.take(B, 4)
        guest = self.guest(B)
        self.tracker = self.start()
        self.tracker.rebuild([guest])
        self.assertEqual([1], self.active)
        self.assertIn('Deactivating partition 5', self.logs.output)
        self.assertEqual({H100: (8, 0)}, self.inventory(POOL))

    def test_but_not_if_somebody_uses_a_card(self) -> None:
        self.change(active=[3])
        self.fake.use('0000:86:00.0')  # QEMU, but not libvirt's
        self.tracker.rebuild(())
        self.assertEqual([3], self.active)
        self.assertIn('Partition 3 stays active', self.logs.output)

    def test_guest_that_can_not_be_read(self) -> None:
        self.take(A, 2)
        broken = parse_guest(self.guest_xml(A)[:-9], 'broken')
        self.tracker = self.start()
        self.tracker.rebuild([broken])
        self.assertEqual([5], self.active)
        self.assertEqual([5, 7], self.modules(A))

    def test_guest_of_before(self) -> None:
        """It has no record of a partition, but all cards of one."""
        self.tracker = self.new_tracker(*hosts.H100_RULES)
        self.claim(A, POOL, H100, 8)
        guest = self.guest(A)
        self.tracker = self.start()
        self.tracker.rebuild([guest])
        self.tracker.view()
        self.assertEqual([0], self.active)

    def test_guest_by_hand_is_no_nobody(self) -> None:
        self.change(active=[1])
        xml = base.domain_xml(
            'x', C, [Hostdev(function=PciAddress(0, 0x86, 0, 0))]
        )
        self.tracker.rebuild([parse_guest(xml, 'x')])
        self.assertEqual([1], self.active)
        self.tracker.reconcile((), {}, lambda: ())
        self.assertEqual([], self.active)

    def test_after_a_boot(self) -> None:
        self.take(A, 2)
        guest = self.guest(A)
        self.change(running=False, active=[])
        waited = []

        def pause(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                self.change(running=True)

        self.start()
        self.restorer(pause, self.manager).restore([guest], 10)
        self.assertEqual(3, len(waited))
        self.assertEqual([5], self.active)

    def test_boot_without_fabric_manager(self) -> None:
        self.take(A, 2)
        guest = self.guest(A)
        self.change(running=False)
        self.start()
        self.restorer(lambda _: None, self.manager).restore([guest], 2)
        self.assertIn('Gave up waiting', self.logs.output)
        self.assertIn('CONNECTION_NOT_VALID', self.logs.output)


class ModulesTest(BoardTest):
    """Which card a module is."""

    def reasons(self, *rules: str) -> dict[str, str | None]:
        self.tracker = self.start(*rules)
        return {
            str(use.card.address): use.reason
            for use in self.tracker.view().uses
        }

    def test_card_without_a_module(self) -> None:
        reasons = self.reasons(*hosts.H100_RULES[1:])
        self.assertIn(
            'say by a rule which module', str(reasons['0000:0f:00.0'])
        )
        self.assertEqual({H100: (7, 0)}, self.inventory(POOL))
        self.assertEqual([1, 2, 3, 4], self.take(A, 4))
        # Module 5 is not there for anybody.
        self.assertEqual([7], self.take(B, 1))
        self.assertEqual([6, 8], self.take(C, 2))

    def test_no_rules_and_no_addresses(self) -> None:
        reasons = self.reasons('{"use": "passthrough"}')
        self.assertNotIn(None, reasons.values())
        self.assertEqual({}, self.inventory(POOL))

    def test_module_that_two_cards_are(self) -> None:
        double = '{"address": "0000:10:00.0", "module": 5}'
        reasons = self.reasons(double, *hosts.H100_RULES)
        for address in ('0000:0f:00.0', '0000:10:00.0'):
            self.assertIn('module 5', str(reasons[address]))

    def test_module_that_there_is_not(self) -> None:
        wrong = '{"address": "0000:10:00.0", "module": 17}'
        reasons = self.reasons(wrong, *hosts.H100_RULES)
        self.assertIn('module 17, which rule 1', str(reasons['0000:10:00.0']))

    def test_partitions_that_go_with_a_card(self) -> None:
        with fmpm.changing(self.fake.fabric) as fabric:
            # Module 1 has failed, and all its partitions are gone.
            fabric.partitions = {
                n: m for n, m in fabric.partitions.items() if 1 not in m
            }
        self.assertEqual({H100: (7, 0)}, self.inventory(POOL))
        self.assertEqual([3], self.take(A, 1))


class AddressesTest(base.TrackerTest):
    """A Fabric Manager that knows the cards' addresses."""

    def test_without_rules(self) -> None:
        hosts.divided_a100_board(self.fake)
        manager = FabricManager(self.fake, True)

        def read() -> Snapshot:
            return manager.complete(self.snapshot())

        self.tracker = self.new_tracker(read=read, manager=manager)
        self.claim(
            A, 'nvidia_a100_sxm4_40gb', 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB', 4
        )
        self.assertEqual(list(hosts.A100_ADDRESSES[:4]), self.devices(A))
