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

"""``nova-gpu config generate``: its text is read by Nova's own code."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from nova.conf import devices as devices_conf
from nova.conf import pci as pci_conf
from nova.conf import scheduler as scheduler_conf
from nova.pci import devspec
from oslo_config import cfg

from nova_gpu import conf as gpu_conf
from nova_gpu.rules import parse_rules
from tests.fixtures import hosts
from tests.unit.cli import base


class ConfigTest(base.CliTest):
    def generate(self, *args: str) -> base.Result:
        return self.nova_gpu('config', 'generate', '--root', self.root, *args)

    def text(self, *args: str) -> str:
        result = self.generate(*args)
        self.assertEqual((0, []), (result.code, result.errors))
        return result.out

    def file(self, text: str) -> str:
        path = pathlib.Path(self.root) / 'nova.conf'
        path.write_text(text)
        return str(path)

    def conf(self, text: str) -> Any:
        """The options as Nova reads them."""
        conf = cfg.ConfigOpts()
        for module in (devices_conf, pci_conf, scheduler_conf):
            module.register_opts(conf)
        gpu_conf.register_opts(conf)
        conf.register_opt(cfg.StrOpt('compute_driver'))
        conf([], default_config_files=[self.file(text)],
             default_config_dirs=[])  # fmt: skip
        return conf

    def diff(self, text: str, code: int, *args: str) -> str:
        result = self.generate('--diff', self.file(text), *args)
        self.assertEqual(code, result.code, result)
        return result.out


class OursTest(ConfigTest):
    def test_whole(self) -> None:
        hosts.four_t4(self.fake)
        text = self.text()
        self.assertEqual(
            '# Each compute node with such GPUs\n'
            '\n'
            '[DEFAULT]\n'
            '# 0000:3b:00.0 NVIDIA Tesla T4: mdev\n'
            '# 0000:5e:00.0 NVIDIA Tesla T4: mdev\n'
            '# 0000:af:00.0 NVIDIA Tesla T4: mdev\n'
            '# 0000:d8:00.0 NVIDIA Tesla T4: mdev\n'
            'compute_driver = gpu.GpuLibvirtDriver\n'
            '\n'
            '# Each nova-scheduler\n'
            '\n'
            '[filter_scheduler]\n'
            'available_filters = nova.scheduler.filters.all_filters\n'
            'available_filters = nova_gpu.scheduler.filter.GpuFilter\n'
            'enabled_filters = ComputeFilter,ComputeCapabilitiesFilter,'
            'ImagePropertiesFilter,ServerGroupAntiAffinityFilter,'
            'ServerGroupAffinityFilter,GpuFilter\n'
            'weight_classes = nova.scheduler.weights.all_weighers,'
            'nova_gpu.scheduler.weigher.GpuWeigher,'
            'nova_gpu.scheduler.weigher.GpuAvoidWeigher\n',
            text,
        )
        conf = self.conf(text)
        defaults = cfg.ConfigOpts()
        scheduler_conf.register_opts(defaults)
        defaults([], default_config_files=[], default_config_dirs=[])
        self.assertEqual(
            [*defaults.filter_scheduler.enabled_filters, 'GpuFilter'],
            conf.filter_scheduler.enabled_filters,
        )

    def test_rules_and_profiles(self) -> None:
        hosts.four_t4(self.fake)
        ignore = '{"address": "0000:d8:00.0", "use": "ignore"}'
        text = self.text(
            '--rule', ignore, '--profile', 'T4-8Q', '--profile', 'nvidia-232',
            '--role', 'compute',
        )  # fmt: skip
        self.assertNotIn('filter_scheduler', text)
        self.assertIn('# 0000:d8:00.0 NVIDIA Tesla T4: not used: rule 1', text)
        first, second = parse_rules(self.conf(text).gpu.rule)
        self.assertEqual('ignore', first.use)
        self.assertEqual(('T4-8Q', 'nvidia-232'), second.profiles)
        self.assertEqual(0x1EB8, second.product_id)
        path = self.file(text)
        shown = self.cards('--config-file', path)
        self.assertEqual(
            {'nvidia-232', 'nvidia-233'},
            {p['type'] for p in shown['0000:3b:00.0']['Profiles']},
        )

    def test_unknown_profile(self) -> None:
        hosts.gvt_g(self.fake)
        result = self.generate('--profile', 'T4-8Q')
        self.assertEqual((1, ''), (result.code, result.out))
        (line,) = result.errors
        self.assertIn("has the vGPU type 'T4-8Q'; there are: i915-GVTg", line)

    def test_no_card(self) -> None:
        self.assertIn('# No GPU was found here.', self.text())


class DiffTest(ConfigTest):
    def setUp(self) -> None:
        super().setUp()
        hosts.four_t4(self.fake)

    def test_nothing_is_missing(self) -> None:
        text = self.text()
        self.assertEqual('', self.diff(text, 0))
        # Spaces, order and what is there besides don't matter.
        text = text.replace('Filter,', 'Filter , ')
        text += '[gpu]\nrule = {"use": "ignore", "address": "0000:3b:00.0"}\n'
        rule = '{"address": "0000:3b:00.0", "use": "ignore"}'
        self.assertEqual('', self.diff(text, 0, '--rule', rule))

    def test_rules_of_a_file_are_kept(self) -> None:
        rule = '{"address": "0000:3b:00.0", "use": "ignore"}'
        path = self.file(f'[gpu]\nrule = {rule}\n')
        text = self.text('--config-file', path)
        self.assertEqual([rule], self.conf(text).gpu.rule)
        self.assertEqual('', self.diff(text, 0, '--config-file', path))

    def test_what_is_missing(self) -> None:
        out = self.diff(
            '[DEFAULT]\ncompute_driver = libvirt.LibvirtDriver\n'
            '[filter_scheduler]\nenabled_filters = ComputeFilter,MyFilter\n'
            'available_filters = nova.scheduler.filters.all_filters\n'
            'available_filters = mine.MyFilter\n'
            'weight_classes = nova_gpu.scheduler.weigher.GpuWeigher,x.Y\n',
            1,
        )
        self.assertIn(
            '# now: compute_driver = libvirt.LibvirtDriver\n'
            'compute_driver = gpu.GpuLibvirtDriver\n',
            out,
        )
        scheduler = self.conf(out).filter_scheduler
        self.assertEqual(
            ['nova.scheduler.filters.all_filters', 'mine.MyFilter',
             'nova_gpu.scheduler.filter.GpuFilter'],
            scheduler.available_filters,
        )  # fmt: skip
        self.assertEqual(
            ['ComputeFilter', 'MyFilter', 'GpuFilter'],
            scheduler.enabled_filters,
        )
        self.assertEqual(
            ['nova_gpu.scheduler.weigher.GpuWeigher', 'x.Y',
             'nova_gpu.scheduler.weigher.GpuAvoidWeigher'],
            scheduler.weight_classes,
        )  # fmt: skip

    def test_empty_file(self) -> None:
        out = self.diff('', 1)
        self.assertEqual(self.text(), out)

    def test_unusable_files(self) -> None:
        for text, wrong in (
            ('no section\n', 'no section'),
            ('[DEFAULT]\n= x\n', '= x'),
        ):
            result = self.generate('--diff', self.file(text))
            self.assertEqual((2, ''), (result.code, result.out))
            self.assertEqual(1, len(result.errors))
            self.assertIn(wrong, result.errors[0])
        result = self.generate('--diff', f'{self.root}/none')
        self.assertEqual(2, result.code)
        self.assertIn('No such file', result.errors[0])


class LaterTest(ConfigTest):
    """Files that nova-compute reads after the one of --diff."""

    LIBVIRT = '[DEFAULT]\ncompute_driver = libvirt.LibvirtDriver\n'

    def setUp(self) -> None:
        super().setUp()
        hosts.four_t4(self.fake)
        self.ours = self.text('--role', 'compute')
        self.etc = f'{self.root}/etc/nova'

    def compare(
        self, code: int, *args: str, role: str = 'compute'
    ) -> list[str]:
        result = self.generate(
            '--role', role, '--diff', f'{self.etc}/nova.conf', *args
        )
        self.assertEqual(code, result.code, result)
        return result.errors

    def wins(self, name: str, line: str) -> list[str]:
        return [
            f'warning: {self.etc}/{name} sets {line}, and wins: set it there'
        ]

    def test_file_of_the_package(self) -> None:
        self.fake.write('etc/nova/nova.conf', self.ours)
        self.fake.write('etc/nova/nova-compute.conf', '[libvirt]\n')
        nothing = [f'note: {self.etc}/nova.conf lacks nothing']
        self.assertEqual(nothing, self.compare(0))
        self.fake.write('etc/nova/nova-compute.conf', self.LIBVIRT)
        wins = self.wins(
            'nova-compute.conf', 'compute_driver = libvirt.LibvirtDriver'
        )
        self.assertEqual(wins, self.compare(1))
        # Other services don't read it.
        self.fake.write('etc/nova/nova.conf', self.text())
        self.assertEqual(nothing, self.compare(0, role='scheduler'))
        # The last one counts.
        self.fake.write('etc/nova/nova.conf.d/gpu.conf', self.ours)
        self.assertEqual(nothing, self.compare(0))

    def test_files_that_are_named(self) -> None:
        self.fake.write('etc/nova/nova.conf', self.ours)
        self.fake.write('more.conf', self.LIBVIRT)
        first, last = f'{self.etc}/nova.conf', f'{self.root}/more.conf'
        args = ('--config-file', last, '--config-file', first)
        self.compare(0, *args)
        args = ('--config-file', first, '--config-file', last)
        self.assertIn('more.conf sets compute_d', self.compare(1, *args)[0])

    def test_types_of_devices(self) -> None:
        self.fake.write('etc/nova/nova.conf', self.text('--native'))
        self.fake.write(
            'etc/nova/nova.conf.d/mdev.conf',
            '[devices]\nenabled_mdev_types = nvidia-1, nvidia-2\n',
        )
        self.assertEqual(
            self.wins(
                'nova.conf.d/mdev.conf',
                'enabled_mdev_types = nvidia-1,nvidia-2',
            ),
            self.compare(1, '--native'),
        )

    def test_rules_add_up(self) -> None:
        rule = '{"address": "0000:3b:00.0", "use": "ignore"}'
        self.fake.write('etc/nova/nova.conf', self.text('--rule', rule))
        self.fake.write(
            'etc/nova/nova-compute.conf', '[gpu]\nrule = {"use": "vgpu"}\n'
        )
        self.compare(0, '--rule', rule)

    def test_file_that_can_not_be_read(self) -> None:
        self.fake.write('etc/nova/nova.conf', self.ours)
        self.fake.write('etc/nova/nova-compute.conf', b'# \xe9t\xe9\n')
        (line,) = self.compare(2)
        self.assertIn(f'error: {self.etc}/nova-compute.conf: ', line)


class NativeTest(ConfigTest):
    """What Nova's own tracker needs; its own parsers read it."""

    def test_whole_cards(self) -> None:
        hosts.a100_board(self.fake)
        text = self.text('--native')
        conf = self.conf(text)
        self.assertEqual(8, len(conf.pci.device_spec))
        spec = devspec.PciDeviceSpec(
            {**json.loads(conf.pci.device_spec[0]), 'remote_managed': 'false'}
        )
        self.assertTrue(
            spec.match(
                {
                    'address': hosts.A100_ADDRESSES[0],
                    'vendor_id': '10de',
                    'product_id': '20b0',
                    'dev_type': 'type-PF',
                    'parent_addr': None,
                    'capabilities': {},
                }
            )
        )
        # Twice: for the compute node and for the API.
        alias, again = conf.pci.alias
        self.assertEqual(alias, again)
        self.assertEqual(
            {
                'vendor_id': '10de',
                'product_id': '20b0',
                'device_type': 'type-PF',
                'name': 'nvidia-a100-sxm4-40gb',
                'numa_policy': 'preferred',
            },
            json.loads(alias),
        )
        self.assertEqual(
            'PciPassthroughFilter', conf.filter_scheduler.enabled_filters[-1]
        )
        self.assertNotIn('gpu.GpuLibvirtDriver', text)

    def test_types_of_devices(self) -> None:
        self.fake.add_gpu('0000:41:00.0', 0x1EB8, iommu_group=1)
        self.fake.add_gpu('0000:42:00.0', 0x1EB8, iommu_group=2)
        hosts.mi300x(self.fake)
        conf = self.conf(self.text('--native', '--role', 'compute'))
        self.assertEqual(
            [('1002', '74b5', 'type-VF'), ('10de', '1eb8', 'type-PCI')],
            [
                (a['vendor_id'], a['product_id'], a['device_type'])
                for a in map(json.loads, conf.pci.alias)
            ],
        )
        self.assertEqual(2 + 8, len(conf.pci.device_spec))

    def test_mediated_devices(self) -> None:
        hosts.four_t4(self.fake)
        text = self.text('--native', '--profile', 'GRID T4-8Q')
        conf = self.conf(text)
        self.assertEqual(['nvidia-233'], conf.devices.enabled_mdev_types)
        devices_conf.register_dynamic_opts(conf)
        self.assertEqual(
            ['0000:3b:00.0', '0000:5e:00.0', '0000:af:00.0', '0000:d8:00.0'],
            conf['mdev_nvidia-233'].device_addresses,
        )
        text = self.text('--native')
        self.assertIn('# Instead of nvidia-230 also: nvidia-230 (GRID', text)

    def test_what_nova_can_not_do(self) -> None:
        hosts.a10_vendor_vfio(self.fake)
        result = self.generate('--native')
        self.assertEqual((0, ''), (result.code, result.out))
        self.assertEqual(2, len(result.errors))
        self.assertIn('0000:41:00.0: Nova itself makes no', result.errors[0])
