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

"""Every action on a server, with each kind of unit.

The documentation's table is made of this: a row for each name in a
:func:`rows`, a column for each class, and in a cell either that it works or
the error in the class's ``ERRORS``. See :mod:`tests.functional.actions_table`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import fixtures

from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs
from tests.functional import actions, base, oracle

Server = dict[str, Any]

#: The first with which all that can be moved while it runs is moved, and one
#: with which nothing is.
VERSIONS = {'libvirt_version': 10000000, 'qemu_version': 8002002}
OLD_VERSIONS = {'libvirt_version': 8005000, 'qemu_version': 8000000}


def rows(*names: str) -> Callable[[Any], Any]:
    """Name the rows of the table that a test method fills, in order."""

    def decorate(method: Any) -> Any:
        @functools.wraps(method)
        def run(self: Any) -> None:
            self.shown: list[str] = []
            method(self)
            self.assertEqual(list(names), self.shown)

        run.rows = names  # type: ignore[attr-defined]
        return run

    return decorate


def two_models(fake: FakeSysfs) -> FakeSysfs:
    """Four A100 and two A40, all for passthrough."""
    for index, product in enumerate((0x20B0,) * 4 + (0x2235,) * 2):
        fake.add_gpu(
            f'0000:{0x25 + index:02x}:00.0', product, numa_node=index % 2,
            iommu_group=40 + index,
        )  # fmt: skip
    return fake


NO_HOST = 'No valid host was found.'
NO_ROOM = {
    'Resize, no room': f'{NO_HOST} No valid host found for resize',
    'Cold migration, no room': (
        f'{NO_HOST} No valid host found for cold migrate'
    ),
    'Live migration, no room': NO_HOST,
}

NO_DISPLAY = {
    'Create, with a display': (
        f'{NO_HOST} There are not enough hosts available.'
    ),
    'Suspend, with a display': (
        f'{NO_HOST} There are not enough hosts available.'
    ),
}


class ActionsMixin:
    """The test methods; each tells a story of one server or a few."""

    #: The column's heading.
    kind: str
    #: The resource class of most servers' units, and of others.
    unit: str
    other: str
    #: What has the types of the hosts' cards, in :mod:`tests.fixtures.hosts`.
    types: str = 'T4_TYPES'
    #: What the user is told where it can't be done, by row; the ``server``'s
    #: id and the address of its first ``device`` vary.
    ERRORS: Mapping[str, str] = {}

    # Builds run at once, and what fails later is no error of the API.
    CAST_AS_CALL = False

    def make(self, fake: FakeSysfs) -> FakeSysfs:
        """Put the cards of one host into it."""
        raise NotImplementedError

    def setUp(self: Any) -> None:
        self.flags(allow_resize_to_same_host=True, shelved_offload_time=-1)
        super().setUp()  # type: ignore[misc]

    def start(self: Any, *names: str, **versions: int) -> None:
        """Start hosts with cards of the kind."""
        for name in names:
            self.make(self.new_host(name))
            self.start_gpu_compute(name, **(versions or VERSIONS))

    def flavor(self: Any, count: int = 1, unit: str | None = None) -> str:
        """A flavor with so many units."""
        if not count:
            return self.gpu_flavor()
        return self.gpu_flavor(**{f'resources__{unit or self.unit}': count})

    def create(self: Any, count: int = 1, host: str | None = None) -> Server:
        """A server with so many units, whose creation isn't a row."""
        server = actions.create(self, self.flavor(count), host)
        self.assert_consistent()
        return server

    def held(self: Any, server: Server) -> frozenset[str]:
        """The devices in the server's domain, wherever it is."""
        return oracle.devices_of(self.domain_xml(server))

    def act(
        self: Any, row: str, perform: Callable[..., Any], *args: Any, **kw: Any
    ) -> Any:
        """Do what fills a row, with everything consistent afterwards.

        Returns what ``perform`` does; None where the row is an error, after
        which everything is as it was.
        """
        self.shown.append(row)
        expected = self.ERRORS.get(row)
        if expected is None:
            done = perform(self, *args, **kw)
            self.assert_consistent()
            return done
        before = self.everything()
        told = {}
        if isinstance(args[0], dict):
            told['server'] = args[0]['id']
            told['device'] = min(self.held(args[0]))
        error = self.assertRaises(
            actions.ActionError, perform, self, *args, **kw
        )
        self.assertEqual(expected.format(**told), error.message)
        self.assertEqual(before, self.everything())
        self.assert_consistent()
        return None

    def everything(self: Any) -> object:
        """All hosts' GPUs, and the servers."""
        shown = ('id', 'status', 'flavor', 'OS-EXT-SRV-ATTR:host')
        return (
            [self.gpu_state(name) for name in self.computes],
            [{key: s[key] for key in shown} for s in self.api.get_servers()],
        )

    def end(self: Any, *servers: Server) -> None:
        """Delete the servers: nothing is left of them."""
        for server in servers:
            actions.delete(self, server)
        self.assert_all_free()

    # Beginning and end.

    @rows('Create', 'Delete')
    def test_create_and_delete(self: Any) -> None:
        self.start('gpu1')
        server = self.act('Create', actions.create, self.flavor(2))
        self.assertEqual(2, len(self.held(server)))
        self.act('Delete', actions.delete, server)
        self.assert_all_free()

    @rows('Create, several by one request')
    def test_create_many(self: Any) -> None:
        self.start('gpu1', 'gpu2')
        servers = self.act(
            'Create, several by one request', actions.create_many,
            self.flavor(), 3,
        )  # fmt: skip
        self.assertEqual(['ACTIVE'] * 3, [s['status'] for s in servers])
        self.end(*servers)

    @rows(
        'Create, in a group with affinity',
        'Create, in a group with anti-affinity',
    )
    def test_groups(self: Any) -> None:
        self.start('gpu1', 'gpu2')
        flavor = self.flavor()
        servers = []
        for policy, count in (('affinity', 1), ('anti-affinity', 2)):
            group = self.api.post_server_groups(
                {'name': policy, 'policy': policy}
            )
            hints = {'group': group['id']}
            servers.append(actions.create(self, flavor, hints=hints))
            servers.append(
                self.act(
                    f'Create, in a group with {policy}', actions.create,
                    flavor, hints=hints,
                )
            )  # fmt: skip
            where = {s['OS-EXT-SRV-ATTR:host'] for s in servers[-2:]}
            self.assertEqual(count, len(where))
        self.end(*servers)

    @rows('Create, from a volume', 'Create, with a config drive')
    def test_volume_and_config_drive(self: Any) -> None:
        self.start('gpu1')
        volume = {
            'boot_index': 0,
            'uuid': base.VOLUME,
            'source_type': 'volume',
            'destination_type': 'volume',
        }
        first = self.act(
            'Create, from a volume', actions.create, self.flavor(),
            block_device_mapping_v2=[volume],
        )  # fmt: skip
        self.assertEqual('', first['image'])
        second = self.act(
            'Create, with a config drive', actions.create, self.flavor(),
            config_drive=True,
        )  # fmt: skip
        self.assertEqual('True', second['config_drive'])
        self.end(first, second)

    # On the server's own host.

    @rows('Reboot, soft', 'Reboot, hard', 'Stop', 'Start', 'Pause', 'Unpause')
    def test_power(self: Any) -> None:
        self.start('gpu1')
        server = self.create(2)
        held = self.held(server)
        for row, perform in (
            ('Reboot, soft', actions.reboot_soft),
            ('Reboot, hard', actions.reboot_hard),
            ('Stop', actions.stop),
            ('Start', actions.start),
            ('Pause', actions.pause),
            ('Unpause', actions.unpause),
        ):
            server = self.act(row, perform, server)
            self.assertEqual(held, self.held(server))
        self.end(server)

    @rows('Suspend', 'Resume')
    def test_suspend(self: Any) -> None:
        self.start('gpu1')
        server = self.create()
        held = self.held(server)
        self.act('Suspend', actions.suspend, server)
        # What a suspended guest holds is nobody else's.
        other = self.create()
        self.act('Resume', actions.resume, server)
        self.assertEqual(held, self.held(server))
        self.end(server, other)

    @rows('Create, with a display', 'Suspend, with a display')
    def test_display(self: Any) -> None:
        def create(test: Any, flavor: str) -> Server:
            try:
                return actions.create(test, flavor)
            except actions.ActionError as exc:
                actions.delete(test, exc.server)
                raise

        self.start('gpu1')
        flavor = self.gpu_flavor(
            **{f'resources__{self.unit}': 1, 'gpu__display': 'on'}
        )
        server = self.act('Create, with a display', create, flavor)
        if server is None:
            # Then there is none that could be suspended.
            self.act('Suspend, with a display', create, flavor)
            return
        self.act('Suspend, with a display', actions.suspend, server)
        self.end(server)

    @rows('Rebuild', 'Rebuild, with another image')
    def test_rebuild(self: Any) -> None:
        self.start('gpu1')
        server = self.create(2)
        held = self.held(server)
        server = self.act('Rebuild', actions.rebuild, server)
        self.assertEqual(held, self.held(server))
        server = self.act(
            'Rebuild, with another image', actions.rebuild, server,
            image=base.OTHER_IMAGE,
        )  # fmt: skip
        self.assertEqual(held, self.held(server))
        self.end(server)

    @rows('Rescue', 'Unrescue')
    def test_rescue(self: Any) -> None:
        self.start('gpu1')
        server = self.create(2)
        held = self.held(server)
        server = self.act('Rescue', actions.rescue, server)
        self.assertEqual(held, self.held(server))
        server = self.act('Unrescue', actions.unrescue, server)
        self.assertEqual(held, self.held(server))
        self.end(server)

    @rows(
        'Shelve',
        'Unshelve, before it was offloaded',
        'Shelve, offload',
        'Unshelve',
    )
    def test_shelve(self: Any) -> None:
        self.start('gpu1', 'gpu2')
        server = self.create(2, host='gpu1')
        held = self.held(server)
        server = self.act('Shelve', actions.shelve, server)
        self.assertEqual(held, self.held(server))
        server = self.act(
            'Unshelve, before it was offloaded', actions.unshelve, server
        )
        self.assertEqual(held, self.held(server))
        server = actions.shelve(self, server)
        server = self.act('Shelve, offload', actions.shelve_offload, server)
        self.assert_all_free()
        server = self.act('Unshelve', actions.unshelve, server, host='gpu2')
        self.assertEqual('gpu2', server['OS-EXT-SRV-ATTR:host'])
        self.end(server)

    # From one host to another, or from one flavor to another.

    def decide(
        self: Any,
        row: str,
        perform: Callable[..., Server],
        server: Server,
        end: Callable[..., Server],
        **options: Any,
    ) -> Server:
        """Do what awaits a decision, and decide."""
        here = server['OS-EXT-SRV-ATTR:host']
        before = self.held(server)
        waiting = perform(self, server, **options)
        self.assert_consistent()
        there = waiting['OS-EXT-SRV-ATTR:host']
        self.assertEqual(options.get('host', there), there)
        now = self.held(waiting)
        if here == there:
            # Both are held until the user has decided.
            self.assertEqual(frozenset(), before & now)
        decided: Server = self.act(row, end, waiting)
        back = end is actions.revert
        self.assertEqual(
            here if back else there, decided['OS-EXT-SRV-ATTR:host']
        )
        self.assertEqual(before if back else now, self.held(decided))
        return decided

    def resize(
        self: Any, what: str, server: Server, flavor: str, host: str
    ) -> Server:
        """Resize a server, revert that, and do it again and confirm it."""
        here = server['OS-EXT-SRV-ATTR:host']
        where = 'same host' if host == here else 'another host'
        for end in (actions.revert, actions.confirm):
            server = self.decide(
                f'Resize {what}, {where}, {end.__name__}', actions.resize,
                server, end, flavor=flavor, host=host,
            )  # fmt: skip
        self.assertEqual(flavor_name(self, flavor), server_flavor(server))
        return server

    @rows(
        'Resize to another count, same host, revert',
        'Resize to another count, same host, confirm',
        'Resize to another count, another host, revert',
        'Resize to another count, another host, confirm',
    )
    def test_resize_to_another_count(self: Any) -> None:
        self.start('gpu1', 'gpu2')
        one, two = self.flavor(1), self.flavor(2)
        server = actions.create(self, one, 'gpu1')
        server = self.resize('to another count', server, two, 'gpu1')
        server = self.resize('to another count', server, one, 'gpu2')
        self.end(server)

    @rows(
        'Resize to another profile or model, same host, revert',
        'Resize to another profile or model, same host, confirm',
        'Resize to another profile or model, another host, revert',
        'Resize to another profile or model, another host, confirm',
    )
    def test_resize_to_another_profile(self: Any) -> None:
        self.start('gpu1', 'gpu2')
        one, other = self.flavor(), self.flavor(unit=self.other)
        server = actions.create(self, one, 'gpu1')
        what = 'to another profile or model'
        server = self.resize(what, server, other, 'gpu1')
        server = self.resize(what, server, one, 'gpu2')
        self.end(server)

    @rows(
        'Resize from none, same host, revert',
        'Resize from none, same host, confirm',
        'Resize to none, same host, revert',
        'Resize to none, same host, confirm',
        'Resize from none, another host, revert',
        'Resize from none, another host, confirm',
        'Resize to none, another host, revert',
        'Resize to none, another host, confirm',
    )
    def test_resize_from_and_to_none(self: Any) -> None:
        self.start('gpu1', 'gpu2')
        none, one = self.flavor(0), self.flavor(1)
        server = actions.create(self, none, 'gpu1')
        server = self.resize('from none', server, one, 'gpu1')
        server = self.resize('to none', server, none, 'gpu1')
        server = self.resize('from none', server, one, 'gpu2')
        server = self.resize('to none', server, none, 'gpu1')
        self.end(server)

    @rows('Cold migration, revert', 'Cold migration, confirm')
    def test_cold_migration(self: Any) -> None:
        self.start('gpu1', 'gpu2')
        server = self.create(2, host='gpu1')
        for end in (actions.revert, actions.confirm):
            server = self.decide(
                f'Cold migration, {end.__name__}', actions.cold_migrate,
                server, end, host='gpu2',
            )  # fmt: skip
        self.end(server)

    @rows('Live migration')
    def test_live_migration(self: Any) -> None:
        self.start('gpu1', 'gpu2')
        server = self.create(2, host='gpu1')
        self.create(1, host='gpu2')
        moved = self.act(
            'Live migration', actions.live_migrate, server, host='gpu2'
        )
        if moved:
            self.assertEqual('gpu2', moved['OS-EXT-SRV-ATTR:host'])
            self.assertEqual(2, len(self.held(moved)))
        self.end(*self.api.get_servers())

    @rows('Live migration, from a host with libvirt 8.5')
    def test_live_migration_with_old_versions(self: Any) -> None:
        self.start('gpu1', **OLD_VERSIONS)
        self.start('gpu2')
        server = self.create(1, host='gpu1')
        self.act(
            'Live migration, from a host with libvirt 8.5',
            actions.live_migrate, server, host='gpu2',
        )  # fmt: skip
        self.end(server)

    @rows('Live migration, another type at the destination')
    def test_live_migration_to_another_type(self: Any) -> None:
        self.start('gpu1')
        with self.other_types():
            self.start('gpu2')
        server = self.create(1, host='gpu1')
        self.act(
            'Live migration, another type at the destination',
            actions.live_migrate, server, host='gpu2',
        )  # fmt: skip
        self.end(server)

    def other_types(self: Any) -> Any:
        """Let hosts have types with the same names and other numbers."""
        name = self.types
        types = tuple(
            dataclasses.replace(kind, id=kind.id.replace('-', '-1'))
            for kind in getattr(hosts, name)
        )
        return fixtures.MonkeyPatch(f'tests.fixtures.hosts.{name}', types)

    @rows('Live migration, taken back when it fails')
    def test_live_migration_that_fails(self: Any) -> None:
        def fail(domain: Any, *args: Any, **kwargs: Any) -> None:
            domain.fail_job()
            raise base.LibvirtError('the guest does not converge')

        def migrate(test: Any, server: Server, **options: Any) -> Server:
            error = test.assertRaises(
                actions.ActionError, actions.live_migrate, test, server,
                **options,
            )  # fmt: skip
            if error.message != actions.FAILED:
                raise error
            return cast(Server, error.server)

        self.start('gpu1', 'gpu2')
        server = self.create(2, host='gpu1')
        held = self.held(server)
        with fixtures.MonkeyPatch(
            'nova.tests.fixtures.libvirt.Domain.migrateToURI3', fail
        ):
            self.act(
                'Live migration, taken back when it fails', migrate, server,
                host='gpu2',
            )  # fmt: skip
        # Nova leaves it in an error, from which it comes back.
        server = actions.reboot_hard(self, server)
        self.assertEqual(held, self.held(server))
        self.assertEqual({}, self.nonzero_usages('gpu2'))
        self.end(server)

    @rows(
        'Delete, while a resize on the same host waits',
        'Delete, while a resize to another host waits',
    )
    def test_delete_while_a_resize_waits(self: Any) -> None:
        self.start('gpu1', 'gpu2')
        for where, host in (('on the same', 'gpu1'), ('to another', 'gpu2')):
            server = self.create(1, host='gpu1')
            server = actions.resize(
                self, server, flavor=self.flavor(2), host=host
            )
            self.assert_consistent()
            self.act(
                f'Delete, while a resize {where} host waits', actions.delete,
                server,
            )  # fmt: skip
            self.assert_all_free()

    @rows('Resize, no room', 'Cold migration, no room',
          'Live migration, no room')  # fmt: skip
    def test_no_room(self: Any) -> None:
        self.start('gpu1')
        self.new_host('plain')
        self.start_gpu_compute('plain', **VERSIONS)
        server = self.create(1, host='gpu1')
        self.act(
            'Resize, no room', actions.resize, server, flavor=self.flavor(99)
        )
        self.act(
            'Cold migration, no room', actions.cold_migrate, server,
            host='plain',
        )  # fmt: skip
        self.act(
            'Live migration, no room', actions.live_migrate, server,
            host='plain',
        )  # fmt: skip
        self.end(server)

    @rows('Evacuation', 'Return of the host after an evacuation')
    def test_evacuation(self: Any) -> None:
        self.start('gpu1', 'gpu2')
        server = self.create(2, host='gpu1')
        self.create(1, host='gpu2')
        server = self.act('Evacuation', actions.evacuate, server)
        self.assertEqual('gpu2', server['OS-EXT-SRV-ATTR:host'])
        held = self.held(server)
        self.assertEqual(2, len(held))
        self.act(
            'Return of the host after an evacuation', actions.bring_back,
            'gpu1',
        )  # fmt: skip
        self.assertEqual(held, self.held(server))
        self.assertEqual({}, self.nonzero_usages('gpu1'))
        self.end(*self.api.get_servers())


