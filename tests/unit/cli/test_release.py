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

"""``nova-gpu host release`` on hosts of files.

The files take what is written to them as it is: what the kernel would do is
not here, what it was told is.
"""

from __future__ import annotations

import errno
import os
import posix
from typing import Any

import fixtures

from nova_gpu.model.address import parse_address
from nova_gpu.model.inventory import Unit
from nova_gpu.putaside import FOLDER, PutAside
from tests.fixtures import hosts
from tests.unit.cli import base

GUEST = '11111111-2222-4333-8444-555555555555'
MDEV = '6e6f7661-6770-8000-8000-000000000001'
CARD = hosts.A100_ADDRESSES[0]


class ReleaseTest(base.CliTest):
    def setUp(self) -> None:
        super().setUp()
        self.aside = PutAside(self.root + FOLDER)

    def assertReleased(self, device: str, *args: str) -> base.Result:
        result = self.release(device, *args)
        self.assertEqual((0, f'{device} is released\n'), result[:2], result)
        self.assertNotIn(device, self.aside.read())
        return result

    def assertRefused(self, message: str, *args: str) -> None:
        before = self.aside.read()
        result = self.release(*args)
        self.assertEqual((1, ''), result[:2])
        [line] = [e for e in result.errors if e.startswith('error')]
        self.assertIn(message, line)
        self.assertEqual(before, self.aside.read())

    def put(self, device: str, name: str, content: str = '') -> None:
        self.fake.write(f'sys/bus/pci/devices/{device}/{name}', content)

    def text(self, device: str, name: str) -> str:
        return (self.fake.device(device) / name).read_text().strip()

    def in_use(self, group: int) -> None:
        """Let the kernel say that a guest has a VFIO group open."""
        real = posix.open

        def busy(path: Any, flags: int, *args: Any, **more: Any) -> int:
            if str(path).endswith(f'/dev/vfio/{group}'):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
            return real(path, flags, *args, **more)

        self.useFixture(fixtures.MonkeyPatch('posix.open', busy))


class WholeCardTest(ReleaseTest):
    def setUp(self) -> None:
        super().setUp()
        hosts.a100_board(self.fake)
        self.put(CARD, 'reset')

    def test_card_is_reset(self) -> None:
        self.aside.add(CARD, 'the reset failed')
        self.assertReleased(CARD)
        self.assertEqual('1', self.text(CARD, 'reset'))

    def test_short_address(self) -> None:
        self.aside.add(CARD, 'the reset failed')
        result = self.release(CARD.removeprefix('0000:').upper())
        self.assertEqual(0, result.code, result.errors)
        self.assertEqual({}, self.aside.read())

    def test_card_without_a_reset(self) -> None:
        (self.fake.device(CARD) / 'reset').unlink()
        self.aside.add(CARD, 'why')
        self.assertReleased(CARD)

    def test_reset_that_fails(self) -> None:
        self.aside.add(CARD, 'why')
        path = self.fake.device(CARD) / 'reset'
        path.unlink()
        path.mkdir()
        self.assertRefused('it stays put aside: resetting a GPU', CARD)
        result = self.assertReleased(CARD, '--force')
        self.assertIn(
            f'warning: {CARD} comes back as it is: resetting a GPU failed',
            result.errors[-1],
        )

    def test_card_in_use_that_libvirt_does_not_know(self) -> None:
        self.aside.add(CARD, 'why')
        self.in_use(47)
        self.assertRefused('in use by a guest', CARD)
        self.assertEqual('', self.text(CARD, 'reset'))

    def test_card_of_a_guest(self) -> None:
        self.aside.add(CARD, 'why')
        self.add_guest('instance-1', GUEST, functions=[CARD])
        for args in ((CARD,), (CARD, '--force')):
            self.assertRefused(f'{CARD}: instance {GUEST} holds it', *args)
        self.assertEqual('', self.text(CARD, 'reset'))

    def test_card_that_is_not_put_aside(self) -> None:
        other = hosts.A100_ADDRESSES[1]
        self.aside.add(other, 'why')
        for args in ((CARD,), (CARD, '--force')):
            self.assertRefused(
                f'{CARD}: nothing to release; put aside here: {other}; vGPUs '
                f'without an instance here: none',
                *args,
            )
        self.assertEqual('', self.text(CARD, 'reset'))

    def test_card_that_has_left(self) -> None:
        self.aside.add(CARD, 'why')
        self.fake.remove(CARD)
        self.assertReleased(CARD)

    def test_what_is_no_device(self) -> None:
        for device in ('mtty', '..', '../x', '0000:25:00.9'):
            self.assertRefused('neither a PCI address nor the UUID', device)

    def test_flag_that_can_not_be_removed(self) -> None:
        (self.fake.root / FOLDER[1:] / CARD).mkdir(parents=True)
        self.assertRefused('it stays put aside: ', CARD)


