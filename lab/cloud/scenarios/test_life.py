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

"""What servers with GPUs live through, and what survives whom."""

from __future__ import annotations

from lab.cloud import join
from lab.cloud.scenarios import api, base, gpuhost
from lab.cloud.scenarios.base import A40_8Q, A40_24Q, L40S_12Q, RTX_4090
from lab.cloud.settings import GPU_HOST
from lab.guest import agent
from lab.scenarios import devices


class ActionsTest(base.Scenario):
    def test_resize_to_more(self) -> None:
        """cloud: a resize to more vGPUs is confirmed"""
        server = self.boot(api.units(A40_8Q))
        (old,) = self.held(server)
        self.resize(server, api.units(A40_8Q, 2))
        # Both, until the user decides.
        self.assertFree(**{A40_8Q: 3})
        both = self.held(server)
        self.assertNotIn(old, both)
        api.cloud().compute.confirm_server_resize(server)
        api.wait(server)
        self.assertEqual({A40_8Q: 2}, api.allocations(server))
        self.assertHeld(server, *both)
        self.assertFree(**{A40_8Q: 4})
        self.assertEqual(sorted(both), sorted(gpuhost.mdevs()))
        # Nothing is recorded of what was given back meanwhile.
        gpuhost.audit()

    def test_resize_reverted(self) -> None:
        """cloud: a resize that is reverted gives the same vGPU back"""
        server = self.boot(api.units(A40_8Q))
        (old,) = self.held(server)
        self.resize(server, api.units(A40_8Q, 2))
        api.cloud().compute.revert_server_resize(server)
        api.wait(server)
        self.assertEqual({A40_8Q: 1}, api.allocations(server))
        self.assertHeld(server, old)
        self.assertEqual([old], list(gpuhost.mdevs()))
        self.assertFree(**{A40_8Q: 5})
        gpuhost.audit()

    def resize(self, server: str, flavor: str) -> None:
        api.cloud().compute.resize_server(server, flavor)
        api.wait(server, 'VERIFY_RESIZE')

    def test_rebuild_that_fails(self) -> None:
        """cloud: a server whose rebuild has failed is rebuilt with its vGPU"""
        server = self.boot(api.units(A40_24Q))
        compute = api.cloud().compute
        compute.rebuild_server(server, image=api.lost_image())
        api.fault(server)
        # Nova has taken all of it away.
        self.assertEqual({}, api.allocations(server))
        self.assertFree(**{A40_24Q: 2})
        compute.rebuild_server(server, image=api.image())
        gpuhost.wait('it runs', lambda: api.server(server).status == 'ACTIVE')
        self.assertEqual({A40_24Q: 1}, api.allocations(server))
        self.assertFree(**{A40_24Q: 1})
        self.assertHeld(server, *gpuhost.mdevs())
        gpuhost.audit()

    def test_stop_and_reboot(self) -> None:
        """cloud: stop, start and hard reboot keep a card and its audio"""
        self.keeps(RTX_4090)

    def test_stop_and_reboot_with_type(self) -> None:
        """cloud: stop, start and hard reboot keep a function and its type"""
        self.keeps(L40S_12Q)

    def keeps(self, resource_class: str) -> None:
        server = self.boot(api.units(resource_class))
        held = self.held(server)
        free = api.inventory()[resource_class]
        compute = api.cloud().compute
        compute.stop_server(server)
        api.wait(server, 'SHUTOFF')
        domain = gpuhost.domain(server)
        self.assertFalse(domain is not None and domain.running)
        self.assertEqual(free, api.inventory()[resource_class])
        compute.start_server(server)
        api.wait(server)
        self.assertHeld(server, *held)
        compute.reboot_server(server, 'HARD')
        api.wait(server)
        self.assertHeld(server, *held)


