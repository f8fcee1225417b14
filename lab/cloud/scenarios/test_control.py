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

"""Whether the cloud is one, before anything else is concluded from it."""

from __future__ import annotations

from lab.cloud.scenarios import api, base
from lab.cloud.settings import FAKE_HOST, GPU_HOST
from lab.scenarios import devices


class ControlTest(base.Scenario):
    def test_services(self) -> None:
        """cloud: Nova's services are up, two computes among them"""
        found = {
            (service.binary, service.host)
            for service in api.cloud().compute.services()
            if service.state == 'up'
        }
        computes = {('nova-compute', FAKE_HOST), ('nova-compute', GPU_HOST)}
        self.assertLessEqual(computes, found)
        binaries = {binary for binary, _ in found}
        self.assertLessEqual({'nova-conductor', 'nova-scheduler'}, binaries)

    def test_other_services(self) -> None:
        """cloud: Glance keeps an image, Neutron a network with a port"""
        image = api.cloud().image.get_image(api.image())
        self.assertEqual(('active', 2**20), (image.status, image.size))
        network = api.cloud().network.create_network(name='scenario')
        self.addCleanup(api.cloud().network.delete_network, network)
        port = api.cloud().network.create_port(network_id=network.id)
        self.assertEqual(network.id, port.network_id)
        api.cloud().network.delete_port(port)

    def test_inventory(self) -> None:
        """cloud: Placement has GPUs of every form, and no others"""
        self.assertFree(**base.ALL)
        names = {
            name.rpartition('_NVIDIA_')[2] for name in api.inventory()
        } - {'GEFORCE_RTX_4090', 'H100_SXM5_80GB', base.MI300X_VF}
        profiles = {
            f'{card}_{gib}Q'
            for card in ('A40', 'L40S')
            for gib in (8, 12, 16, 24, 48)
        }
        self.assertEqual(profiles, names)
        # One of the two RTX 4090 shares its IOMMU group.
        self.assertEqual(1, api.inventory()[base.RTX_4090])
        alone = '_'.join(devices.MDEV.replace(':', '_').split('.'))
        self.assertIn(f'{GPU_HOST}_gpu_{alone}', api.providers())

    def test_server_without_gpu(self) -> None:
        """cloud: a server without GPU stays off the host that has them"""
        server = api.create(api.flavor())
        self.assertEqual(FAKE_HOST, api.wait(server).compute_host)
        self.assertEqual({}, api.allocations(server))