class VgpuTest(ReleaseTest):
    def setUp(self) -> None:
        super().setUp()
        hosts.four_t4(self.fake)
        self.fake.create_mdev('0000:3b:00.0', 'nvidia-233', MDEV)

    def removed(self) -> str:
        path = self.fake.sys / 'bus/mdev/devices' / MDEV / 'remove'
        return path.read_text().strip()

    def test_mdev_of_no_guest(self) -> None:
        self.assertReleased(MDEV)
        self.assertEqual('1', self.removed())

    def test_mdev_that_is_put_aside(self) -> None:
        self.aside.add(MDEV, 'why')
        self.assertReleased(MDEV)
        self.assertEqual('1', self.removed())

    def test_mdev_that_is_gone(self) -> None:
        self.aside.add(GUEST, 'why')
        self.assertReleased(GUEST)

    def test_mdev_of_a_guest(self) -> None:
        self.add_guest('instance-1', GUEST, mdevs=[MDEV])
        self.assertRefused(f'{MDEV}: instance {GUEST} holds it', MDEV)
        self.assertEqual('', self.removed())

    def test_mdev_that_a_move_keeps(self) -> None:
        card = parse_address('0000:3b:00.0')
        unit = Unit(
            'mdev', '0000_3b_00_0', 'CUSTOM_VGPU_NVIDIA_T4_8Q',
            card, MDEV, type_id='nvidia-233', name='GRID T4-8Q', parent=card,
        )  # fmt: skip
        self.add_guest('a', GUEST, kept={MDEV: [unit]})
        self.assertRefused(f'instance {GUEST} holds it', MDEV)
        self.assertEqual('', self.removed())
        shown = self.cards()['0000:3b:00.0']
        self.assertEqual([GUEST], shown['Instances'])

    def test_mdev_in_use(self) -> None:
        device = self.fake.sys / 'bus/mdev/devices' / MDEV
        (device / 'iommu_group').unlink(missing_ok=True)
        (device / 'iommu_group').symlink_to('../iommu_groups/70')
        self.in_use(70)
        # Not put aside, so there is nothing to force.
        for args in ((MDEV,), (MDEV, '--force')):
            self.assertRefused('removing a vGPU failed', *args)
        self.assertEqual('', self.removed())

    def test_others_are_listed(self) -> None:
        self.assertRefused(
            f'put aside here: none; vGPUs without an instance here: {MDEV}',
            GUEST,
        )


class VirtualFunctionTest(ReleaseTest):
    def test_vendor_vfio(self) -> None:
        hosts.a10_vendor_vfio(self.fake)
        card = self.fake_card()
        first, second = self.fake.functions(card)[:2]
        self.put(first, 'nvidia/current_vgpu_type', '5')
        self.assertReleased(first)
        self.assertEqual('0', self.text(first, 'nvidia/current_vgpu_type'))
        self.aside.add(second, 'wedged')
        self.assertReleased(second)
        self.assertRefused(f'{second}: nothing to release', second)

    def test_vendor_vfio_of_a_guest(self) -> None:
        hosts.a10_vendor_vfio(self.fake)
        first = self.fake.functions(self.fake_card())[0]
        self.put(first, 'nvidia/current_vgpu_type', '5')
        self.add_guest('instance-1', GUEST, functions=[first])
        self.assertRefused(f'{first}: instance {GUEST} holds it', first)
        self.assertEqual('5', self.text(first, 'nvidia/current_vgpu_type'))

    def test_vendor_vfio_that_does_not_tell(self) -> None:
        hosts.a10_vendor_vfio(self.fake)
        first = self.fake.functions(self.fake_card())[0]
        self.fake.wedge(first, unreadable=True)
        self.aside.add(first, 'wedged')
        self.assertRefused('it stays put aside: setting the vGPU type', first)
        self.assertReleased(first, '--force')

    def test_plain(self) -> None:
        hosts.mi300x(self.fake)
        first, second = self.fake.functions(self.fake_card())[:2]
        (self.fake.device(second) / 'reset').unlink(missing_ok=True)
        self.put(first, 'reset')
        for function in (first, second):
            self.aside.add(function, 'the reset failed')
            self.assertReleased(function)
        self.assertEqual('1', self.text(first, 'reset'))

    def test_function_that_takes_mdevs(self) -> None:
        hosts.two_a10(self.fake)
        first = self.fake.functions(self.fake_card())[0]
        self.put(first, 'reset')
        self.aside.add(first, 'wedged')
        self.assertReleased(first)
        self.assertEqual('', self.text(first, 'reset'))

    def fake_card(self) -> str:
        return min(self.cards())
