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

"""What an operator does wrong, and what he is told."""

from __future__ import annotations

from lab.cloud import join
from lab.cloud.scenarios import api, base, gpuhost
from lab.cloud.scenarios.base import A40_24Q, H100, RTX_4090
from lab.guest import agent
from lab.scenarios import devices


class MistakesTest(base.Scenario):
    def test_wrong_driver(self) -> None:
        """cloud, mistake: a card with the wrong driver is not handed out"""
        card = devices.H100S[1]
        gpuhost.run('modprobe bochs')
        gpuhost.bind(card, 'bochs-drm')
        self.addCleanup(gpuhost.bind, card, 'vfio-pci')
        self.assertFree(**{H100: 2})
        self.assertRefused(api.units(H100, 3), 'No valid host was found')
        self.assertTold(
            card,
            'bound to bochs-drm, which offers no vGPU types here; bind it to '
            'vfio-pci to pass it through, or install the vGPU driver',
        )
        # nova-compute has said so when it saw it.
        self.assertRegex(
            join.log(), rf'Found card {card} .*bound to bochs-drm'
        )
        gpuhost.bind(card, 'vfio-pci')
        self.assertFree(**{H100: 3})

    def test_half_a_group(self) -> None:
        """cloud, mistake: a card that shares its group is not handed out"""
        (group,) = gpuhost.groups(devices.BEHIND_BRIDGE)
        self.assertRefused(api.units(RTX_4090, 2), 'No valid host was found')
        card = devices.BEHIND_BRIDGE
        reason = f'shares IOMMU group {group} with 0000:88:02.0'
        self.assertTold(card, reason)
        # nova-compute tells of it when it starts.
        lines = [line for line in join.log().splitlines() if reason in line]
        self.assertTrue(any(f'Found card {card}' in line for line in lines))

    def test_mdev_removed_by_hand(self) -> None:
        """cloud, mistake: a vGPU removed by hand is missed and made again"""
        server = self.boot(api.units(A40_24Q))
        (mdev,) = self.held(server)
        compute = api.cloud().compute
        compute.stop_server(server)
        api.wait(server, 'SHUTOFF')
        gpuhost.run(f'echo 1 >{gpuhost.MEDIATED}/{mdev}/remove')
        code, said = agent.execute('nova-gpu audit -f json')
        self.assertEqual(1, code, said)
        self.assertIn(mdev, said)
        self.assertFree(**{A40_24Q: 1})
        compute.start_server(server)
        api.wait(server)
        self.assertHeld(server, mdev)

    def assertTold(self, card: str, reason: str) -> None:
        said = gpuhost.run('nova-gpu host show -f json')
        self.assertIn(card, said)
        self.assertIn(reason, said)