class CrashTest(base.Scenario):
    def test_compute_killed_while_it_claims(self) -> None:
        """cloud: nova-compute is killed while it claims: nothing leaks"""
        # In the guest, for the moment is short.
        gpuhost.run(f"""
            pid=$(cat /run/nova-compute.pid)
            rm -f /run/killed
            (
                until [ -n "$(echo {gpuhost.MEDIATED}/*-*-*)" ] &&
                    [ -e "$(echo {gpuhost.MEDIATED}/*-*-*)" ]; do
                    :
                done
                kill -9 -- -$pid
                rm /run/nova-compute.pid
                touch /run/killed
            ) </dev/null >/dev/null 2>&1 &
        """)
        server = api.create(api.units(A40_8Q))
        gpuhost.wait(
            'it is killed', lambda: agent.execute('ls /run/killed')[0] == 0
        )
        self.assertEqual(1, len(gpuhost.mdevs()))
        self.assertIsNone(gpuhost.domain(server))
        self.restart_compute()
        gpuhost.wait('the vGPU is removed', lambda: not gpuhost.mdevs())
        self.assertEqual('ERROR', api.server(server).status)
        api.delete(server)
        self.assertEmpty()
        gpuhost.audit()

    def test_compute_killed_with_servers(self) -> None:
        """cloud: nova-compute is killed and starts: servers keep their GPUs"""
        flavor = api.units(RTX_4090)
        card, vgpu = self.boot(flavor), self.boot(api.units(A40_24Q))
        held = {server: self.held(server) for server in (card, vgpu)}
        join.kill()
        for server, units in held.items():
            self.assertHeld(server, *units)
        self.restart_compute()
        for server, units in held.items():
            self.assertEqual('ACTIVE', api.wait(server).status)
            self.assertHeld(server, *units)
        gpuhost.audit()
        self.assertRefused(flavor, 'No valid host was found')
        api.delete(card)
        again = self.boot(flavor)
        self.assertHeld(again, *held[card])

    def test_qemu_killed(self) -> None:
        """cloud: QEMU is killed: the server is off, and keeps its vGPU"""
        server = self.boot(api.units(A40_24Q))
        held = self.held(server)
        gpuhost.run(
            'kill -9 $(cat /run/libvirt/qemu/'
            f'$(virsh -q domname {server} | head -1).pid)'
        )
        api.wait(server, 'SHUTOFF')
        self.assertEqual(held, list(gpuhost.mdevs()))
        self.assertFree(**{A40_24Q: 1})
        api.cloud().compute.start_server(server)
        api.wait(server)
        self.assertHeld(server, *held)

    def test_libvirtd_restarted(self) -> None:
        """cloud: libvirtd is restarted: servers run on, and new ones start"""
        server = self.boot(api.units(RTX_4090))
        gpuhost.run("""
            old=$(pidof libvirtd)
            kill $old
            while [ -e /proc/$old ]; do sleep 0.2; done
            libvirtd -d
            until virsh -q uri >/dev/null 2>&1; do sleep 0.5; done
        """)
        self.assertHeld(server, devices.GPU_WITH_AUDIO, base.AUDIO)
        # Nova disables the host until it has a connection again.
        gpuhost.wait('the host is enabled', lambda: api.enabled(GPU_HOST))
        other = self.boot(api.units(A40_24Q))
        self.assertHeld(other, *gpuhost.mdevs())
        self.assertEqual('ACTIVE', api.server(server).status)
        api.delete(server)
        self.assertFree(**{RTX_4090: 1})

    def test_host_rebooted(self) -> None:
        """cloud: the GPU host boots: its servers start with what they had"""
        classes = (A40_24Q, L40S_12Q)
        servers = [self.boot(api.units(name)) for name in classes]
        held = [self.held(server) for server in servers]
        gpuhost.run('sync')
        agent.reboot()
        self.assertEqual({}, gpuhost.mdevs())
        self.restart_compute()
        for server, units in zip(servers, held, strict=True):
            self.started(server)
            self.assertHeld(server, *units)
        self.assertFree(**{A40_24Q: 1, L40S_12Q: 3})
        gpuhost.audit()

    def started(self, server: str) -> None:
        def runs() -> bool:
            domain = gpuhost.domain(server)
            return domain is not None and domain.running

        gpuhost.wait(f'{server} runs', runs)
        api.wait(server)
