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

"""A cloud in one process, with GPU hosts.

Besides :mod:`tests.upstream`, the one file that imports ``nova.tests``, which
is private to Nova. Nova's API, conductor, scheduler and computes are real, and
so is Placement; libvirt is Nova's fake, the hosts are
:class:`tests.fixtures.sysfs.FakeSysfs`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import logging
import os
import pathlib
import pickle
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
import types
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import fixtures
import testtools
from lxml import etree
from nova import context as nova_context
from nova import objects
from nova.compute import task_states
from nova.db.api import api as api_db
from nova.scheduler.client.report import SchedulerReportClient
from nova.tests import fixtures as nova_fixtures
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.tests.fixtures.nova import DB_SCHEMA
from nova.tests.functional.api import client
from nova.tests.functional.libvirt import base as nova_base
from nova.virt.libvirt import utils as libvirt_utils
from oslo_messaging import opts as messaging_opts
from oslo_utils import uuidutils
from oslo_utils.fixture import uuidsentinel
from placement import db_api as placement_db
from sqlalchemy import pool

from nova_gpu import conf as gpu_conf
from nova_gpu.cli import main
from nova_gpu.mechanism.base import Effects
from nova_gpu.model.guest import NAMESPACE, GuestDevices, parse_guest
from nova_gpu.virt.driver import CONF, GpuLibvirtDriver
from tests.fixtures.sysfs import FakeSysfs
from tests.functional import oracle

#: The release of Nova that the tests run on.
NOVA_RELEASE = int(importlib.metadata.version('nova').partition('.')[0])
#: What the API client raises; tests take it from here.
ApiError = client.OpenStackApiException
#: A volume with an image on it, and an image that servers don't have.
VOLUME = nova_fixtures.CinderFixture.IMAGE_BACKED_VOL
OTHER_IMAGE = nova_fixtures.GlanceFixture.image5['id']
#: What the fake libvirt raises.
LibvirtError = fakelibvirt.libvirtError

# Nova's thread pools say that they end when nobody captures logs any more.
logging.getLogger('nova.thread_pool_factory').setLevel(logging.WARNING)

#: How long servers may take, in seconds: longer than Nova's own tests let
#: them, since two cores may be busy with other work.
PATIENCE = 600
#: The moment after which no test begins, in seconds since the epoch.
UNTIL = float(os.environ.get('NOVA_GPU_TESTS_UNTIL') or 'inf')
#: The hosts of this process by their root, for the driver to find.
HOSTS: dict[str, FakeSysfs] = {}
#: What happens on them while nova-compute waits for a driver.
PAUSES: dict[str, Callable[[], None]] = {}

#: Held by who changes ``CONF.host`` for a moment.
HOST_NAME = threading.Lock()

#: The documents that libvirt is expected to be given, by form.
GOLDEN = pathlib.Path(__file__).parent / 'xml'
#: Set it to write them anew; look at each before it is committed.
WRITE_GOLDEN = 'NOVA_GPU_WRITE_GOLDEN'
NOVA_NAMESPACE = 'http://openstack.org/xmlns/libvirt/nova/1.1'


def skip_if_late(test: testtools.TestCase) -> None:
    """Skip a test for which no time is left."""
    if time.time() > UNTIL:
        test.skipTest('the time for all tests is over')


class ReadersFirstLock:
    """A lock of many readers or one writer, in which writers wait.

    Nova's fixture for cells has one in which a waiting writer keeps new
    readers out. Together with its lock for writes to the database that is a
    deadlock as soon as builds really run at once: who holds the database
    waits to read the cell, behind a writer that waits for a reader who waits
    for the database.
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._readers = 0

    @contextlib.contextmanager
    def read_lock(self) -> Iterator[None]:
        with self._free:
            self._readers += 1
        try:
            yield
        finally:
            with self._free:
                self._readers -= 1
                self._free.notify_all()

    @contextlib.contextmanager
    def write_lock(self) -> Iterator[None]:
        with self._free:
            self._free.wait_for(lambda: not self._readers)
            # What is done here is short: readers may as well wait for it.
            yield


class HostMdevs(fakelibvirt.HostMdevDevicesInfo):
    """The mediated devices of a FakeSysfs, as libvirt lists them."""

    def __init__(self, fake: FakeSysfs) -> None:
        self._fake = fake

    @property
    def devices(self) -> dict[str, Any]:
        found = {}
        for uuid in self._fake.mdevs:
            device = self._fake.device(uuid)
            parent = device.parent.name
            for mark in ':.':
                parent = parent.replace(mark, '_')
            name = libvirt_utils.mdev_uuid2name(uuid)
            found[name] = fakelibvirt.FakeMdevDevice(
                name, (device / 'mdev_type').readlink().name, f'pci_{parent}'
            )
        return found


def mdev_of(hostdev: etree._Element) -> str | None:
    """The UUID of the mediated device that a ``<hostdev>`` is, if any."""
    found = hostdev.find('source/address')
    return None if found is None else found.get('uuid')


