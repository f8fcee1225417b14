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

"""What goes wrong around nova-compute, and what is left of it.

What instances hold, what Placement says and what the host has are the same
afterwards, and the log tells what was mended. Where nova-compute itself is
killed is in ``test_crash``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import fixtures
import oslo_messaging
from keystoneauth1 import exceptions as ksa_exceptions
from nova import context as nova_context
from nova import exception as nova_exception
from oslo_utils import uuidutils

from nova_gpu.mechanism.mdev import new_uuid
from tests.fixtures import hosts
from tests.functional import actions, base
from tests.functional.test_boot import A100, T4_8Q

WHOLE = 'gpu1_gpu_nvidia_a100_sxm4_40gb'
MANAGER = 'nova.compute.manager.ComputeManager'
REPORT = 'nova.scheduler.client.report.SchedulerReportClient'
MINE = '0a5c0a2e-9f1b-4c55-8d1e-0d6f6a3f9a11'
HOSTDEV = """
<hostdev mode='subsystem' type='pci' managed='yes'>
  <source><address domain='0x0000' bus='0x25' slot='0x00' function='0x0'/>
  </source>
</hostdev>
"""


class FaultsTest(base.GpuServersTest):
    """One host with eight A100 and four T4; it audits at every look."""

    def setUp(self) -> None:
        super().setUp()
        self.logs = self.useFixture(fixtures.FakeLogger())
        self.fake = self.new_host('gpu1')
        hosts.a100_board(self.fake)
        hosts.four_t4(self.fake)
        self.start_gpu_compute('gpu1')
        self.cards = self.gpu_flavor(**{f'resources__{A100}': '2'})
        self.vgpus = self.gpu_flavor(**{f'resources__{T4_8Q}': '1'})

    def reserved(self) -> int:
        """How many of the whole cards Placement promises to nobody."""
        found: int = self.providers_of('gpu1')[WHOLE][A100]['reserved']
        return found

    def connection(self) -> Any:
        return self.computes['gpu1'].driver._host.get_connection()

    def reap(self) -> None:
        """Let Nova end the guests of servers that are deleted."""
        self.flags(running_deleted_instance_timeout=0)
        manager = self.computes['gpu1'].manager
        manager._cleanup_running_deleted_instances(
            nova_context.get_admin_context()
        )
        self._run_periodics()

    def assert_audited(self) -> None:
        """The audit, with Placement and nova-compute, finds nothing."""
        code, found, err = self.run_audit('gpu1')
        self.assertEqual((0, []), (code, found), err)
        self.assertNotIn('warning', err)

    def assert_problems(self, *problems: str) -> None:
        code, found, err = self.run_audit('gpu1')
        self.assertEqual(set(problems), {d['Problem'] for d in found}, err)
        self.assertEqual(1, code)


class BehindNovasBackTest(FaultsTest):
    """People with virsh, and servers that are deleted while nobody is in."""

    def test_nothing_wrong(self) -> None:
        self.boot(self.cards)
        server = self.boot(self.vgpus)
        self.assert_audited()
        self._delete_server(server)
        self.assert_audited()
        self.assert_consistent()

    def test_guest_that_somebody_starts(self) -> None:
        self.assertEqual(0, self.reserved())
        domain = self.connection().defineXML(
            f'<domain type="kvm"><name>mine</name><uuid>{MINE}</uuid>'
            f'<memory>1024</memory><vcpu>1</vcpu>'
            f'<os><type machine="q35">hvm</type></os>'
            f'<devices>{HOSTDEV}</devices></domain>'
        )
        domain.createWithFlags(0)
        self._run_periodics()
        self.assertEqual(1, self.reserved())
        self.assertIn(f'Instance {MINE} holds 0000:25:00.0', self.logs.output)
        seven = self.boot(self.gpu_flavor(**{f'resources__{A100}': '7'}))
        self.assert_no_device_twice()
        self.boot(
            self.gpu_flavor(**{f'resources__{A100}': '1'}), state='ERROR'
        )
        domain.destroy()
        domain.undefine()
        self._run_periodics()
        self.assertEqual(0, self.reserved())
        self.assertIn(f'Guest {MINE}, not of Nova, has gone', self.logs.output)
        self._delete_server(seven)
        self.boot(self.gpu_flavor(**{f'resources__{A100}': '8'}))

    def test_guest_that_somebody_removes(self) -> None:
        server = self.boot(self.vgpus)
        before = self.guest_devices(server).mdevs
        domain = self.connection().lookupByUUIDString(server['id'])
        domain.destroy()
        domain.undefine()
        self._run_periodics()
        # It is the server's, and comes back with a hard reboot.
        self.assertEqual(sorted(before), self.fake.mdevs)
        server = actions.reboot_hard(self, self.api.get_server(server['id']))
        self.assertEqual(before, self.guest_devices(server).mdevs)
        self.assert_consistent()
        self.assert_audited()

    def test_guest_that_somebody_removes_while_nobody_is_in(self) -> None:
        server = self.boot(self.vgpus)
        domain = self.connection().lookupByUUIDString(server['id'])
        domain.destroy()
        domain.undefine()
        self.restart_gpu_compute('gpu1')
        self.assertEqual([], self.fake.mdevs)
        self.assert_problems('allocated and not held')
        server = actions.reboot_hard(self, self.api.get_server(server['id']))
        self.assertEqual(
            sorted(self.guest_devices(server).mdevs), self.fake.mdevs
        )
        self.assert_consistent()
        self.assert_audited()

    def test_server_that_is_deleted_while_compute_is_down(self) -> None:
        server = self.boot(self.cards)
        vgpu = self.boot(self.vgpus)
        actions.lose(self, 'gpu1')
        for gone in (server, vgpu):
            self.api.delete_server(gone['id'])
        self.assertEqual({}, self.nonzero_usages('gpu1'))
        # Their guests run on: nobody is promised what they have.
        actions.bring_back(self, 'gpu1')
        self.assertEqual(2, self.reserved())
        self.assertIn(
            f'instance {server["id"]} holds it without an allocation',
            self.logs.output,
        )
        self.assert_problems('held without an allocation')
        self.boot(
            self.gpu_flavor(**{f'resources__{A100}': '7'}), state='ERROR'
        )
        # Nova ends them in its own time.
        self.reap()
        self.assert_all_free()
        self.assertEqual([], self.domains('gpu1'))
        self.assert_audited()

    def test_vgpu_that_somebody_removes(self) -> None:
        server = self.boot(self.vgpus)
        (mdev,) = self.fake.mdevs
        actions.stop(self, server)
        self.fake.remove_mdev(mdev)
        self.assert_problems('vGPU gone')
        server = self.api.get_server(server['id'])
        server = actions.start(self, server)
        self.assertEqual([mdev], self.fake.mdevs)
        self.assert_consistent()
        self.assert_audited()

    def test_vgpu_of_nobody(self) -> None:
        server = self.boot(self.vgpus)
        (held,) = self.fake.mdevs
        leaked, other = new_uuid(), uuidutils.generate_uuid()
        # Which card the server has got depends on the host's UUID.
        cards = ('0000:3b:00.0', '0000:5e:00.0')
        empty = next(card for card in cards if not self.fake.made(card))
        for uuid in (leaked, other):
            self.fake.create_mdev(empty, 'nvidia-233', uuid)
        self.assert_problems('vGPU without a guest')
        # The service sees to it: it may be making one at any moment.
        code, left, _ = self.run_audit('gpu1', '--repair')
        self.assertEqual([leaked], [d['Device'] for d in left])
        self.assertEqual(1, code)
        self._run_periodics()
        self.assertEqual(sorted([held, other]), self.fake.mdevs)
        self.assert_audited()
        self._delete_server(server)

    def test_allocation_that_somebody_deletes(self) -> None:
        server = self.boot(self.cards)
        held = self.guest_devices(server).functions
        self.placement.put(
            f'/allocations/{server["id"]}',
            {
                'allocations': {},
                'project_id': 'p',
                'user_id': 'u',
                'consumer_generation': self.generation(server),
                'consumer_type': 'INSTANCE',
            },
            version='1.38',
        )
        self._run_periodics()
        self.assertEqual(2, self.reserved())
        # It keeps what it has, and is not made again without.
        self.assert_problems('held without an allocation')
        server = actions.reboot_hard(self, self.api.get_server(server['id']))
        self.assertEqual(held, self.guest_devices(server).functions)
        self._delete_server(server)
        self._run_periodics()
        self.assertEqual(0, self.reserved())
        self.assert_audited()

    def generation(self, server: Any) -> int:
        found = self.placement.get(
            f'/allocations/{server["id"]}', version='1.38'
        )
        generation: int = found.body['consumer_generation']
        return generation

    def test_cards_that_change(self) -> None:
        first, second = '0000:3b:00.0', '0000:5e:00.0'
        as_vgpus = f'Found card {first} (NVIDIA Tesla T4): mdev, pool '
        self._run_periodics()
        self.assertEqual(1, self.logs.output.count(as_vgpus))
        self.fake.unload_driver(first)
        self.fake.remove(second)
        self._run_periodics()
        self.assertIn(
            f'Found card {first} (NVIDIA Tesla T4): whole, pool ',
            self.logs.output,
        )
        self.assertIn(f'Card {second} is gone', self.logs.output)
        self.fake.load_driver(first)
        self._run_periodics()
        self.assertEqual(2, self.logs.output.count(as_vgpus))

    def test_repair(self) -> None:
        server = self.boot(self.vgpus)
        (mdev,) = self.fake.mdevs
        actions.stop(self, server)
        self.fake.remove_mdev(mdev)
        code, left, err = self.run_audit('gpu1', '--repair')
        self.assertEqual((0, []), (code, left), err)
        self.assertIn(f'vGPU gone {mdev}: done (make it again)', err)


class AwayTest(FaultsTest):
    """Who nova-compute talks to isn't there for a while."""

    @contextlib.contextmanager
    def placement_is_away(self) -> Iterator[None]:
        """Placement answers nothing."""

        def away(*args: Any, **kwargs: Any) -> Any:
            raise ksa_exceptions.ConnectFailure('Placement is away')

        with contextlib.ExitStack() as stack:
            for name in ('get', 'put', 'post', 'delete'):
                stack.enter_context(
                    fixtures.MonkeyPatch(f'{REPORT}.{name}', away)
                )
            yield

    def test_placement_while_a_server_is_deleted(self) -> None:
        server = self.boot(self.vgpus)
        with self.placement_is_away():
            # Nova can't delete the allocation, and says so.
            self.assertRaises(
                base.ApiError, self.api.delete_server, server['id']
            )
        self.assertEqual([], self.fake.mdevs)
        self.assertEqual({T4_8Q: 1}, self.nonzero_usages('gpu1'))
        self._run_periodics()
        actions.delete(self, self.api.get_server(server['id']))
        self._run_periodics()
        self.assert_all_free()
        self.assert_audited()

    def test_placement_while_nova_compute_starts(self) -> None:
        server = self.boot(self.vgpus)
        with self.placement_is_away():
            self.restart_gpu_compute('gpu1')
            self.assertEqual(
                sorted(self.guest_devices(server).mdevs), self.fake.mdevs
            )
            self.assertIn(
                'Could not compare the GPUs with Placement', self.logs.output
            )
        self._run_periodics()
        self.assert_consistent()
        self.assert_audited()

    def test_libvirt_goes_and_comes_back(self) -> None:
        server = self.boot(self.vgpus)
        host = self.computes['gpu1'].driver._host
        connect = host.get_connection

        def gone(*args: Any, **kwargs: Any) -> Any:
            raise nova_exception.HypervisorUnavailable()

        host.get_connection = gone
        try:
            self.assertRaises(
                nova_exception.HypervisorUnavailable, self._run_periodics
            )
            refused = self.boot(self.vgpus, state='ERROR')
        finally:
            host.get_connection = connect
        self.assertEqual(
            sorted(self.guest_devices(server).mdevs), self.fake.mdevs
        )
        self._delete_server(refused)
        self._run_periodics()
        self.assert_consistent()
        self.assert_audited()

    def test_libvirt_goes_while_guests_are_compared(self) -> None:
        server = self.boot(self.vgpus)
        host = self.computes['gpu1'].driver._host
        guests = host.list_guests

        def gone(only_running: bool = True) -> Any:
            if only_running:  # Nova's own look, just before
                return guests()
            raise base.LibvirtError('it has gone')

        host.list_guests = gone
        try:
            self._run_periodics()
        finally:
            host.list_guests = guests
        self.assertIn(
            'Could not compare the GPUs with guests', self.logs.output
        )
        self._run_periodics()
        self._delete_server(server)
        self.assert_all_free()

    def test_guest_that_goes_while_guests_are_compared(self) -> None:
        self.boot(self.vgpus)
        host = self.computes['gpu1'].driver._host
        domain = self.connection().defineXML(
            f'<domain type="kvm"><name>mine</name><uuid>{MINE}</uuid>'
            f'<memory>1024</memory><vcpu>1</vcpu>'
            f'<os><type machine="q35">hvm</type></os><devices/></domain>'
        )
        guests = host.list_guests(only_running=False)
        domain.undefine()

        def gone(flags: int) -> str:
            domain = self.connection().lookupByUUIDString(MINE)
            return str(domain.XMLDesc(flags))

        for guest in guests:
            if guest.uuid == MINE:
                guest._domain.XMLDesc = gone
        host.list_guests = lambda only_running=True: (
            [] if only_running else guests
        )
        self._run_periodics()
        self.assertNotIn('Could not compare', self.logs.output)
        self.assertNotIn('Error updating resources', self.logs.output)

    def test_message_bus_while_a_server_is_built(self) -> None:
        def cut(*args: Any, **kwargs: Any) -> Any:
            raise oslo_messaging.MessagingTimeout('nobody answers')

        # What nova-compute tells next, once the guest runs.
        with fixtures.MonkeyPatch(
            f'{MANAGER}._update_instance_after_spawn', cut
        ):
            server = self.boot(self.vgpus, state='ERROR')
        # Nova forgets on which host it is: the guest is left.
        self.assertEqual(1, len(self.fake.mdevs))
        self._delete_server(server)
        self._run_periodics()
        self.assertIn('without an allocation in Placement', self.logs.output)
        self.reap()
        self.assert_all_free()
        self.assert_audited()


