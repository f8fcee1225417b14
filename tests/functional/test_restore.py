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

"""A host boots again: what its guests hold is there before they start."""

from __future__ import annotations

import json
from typing import Any

import fixtures

from tests.fixtures import hosts
from tests.functional import base
from tests.functional.test_boot import T4_8Q

A10_12Q = 'CUSTOM_VGPU_NVIDIA_A10_12Q'
GVT_4 = 'CUSTOM_VGPU_INTEL_I915_GVTG_V5_4'
MI300X_VF = 'CUSTOM_GPU_AMD_INSTINCT_MI300X_VF'
A10 = '0000:41:00.0'
PARAMS = 'frame_rate_limiter=0,disable_vnc=1'


class RestoreTest(base.GpuServersTest):
    """nova-compute starts on a host that was just booted."""

    RESTORE_TIMEOUT = 5

    def setUp(self) -> None:
        super().setUp()
        self.logs = self.useFixture(fixtures.FakeLogger())
        self.flags(resume_guests_state_on_host_boot=True)
        self.fake = self.new_host('gpu1')
        self.pauses: list[str] = []

    def ask_for_all_vfs(self, address: str) -> None:
        rule = {'address': address, 'virtual_functions': 'all'}
        self.flags(rule=[json.dumps(rule)], group='gpu')

    def boot_host(self, *late: str) -> None:
        """Boot the host: its guests are off, its vGPUs are gone."""
        for domain in self.domains('gpu1'):
            domain.destroy()
        self.fake.reboot(late=late)
        self.assertEqual([], self.fake.mdevs)

    def assert_runs_as_before(self, server: Any, before: list[str]) -> None:
        self.assertEqual('ACTIVE', self.api.get_server(server['id'])['status'])
        connection = self.computes['gpu1'].driver._host.get_connection()
        domain = connection.lookupByUUIDString(server['id'])
        self.assertTrue(domain.isActive())
        self.assertEqual(before, self.own_part(server))

    def params(self, device: str) -> str:
        path = self.fake.device(device) / 'nvidia/vgpu_params'
        return path.read_text().strip()

    def test_vgpus_come_back_as_they_were(self) -> None:
        hosts.four_t4(self.fake)
        hosts.gvt_g(self.fake)
        self.fake.add_gpu(
            A10, 0x2236, iommu_group=30, driver='nvidia',
            types=hosts.A10_TYPES, units=24, virtual_functions=32,
            enabled_vfs=0, vendor_vfio=True,
        )  # fmt: skip
        self.ask_for_all_vfs(A10)
        self.start_gpu_compute('gpu1')
        self.assertEqual(32, len(self.fake.functions(A10)))
        self.assertIn('Enabled 32 virtual functions', self.logs.output)
        servers = [
            self.boot(
                self.gpu_flavor(
                    **{f'resources__{T4_8Q}': '2', 'gpu__vgpu_params': PARAMS}
                )
            ),
            self.boot(
                self.gpu_flavor(
                    **{
                        f'resources__{A10_12Q}': '2',
                        'gpu__vgpu_params': PARAMS,
                    }
                )
            ),
            self.boot(self.gpu_flavor(**{f'resources__{GVT_4}': '1'})),
        ]
        parts = [self.own_part(server) for server in servers]
        mdevs = {uuid: self.fake.device(uuid) for uuid in self.fake.mdevs}
        types = self.fake.vgpu_types(A10)
        with_params = [*types, *self.guest_devices(servers[0]).mdevs]
        self.assertEqual((3, 2), (len(mdevs), len(types)))
        self.boot_host()
        self.assertEqual([], self.fake.functions(A10))
        self.restart_gpu_compute('gpu1')

        self.assertEqual(
            mdevs, {uuid: self.fake.device(uuid) for uuid in self.fake.mdevs}
        )
        self.assertEqual(types, self.fake.vgpu_types(A10))
        for device in with_params:
            self.assertEqual(PARAMS, self.params(device))
        for server, part in zip(servers, parts, strict=True):
            self.assert_runs_as_before(server, part)
        self.assertEqual(
            3, self.logs.output.count('Rebooting instance after nova-compute')
        )
        self.assertEqual(
            {T4_8Q: 2, A10_12Q: 2, GVT_4: 1}, self.nonzero_usages('gpu1')
        )
        self.assertNotIn('Waiting up to', self.logs.output)
        self.assert_no_device_twice()
        for server in servers:
            self._delete_server(server)
        self.assertEqual([], self.fake.mdevs)
        self.assertEqual({}, self.fake.vgpu_types(A10))

    def test_driver_that_comes_late_and_one_that_does_not(self) -> None:
        hosts.four_t4(self.fake)
        self.start_gpu_compute('gpu1')
        flavor = self.gpu_flavor(**{f'resources__{T4_8Q}': '1'})
        server = self.boot(flavor)
        part = self.own_part(server)
        (uuid,) = self.fake.mdevs
        card = self.fake.device(uuid).parent.name

        def load() -> None:
            self.pauses.append('load')
            if len(self.pauses) == 2:
                self.fake.load_driver(card)

        self.boot_host(card)
        self.on_pause('gpu1', load)
        self.restart_gpu_compute('gpu1')
        self.assertEqual(2, len(self.pauses))
        self.assertEqual([uuid], self.fake.mdevs)
        self.assert_runs_as_before(server, part)
        waited_for = f'card {card} with {uuid} of instance {server["id"]}'
        self.assertIn(
            f'Waiting up to 5 s for the drivers of the GPUs: {waited_for}',
            self.logs.output,
        )
        self.assertNotIn('Gave up', self.logs.output)

        self.boot_host(card)
        self.on_pause('gpu1', lambda: self.pauses.append('nothing'))
        self.restart_gpu_compute('gpu1')
        self.assertEqual(['nothing'] * 5, self.pauses[2:])
        self.assertIn(f'Gave up waiting for {waited_for}', self.logs.output)
        # Another card of the host has what the server lacks.
        (made,) = self.guest_devices(server).mdevs
        self.assertNotEqual(uuid, made)
        self.assertEqual([made], self.fake.mdevs)
        self.assertNotEqual(card, self.fake.device(made).parent.name)
        self.assertEqual({T4_8Q: 1}, self.nonzero_usages('gpu1'))
        self.fake.load_driver(card)
        self._reboot_server(self.api.get_server(server['id']), hard=True)
        self.assertEqual({made}, self.guest_devices(server).mdevs)
        self.boot(flavor)
        self.assertEqual(2, len(self.fake.mdevs))
        self.assertEqual({T4_8Q: 2}, self.nonzero_usages('gpu1'))

    def test_functions_without_types(self) -> None:
        hosts.mi300x(self.fake, enabled_vfs=0)
        card = '0000:0c:00.0'
        self.ask_for_all_vfs(card)
        self.start_gpu_compute('gpu1')
        self.assertEqual(8, len(self.fake.functions(card)))
        flavor = self.gpu_flavor(**{f'resources__{MI300X_VF}': '4'})
        servers = [self.boot(flavor) for _ in range(2)]
        parts = [self.own_part(server) for server in servers]
        promised = self.providers_of('gpu1')
        self.boot_host(card)
        self.assertEqual([], self.fake.functions(card))
        self.on_pause('gpu1', lambda: self.fake.load_driver(card))
        self.restart_gpu_compute('gpu1')
        self.assertEqual(8, len(self.fake.functions(card)))
        for server, part in zip(servers, parts, strict=True):
            self.assert_runs_as_before(server, part)
        self.assert_no_device_twice()
        self.assertEqual(promised, self.providers_of('gpu1'))
        self.assertEqual({MI300X_VF: 8}, self.nonzero_usages('gpu1'))