def attach_mdev(domain: Any, xml: str, flags: int) -> None:
    """Give a running domain an mdev back, as the fake libvirt can't."""
    domain.detached.discard(mdev_of(etree.fromstring(xml)))


def detach_mdev(domain: Any, xml: str, flags: int) -> None:
    """Take an mdev from a running domain: its definition keeps it."""
    domain.detached.add(mdev_of(etree.fromstring(xml)))


def take_over(domain: Any, before: Any) -> None:
    """A new definition of a domain doesn't stop it."""
    domain._has_saved_state = before._has_saved_state
    domain.detached = before.detached
    domain._state, domain._id = before._state, before._id
    running = domain._connection._running_vms
    for number, other in running.items():
        if other is before:
            running[number] = domain


class FakeHostGpuLibvirtDriver(GpuLibvirtDriver):
    """Our driver on a host whose kernel is a FakeSysfs."""

    def __init__(self, virtapi: Any, read_only: bool = False) -> None:
        super().__init__(virtapi, read_only)
        root = CONF.gpu.host_root
        # No time passes while nova-compute waits: something happens, or
        # the test expects that it doesn't wait.
        self._gpu_restorer._pause = lambda seconds: PAUSES[root]()

    def _gpu_effects(self) -> Effects:
        return HOSTS[CONF.gpu.host_root]

    def _cleanup_resize(self, *args: Any) -> None:
        # Nova asks the configuration on which host it is, and all computes
        # of this process have one configuration.
        with HOST_NAME:
            before = CONF.host
            CONF.set_override('host', self._host.get_hostname())
            try:
                super()._cleanup_resize(*args)
            finally:
                CONF.set_override('host', before)


# Nova loads drivers from below nova.virt, under whatever name is there.
_module = types.ModuleType('nova.virt.fake_gpu')
_module.FakeHostGpuLibvirtDriver = FakeHostGpuLibvirtDriver  # type: ignore[attr-defined]
sys.modules[_module.__name__] = _module


