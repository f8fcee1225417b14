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

"""From Nova's own options to nova-gpu, while guests run.

The steps are those of ``doc/source/admin/from-nova.rst``.
"""

from __future__ import annotations

import json
from typing import Any

import fixtures
from nova import exception as nova_exception
from nova.conf import devices

from tests.fixtures.sysfs import FakeSysfs, FakeType
from tests.functional import base
from tests.functional.test_boot import A100

M60_0B = 'CUSTOM_VGPU_NVIDIA_M60_0B'
M60_8Q = 'CUSTOM_VGPU_NVIDIA_M60_8Q'
#: What Nova hands out at first, and a card of each kind that it doesn't.
NOVA_M60, M60 = '0000:81:00.0', '0000:81:01.0'
NOVA_A100, OTHER_A100 = '0000:81:02.0', '0000:81:03.0'
NOVA_PROVIDER = 'gpu1_pci_0000_81_00_0'
OURS = 'gpu1_gpu_0000_81_00_0'
POOL = 'gpu1_gpu_nvidia_a100_sxm4_40gb'


def two_m60_and_two_a100(fake: FakeSysfs) -> FakeSysfs:
    """The cards that the fake libvirt lists, types included."""
    types = (
        FakeType('nvidia-11', 'GRID M60-0B', size=1, max_instance=16),
        FakeType('nvidia-12', 'GRID M60-8Q', size=16, max_instance=1),
    )
    for index, address in enumerate((NOVA_M60, M60)):
        fake.add_gpu(
            address, 0x13F2, numa_node=index, iommu_group=40 + index,
            driver='nvidia', types=types, units=16,
        )  # fmt: skip
    for index, address in enumerate((NOVA_A100, OTHER_A100)):
        fake.add_gpu(address, 0x20B0, numa_node=1, iommu_group=92 + index)
    return fake


