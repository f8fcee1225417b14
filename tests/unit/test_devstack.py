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


"""DevStack's plugin, run in bash; what it writes is read as Nova reads it."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import subprocess

import nova.conf.compute
import nova.conf.scheduler
import testtools
import yaml
from nova.scheduler import filters, weights
from oslo_config import cfg

from nova_gpu import conf
from tests.fixtures.devstack import (
    FILTERS,
    KERNEL,
    STACK,
    TOP,
    FakeDevStack,
)

ALL = 'n-api,n-cond,n-sch,n-cpu,key,placement-api,tempest'
DRIVER = 'gpu.GpuLibvirtDriver'
WEIGHERS = {'GpuWeigher', 'GpuAvoidWeigher'}
#: Those of DevStack, and what our settings add.
WITH_OURS = [*FILTERS.split(','), 'NUMATopologyFilter', 'GpuFilter']
#: What mtty is built as.
MODULE = f'modules/{KERNEL}/updates/mtty.ko'


def load(path: pathlib.Path) -> cfg.ConfigOpts:
    """A configuration file, with Nova's options and ours."""
    loaded = cfg.ConfigOpts()
    nova.conf.compute.register_opts(loaded)
    nova.conf.scheduler.register_opts(loaded)
    conf.register_opts(loaded)
    loaded([], default_config_files=[str(path)], default_config_dirs=[])
    return loaded


def filter_names(loaded: cfg.ConfigOpts) -> list[str]:
    """The filters that the scheduler runs, in order, all of them found."""
    options = loaded.filter_scheduler
    found = filters.HostFilterHandler().get_matching_classes(
        options.available_filters
    )
    by_name = {found.__name__: found for found in found}
    return [by_name[name].__name__ for name in options.enabled_filters]


def weigher_names(loaded: cfg.ConfigOpts) -> list[str]:
    """The weighers that the scheduler asks."""
    return [
        found.__name__
        for found in weights.HostWeightHandler().get_matching_classes(
            loaded.filter_scheduler.weight_classes
        )
    ]