class GpuServersTest(nova_base.ServersTestBase):
    """Base of the functional tests: start GPU hosts, boot servers."""

    ADMIN_API = True
    microversion = 'latest'
    REQUIRES_LOCKING = True
    NUMA_NODES = 2
    #: ``[gpu] restore_timeout``
    RESTORE_TIMEOUT = 0

    def setUp(self) -> None:
        skip_if_late(self)
        gpu_conf.register_opts(CONF)
        self.flags(
            available_filters=[
                'nova.scheduler.filters.all_filters',
                'nova_gpu.scheduler.filter.GpuFilter',
            ],
            weight_classes=[
                'nova.scheduler.weights.all_weighers',
                'nova_gpu.scheduler.weigher.GpuWeigher',
                'nova_gpu.scheduler.weigher.GpuAvoidWeigher',
            ],
            group='filter_scheduler',
        )
        self.flags(instances=-1, cores=-1, ram=-1, group='quota')
        # A thread for each of the first messages, of which none ends: by
        # default 64 a service, who wake each second and wait for each other.
        CONF.register_opts(
            option
            for _, options in messaging_opts.list_opts()
            for option in options
            if option.dest == 'executor_thread_pool_size'
        )
        self.flags(executor_thread_pool_size=16)
        # What computes tell schedulers of instances may need the database of
        # a cell, which waits for who holds it: computes that wait for an
        # answer, as casts are calls here.
        self.flags(track_instance_changes=False, group='filter_scheduler')
        # Without eventlet Nova's fixtures have their databases in files. A
        # new connection for each session, as oslo.db makes it for files,
        # reads the schema anew: half of the time that a test takes.
        self.useFixture(
            fixtures.MonkeyPatch(
                'oslo_db.sqlalchemy.engines.pool.NullPool', pool.QueuePool
            )
        )
        super().setUp()
        # Services have several threads, even if a cast waits for its end.
        cells = nova_context.target_cell.__self__
        cells._cell_lock = ReadersFirstLock()
        self.hosts: dict[str, FakeSysfs] = {}
        #: Every domain definition that libvirt was given, by domain name.
        self.defined: dict[str, str] = {}
        self._record_definitions()
        self._mend_libvirt()
        self._leave_disks_alone()

    ADDITIONAL_FILTERS = ['GpuFilter']

    def _setup_compute_service(self) -> None:
        self.flags(compute_driver='fake_gpu.FakeHostGpuLibvirtDriver')

    def _record_definitions(self) -> None:
        # The fake libvirt drops what it doesn't know from the XML that it
        # gives back (display, guest addresses): keep what it was given.
        define = fakelibvirt.Connection.defineXML

        def recording(connection: Any, xml: str) -> Any:
            name = etree.fromstring(xml).findtext('name')
            self.defined[name] = xml
            before = connection._vms.get(name)
            domain = define(connection, xml)
            domain.given = xml
            domain.detached = set()
            if before is not None:
                take_over(domain, before)
            return domain

        self.useFixture(
            fixtures.MonkeyPatch(
                'nova.tests.fixtures.libvirt.Connection.defineXML', recording
            )
        )

    def _mend_libvirt(self) -> None:
        """Let the fake libvirt do what ours and Nova's code rely on."""
        describe = fakelibvirt.Domain.XMLDesc
        start = fakelibvirt.Domain.createWithFlags
        keeps_functions = hasattr(fakelibvirt, '_parse_hostdev_info')

        def describe_whole(domain: Any, flags: int) -> str:
            # It drops the metadata, which a real libvirt keeps as it is, and
            # up to Nova 30 the devices that are PCI functions.
            root = etree.fromstring(describe(domain, flags))
            given = etree.fromstring(getattr(domain, 'given', '<domain/>'))
            if not keeps_functions:
                root.find('devices').extend(
                    given.findall("devices/hostdev[@type='pci']")
                )
            for name in (
                f'{{{NOVA_NAMESPACE}}}instance',
                f'{{{NAMESPACE}}}units',
            ):
                recorded = given.find(f'metadata/{name}')
                if recorded is not None:
                    metadata = root.find('metadata')
                    if metadata is None:
                        metadata = etree.SubElement(root, 'metadata')
                    metadata.append(recorded)
            runs = domain._state != fakelibvirt.VIR_DOMAIN_SHUTOFF
            for hostdev in root.findall("devices/hostdev[@type='mdev']"):
                hostdev.set('managed', 'no')
                if runs and mdev_of(hostdev) in domain.detached:
                    hostdev.getparent().remove(hostdev)
            return etree.tostring(root, encoding='unicode')

        def set_metadata(
            domain: Any,
            kind: int,
            text: str | None,
            key: str,
            uri: str,
            flags: int = 0,
        ) -> None:
            # The fake one does nothing. A real one adds the namespace to what
            # has none, and can't if there is one of that prefix.
            root = etree.fromstring(domain.given)
            metadata = root.find('metadata')
            for element in metadata:
                if etree.QName(element).namespace == uri:
                    metadata.remove(element)
            if text is not None:
                recorded = etree.fromstring(text)
                if key in recorded.nsmap:
                    raise LibvirtError('failed to create a new XML namespace')
                for element in recorded.iter():
                    if etree.QName(element).namespace is None:
                        element.tag = f'{{{uri}}}{element.tag}'
                metadata.append(recorded)
            domain.given = etree.tostring(root, encoding='unicode')

        def start_or_resume(domain: Any, flags: int) -> None:
            if not domain.hasManagedSaveImage(0):
                domain.detached.clear()
            start(domain, flags)

        def shut_down(domain: Any) -> None:
            # A guest that obeys at once: nobody has to wait.
            domain.destroy()

        def save(domain: Any, flags: int) -> None:
            domain.destroy()
            domain._has_saved_state = True

        def forget(domain: Any, flags: int = 0) -> None:
            # Undefining a guest calls it without flags.
            domain._has_saved_state = False

        for name, mended in (
            ('managedSaveRemove', forget),
            ('XMLDesc', describe_whole),
            ('createWithFlags', start_or_resume),
            ('shutdown', shut_down),
            ('managedSave', save),
            ('setMetadata', set_metadata),
            ('attachDeviceFlags', attach_mdev),
            ('detachDeviceFlags', detach_mdev),
            ('migrateToURI3', self._migrate),
        ):
            self.useFixture(
                fixtures.MonkeyPatch(
                    f'nova.tests.fixtures.libvirt.Domain.{name}', mended
                )
            )

    def _migrate(
        self, domain: Any, uri: str, params: dict[str, Any], flags: int
    ) -> None:
        """Move a running guest to another host of this process."""
        name = str(urllib.parse.urlparse(uri).hostname)
        xml = params['destination_xml']
        self._check_devices(domain, self.hosts[name], xml)
        target = self.computes[name].driver._host.get_connection()
        target.defineXML(xml).create()
        domain._connection._vms.pop(domain.name())
        domain.destroy()
        domain.complete_job()

    def _check_devices(self, domain: Any, fake: FakeSysfs, xml: str) -> None:
        """Refuse a migration as a real libvirt does."""
        typed = {
            function
            for card in fake.vgpu_cards
            for function, _ in fake.made(card)
        }
        for hostdev in etree.fromstring(xml).iterfind('devices/hostdev'):
            if hostdev.get('type') == 'mdev':
                mdev = mdev_of(hostdev)
                if mdev in fake.mdevs:
                    continue
                reason = f'mediated device {mdev} not found'
            else:
                (function,) = oracle.devices_of_element(hostdev)
                if function in typed:
                    continue
                reason = (
                    'cannot migrate a domain with <hostdev '
                    "mode='subsystem' type='pci'>"
                )
            domain.fail_job()
            raise fakelibvirt.libvirtError(reason)

    def _leave_disks_alone(self) -> None:
        """Moving and making disks is not ours to test."""

        def power_off(driver: Any, context: Any, instance: Any, *_: Any,
                      **__: Any) -> str:  # fmt: skip
            driver.power_off(instance)
            return '{}'

        def make_folder(driver: Any, context: Any, instance: Any, *_: Any,
                        **__: Any) -> tuple[bool, bool]:  # fmt: skip
            folder = libvirt_utils.get_instance_path(instance)
            os.makedirs(folder, exist_ok=True)
            return False, False

        def snapshot(driver: Any, context: Any, instance: Any, image: str,
                     update_task_state: Any) -> None:  # fmt: skip
            update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)
            update_task_state(
                task_state=task_states.IMAGE_UPLOADING,
                expected_state=task_states.IMAGE_PENDING_UPLOAD,
            )

        for name, instead in (
            ('migrate_disk_and_power_off', power_off),
            ('_create_image', make_folder),
            ('snapshot', snapshot),
        ):
            self.useFixture(
                fixtures.MonkeyPatch(
                    f'nova.virt.libvirt.driver.LibvirtDriver.{name}', instead
                )
            )
        self.useFixture(
            fixtures.MonkeyPatch(
                'nova.virt.configdrive.ConfigDriveBuilder.make_drive',
                lambda builder, path: None,
            )
        )

    # Hosts.

    def new_host(self, name: str) -> FakeSysfs:
        """An empty FakeSysfs that a compute of that name will have."""
        root = self._host_root(name)
        fake = FakeSysfs(root)
        HOSTS[root] = self.hosts[name] = fake
        self.addCleanup(HOSTS.pop, root)
        return fake

    def _host_root(self, name: str) -> str:
        root: str = self.useFixture(fixtures.TempDir()).path
        return root

    def start_gpu_compute(self, name: str, **kwargs: Any) -> Any:
        """Start nova-compute on the host made by :meth:`new_host`."""
        self._use_host(name)
        if 'host_info' not in kwargs and 'connection' not in kwargs:
            kwargs['host_info'] = self._host_info()
        self.start_compute(hostname=name, **kwargs)
        return self.computes[name]

    def _host_info(self) -> Any:
        return fakelibvirt.HostInfo(
            cpu_nodes=self.NUMA_NODES, cpu_sockets=1, cpu_cores=3,
            cpu_threads=2, kB_mem=256 * 1024 * 1024,
        )  # fmt: skip

    def start_second_scheduler(self) -> None:
        """Start another nova-scheduler: requests go to both in turn."""
        self.useFixture(
            nova_fixtures.ServiceFixture('scheduler', host='scheduler2')
        )

    def restart_gpu_compute(self, name: str) -> Any:
        """Stop nova-compute and start it again; the guests run on."""
        self._use_host(name)
        self.restart_compute_service(name)
        return self.computes[name]

    def on_pause(self, name: str, happens: Callable[[], None]) -> None:
        """Let something happen while nova-compute waits on that host."""
        root = str(self.hosts[name].root)
        PAUSES[root] = happens
        self.addCleanup(PAUSES.pop, root, None)

    def nova_gpu(self, name: str, *args: str) -> tuple[int, str, str]:
        """Run the command ``nova-gpu`` on a host: code, stdout, stderr."""
        return self.run_nova_gpu(*args, '--root', str(self.hosts[name].root))

    def run_nova_gpu(self, *args: str) -> tuple[int, str, str]:
        """Run the command ``nova-gpu``: code, stdout, stderr."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main.main([*args])
        return code, out.getvalue(), err.getvalue()

    def run_audit(self, name: str, *args: str) -> tuple[int, list[Any], str]:
        """``nova-gpu audit`` on a host: code, differences, stderr."""
        path = self.hosts[name].root / 'nova.conf'
        path.write_text(
            f'[gpu]\nfabric_manager = {CONF.gpu.fabric_manager}\n'
            f'[placement]\nauth_type = admin_token\ntoken = admin\n'
            f'endpoint = {self.placement.fixture.endpoint}\n'
        )
        # As libvirt does, which the fake doesn't.
        folder = self.hosts[name].root / 'etc/libvirt/qemu'
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for domain in self.domains(name):
            (folder / f'{domain.name()}.xml').write_text(domain.XMLDesc(0))
        code, out, err = self.nova_gpu(
            name, 'audit', '-f', 'json', '--config-file', str(path), *args
        )
        return code, json.loads(out or '[]'), err

    def _use_host(self, name: str) -> None:
        root = self.hosts[name].root
        self.flags(
            host_root=str(root),
            put_aside_dir=str(root / 'var/lib/nova/gpu/put-aside'),
            claims_file=str(root / 'var/lib/nova/gpu/claims.json'),
            links_file=str(root / 'var/lib/nova/gpu/links.json'),
            restore_timeout=self.RESTORE_TIMEOUT,
            audit_interval=0,
            group='gpu',
        )

    def let_nova_make_mdevs(self, name: str) -> dict[str, Any]:
        """Let Nova itself make mdevs on a host, by libvirt.

        Returns what :meth:`start_gpu_compute` has to be told. The host has
        two cards for them, 0000:81:00.0 and 0000:81:01.0, with a type
        ``nvidia-11`` of which each takes 16, and two A100.
        """
        fake = self.hosts[name]

        def make(address: str, type_id: str, uuid: str | None = None) -> str:
            uuid = uuid or uuidutils.generate_uuid()
            fake.create_mdev(address, type_id, uuid)
            return uuid

        def create(
            driver: Any, parent: str, type_id: str, uuid: str | None = None
        ) -> str:
            address = '{}:{}:{}.{}'.format(*parent[4:].split('_'))
            return make(address, type_id, uuid)

        driver = 'nova.virt.libvirt.driver.LibvirtDriver'
        patches = {f'{driver}._create_mdev': create}
        if NOVA_RELEASE == 29:  # by sysfs, which it also reads
            patches = {
                'nova.privsep.libvirt.create_mdev': make,
                f'{driver}._is_existing_mdev': lambda uuid: uuid in fake.mdevs,
            }
        for name, function in patches.items():
            self.useFixture(fixtures.MonkeyPatch(name, function))
        listed = fakelibvirt.HostPCIDevicesInfo(
            num_pci=0, num_pfs=0, num_vfs=0, num_mdevcap=2
        )
        for slot in (2, 3):
            listed.add_device(
                'PCI', bus=0x81, slot=slot, function=0,
                iommu_group=90 + slot, numa_node=1,
                vend_id='10de', prod_id='20b0',
            )  # fmt: skip
        return {'pci_info': listed, 'mdev_info': HostMdevs(fake)}

    # Flavors and servers.

    def gpu_flavor(self, vcpu: int = 1, **extra_specs: str) -> str:
        """A small flavor; ``resources__X`` stands for ``resources:X``."""
        specs = {k.replace('__', ':'): v for k, v in extra_specs.items()}
        return self._create_flavor(
            vcpu=vcpu, memory_mb=512, disk=1, ephemeral=0, extra_spec=specs
        )

    @contextlib.contextmanager
    def project(self, name: str) -> Iterator[None]:
        """Ask the API as an administrator in a project of that name."""
        before = self.api
        self.api = client.TestOpenStackClient(
            before.auth_user,
            before.base_url,
            project_id=name,
            roles=['reader', 'member', 'admin'],
        )
        self.api.microversion = before.microversion
        try:
            yield
        finally:
            self.api = before

    def boot(self, flavor: str, state: str = 'ACTIVE', **kwargs: Any) -> Any:
        """Boot a server and wait until it has the state."""
        return self._create_server(
            flavor_id=flavor, networks='none', expected_state=state, **kwargs
        )

    def _wait_for_server_parameter(
        self, server: Any, expected_params: Any, max_retries: int = 10,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        return super()._wait_for_server_parameter(
            server, expected_params, max_retries=20 * max_retries, **kwargs
        )

    def _wait_until_deleted(self, server: Any) -> None:
        failed = server.get('status') == 'ERROR'
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                found = self.api.get_server(server['id'])
            except client.OpenStackApiNotFoundException:
                return
            if found['status'] == 'ERROR' and not failed:
                self.fail(f'server {server["id"]} can not be deleted')
            time.sleep(0.2)
        self.fail(f'server {server["id"]} is still there')

    def boot_many(self, flavor: str, count: int) -> list[Any]:
        """Boot ``count`` servers in one request; any state may come of it."""
        body = self._build_server(flavor_id=flavor, networks='none')
        body['min_count'] = body['max_count'] = count
        self.api.post_server({'server': body})
        servers = [
            server
            for server in self.api.get_servers()
            if server['name'].startswith(body['name'])
        ]
        return [self.wait_until_built(server['id']) for server in servers]

    def wait_until_built(self, server_id: str) -> Any:
        """The server when it is no longer in BUILD, whatever it is then."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            server = self.api.get_server(server_id)
            if server['status'] != 'BUILD':
                return server
            time.sleep(0.1)
        raise AssertionError(f'server {server_id} is still in BUILD')

    # What came of it.

    def guest_devices(self, server: Any) -> GuestDevices:
        """The host devices in the server's domain, as libvirt has it."""
        xml = self.domain_xml(server)
        return parse_guest(xml, server['name'])

    def domains(self, host: str) -> list[Any]:
        """All domains of a host, running or not."""
        connection = self.computes[host].driver._host.get_connection()
        # The fake gives none unless it is told which.
        found: list[Any] = connection.listAllDomains(
            fakelibvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
            | fakelibvirt.VIR_CONNECT_LIST_DOMAINS_INACTIVE
        )
        return found

    def domain_xml(self, server: Any) -> str:
        """The server's domain XML as libvirt gives it back."""
        host = server['OS-EXT-SRV-ATTR:host']
        connection = self.computes[host].driver._host.get_connection()
        return connection.lookupByUUIDString(server['id']).XMLDesc(0)

    def hostdevs(self, server: Any) -> list[str]:
        """The ``<hostdev>`` elements that libvirt was given, as text."""
        xml = self.defined[server['OS-EXT-SRV-ATTR:instance_name']]
        return [
            etree.tostring(element, pretty_print=True).decode()
            for element in etree.fromstring(xml).iterfind('devices/hostdev')
        ]

    def own_part(self, server: Any) -> list[str]:
        """What of the domain that libvirt was given is ours."""
        root = self.document(server)
        found = (
            *root.iterfind(f'metadata/{{{NAMESPACE}}}units'),
            *root.iterfind('devices/hostdev'),
        )
        return [etree.tostring(e, encoding='unicode') for e in found]

    def document(self, server: Any) -> etree._Element:
        """The domain that libvirt was given, with a name for what varies.

        What Nova says of the server in its metadata is Nova's own.
        """
        name = server['OS-EXT-SRV-ATTR:instance_name']
        text = self.defined[name]
        for before, after in (
            (CONF.instances_path, '/instances'),
            (server['id'], '{server}'),
            (name, '{name}'),
        ):
            text = text.replace(before, after)
        given = etree.fromstring(text).iterfind('devices/hostdev/source/')
        mdevs = (address.get('uuid') for address in given)
        for number, uuid in enumerate(filter(None, mdevs), 1):
            text = text.replace(uuid, f'{{mdev {number}}}')
        parser = etree.XMLParser(remove_blank_text=True)
        root = etree.fromstring(text, parser)
        for nova in root.iterfind(f'metadata/{{{NOVA_NAMESPACE}}}instance'):
            nova.clear(keep_tail=True)
            nova.text = '{nova}'
        for entry in root.iterfind("sysinfo/system/entry[@name='version']"):
            entry.text = '{version}'
        return root

    def assert_golden(
        self, name: str, server: Any, alike: Sequence[str] = ()
    ) -> None:
        """Compare the server's whole domain with ``xml/<name>.xml``.

        :param alike: cards that only differ by their bus: whichever was
            taken, the document has the first
        """
        actual = etree.tostring(
            self.document(server), pretty_print=True, encoding='unicode'
        )
        first, *others = [card[5:7] for card in alike] or ['']
        for bus in others:
            for mark in ('0000:{}:', '0000_{}_', 'bus="0x{}"'):
                actual = actual.replace(mark.format(bus), mark.format(first))
        path = GOLDEN / f'{name}.xml'
        if os.environ.get(WRITE_GOLDEN):
            GOLDEN.mkdir(exist_ok=True)
            path.write_text(actual)
        documents = path.read_text(), actual
        if NOVA_RELEASE < 33:
            documents = tuple(map(_as_before_nova_33, documents))
        self.assert_xml_equal(*documents)

    def providers_of(self, host: str) -> dict[str, dict[str, Any]]:
        """The host's GPU inventories by provider name and class."""
        root = self.compute_rp_uuids[host]
        found = self.placement.get(
            f'/resource_providers?in_tree={root}', version='1.36'
        ).body['resource_providers']
        return {
            provider['name']: self.placement.get(
                f'/resource_providers/{provider["uuid"]}/inventories'
            ).body['inventories']
            for provider in found
            if provider['uuid'] != root
        }

    def add_trait(self, provider: str, trait: str) -> None:
        """Give a resource provider a trait, as an operator does."""
        self.placement.put(f'/traits/{trait}', {}, version='1.6')
        (found,) = self.placement.get(
            f'/resource_providers?name={provider}', version='1.36'
        ).body['resource_providers']
        url = f'/resource_providers/{found["uuid"]}/traits'
        record = self.placement.get(url, version='1.6').body
        record['traits'].append(trait)
        self.placement.put(url, record, version='1.6')

    def usages_of(self, host: str) -> dict[str, int]:
        """What of each GPU class is allocated on the host."""
        root = self.compute_rp_uuids[host]
        found = self.placement.get(
            f'/resource_providers?in_tree={root}', version='1.36'
        ).body['resource_providers']
        used: dict[str, int] = {}
        for provider in found:
            if provider['uuid'] == root:
                continue
            usages = self._get_provider_usages(provider['uuid'])
            for name, count in usages.items():
                used[name] = used.get(name, 0) + count
        return used

    def nonzero_usages(self, host: str) -> dict[str, int]:
        """What is allocated, without the classes of which nothing is."""
        return {k: v for k, v in self.usages_of(host).items() if v}

    def assert_xml_equal(self, expected: str, actual: str) -> None:
        """Compare two documents as XML: white space doesn't count."""

        def canonical(text: str) -> str:
            parser = etree.XMLParser(remove_blank_text=True)
            return etree.tostring(
                etree.fromstring(text, parser), method='c14n'
            ).decode()

        self.assertEqual(canonical(expected), canonical(actual))

    def gpu_state(self, host: str) -> oracle.HostState:
        """All that is said of a host's GPUs, by whom it is said."""
        root = self.compute_rp_uuids[host]
        found = self.placement.get(
            f'/resource_providers?in_tree={root}', version='1.36'
        ).body['resource_providers']
        allocations: dict[str, dict[str, dict[str, int]]] = {}
        for provider in found:
            if provider['uuid'] == root:
                continue
            url = f'/resource_providers/{provider["uuid"]}/allocations'
            for consumer, record in (
                self.placement.get(url).body['allocations'].items()
            ):
                by_provider = allocations.setdefault(consumer, {})
                by_provider[provider['name']] = record['resources']
        claims = self.computes[host].driver._gpus.view().claims
        return oracle.HostState(
            name=host,
            fake=self.hosts[host],
            guests={
                domain.UUIDString(): oracle.devices_of(domain.XMLDesc(0))
                for domain in self.domains(host)
            },
            claims={claim.consumer: claim.units for claim in claims},
            allocations=allocations,
        )

    def assert_consistent(self) -> None:
        """Guests, Placement, the cards and the trackers say the same.

        Not for a moment in which something is under way.
        """
        differences = oracle.differences(
            [self.gpu_state(name) for name in self.computes],
            self.api.get_servers(search_opts={'all_tenants': '1'}),
            self.api.get_migrations(),
        )
        self.assertEqual([], differences)

    def assert_all_free(self) -> None:
        """Nothing of any GPU is in use, and no profile is closed."""
        self.assert_consistent()
        for name, fake in self.hosts.items():
            self.assertEqual({}, self.nonzero_usages(name))
            made = {card: fake.made(card) for card in fake.vgpu_cards}
            self.assertEqual({}, {k: v for k, v in made.items() if v})
            for provider, inventory in self.providers_of(name).items():
                reserved = {c: r['reserved'] for c, r in inventory.items()}
                self.assertEqual(
                    dict.fromkeys(reserved, 0), reserved, provider
                )

    def remove_orphans(self) -> list[str]:
        """Remove what is left of no server, as an operator does.

        Nova frees what a migration was allocated when the migration is over:
        never, if the server is deleted while it is reverted. A guest that
        was defined on the host to which its server has not come yet stays.
        A host forgets both when nova-compute starts. Returns the allocations
        that aren't left by Nova: of GPUs, and of no CPUs.
        """
        servers = {server['id'] for server in self.api.get_servers()}
        ours = []
        for name, root in tuple(self.compute_rp_uuids.items()):
            novas = self._get_allocations_by_provider_uuid(root)
            orphans = self.gpu_state(name).allocations.keys() - servers
            for consumer in orphans:
                if consumer not in novas:
                    ours.append(f'{name}: {consumer} is no server')
                self.placement.delete(f'/allocations/{consumer}')
            guests = [
                domain
                for domain in self.domains(name)
                if domain.UUIDString() not in servers
            ]
            for domain in guests:
                domain.destroy()
                domain.undefine()
            if orphans or guests:
                self.restart_gpu_compute(name)
        return ours

    def assert_no_device_twice(self) -> None:
        """No two guests hold one device: the fake libvirt doesn't check."""
        owners: dict[object, str] = {}
        for compute in self.computes.values():
            for domain in self.domains(compute.host):
                guest = parse_guest(domain.XMLDesc(0), domain.name())
                for device in (*guest.functions, *guest.mdevs):
                    key = (compute.host, device)
                    self.assertNotIn(key, owners, f'{device} given twice')
                    owners[key] = guest.name