class FromNovaTest(base.GpuServersTest):
    """A card of each kind is Nova's, with a guest on it."""

    ADDITIONAL_FILTERS = ['GpuFilter', 'PciPassthroughFilter']

    def setUp(self) -> None:
        super().setUp()
        self.logs = self.useFixture(fixtures.FakeLogger())
        self.fake = two_m60_and_two_a100(self.new_host('gpu1'))
        self.kwargs = self.let_nova_make_mdevs('gpu1')
        self.flags(enabled_mdev_types=['nvidia-11'], group='devices')
        devices.register_dynamic_opts(base.CONF)
        self.flags(device_addresses=[NOVA_M60], group='mdev_nvidia-11')
        # Not the address alone: Nova would look it up in this host's sysfs.
        spec = {'address': '*:81:02.*'}
        alias = {
            'name': 'a100', 'vendor_id': '10de', 'product_id': '20b0',
            'device_type': 'type-PCI',
        }  # fmt: skip
        self.flags(
            device_spec=[json.dumps(spec)],
            alias=[json.dumps(alias)],
            group='pci',
        )
        self.vgpu = self.gpu_flavor(resources__VGPU='1')
        self.card = self.gpu_flavor(pci_passthrough__alias='a100:1')

    def leave_nova(self, *rules: dict[str, Any]) -> None:
        """Take the cards out of Nova's options; nova-compute restarts."""
        self.flags(enabled_mdev_types=[], group='devices')
        self.flags(device_spec=[], group='pci')
        self.flags(rule=[json.dumps(rule) for rule in rules], group='gpu')
        self.restart_gpu_compute('gpu1')

    def told(self, provider: str, name: str) -> tuple[int, int]:
        record = self.providers_of('gpu1')[provider][name]
        return record['total'], record['reserved']

    def parents(self, server: Any) -> set[str]:
        """The cards that a guest's devices are on."""
        guest = self.guest_devices(server)
        return {
            *map(str, guest.functions),
            *(self.fake.device(uuid).parent.name for uuid in guest.mdevs),
        }

    def test_guests_stay_and_nothing_is_given_twice(self) -> None:
        self.start_gpu_compute('gpu1', **self.kwargs)
        # What is Nova's stays Nova's, and the rest is handed out beside it.
        vgpu, card = self.boot(self.vgpu), self.boot(self.card)
        self.assertEqual({NOVA_M60}, self.parents(vgpu))
        self.assertEqual({NOVA_A100}, self.parents(card))
        self.assertNotIn(OURS, self.providers_of('gpu1'))
        self.assertEqual((1, 0), self.told(POOL, A100))
        ours = self.boot(self.gpu_flavor(**{f'resources__{A100}': '1'}))
        self.assertEqual({OTHER_A100}, self.parents(ours))
        guests = (vgpu, card, ours)
        held = [self.guest_devices(guest) for guest in guests]

        self.leave_nova()

        self.assertEqual(held, [self.guest_devices(g) for g in guests])
        for guest in guests:
            self.assertEqual(
                'ACTIVE', self.api.get_server(guest['id'])['status']
            )
        # What Nova's guests hold is reserved, the rest is to be had.
        self.assertEqual((16, 1), self.told(OURS, M60_0B))
        self.assertEqual((1, 1), self.told(OURS, M60_8Q))
        self.assertEqual((2, 1), self.told(POOL, A100))
        total, reserved = self.told(NOVA_PROVIDER, 'VGPU')
        self.assertEqual(total, reserved)
        for flavor in (self.vgpu, self.card):
            refused = self.boot(flavor, state='ERROR')
            self.assertIn('No valid host', refused['fault']['message'])
            self._delete_server(refused)
        self.boot(self.gpu_flavor(**{f'resources__{M60_0B}': '16'}))
        full = self.boot(self.gpu_flavor(**{f'resources__{M60_0B}': '15'}))
        self.assertEqual({NOVA_M60}, self.parents(full))
        self.boot(
            self.gpu_flavor(**{f'resources__{M60_0B}': '1'}), state='ERROR'
        )
        self.boot(
            self.gpu_flavor(**{f'resources__{A100}': '1'}), state='ERROR'
        )
        self.assert_no_device_twice()
        # They live on as before.
        for guest in (vgpu, card):
            self._reboot_server(guest, hard=True)
        self.assertEqual(held, [self.guest_devices(g) for g in guests])
        # Another restart still knows.
        self.restart_gpu_compute('gpu1')
        self.assertEqual((16, 1), self.told(OURS, M60_0B))
        self.assertEqual((2, 1), self.told(POOL, A100))
        # Once they go, their cards are free like any other.
        self._delete_server(vgpu)
        self._delete_server(card)
        self._delete_server(full)
        self.assertEqual([], self.fake.made(NOVA_M60))
        self._run_periodics()
        self.assertNotIn(NOVA_PROVIDER, self.providers_of('gpu1'))
        self.assertEqual((1, 0), self.told(OURS, M60_8Q))
        large = self.boot(self.gpu_flavor(**{f'resources__{M60_8Q}': '1'}))
        self.assertEqual({NOVA_M60}, self.parents(large))
        again = self.boot(self.gpu_flavor(**{f'resources__{A100}': '1'}))
        self.assertEqual({NOVA_A100}, self.parents(again))
        self.assert_no_device_twice()

    def test_flavors_of_nova_go_on(self) -> None:
        self.start_gpu_compute('gpu1', **self.kwargs)
        old = self.boot(self.vgpu)
        held = self.guest_devices(old)
        self.leave_nova(
            {'mechanism': 'mdev', 'profiles': ['M60-0B'],
             'resource_class': 'VGPU'},
        )  # fmt: skip
        self.assertEqual((16, 1), self.told(OURS, 'VGPU'))
        self._reboot_server(old, hard=True)
        self.assertEqual(held, self.guest_devices(old))
        new = self.boot(self.vgpu)
        self.assertEqual(2, len(self.fake.mdevs))
        self.assertEqual({'VGPU': 2}, self.nonzero_usages('gpu1'))
        self.assert_no_device_twice()
        self._reboot_server(new, hard=True)
        self._delete_server(old)
        self._delete_server(new)
        self._run_periodics()
        self.assertEqual([], self.fake.mdevs)
        self.assertNotIn(NOVA_PROVIDER, self.providers_of('gpu1'))
        self.assertEqual((16, 0), self.told(OURS, 'VGPU'))

    def test_one_class_for_the_cards_of_both(self) -> None:
        rule = {
            'address': M60, 'profiles': ['M60-0B'], 'resource_class': 'VGPU',
        }  # fmt: skip
        self.flags(rule=[json.dumps(rule)], group='gpu')
        self.start_gpu_compute('gpu1', **self.kwargs)
        # Only our providers have traits of the cards.
        ours = self.boot(
            self.gpu_flavor(
                resources__VGPU='2',
                trait__CUSTOM_GPU_VENDOR_NVIDIA='required',
            )
        )
        self.assertEqual({M60}, self.parents(ours))
        self.assertEqual(2, len(self.guest_devices(ours).mdevs))
        novas = self.boot(
            self.gpu_flavor(
                resources__VGPU='1',
                trait__CUSTOM_GPU_VENDOR_NVIDIA='forbidden',
            )
        )
        self.assertEqual({NOVA_M60}, self.parents(novas))
        self.assertEqual(3, len(self.fake.mdevs))

    def test_card_with_two_owners_is_refused(self) -> None:
        self.flags(
            rule=[
                json.dumps({'address': NOVA_M60, 'profiles': ['M60-8Q']}),
                json.dumps({'product_id': '20b0', 'use': 'passthrough'}),
            ],
            group='gpu',
        )
        error = self.assertRaises(
            nova_exception.InvalidConfiguration,
            self.start_gpu_compute,
            'gpu1',
            **self.kwargs,
        )
        self.assertIn(
            f"card {NOVA_M60} has two owners: Nova's [devices] "
            f"enabled_mdev_types and [gpu] rule 1 (field 'profiles')",
            str(error),
        )
        self.assertIn(
            f"card {NOVA_A100} has two owners: Nova's [pci] device_spec "
            f'{json.dumps({"address": "*:81:02.*"})} and [gpu] rule 2 (field',
            str(error),
        )
        self.assertNotIn(OTHER_A100, str(error))
