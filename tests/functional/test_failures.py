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


"""Actions that fail half-way, and what brings the server back.

Nova leaves its allocation as that of another flavor, or takes all of it, and
the guest as it happens to be. Afterwards what the server holds and what it is
allocated are what its flavor says, and the audit finds nothing.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import fixtures
from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects

from tests.fixtures import hosts
from tests.functional import actions, base
from tests.functional.actions import Server
from tests.functional.test_boot import A100, T4_8Q, T4_16Q

DRIVER = 'nova.virt.libvirt.driver.LibvirtDriver'
CARDS = 'gpu1_gpu_nvidia_a100_sxm4_40gb'


class FailuresTest(base.GpuServersTest):
    """Hosts with eight A100 and four T4 each."""

    HOSTS: tuple[str, ...] = ('gpu1',)

    def setUp(self) -> None:
        super().setUp()
        for name in self.HOSTS:
            fake = self.new_host(name)
            hosts.a100_board(fake)
            hosts.four_t4(fake)
            self.start_gpu_compute(name)

    def flavor(self, **units: int) -> str:
        return self.gpu_flavor(
            **{f'resources__{name}': str(n) for name, n in units.items()}
        )

    @contextlib.contextmanager
    def no_image(self) -> Iterator[None]:
        """Let guests that are made find no image."""

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise nova_exception.ImageUnacceptable(
                image_id='none', reason='it is broken'
            )

        with fixtures.MonkeyPatch(f'{DRIVER}._create_image', refuse):
            yield

    def allocation(self, server: Server) -> dict[str, int]:
        """What a server is allocated, of all providers together."""
        path = f'/allocations/{server["id"]}'
        found: dict[str, int] = {}
        for part in self.placement.get(path).body['allocations'].values():
            for name, number in part['resources'].items():
                found[name] = found.get(name, 0) + number
        return found

    def held(self, server: Server) -> list[str]:
        """The classes of what the server's host holds for it."""
        shown = self.api.get_server(server['id'])
        host = shown['OS-EXT-SRV-ATTR:host']
        tracker = self.computes[host].driver._gpus
        return sorted(u.resource_class for u in tracker.units_of(server['id']))

    def hard_reboot(self, server: Server) -> Server:
        return actions.reboot_hard(self, self.api.get_server(server['id']))

    def assert_agreed(self, server: Server, **units: int) -> None:
        """The server has its units, and is allocated them: no others."""
        found = self.allocation(server)
        self.assertEqual(1, found.pop('VCPU'))
        del found['MEMORY_MB'], found['DISK_GB']
        self.assertEqual(units, found)
        names = sorted(name for name, n in units.items() for _ in range(n))
        self.assertEqual(names, self.held(server))
        self.assert_no_device_twice()

    def assert_audited(self, host: str = 'gpu1') -> None:
        code, found, err = self.run_audit(host)
        self.assertEqual((0, []), (code, found), err)


class RebuildTest(FailuresTest):
    """Nova takes the whole allocation from a server whose rebuild fails."""

    def broken(self, **units: int) -> Server:
        server = self.boot(self.flavor(**units))
        with self.no_image():
            self.assertRaises(
                actions.ActionError, actions.rebuild, self, server
            )
        self.assertEqual({}, self.allocation(server))
        return server

    def test_again(self) -> None:
        for units in ({T4_8Q: 1}, {A100: 2}):
            server = self.broken(**units)
            actions.rebuild(self, server)
            self.assert_agreed(server, **units)
        self.assert_audited()

    def test_hard_reboot(self) -> None:
        server = self.broken(**{T4_8Q: 2})
        self.hard_reboot(server)
        self.assert_agreed(server, **{T4_8Q: 2})
        self.assert_audited()

    def test_no_room_any_more(self) -> None:
        server = self.broken(**{A100: 2})
        self.boot(self.flavor(**{A100: 7}))
        error = self.assertRaises(
            actions.ActionError, self.hard_reboot, server
        )
        self.assertIn(
            f'this host can not give 2 {A100}: it has 1', error.message
        )
        self.assertEqual({}, self.allocation(server))
        self.assertEqual([], self.held(server))

    def test_placement_is_away(self) -> None:
        server = self.broken(**{T4_8Q: 1})

        def away(*args: Any, **kwargs: Any) -> None:
            raise nova_exception.ConsumerAllocationRetrievalFailed(
                consumer_uuid=server['id'], error='it is away'
            )

        where = 'nova.scheduler.client.report.SchedulerReportClient'
        with fixtures.MonkeyPatch(f'{where}.get_allocs_for_consumer', away):
            error = self.assertRaises(
                actions.ActionError, self.hard_reboot, server
            )
            self.assertIn('it is away', error.message)
        self.hard_reboot(server)
        self.assert_agreed(server, **{T4_8Q: 1})

    def test_in_error_with_all_it_has(self) -> None:
        # Placement isn't needed for that.
        server = self.boot(self.flavor(**{T4_8Q: 1}))
        self.api.post_server_action(
            server['id'], {'os-resetState': {'state': 'error'}}
        )

        def away(*args: Any, **kwargs: Any) -> None:
            raise nova_exception.PlacementAPIConnectFailure()

        where = 'nova.scheduler.client.report.SchedulerReportClient'
        with fixtures.MonkeyPatch(f'{where}.get_allocs_for_consumer', away):
            self.hard_reboot(server)
        self.assert_agreed(server, **{T4_8Q: 1})