class PluginTest(testtools.TestCase):
    """What each phase leaves, on hosts that run different services."""

    maxDiff = None

    def devstack(self, services: str = ALL, **kwargs: str) -> FakeDevStack:
        return self.useFixture(FakeDevStack(services, **kwargs))

    def test_all_in_one(self) -> None:
        fake = self.devstack()
        fake.stack()

        self.assertEqual(['nova-gpu'], fake.calls('define_plugin'))
        self.assertEqual([str(TOP)], fake.calls('setup_develop'))
        api = load(fake.nova_conf)
        self.assertEqual(WITH_OURS, filter_names(api))
        names = weigher_names(api)
        self.assertIn('RAMWeigher', names)
        self.assertLess(WEIGHERS, set(names))

        compute = load(fake.cpu_conf)
        self.assertEqual(DRIVER, compute.compute_driver)
        data = f'{fake.root}/data/nova-gpu'
        self.assertEqual(f'{data}/put-aside', compute.gpu.put_aside_dir)
        self.assertEqual(f'{data}/claims.json', compute.gpu.claims_file)

    def test_driver_is_found_in_nova(self) -> None:
        fake = self.devstack()
        fake.stack()

        shim = fake.root / 'nova/nova/virt/gpu'
        spec = importlib.util.spec_from_file_location(
            'gpu', shim / '__init__.py'
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.assertEqual(
            'GpuLibvirtDriver',
            getattr(module, DRIVER.partition('.')[2]).__name__,
        )

    def test_controller(self) -> None:
        fake = self.devstack('n-api,n-cond,n-sch,key', NOVA_GPU_FAKE='mtty')
        before = {*fake.files(), 'bin/nova-gpu'}
        fake.stack()

        controller = load(fake.nova_conf)
        self.assertIn('GpuFilter', filter_names(controller))
        self.assertEqual('libvirt.LibvirtDriver', controller.compute_driver)
        self.assertEqual(
            {'etc/nova.conf', 'flavors/mtty1', 'flavors/mtty2'},
            set(fake.files()) - before,
        )

    def test_compute_node(self) -> None:
        fake = self.devstack('n-cpu,placement-client')
        fake.stack()

        compute = load(fake.cpu_conf)
        self.assertEqual(DRIVER, compute.compute_driver)
        self.assertFalse(WEIGHERS & set(weigher_names(compute)))

    def test_no_nova(self) -> None:
        fake = self.devstack('key,g-api')
        before = fake.files()
        fake.stack()
        self.assertEqual(before, fake.files())
        self.assertEqual([], fake.calls('setup_develop'))

    def test_local_conf_of_the_readme(self) -> None:
        readme = (TOP / 'devstack/README.rst').read_text()
        _, _, section = readme.partition('[[post-config|$NOVA_CONF]]\n')
        section, _, _ = section.partition('\n\n')
        fake = self.devstack(local_conf=section)
        fake.stack()

        loaded = load(fake.nova_conf)
        self.assertEqual([*WITH_OURS, 'IoOpsFilter'], filter_names(loaded))
        self.assertLess(WEIGHERS, set(weigher_names(loaded)))
        self.assertEqual(60, load(fake.cpu_conf).gpu.audit_interval)

    def test_what_another_plugin_has_set_stays(self) -> None:
        fake = self.devstack()
        io_ops = 'nova.scheduler.filters.io_ops_filter.IoOpsFilter'
        fake.run(
            'configure_nova',
            'iniset_multiline $NOVA_CONF filter_scheduler available_filters '
            f'nova.scheduler.filters.all_filters {io_ops}',
            'iniset $NOVA_CONF filter_scheduler weight_classes '
            'nova.scheduler.weights.ram.RAMWeigher',
            ('stack', 'post-config'),
        )
        loaded = load(fake.nova_conf)
        self.assertEqual({'RAMWeigher', *WEIGHERS}, set(weigher_names(loaded)))
        self.assertIn(io_ops, loaded.filter_scheduler.available_filters)

    def test_command_is_found(self) -> None:
        fake = self.devstack()
        fake.stack()
        command = fake.root / 'bin/nova-gpu'
        self.assertEqual(fake.root / 'venv/bin/nova-gpu', command.readlink())

        # Without DevStack's virtual environment pip puts it there.
        fake = self.devstack(GLOBAL_VENV='False')
        (fake.root / 'bin/nova-gpu').write_text('of pip')
        fake.stack()
        fake.run(('clean',))
        self.assertEqual('of pip', fake.files()['bin/nova-gpu'])

    def test_stacking_twice(self) -> None:
        fake = self.devstack(NOVA_GPU_FAKE='mtty')
        fake.add_kernel_sources()
        fake.stack()
        once = fake.files()

        # What is there is kept, as where a phase runs again by hand,
        fake.run(*(phase for phase in STACK if isinstance(phase, tuple)))
        self.assertEqual(once, fake.files())
        # and made anew, as stack.sh does it.
        fake.stack()
        self.assertEqual(once, fake.files())
        self.assertEqual(1, len(fake.calls('make')))
        self.assertEqual(2, len(fake.calls('openstack')))

    def test_unstack_and_clean(self) -> None:
        fake = self.devstack(NOVA_GPU_FAKE='mtty')
        fake.add_kernel_sources()
        before = fake.files()
        fake.stack()
        (fake.root / 'data/nova-gpu/put-aside').mkdir(parents=True)
        (fake.root / 'data/nova-gpu/claims.json').touch()

        for _ in range(2):
            fake.run(('unstack',))
            self.assertNotIn('loaded/mtty', fake.files())
            self.assertIn('data/nova-gpu/claims.json', fake.files())
            self.assertEqual(DRIVER, load(fake.cpu_conf).compute_driver)
        for _ in range(2):
            fake.run(('clean',))
        after = fake.files()
        left = set(after) - set(before)
        # DevStack drops the database of the flavors, and these two itself.
        self.assertEqual(
            {'etc/nova.conf', 'etc/nova-cpu.conf', 'etc/tempest.conf',
             'flavors/mtty1', 'flavors/mtty2'},
            left,
        )  # fmt: skip
        self.assertIn('nova-gpu', fake.calls('pip_uninstall'))

        # Nova runs without us, as it did before.
        for path in (fake.nova_conf, fake.cpu_conf):
            self.assertNotIn('gpu', path.read_text().replace('[gpu]', ''))
            loaded = load(path)
            self.assertEqual(WITH_OURS[:-1], filter_names(loaded))
            self.assertEqual('libvirt.LibvirtDriver', loaded.compute_driver)
            self.assertFalse(WEIGHERS & set(weigher_names(loaded)))

    def test_clean_without_stack(self) -> None:
        fake = self.useFixture(FakeDevStack(ALL))
        before = fake.files()
        fake.run(('clean',))
        self.assertEqual(before, fake.files())


class MttyTest(testtools.TestCase):
    """``NOVA_GPU_FAKE=mtty``: vGPUs of the kernel's sample driver."""

    def devstack(self, **kwargs: str) -> FakeDevStack:
        variables = {'NOVA_GPU_FAKE': 'mtty', **kwargs}
        return self.useFixture(FakeDevStack(ALL, **variables))

    def failure(self, fake: FakeDevStack) -> str:
        error = self.assertRaises(subprocess.CalledProcessError, fake.stack)
        return error.stderr.strip().splitlines()[-1]

    def test_module_is_built_of_the_kernels_sources(self) -> None:
        # As Debian names them, and Ubuntu.
        for version in ('6.12', '6.12.0'):
            fake = self.devstack()
            for other in ('6.9', version, '6.1', '6.13', '7.12'):
                fake.add_kernel_sources(other)
            fake.stack()

            files = fake.files()
            self.assertEqual(f'/* of {version} */', files[MODULE])
            self.assertIn('loaded/mtty', files)
            self.assertEqual(
                [f'linux-headers-{KERNEL} linux-source'],
                fake.calls('install_package'),
            )

    def test_module_of_the_kernel(self) -> None:
        fake = self.devstack()
        (fake.root / MODULE).touch()
        fake.stack()
        self.assertIn('loaded/mtty', fake.files())
        self.assertEqual([], fake.calls('make'))
        self.assertEqual([], fake.calls('install_package'))

    def test_no_sources(self) -> None:
        fake = self.devstack()
        fake.add_kernel_sources('6.1')
        self.assertEqual(
            f'die: No linux-source-6.12.tar.* in {fake.root}/sources, of the '
            'kernel that runs: boot the one that package linux-source is of',
            self.failure(fake),
        )

    def test_no_mediated_devices(self) -> None:
        fake = self.devstack()
        (fake.modules / 'mdev.ko').unlink()
        self.assertIn(
            'no mediated devices (mdev): boot the generic', self.failure(fake)
        )

    def test_other_distributions(self) -> None:
        self.assertIn(
            "mtty isn't in this kernel",
            self.failure(self.devstack(DISTRIBUTION='fedora')),
        )

    def test_other_values(self) -> None:
        self.assertEqual(
            "die: NOVA_GPU_FAKE is 'mdpy', not 'mtty' or empty",
            self.failure(self.devstack(NOVA_GPU_FAKE='mdpy')),
        )

    def test_module_in_use(self) -> None:
        fake = self.devstack()
        fake.add_kernel_sources()
        fake.stack()
        (fake.root / 'used').touch()
        fake.run(('unstack',), ('clean',))
        self.assertIn('loaded/mtty', fake.files())
        self.assertNotIn(MODULE, fake.files())

    def test_tempest_boots_with_vgpus(self) -> None:
        fake = self.devstack()
        fake.add_kernel_sources()
        fake.stack()

        tempest = cfg.ConfigOpts()
        tempest.register_opts(
            [cfg.StrOpt('flavor_ref'), cfg.StrOpt('flavor_ref_alt')],
            group='compute',
        )
        tempest.register_opts(
            [cfg.BoolOpt('suspend')], group='compute-feature-enabled'
        )
        tempest([], default_config_files=[str(fake.tempest_conf)])
        files = fake.files()
        for flavor, ports in (
            (tempest.compute.flavor_ref, 'SINGLE'),
            (tempest.compute.flavor_ref_alt, 'DUAL'),
        ):
            self.assertIn(
                f'resources:CUSTOM_VGPU_MTTY_{ports}_PORT_SERIAL=1',
                files[f'flavors/{flavor}'],
            )
        self.assertIs(False, tempest['compute-feature-enabled'].suspend)


class ZuulTest(testtools.TestCase):
    """The job that runs tempest on the plugin."""

    def setUp(self) -> None:
        super().setUp()
        items = yaml.safe_load((TOP / '.zuul.yaml').read_text())
        self.jobs = {i['job']['name']: i['job'] for i in items if 'job' in i}
        (self.project,) = [i['project'] for i in items if 'project' in i]

    def test_project_runs_the_job(self) -> None:
        for queue in ('check', 'gate'):
            self.assertLessEqual(
                set(self.jobs), set(self.project[queue]['jobs'])
            )

    def test_job_stacks(self) -> None:
        variables = self.jobs['nova-gpu-tempest']['vars']
        fake = self.useFixture(
            FakeDevStack(ALL, **variables['devstack_localrc'])
        )
        fake.add_kernel_sources()
        fake.stack()

        self.assertEqual(
            fake.calls('define_plugin'), list(variables['devstack_plugins'])
        )
        self.assertEqual(WITH_OURS, filter_names(load(fake.nova_conf)))
        self.assertIn('loaded/mtty', fake.files())

    def test_tests(self) -> None:
        variables = self.jobs['nova-gpu-tempest']['vars']
        for name in ('tempest_test_regex', 'tempest_exclude_regex'):
            # Tempest takes what blanks divide for several.
            self.assertEqual([variables[name]], variables[name].split())
        chosen = re.compile(variables['tempest_test_regex'])
        left_out = re.compile(variables['tempest_exclude_regex'])
        actions = 'tempest.api.compute.servers.test_server_actions'

        def runs(name: str) -> bool:
            return bool(chosen.search(name)) and not left_out.search(name)

        self.assertTrue(runs(f'{actions}.ServerActionsTestJSON.test_rebuild'))
        self.assertFalse(runs('tempest.api.identity.v3.test_users.X.test_y'))
        self.assertFalse(
            runs('tempest.api.compute.admin.test_live_migration.X.test_y')
        )