def flavor_name(test: Any, flavor: str) -> str:
    """The name of a flavor, which servers show in place of its id."""
    name: str = test.api.get_flavor(flavor)['name']
    return name


def server_flavor(server: Server) -> str:
    """The name of a server's flavor."""
    name: str = server['flavor']['original_name']
    return name


class WholeCardTest(ActionsMixin, base.GpuServersTest):
    """Cards that are passed through."""

    kind = 'Whole card'
    unit = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
    other = 'CUSTOM_GPU_NVIDIA_A40'
    ERRORS = {
        'Suspend': (
            'Failed to suspend instance: GPU {device} is passed through '
            'to the instance, and its state can not be saved'
        ),
        **NO_DISPLAY,
        'Resume': (
            "Cannot 'resume' instance {server} while it is in vm_state active"
        ),
        'Live migration': (
            'Migration pre-check error: GPU {device} is passed through to '
            'instance {server} as it is, and can not be moved while it is in '
            'use: stop the server and migrate it cold'
        ),
        'Live migration, from a host with libvirt 8.5': (
            'Migration pre-check error: GPU {device} is passed through to '
            'instance {server} as it is, and can not be moved while it is in '
            'use: stop the server and migrate it cold'
        ),
        'Live migration, another type at the destination': (
            'Migration pre-check error: GPU {device} is passed through to '
            'instance {server} as it is, and can not be moved while it is in '
            'use: stop the server and migrate it cold'
        ),
        'Live migration, taken back when it fails': (
            'Migration pre-check error: GPU {device} is passed through to '
            'instance {server} as it is, and can not be moved while it is in '
            'use: stop the server and migrate it cold'
        ),
        **NO_ROOM,
    }

    def make(self, fake: FakeSysfs) -> FakeSysfs:
        return two_models(fake)