class ResizeTest(FailuresTest):
    """A server whose resize fails has its old flavor where it went to.

    Nova leaves it the allocation of the new one.
    """

    HOSTS = ('gpu1', 'gpu2')

    def story(
        self, host: str, old: dict[str, int], new: dict[str, int]
    ) -> None:
        server = self.boot(self.flavor(**old), host='gpu1')
        other = 'gpu2' if host == 'gpu1' else 'gpu1'
        self.disable(other)
        with self.no_image():
            self.assertRaises(
                actions.ActionError,
                actions.resize,
                self,
                server,
                self.flavor(**new),
            )
        shown = self.api.get_server(server['id'])
        self.assertEqual(host, shown['OS-EXT-SRV-ATTR:host'])
        for _ in range(2):
            self.hard_reboot(server)
            self.assert_agreed(server, **old)
        self._delete_server(server)
        self.enable(other)

    def disable(self, host: str) -> None:
        self.api.put_service(
            self.api.get_services(binary='nova-compute', host=host)[0]['id'],
            {'status': 'disabled'},
        )

    def enable(self, host: str) -> None:
        self.api.put_service(
            self.api.get_services(binary='nova-compute', host=host)[0]['id'],
            {'status': 'enabled'},
        )

    def test_to_another_host(self) -> None:
        for old, new in (
            ({T4_8Q: 1}, {T4_16Q: 1}),
            ({T4_8Q: 1}, {T4_8Q: 2}),
            ({A100: 2}, {A100: 1}),
            ({A100: 1}, {}),
            ({}, {T4_8Q: 1}),
        ):
            self.story('gpu2', old, new)
            self.assert_audited('gpu2')

    def test_on_the_same_host(self) -> None:
        self.flags(allow_resize_to_same_host=True)
        for old, new in (({T4_8Q: 1}, {T4_16Q: 1}), ({A100: 1}, {A100: 2})):
            self.story('gpu1', old, new)
            self.assert_audited()

    def test_confirmed_on_the_same_host(self) -> None:
        self.flags(allow_resize_to_same_host=True)
        self.disable('gpu2')
        for old, new in (({T4_8Q: 1}, {T4_16Q: 1}), ({A100: 2}, {A100: 1})):
            server = self.boot(self.flavor(**old))
            server = actions.resize(self, server, self.flavor(**new))
            self.assert_audited()
            actions.confirm(self, server)
            # The guest doesn't record what has been given back.
            self.assert_agreed(server, **new)
            self.assert_audited()
        server = actions.resize(self, server, self.flavor())
        actions.confirm(self, server)
        self.assert_audited()

    def test_confirmed_while_libvirt_fails(self) -> None:
        self.flags(allow_resize_to_same_host=True)
        self.disable('gpu2')
        server = self.boot(self.flavor(**{T4_8Q: 1}))
        server = actions.resize(self, server, self.flavor(**{T4_16Q: 1}))

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise base.LibvirtError('it is away')

        where = 'nova.tests.fixtures.libvirt.Domain.setMetadata'
        with fixtures.MonkeyPatch(where, refuse):
            actions.confirm(self, server)
        # As after a kill there: the audit doesn't like it yet.
        self.assertEqual(1, self.run_audit('gpu1')[0])
        self._run_periodics()
        self.assert_agreed(server, **{T4_16Q: 1})
        self.assert_audited()


