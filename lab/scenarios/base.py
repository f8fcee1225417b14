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

"""Base of the scenarios."""

from __future__ import annotations

import contextlib
import unittest

import libvirt

from lab.scenarios import host
from lab.scenarios.compute import Compute, Server, on_this_host


class Scenario(unittest.TestCase):
    """A nova-compute on the guest, and no trace of it afterwards."""

    maxDiff = None

    def setUp(self) -> None:
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.folder = stack.enter_context(on_this_host())
        self.compute = self.start_compute()
        self.addCleanup(self.remove_everything)

    def start_compute(self) -> Compute:
        """A new process, as far as what it knows is concerned."""
        compute = Compute(self.folder)
        compute.start()
        return compute

    def remove_everything(self) -> None:
        """Whatever has gone wrong, the next scenario finds the host clean."""
        for domain in host.connect().listAllDomains():
            if domain.isActive():
                domain.destroy()
            if domain.isPersistent():
                domain.undefine()
        Compute(self.folder).start()
        self.assertEqual({}, host.mdevs())
        for function in host.functions(host.VENDOR_VFIO):
            name = 'nvidia/current_vgpu_type'
            self.assertEqual('0', host.read(function, name), function)

    def class_of(self, card: str) -> str:
        """The resource class of a card that is handed out as it is."""
        (offer,) = self.compute.use(card).offers
        return offer.resource_class

    def class_named(self, card: str, name: str) -> str:
        """The resource class of a vGPU type on a card."""
        return next(
            o.resource_class
            for o in self.compute.use(card).offers
            if o.name == name
        )

    def boot(self, resource_class: str, count: int = 1) -> Server:
        """A server with so many units of a class, up and running."""
        server = self.compute.boot(
            **{f'resources:{resource_class}': str(count)}
        )
        self.assertTrue(server.domain.isActive())
        return server

    def assertHeld(self, server: Server, *devices: str) -> None:
        """Check XML and open files: these devices, and no others."""
        self.assertEqual(sorted(devices), sorted(host.sources(server.domain)))
        self.assertEqual(len(devices), host.vfio_devices(server.domain))
        groups = {f'/dev/vfio/{host.group(device)}' for device in devices}
        opened = {
            name
            for name in host.open_files(server.domain)
            if name.startswith('/dev/vfio/') and name != '/dev/vfio/vfio'
        }
        self.assertEqual(groups, opened)

    def assertStartFails(self, server: Server) -> str:
        """Start a domain that can't; gives libvirt's message."""
        with self.assertRaises(libvirt.libvirtError) as caught:
            server.domain.create()
        return str(caught.exception)