class MdevTest(ActionsMixin, base.GpuServersTest):
    """vGPUs that are mediated devices."""

    kind = 'vGPU, mediated device'
    unit = 'CUSTOM_VGPU_NVIDIA_T4_4Q'
    other = 'CUSTOM_VGPU_NVIDIA_T4_8Q'
    ERRORS = {
        'Suspend, with a display': (
            'Failed to suspend instance: vGPU {device} shows the screen of '
            'the instance, and can not be detached'
        ),
        'Live migration, another type at the destination': (
            'Migration pre-check error: vGPU {device} is GRID T4-4Q '
            '(nvidia-232, mdev), and the destination gives GRID T4-4Q '
            '(nvidia-1232)'
        ),
        'Live migration, from a host with libvirt 8.5': (
            'Migration pre-check error: Unable to migrate {server}: Either '
            'libvirt or QEMU version for compute service source are too old '
            'than the supported ones : (QEMU: 8.1.0, libvirt: 8.6.0)'
        ),
        **NO_ROOM,
    }

    def make(self, fake: FakeSysfs) -> FakeSysfs:
        return hosts.four_t4(fake)


class VendorVfioTest(ActionsMixin, base.GpuServersTest):
    """vGPUs that are virtual functions with the vendor's own interface."""

    kind = 'vGPU, vendor-specific VFIO'
    unit = 'CUSTOM_VGPU_NVIDIA_A10_8Q'
    other = 'CUSTOM_VGPU_NVIDIA_A10_12Q'
    types = 'A10_TYPES'
    ERRORS = {
        'Live migration, another type at the destination': (
            'Migration pre-check error: vGPU {device} is NVIDIA A10-8Q '
            '(595, vendor_vfio), and the destination gives NVIDIA '
            'A10-8Q (1595)'
        ),
        'Suspend': (
            'Failed to suspend instance: GPU {device} is passed through '
            'to the instance, and its state can not be saved'
        ),
        **NO_DISPLAY,
        'Resume': (
            "Cannot 'resume' instance {server} while it is in vm_state active"
        ),
        'Live migration, from a host with libvirt 8.5': (
            'Migration pre-check error: vGPU {device} of instance '
            '{server} needs libvirt 10.0.0 and QEMU 8.2.2 to be moved while '
            'it is in use, and host gpu1 has older ones'
        ),
        **NO_ROOM,
    }

    def make(self, fake: FakeSysfs) -> FakeSysfs:
        return hosts.a10_vendor_vfio(fake)
