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

"""Base of the cloud's scenarios, and the GPUs that the guest has."""

from __future__ import annotations

import unittest

from lab.cloud import join
from lab.cloud.scenarios import api, gpuhost
from lab.cloud.settings import GPU_HOST
from lab.scenarios import devices

AUDIO = '0000:81:00.1'
RTX_4090 = 'CUSTOM_GPU_NVIDIA_GEFORCE_RTX_4090'
H100 = 'CUSTOM_GPU_NVIDIA_H100_SXM5_80GB'
MI300X_VF = 'CUSTOM_GPU_AMD_INSTINCT_MI300X_VF'
A40_8Q, A40_24Q = (f'CUSTOM_VGPU_NVIDIA_A40_{n}Q' for n in (8, 24))
L40S_12Q, L40S_48Q = (f'CUSTOM_VGPU_NVIDIA_L40S_{n}Q' for n in (12, 48))
#: What Placement allocates of each when nobody has any.
ALL = {
    RTX_4090: 1, H100: 3, MI300X_VF: 4,
    A40_8Q: 6, A40_24Q: 2, L40S_12Q: 4, L40S_48Q: 1,
}  # fmt: skip


class Scenario(unittest.TestCase):
    """A cloud without servers, before and after."""

    maxDiff = None

    def setUp(self) -> None:
        self.addCleanup(self.remove_everything)
        # Right after the guest has joined Placement doesn't know it yet.
        self.assertFree(**ALL)

    def remove_everything(self) -> None:
        """Whatever has gone wrong, the next scenario finds the cloud empty."""
        if not join.running():
            self.restart_compute()
        for server in api.servers():
            api.delete(server)
        self.assertEmpty()

    def assertEmpty(self) -> None:
        """Nothing is held: in Placement, in sysfs, by libvirt."""
        self.assertFree(**ALL)
        self.assertEqual('', gpuhost.remains(devices.VENDOR_VFIO))

    def assertFree(self, **expected: int) -> None:
        """Wait for Placement to have so many units left of classes."""

        def found() -> dict[str, int]:
            free = api.inventory()
            return {name: free.get(name, 0) for name in expected}

        try:
            gpuhost.wait('as expected', lambda: found() == expected)
        except AssertionError:
            self.assertEqual(expected, found())

    def boot(self, flavor: str) -> str:
        """A server that is up, on the host with GPUs."""
        server = api.create(flavor)
        self.assertEqual(GPU_HOST, api.wait(server).compute_host)
        return server

    def held(self, server: str) -> list[str]:
        """The devices of a server, by libvirt's XML."""
        domain = gpuhost.domain(server)
        self.assertIsNotNone(domain)
        assert domain is not None
        return domain.sources

    def assertHeld(self, server: str, *expected: str) -> None:
        """Check XML and open files: these devices, and no others."""
        domain = gpuhost.domain(server)
        assert domain is not None
        self.assertTrue(domain.running)
        self.assertEqual(sorted(expected), domain.sources)
        self.assertEqual(len(expected), domain.devices)
        self.assertEqual(gpuhost.groups(*expected), domain.groups)

    def assertRefused(self, flavor: str, message: str) -> None:
        """No server can be of this flavor; its owner is told why."""
        server = api.create(flavor)
        self.assertIn(message, api.fault(server))
        api.delete(server)

    def restart_compute(self) -> None:
        """Start nova-compute in the guest, and wait until the cloud knows."""
        before = api.compute_service(GPU_HOST).updated_at
        join.start()
        gpuhost.wait(
            'nova-compute is up',
            lambda: (
                api.compute_service(GPU_HOST).updated_at != before
                and api.compute_service(GPU_HOST).state == 'up'
            ),
        )
