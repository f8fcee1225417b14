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

"""Devices that can't be trusted, or are in use, when their guest ends."""

from __future__ import annotations

import json
from typing import Any

import fixtures

from tests.fixtures import hosts
from tests.functional import base
from tests.functional.test_boot import A100, T4_4Q, T4_8Q

A10_12Q = 'CUSTOM_VGPU_NVIDIA_A10_12Q'
EIO = 5


class PutAsideTest(base.GpuServersTest):
    """Nobody gets them until somebody has looked after them."""

    def setUp(self) -> None:
        super().setUp()
        self.logs = self.useFixture(fixtures.FakeLogger())
        self.fake = self.new_host('gpu1')

    def aside(self, card: str) -> list[dict[str, str]]:
        """What ``nova-gpu host show`` says of a card."""
        code, out, err = self.nova_gpu('gpu1', 'host', 'show', '-f', 'json')
        self.assertEqual(0, code, err)
        (row,) = [r for r in json.loads(out) if r['Address'] == card]
        found: list[dict[str, str]] = row['Put Aside']
        return found

    def release(self, device: str) -> None:
        code, out, err = self.nova_gpu('gpu1', 'host', 'release', device)
        self.assertEqual((0, f'{device} is released\n'), (code, out), err)

    def test_card_whose_reset_fails(self) -> None:
        hosts.a100_board(self.fake)
        self.start_gpu_compute('gpu1')

        def told() -> Any:
            (inventory,) = self.providers_of('gpu1').values()
            record = inventory[A100]
            return record['total'], record['reserved']

        server = self.boot(self.gpu_flavor(**{f'resources__{A100}': '1'}))
        (card,) = map(str, self.guest_devices(server).functions)
        self.fake.failures['reset_function'] = EIO
        self._delete_server(server)
        self.assertEqual({}, self.nonzero_usages('gpu1'))
        self.assertEqual((8, 1), told())
        self.assertIn(f'Putting device {card} aside', self.logs.output)
        (shown,) = self.aside(card)
        self.assertEqual(card, shown['device'])
        self.assertIn('Input/output error', shown['reason'])
        # A restart is no repair.
        self.fake.failures.clear()
        self.restart_gpu_compute('gpu1')
        self.assertEqual((8, 1), told())
        self.assertEqual([shown], self.aside(card))
        everything = self.gpu_flavor(**{f'resources__{A100}': '8'})
        refused = self.boot(everything, state='ERROR')
        self.assertIn('No valid host', refused['fault']['message'])
        seven = self.boot(self.gpu_flavor(**{f'resources__{A100}': '7'}))
        self.assertNotIn(
            card, [str(f) for f in self.guest_devices(seven).functions]
        )
        self._delete_server(seven)
        # What an administrator does.
        self.release(card)
        self._run_periodics()
        self.assertEqual((8, 0), told())
        self.assertEqual([], self.aside(card))
        server = self.boot(everything)
        self.assertIn(
            card, [str(f) for f in self.guest_devices(server).functions]
        )

    def test_function_that_takes_no_type(self) -> None:
        hosts.a10_vendor_vfio(self.fake)
        self.start_gpu_compute('gpu1')
        flavor = self.gpu_flavor(**{f'resources__{A10_12Q}': '1'})
        first = self.boot(flavor)
        (vgpu,) = self.guest_devices(first).functions
        card = next(
            card
            for card in ('0000:41:00.0', '0000:81:00.0')
            if self.fake.made(card)
        )
        wedged = self.fake.functions(card)[1]
        self.fake.wedge(wedged)
        # The same request is served by another function.
        second = self.boot(flavor)
        (other,) = map(str, self.guest_devices(second).functions)
        self.assertIn(other, self.fake.functions(card)[2:])
        self.assertEqual({str(vgpu), other}, set(self.fake.vgpu_types(card)))
        (shown,) = self.aside(card)
        self.assertEqual(wedged, shown['device'])
        # One that can't be freed goes on counting against its card.
        self.fake.wedge(str(vgpu))
        self._delete_server(first)
        self.assertEqual({A10_12Q: 1}, self.nonzero_usages('gpu1'))
        self.assertEqual(
            {wedged, str(vgpu)}, {d['device'] for d in self.aside(card)}
        )
        name = f'gpu1_gpu_{card.replace(":", "_").replace(".", "_")}'
        record = self.providers_of('gpu1')[name][A10_12Q]
        self.assertEqual((2, 1), (record['total'], record['reserved']))
        for function in (wedged, str(vgpu)):
            self.fake.unwedge(function)
            self.release(function)
            # The command writes files; the card that follows them is a fake.
            current = self.fake.device(function) / 'nvidia/current_vgpu_type'
            self.assertTrue(current.read_text().startswith('0'))
            current.write_text('0\n')
        self.fake.set_mixed(card, False)
        self._run_periodics()
        self.assertEqual([], self.aside(card))
        self.assertEqual({other}, set(self.fake.vgpu_types(card)))
        record = self.providers_of('gpu1')[name][A10_12Q]
        self.assertEqual((2, 0), (record['total'], record['reserved']))

    def test_vgpu_that_is_still_in_use(self) -> None:
        hosts.four_t4(self.fake)
        self.start_gpu_compute('gpu1')
        server = self.boot(self.gpu_flavor(**{f'resources__{T4_8Q}': '1'}))
        (mdev,) = self.fake.mdevs
        card = self.fake.device(mdev).parent.name
        self.fake.use(mdev)
        self._delete_server(server)
        self.assertEqual([mdev], self.fake.mdevs)
        self.assertEqual({}, self.nonzero_usages('gpu1'))
        self.assertIn(f'Could not give back {mdev}', self.logs.output)
        name = f'gpu1_gpu_{card.replace(":", "_").replace(".", "_")}'

        def told() -> dict[str, int]:
            found = self.providers_of('gpu1')[name]
            return {c: found[c]['reserved'] for c in (T4_8Q, T4_4Q)}

        # One of two is free, and nothing of another profile.
        self.assertEqual({T4_8Q: 1, T4_4Q: 4}, told())
        self.assertEqual([], self.aside(card))
        others = [
            self.boot(self.gpu_flavor(**{f'resources__{T4_8Q}': '1'}))
            for _ in range(2)
        ]
        self.assert_no_device_twice()
        for other in others:
            self.assertNotIn(mdev, self.guest_devices(other).mdevs)
            self._delete_server(other)
        self.assertEqual([mdev], self.fake.mdevs)
        self.fake.unuse(mdev)
        self._run_periodics()
        self.assertEqual([], self.fake.mdevs)
        self.assertEqual({T4_8Q: 0, T4_4Q: 0}, told())