class LostTest(FailuresTest):
    """Guests that lose their units, or Nova's care."""

    def test_class_that_a_rule_names(self) -> None:
        self.flags(
            rule=[
                json.dumps(
                    {
                        'product_id': '1eb8',
                        'profiles': ['T4-16Q'],
                        'resource_class': 'VGPU',
                    }
                )
            ],
            group='gpu',
        )
        self.restart_gpu_compute('gpu1')
        server = self.boot(self.flavor(VGPU=1))
        # As if killed in a hard reboot, while there is no guest.
        connection = self.computes['gpu1'].driver._host.get_connection()
        domain = connection.lookupByUUIDString(server['id'])
        domain.destroy()
        domain.undefine()
        self.restart_gpu_compute('gpu1')
        self.assertEqual([], self.held(server))
        self.hard_reboot(server)
        self.assert_agreed(server, VGPU=1)
        self.assertEqual(1, len(self.guest_devices(server).mdevs))

    def test_cold_snapshot(self) -> None:
        server = self.boot(self.flavor(**{T4_8Q: 1}))
        before = self.guest_devices(server).mdevs
        driver = self.computes['gpu1'].driver
        context = nova_context.get_admin_context()
        instance = objects.Instance.get_by_uuid(
            context, server['id'], expected_attrs=['flavor']
        )
        guest = driver._host.get_guest(instance)
        state = guest.get_power_state(driver._host)
        driver._suspend_guest_for_snapshot(context, False, state, instance)
        driver._resume_guest_after_snapshot(
            context, False, state, instance, guest
        )
        self.assertEqual(state, guest.get_power_state(driver._host))
        self.assertEqual(before, self.guest_devices(server).mdevs)

    def test_restart_while_a_vgpu_is_taken_out(self) -> None:
        server = self.boot(self.flavor(**{T4_8Q: 1}))
        before = self.hosts['gpu1'].mdevs
        driver = self.computes['gpu1'].driver
        instance = objects.Instance.get_by_uuid(
            nova_context.get_admin_context(), server['id']
        )
        driver._detach_mediated_devices(driver._host.get_guest(instance))
        self.assertEqual(frozenset(), self.guest_devices(server).mdevs)
        self.restart_gpu_compute('gpu1')
        self.assertEqual(before, self.hosts['gpu1'].mdevs)
        self.assert_agreed(server, **{T4_8Q: 1})

    def test_deleted_while_it_starts(self) -> None:
        server = self.boot(self.flavor(**{T4_8Q: 1}))
        server = actions.stop(self, server)
        inside, go_on = threading.Event(), threading.Event()
        self.addCleanup(go_on.set)

        def slow(driver: Any, context: Any, xml: str, *args: Any, **kw: Any):
            driver._host.write_instance_config(xml)
            inside.set()
            go_on.wait(60)
            raise base.LibvirtError('the domain is not running')

        self.useFixture(fixtures.MonkeyPatch(f'{DRIVER}._create_guest', slow))
        start = threading.Thread(target=self.start, args=(server,))
        start.start()
        self.assertTrue(inside.wait(60))
        self._delete_server(server)
        self.assertEqual([], self.hosts['gpu1'].mdevs)
        self.assertEqual(
            frozenset(), self.computes['gpu1'].driver._gpus.consumers()
        )
        go_on.set()
        start.join(60)
        self.assertEqual([], self.hosts['gpu1'].mdevs)

    def start(self, server: Server) -> None:
        with contextlib.suppress(Exception):
            self.api.post_server_action(server['id'], {'os-start': None})

    def set_extra_specs(self, server: Server, **specs: str) -> None:
        """Change those of the flavor that the server has by itself."""
        instance = objects.Instance.get_by_uuid(
            nova_context.get_admin_context(),
            server['id'],
            expected_attrs=['flavor'],
        )
        instance.flavor.extra_specs = specs
        instance.save()

    def test_flavor_with_an_option_that_there_is_not(self) -> None:
        # From before nova-gpu: nobody checked it.
        server = self.boot(self.gpu_flavor())
        self.set_extra_specs(server, **{'gpu:vendor': 'none'})
        self.hard_reboot(server)
        self.api.post_server_action(
            server['id'], {'os-resetState': {'state': 'error'}}
        )
        self.hard_reboot(server)

        server = self.boot(self.flavor(**{T4_8Q: 1}))
        self.set_extra_specs(
            server, **{'gpu:vendor': 'none', f'resources:{T4_8Q}': '1'}
        )
        logs = self.useFixture(fixtures.FakeLogger())
        self.hard_reboot(server)
        self.assertIn('Reboot failed but instance is running', logs.output)
        self.assertIn('gpu:vendor', logs.output)
        self.assertEqual(1, len(self.guest_devices(server).mdevs))
