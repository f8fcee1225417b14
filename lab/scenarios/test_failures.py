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

"""What ends without being asked, and who notices."""

from __future__ import annotations

import os
import signal
import uuid

from lab.scenarios import base, host
from nova_gpu import exception
from nova_gpu.model.request import GpuRequest


class QemuTest(base.Scenario):
    def test_killed_with_an_mdev(self) -> None:
        """QEMU killed: the guest's mediated device stays its own"""
        name = self.class_named(host.MDEV, 'NVIDIA A40-24Q')
        server = self.boot(name)
        (mdev,) = host.mdevs()
        host.kill_qemu(server.domain)
        self.assertEqual([mdev], list(host.mdevs()))
        self.assertEqual(1, self.compute.free(name))
        server.domain.create()
        self.assertHeld(server, mdev)
        self.compute.delete(server)
        self.assertEqual({}, host.mdevs())

    def test_killed_with_a_card(self) -> None:
        """QEMU killed: the card is free for who starts next"""
        name = self.class_of(host.GPU_WITH_AUDIO)
        server = self.boot(name)
        host.kill_qemu(server.domain)
        self.assertEqual('vfio-pci', host.driver(host.GPU_WITH_AUDIO))
        self.compute.delete(server)
        again = self.boot(name)
        self.compute.delete(again)

    def test_in_use(self) -> None:
        """a vGPU that QEMU has open is not removed, and is when it ends"""
        name = self.class_named(host.MDEV, 'NVIDIA A40-24Q')
        server = self.boot(name)
        (mdev,) = host.mdevs()
        # A write to its "remove" would never return.
        self.compute.tracker.release(server.uuid)
        self.assertEqual([mdev], list(host.mdevs()))
        self.assertEqual(1, self.compute.free(name))
        server.domain.destroy()
        self.assertEqual(2, self.compute.free(name))
        self.assertEqual({}, host.mdevs())
        self.compute.delete(server)

    def test_function_in_use(self) -> None:
        """a virtual function that QEMU has open keeps its type"""
        name = self.class_named(host.VENDOR_VFIO, 'NVIDIA L40S-48Q')
        server = self.boot(name)
        (held,) = host.sources(server.domain)
        self.compute.tracker.release(server.uuid)
        path = 'nvidia/current_vgpu_type'
        self.assertEqual('1159', host.read(held, path))
        server.domain.destroy()
        self.assertEqual(1, self.compute.free(name))
        self.assertEqual('0', host.read(held, path))
        self.compute.delete(server)


class LibvirtdTest(base.Scenario):
    def test_restarted(self) -> None:
        """libvirtd and nova-compute restarted: guests keep what they hold"""
        vgpu = self.class_named(host.MDEV, 'NVIDIA A40-24Q')
        card = self.class_of(host.GPU_WITH_AUDIO)
        servers = [self.boot(vgpu), self.boot(card)]
        before = {
            claim.consumer: {unit.device for unit in claim.units}
            for claim in self.compute.view().claims
        }
        host.restart_libvirtd()
        self.compute = self.start_compute()
        after = {
            claim.consumer: {unit.device for unit in claim.units}
            for claim in self.compute.view().claims
        }
        self.assertEqual({s.uuid for s in servers}, set(before))
        self.assertEqual(before, after)
        with self.assertRaises(exception.NotEnoughUnits):
            self.boot(card)
        for server in servers:
            self.compute.delete(server)


class NovaComputeTest(base.Scenario):
    def test_killed_while_it_claims(self) -> None:
        """nova-compute killed after it has made a vGPU: the next removes it"""
        name = self.class_named(host.MDEV, 'NVIDIA A40-24Q')
        request = GpuRequest({name: 1})
        child = os.fork()
        if child == 0:
            try:
                self.compute.claim(str(uuid.uuid4()), request)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        self.assertEqual(signal.SIGKILL, os.WTERMSIG(status))
        self.assertEqual(1, len(host.mdevs()))
        self.compute = self.start_compute()
        self.assertEqual({}, host.mdevs())
        self.assertEqual(2, self.compute.free(name))
