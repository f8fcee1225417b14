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

"""What an operator sees, and what he is told after a mistake."""

from __future__ import annotations

import json

from lab.scenarios import base, host


class CommandsTest(base.Scenario):
    def test_host_show(self) -> None:
        """nova-gpu host show: every card in its form"""
        code, said = host.run('nova-gpu', 'host', 'show', '-f', 'json')
        self.assertEqual(0, code, said)
        rows = json.loads(said[said.index('[') :])
        found = {row['Address']: row['Use'] for row in rows}
        expected = dict.fromkeys((*host.H100S, host.GPU_WITH_AUDIO), 'whole')
        expected |= {
            host.MDEV: 'mdev',
            host.VENDOR_VFIO: 'vendor_vfio',
            host.SRIOV: 'vf',
        }
        self.assertLessEqual(expected.items(), found.items())

    def test_audit(self) -> None:
        """nova-gpu audit: finds nothing while a guest runs"""
        server = self.boot(self.class_named(host.MDEV, 'NVIDIA A40-24Q'))
        code, said = host.run('nova-gpu', 'audit')
        self.assertEqual(0, code, said)
        self.compute.delete(server)


class MistakesTest(base.Scenario):
    def test_wrong_driver(self) -> None:
        """mistake: a card bound to the wrong driver is not handed out"""
        card = host.H100S[1]
        name = self.class_of(card)
        host.run('modprobe', 'bochs')
        host.bind(card, 'bochs-drm')
        self.addCleanup(host.bind, card, 'vfio-pci')
        self.assertEqual(2, self.compute.free(name))
        reason = (
            'bound to bochs-drm, which offers no vGPU types here; bind it to '
            'vfio-pci to pass it through, or install the vGPU driver'
        )
        self.assertEqual(reason, self.compute.use(card).reason)
        _, said = host.run('nova-gpu', 'host', 'show', '-f', 'json')
        self.assertIn(reason, said)
        host.bind(card, 'vfio-pci')
        self.assertEqual(3, self.compute.free(name))

    def test_half_a_group(self) -> None:
        """mistake: a card that shares its IOMMU group is not handed out"""
        use = self.compute.use(host.BEHIND_BRIDGE)
        self.assertIsNone(use.pool)
        group = host.group(host.BEHIND_BRIDGE)
        self.assertEqual(
            f'shares IOMMU group {group} with 0000:88:02.0 [00ff] 1b36:0005',
            use.reason,
        )

    def test_mdev_removed_by_hand(self) -> None:
        """mistake: a vGPU removed by hand is missed, and made again"""
        server = self.boot(self.class_named(host.MDEV, 'NVIDIA A40-24Q'))
        (mdev,) = host.mdevs()
        server.domain.destroy()
        (host.HERE.mediated / mdev / 'remove').write_text('1')
        self.assertIn(mdev, self.assertStartFails(server))
        _, said = host.run('nova-gpu', 'audit', '-f', 'json')
        self.assertIn(mdev, said)
        _, said = host.run('nova-gpu', 'audit', '--repair')
        self.assertEqual({mdev: 'nvidia-565'}, host.mdevs(), said)
        server.domain.create()
        self.assertHeld(server, mdev)
        self.compute.delete(server)