class WatchedHost:
    """The effects of a FakeSysfs, each watched by the test."""

    def __init__(self, test: StoredCloud, name: str, fake: FakeSysfs) -> None:
        self._test = test
        self._name = name
        self._fake = fake

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._fake, name)
        if name not in vars(Effects):
            return real

        def watched(*args: Any) -> Any:
            with self._test.effect(name, self._name):
                return real(*args)

        return watched


class StoredCloud(GpuServersTest):
    """A cloud that another process can go on with.

    What is not a nova-compute's is in a folder: hosts and instances' files
    at all times, libvirt's domains, the databases and the images when they
    are stored.

    :param schemas: a file for the schemas of Nova's databases, which take
        longer to find out than all else
    """

    def __init__(self, folder: pathlib.Path, schemas: pathlib.Path) -> None:
        super().__init__('runTest')
        self.folder = folder
        self.schemas = schemas
        self.connections: dict[str, Any] = {}
        self._stored: dict[str, Any] = {}

    def runTest(self) -> None:
        """Nothing: somebody else tells this cloud what to do."""

    def setUp(self) -> None:
        for name in ('tmp', 'instances'):
            (self.folder / name).mkdir(exist_ok=True)
        tempfile.tempdir = str(self.folder / 'tmp')
        if (self.folder / 'world').exists():
            self._stored = pickle.loads((self.folder / 'world').read_bytes())
            # Nova's fixtures make up names of cells and nodes.
            uuidsentinel._sentinels.update(self._stored['uuids'])
        known = self.schemas.exists()
        if known:
            DB_SCHEMA.update(pickle.loads(self.schemas.read_bytes()))
        super().setUp()
        if not known:
            self.schemas.write_bytes(pickle.dumps(dict(DB_SCHEMA)))
        self.flags(instances_path=str(self.folder / 'instances'))
        self._watch_effects()

    def effect(
        self, name: str, host: str
    ) -> contextlib.AbstractContextManager[None]:
        """What surrounds each change that a compute makes outside of it."""
        return contextlib.nullcontext()

    def _watch_effects(self) -> None:
        for place, name, effect in (
            ('Connection', 'defineXML', 'define the guest'),
            ('Domain', 'createWithFlags', 'start the guest'),
            ('Domain', 'destroy', 'stop the guest'),
            ('Domain', 'undefine', 'undefine the guest'),
            ('Domain', 'setMetadata', 'record in the guest'),
        ):
            self._watch(
                getattr(fakelibvirt, place),
                name,
                effect,
                lambda d: getattr(d, '_connection', d).hostname,
            )
        for name, effect in (
            ('update_from_provider_tree', 'tell Placement'),
            ('put_allocations', 'move the allocation'),
        ):
            self._watch(
                SchedulerReportClient, name, effect, lambda client: CONF.host
            )

    def _watch(
        self, owner: Any, name: str, effect: str, host: Callable[[Any], str]
    ) -> None:
        real = getattr(owner, name)
        # What of Placement's changes is ours is told by who asks for it.
        ours_only = owner is SchedulerReportClient

        def watched(subject: Any, *args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1).f_globals['__name__']
            if ours_only and not caller.startswith('nova_gpu.'):
                return real(subject, *args, **kwargs)
            with self.effect(effect, host(subject)):
                return real(subject, *args, **kwargs)

        self.useFixture(fixtures.MockPatchObject(owner, name, new=watched))

    def _host_root(self, name: str) -> str:
        return str(self.folder / 'hosts' / name)

    def new_host(self, name: str) -> FakeSysfs:
        fake = super().new_host(name)
        HOSTS[str(fake.root)] = WatchedHost(self, name, fake)
        return fake

    def start_host(
        self, name: str, domains: Sequence[tuple[str, bool]] = ()
    ) -> None:
        """Start nova-compute on a host where there are such domains."""
        connection = self._get_connection(
            host_info=self._host_info(), hostname=name
        )
        for xml, running in domains:
            domain = connection.defineXML(xml)
            if running:
                domain.createWithFlags(0)
        self.connections[name] = connection
        self.start_gpu_compute(name, connection=connection)

    def _setup_services(self) -> None:
        if self._stored:
            self._restore_databases()
            self.glance.images.update(self._stored['images'])
            mappings = objects.HostMappingList.get_all(
                nova_context.get_admin_context()
            )
            self.host_mappings.update({m.host: m for m in mappings})
        super()._setup_services()

    def _databases(self) -> dict[str, Any]:
        cells = nova_context.target_cell.__self__._ctxt_mgrs
        return {
            'api': api_db.get_engine(),
            'placement': placement_db.get_placement_engine(),
            **{name: c.writer.get_engine() for name, c in cells.items()},
        }

    def _restore_databases(self) -> None:
        for name, engine in self._databases().items():
            connection = engine.raw_connection()
            with contextlib.closing(
                sqlite3.connect(self.folder / f'{name}.sqlite')
            ) as stored:
                stored.backup(connection.driver_connection)
            connection.close()

    def store(self) -> None:
        """Store what outlives all computes of this process."""
        for name, engine in self._databases().items():
            connection = engine.raw_connection()
            with contextlib.closing(
                sqlite3.connect(self.folder / f'{name}.sqlite')
            ) as stored:
                connection.driver_connection.backup(stored)
            connection.close()
        world = {
            'uuids': uuidsentinel._sentinels,
            'images': self.glance.images,
            'domains': {
                name: [
                    (domain.XMLDesc(0), bool(domain.isActive()))
                    for domain in connection._vms.values()
                ]
                for name, connection in self.connections.items()
            },
        }
        (self.folder / 'world').write_bytes(pickle.dumps(world))

    def start_again(self) -> None:
        """Start the computes of the process before; their guests ran on."""
        domains = self._stored['domains']
        services = {
            s['host']: s for s in self.api.get_services(binary='nova-compute')
        }
        for name in sorted(domains, key=lambda n: services[n]['forced_down']):
            self.new_host(name)
            self.api.put_service(services[name]['id'], {'forced_down': False})
            self.start_host(name, domains[name])


def _as_before_nova_33(document: str) -> str:
    """A domain without what Nova has given to all guests since then."""
    domain = etree.fromstring(document)
    for iothreads in domain.findall('iothreads'):
        domain.remove(iothreads)
    for balloon in domain.iterfind('devices/memballoon'):
        for name in ('autodeflate', 'freePageReporting'):
            balloon.attrib.pop(name, None)
    return etree.tostring(domain, encoding='unicode')