class EvacuationTest(base.GpuServersTest):
    """Two computes that claim one instance."""

    def setUp(self) -> None:
        super().setUp()
        for name in ('gpu1', 'gpu2'):
            hosts.four_t4(self.new_host(name))
            self.start_gpu_compute(name)

    def test_the_source_comes_back_with_the_guest_running(self) -> None:
        flavor = self.gpu_flavor(**{f'resources__{T4_8Q}': '1'})
        server = self.boot(flavor)
        source = server['OS-EXT-SRV-ATTR:host']
        server = actions.evacuate(self, server)
        target = server['OS-EXT-SRV-ATTR:host']
        self.assertNotEqual(source, target)
        # Both hold it now, and Placement counts both.
        self.assertEqual(1, len(self.hosts[source].mdevs))
        self.assertEqual(1, len(self.hosts[target].mdevs))
        self.assertEqual({T4_8Q: 1}, self.nonzero_usages(source))
        self.assertEqual({T4_8Q: 1}, self.nonzero_usages(target))
        actions.bring_back(self, source)
        self.assertEqual([], self.hosts[source].mdevs)
        self.assertEqual({}, self.nonzero_usages(source))
        self.assertEqual([], self.domains(source))
        self.assert_consistent()
        for name in (source, target):
            self.assertEqual((0, []), self.run_audit(name)[:2])
