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

"""``nova-gpu host check``, right and wrong variants of each check."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

from nova_gpu import conf
from tests.fixtures import hosts, machine
from tests.unit.cli import base

CARD = '0000:41:00.0'
PASSTHROUGH_RULE = json.dumps({'use': 'passthrough'})
VGPU_RULE = json.dumps({'use': 'vgpu'})


class HostCheckTest(base.CliTest):
    """A host on which all is well, and one thing is changed."""

    def setUp(self) -> None:
        super().setUp()
        machine.well(self.fake)

    def check(self, *args: str) -> base.Result:
        return self.nova_gpu(
            'host', 'check', '--root', self.root, '-f', 'json', *args
        )

    def found(self, code: int, *args: str) -> dict[str, dict[str, Any]]:
        """The findings by check, of which there is one each here."""
        result = self.check(*args)
        self.assertEqual(code, result.code, result)
        rows = {row['Check']: row for row in result.json}
        self.assertEqual(len(rows), len(result.json), result.json)
        return rows

    def assert_found(
        self, check: str, level: str, seen: str, mend: str, *args: str
    ) -> None:
        """One check says this, and no other finds anything."""
        code = {'ok': 0, 'warning': 1, 'error': 2}[level]
        rows = self.found(code, *args)
        row = rows.pop(check)
        self.assertEqual(level, row['Result'])
        self.assertIn(seen, row['Seen'])
        self.assertIn(mend, row['Mend'])
        self.assertEqual(level == 'ok', not row['Meaning'])
        self.assertEqual(
            set(), {r['Check'] for r in rows.values() if r['Mend']}
        )

    def whole_card(self, **more: Any) -> None:
        self.fake.add_gpu(
            CARD, 0x2235, iommu_group=30,
            **{'driver': 'vfio-pci', 'resettable': True, **more},
        )  # fmt: skip

    def remove(self, name: str) -> None:
        path = self.fake.root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


class WholeCardTest(HostCheckTest):
    """One card for passthrough."""

    def setUp(self) -> None:
        super().setUp()
        self.whole_card()

    def test_all_is_well(self) -> None:
        result = self.check()
        self.assertEqual((0, []), (result.code, result.errors))
        self.assertEqual(
            [
                ('virtualization', '', 'vmx, /dev/kvm'),
                ('iommu', '', '2 groups'),
                ('iommu-mode', '', 'iommu=pt'),
                ('vfio', '', 'vfio_pci is loaded'),
                ('screen-drivers', '',
                 'nouveau: blocked by /etc/modprobe.d/nova-gpu.conf'),
                ('initramfs', '', f'/{machine.INITRAMFS} is newer'),
                ('libvirt', '', '10.0.0'),
                ('qemu', '', '8.2.2'),
                ('nova-user', '', 'kvm, libvirt, nova'),
                ('card', CARD, 'NVIDIA A40: whole'),
            ],
            [(r['Check'], r['Device'], r['Seen']) for r in result.json],
        )  # fmt: skip
        self.assertEqual([], self.check('--problems').json)

    def test_no_virtualization(self) -> None:
        for flags, mend in (
            ('sse', 'in the firmware'),
            ('sse hypervisor', 'nested virtualization'),
        ):
            machine.cpu(self.fake, flags)
            self.assert_found('virtualization', 'error', 'no vmx', mend)

    def test_no_kvm(self) -> None:
        self.remove('dev/kvm')
        self.assert_found(
            'virtualization', 'error', '/dev/kvm', 'modprobe kvm_intel'
        )
        machine.cpu(self.fake, 'svm')
        self.assert_found(
            'virtualization', 'error', '/dev/kvm', 'modprobe kvm_amd'
        )

    def test_no_iommu(self) -> None:
        shutil.rmtree(self.fake.root / 'sys/kernel/iommu_groups')
        (self.fake.device(CARD) / 'iommu_group').unlink()
        for table, line, seen, mend in (
            ('DMAR', '', 'DMAR', 'intel_iommu=on'),
            ('DMAR', 'intel_iommu=off', 'intel_iommu=off on the kernel',
             'remove intel_iommu=off'),
            ('IVRS', '', 'IVRS', 'iommu=pt'),
            (None, '', 'no DMAR or IVRS', 'VT-d'),
        ):  # fmt: skip
            self.remove('sys/firmware/acpi/tables')
            if table:
                self.fake.write(f'sys/firmware/acpi/tables/{table}', b'X')
            machine.command_line(self.fake, line)
            self.assert_found('iommu', 'error', seen, mend)

    def test_iommu_translates_the_host(self) -> None:
        machine.command_line(self.fake, 'intel_iommu=on')
        self.assert_found(
            'iommu-mode', 'warning', 'no iommu=pt', 'add iommu=pt'
        )
        machine.command_line(self.fake, 'iommu.passthrough=1')
        self.assertEqual(
            'iommu.passthrough=1', self.found(0)['iommu-mode']['Seen']
        )

    def test_no_vfio(self) -> None:
        self.remove('sys/module/vfio_pci')
        self.assert_found('vfio', 'error', 'vfio_pci', 'modprobe vfio-pci')

    def test_ids_of_vfio(self) -> None:
        self.fake.write(
            machine.BLACKLIST,
            'blacklist nouveau\noptions vfio-pci ids=10de:2235,1002:74A1\n',
        )
        machine.at(self.fake, machine.BLACKLIST, 1000)
        self.assertEqual(
            '1002:74a1, 10de:2235', self.found(0)['vfio-ids']['Seen']
        )
        rule = json.dumps({'address': CARD, 'use': 'ignore'})
        row = self.found(1, '--rule', rule)['vfio-ids']
        self.assertEqual(
            f'10de:2235 is in the ids of vfio-pci (/{machine.BLACKLIST})',
            row['Seen'],
        )
        self.remove(machine.BLACKLIST)
        machine.command_line(
            self.fake,
            'iommu=pt modprobe.blacklist=nouveau vfio-pci.ids=10de:2235',
        )
        row = self.found(1, '--rule', rule)['vfio-ids']
        self.assertIn('(vfio-pci.ids=10de:2235)', row['Seen'])

    def test_driver_of_the_screen(self) -> None:
        machine.modules(self.fake, 'nouveau')
        self.assert_found(
            'screen-drivers', 'warning', 'nouveau is loaded',
            'blacklist nouveau',
        )  # fmt: skip

    def test_driver_of_the_screen_at_the_next_boot(self) -> None:
        for line, level in (
            ('# blacklist nouveau', 'warning'),
            ('blacklist nouveau', 'ok'),
            ('install nouveau /bin/false', 'ok'),
            ('install nouveau /sbin/modprobe nouveau', 'warning'),
        ):
            self.fake.write(machine.BLACKLIST, f'{line}\n')
            machine.at(self.fake, machine.BLACKLIST, 1000)
            row = self.found(int(level != 'ok'))['screen-drivers']
            self.assertEqual(level, row['Result'], line)
        machine.command_line(self.fake, 'iommu=pt modprobe.blacklist=nouveau')
        self.assertIn(
            'modprobe.blacklist=nouveau',
            self.found(0)['screen-drivers']['Seen'],
        )

    def test_driver_of_the_console_stays(self) -> None:
        machine.modules(self.fake, 'nouveau')
        self.fake.add_gpu(
            '0000:01:00.0', 0x1EB8, class_code=0x0300, boot_vga=1,
            driver='nouveau', iommu_group=1,
        )  # fmt: skip
        rows = self.found(1)
        self.assertNotIn('screen-drivers', rows)
        self.assertEqual('warning', rows['console']['Result'])

    def test_drivers_of_other_vendors(self) -> None:
        self.remove('sys/bus/pci/devices')
        hosts.mi300x(self.fake)
        machine.cpu(self.fake, 'vmx', 52)
        machine.modules(self.fake, 'amdgpu')
        self.assert_found(
            'screen-drivers', 'warning', 'amdgpu is loaded',
            'blacklist amdgpu',
        )  # fmt: skip

    def test_initramfs_of_before(self) -> None:
        machine.at(self.fake, machine.BLACKLIST, 3000)
        self.assert_found(
            'initramfs', 'warning', f'older than /{machine.BLACKLIST}',
            'update-initramfs -u',
        )  # fmt: skip

    def test_old_versions(self) -> None:
        machine.qemu(self.fake, 6001000)
        self.assert_found('qemu', 'error', '6.1.0', 'qemu 6.2.0 or newer')
        machine.qemu(self.fake, 6002000)
        self.found(0)
        folder = 'usr/lib/x86_64-linux-gnu'
        self.remove(f'{folder}/libvirt.so.0.10000.0')
        self.fake.write('usr/lib64/libvirt.so.0.7010.0', b'')
        self.assert_found('libvirt', 'error', '7.10.0', 'libvirt 8.0.0')

    def test_versions_that_nothing_tells(self) -> None:
        self.remove('var/cache')
        self.assert_found('qemu', 'warning', 'no file', 'qemu-system-x86_64')
        self.fake.write(
            'var/lib/dpkg/status',
            'Package: qemu-utils\nVersion: 1:9.9.9-1\n\n'
            'Package: qemu-system-x86\nStatus: install ok installed\n'
            'Architecture: amd64\nVersion: 1:8.2.2+ds-0ubuntu1.4\n\n',
        )
        self.assertEqual('8.2.2', self.found(0)['qemu']['Seen'])

    def test_wide_addresses_need_a_newer_libvirt(self) -> None:
        self.fake.add_gpu(
            '0000:81:00.0', 0x20B0, iommu_group=31, resettable=True,
            bars=(256 << 30, 32 << 20), driver='vfio-pci',
        )  # fmt: skip
        self.assertEqual(0, self.check().code)
        folder = 'usr/lib/x86_64-linux-gnu'
        self.remove(f'{folder}/libvirt.so.0.10000.0')
        self.fake.write(f'{folder}/libvirt.so.0.8006.0', b'')
        (row,) = self.check('--problems').json
        self.assertEqual(('libvirt', 'warning'), (row['Check'], row['Result']))
        self.assertIn('large BARs with less than 8.7.0', row['Meaning'])

    def test_state_that_is_not_novas(self) -> None:
        self.fake.write('var/lib/nova/x', '')
        self.found(0)
        self.fake.write(
            'etc/passwd', 'nova:x:64060:64060::/var/lib/nova:/bin/sh\n'
        )
        self.assert_found(
            'nova-user', 'warning', 'nova is 64060', 'chown nova:'
        )

    def test_nova_is_in_no_group(self) -> None:
        self.fake.write('etc/group', 'libvirt:x:119:adm\nnova:x:64060:\n')
        self.assert_found(
            'nova-user', 'warning', 'not in the group', 'usermod -aG libvirt'
        )
        self.fake.write('etc/group', 'nova:x:64060:\n')
        self.assertEqual('nova', self.found(0)['nova-user']['Seen'])
        self.fake.write('etc/passwd', 'root:x:0:0::/root:/bin/sh\n')
        self.assertNotIn('nova-user', self.found(0))

    def test_huge_pages_of_another_node(self) -> None:
        machine.huge_pages(self.fake, 0, 0)
        self.assertNotIn('huge-pages', self.found(0))
        machine.huge_pages(self.fake, 0, 512)
        self.assert_found(
            'huge-pages', 'warning', 'node 0: 0, node 1: 512', 'node0'
        )
        machine.huge_pages(self.fake, 512, 0)
        self.assertEqual(
            'node 0: 512, node 1: 0', self.found(0)['huge-pages']['Seen']
        )

    def test_nova_conf(self) -> None:
        path = self.fake.root / 'nova.conf'
        args = ('--config-file', str(path))
        path.write_text('[DEFAULT]\ncompute_driver = libvirt.LibvirtDriver\n')
        self.assert_found(
            'nova-conf', 'error', 'libvirt.LibvirtDriver',
            f'compute_driver = gpu.GpuLibvirtDriver in [DEFAULT] of {path}',
            *args,
        )  # fmt: skip
        path.write_text('[gpu]\n')
        self.assert_found('nova-conf', 'error', 'not set', '[DEFAULT]', *args)
        ours = '[DEFAULT]\ncompute_driver = gpu.GpuLibvirtDriver\n'
        path.write_text(ours)
        self.assertEqual('ok', self.found(0, *args)['nova-conf']['Result'])
        path.write_text(f'{ours}[devices]\nenabled_mdev_types = nvidia-1\n')
        self.assert_found(
            'nova-conf', 'warning', 'enabled_mdev_types', 'remove', *args
        )

    def test_no_nova_conf(self) -> None:
        # Nobody names another root: the machine itself is looked at.
        if not os.path.isdir('/sys/bus/pci/devices'):
            self.skipTest('this machine has no PCI bus')
        result = self.nova_gpu('host', 'check', '-f', 'json')
        (found,) = (r for r in result.json if r['Check'] == 'nova-conf')
        self.assertEqual('warning', found['Result'])
        self.assertEqual('no nova.conf was read', found['Seen'])
        etc = f'{self.root}/etc/nova'
        self.assertIn(
            f'looked for {etc}/nova.conf and {etc}/nova-compute.conf',
            found['Meaning'],
        )
        self.assertIn('--config-file', found['Mend'])
        for args in ((), ('--rule', PASSTHROUGH_RULE)):
            self.assertNotIn('nova-conf', self.found(0, *args))

    def test_names_that_are_no_option(self) -> None:
        path = self.fake.root / 'nova.conf'
        ours = '[DEFAULT]\ncompute_driver = gpu.GpuLibvirtDriver\n[gpu]\n'
        ((_, opts),) = conf.list_opts()
        for opt in opts:
            value = PASSTHROUGH_RULE if opt.multi else opt.default
            ours += f'{opt.name} = {value}\n'
        path.write_text(ours)
        args = ('--config-file', str(path))
        self.assertEqual('ok', self.found(0, *args)['nova-conf']['Result'])
        path.write_text(f'{ours}rules = {PASSTHROUGH_RULE}\n')
        self.assert_found(
            'nova-conf', 'warning',
            f'no options of [gpu]: rules in {path}', 'correct', *args,
        )  # fmt: skip

    def test_what_nova_compute_does_not_start_with(self) -> None:
        path = self.fake.root / 'nova.conf'
        later = self.fake.root / 'later.conf'
        later.write_text('[gpu]\nfmpm = /bin/true\n')
        args = ('--config-file', str(path), '--config-file', str(later))
        for option, value, wrong in (
            ('restore_timeout', 'abc', "'abc'"),
            ('audit_interval', '-4', 'greater than or equal to -1'),
            ('weight_multiplier', 'much', "'much'"),
            ('reserve_gpu_hosts', 'perhaps', "'perhaps'"),
        ):
            path.write_text(f'[gpu]\n{option} = {value}\n')
            result = self.check(*args)
            self.assertEqual((2, ''), (result.code, result.out))
            (line,) = result.errors
            self.assertIn(f'error: {path}: [gpu] {option}: ', line)
            self.assertIn(wrong, line)

    def test_file_that_is_not_utf_8(self) -> None:
        path = self.fake.root / 'nova.conf'
        path.write_bytes(b'# \xe9t\xe9\n[DEFAULT]\n')
        args = ('--root', self.root, '--config-file', str(path))
        for command in (('host', 'check'), ('audit',)):
            result = self.nova_gpu(*command, *args)
            self.assertEqual((2, ''), (result.code, result.out))
            (line,) = result.errors
            self.assertIn(f"error: {path}: 'utf-8' codec", line)

    def test_file_of_the_package(self) -> None:
        # Debian's and Ubuntu's nova-compute-kvm brings it.
        ours = '[DEFAULT]\ncompute_driver = gpu.GpuLibvirtDriver\n'
        etc = self.fake.root / 'etc/nova'
        etc.mkdir(parents=True)
        (etc / 'nova.conf').write_text(
            f'{ours}[gpu]\nhost_root = {self.root}\n'
        )
        (etc / 'nova-compute.conf').write_text(
            '[DEFAULT]\ncompute_driver=libvirt.LibvirtDriver\n'
        )
        result = self.nova_gpu('host', 'check', '-f', 'json')
        (found,) = (r for r in result.json if r['Check'] == 'nova-conf')
        self.assertEqual('error', found['Result'])
        self.assertIn(
            f'in [DEFAULT] of {etc}/nova-compute.conf', found['Mend']
        )
        # The last that sets it, not the last that has its section.
        (etc / 'nova-compute.conf.d').mkdir()
        (etc / 'nova-compute.conf.d/debug.conf').write_text(
            '[DEFAULT]\ndebug = true\n'
        )
        result = self.nova_gpu('host', 'check', '-f', 'json')
        self.assertIn(found, result.json)
        (etc / 'nova-compute.conf').write_text('[libvirt]\nvirt_type=kvm\n')
        result = self.nova_gpu('host', 'check', '-f', 'json')
        (found,) = (r for r in result.json if r['Check'] == 'nova-conf')
        self.assertEqual('ok', found['Result'])

    def test_driver(self) -> None:
        self.fake.bind(CARD, 'nouveau')
        self.assert_found(
            'driver', 'error', 'bound to nouveau',
            f'echo vfio-pci > /sys/bus/pci/devices/{CARD}/driver_override',
        )  # fmt: skip
        self.fake.bind(CARD, None)
        self.found(0)

    def test_virtual_functions_of_a_whole_card(self) -> None:
        hosts.mi300x(self.fake)
        self.fake.bind('0000:0c:00.0', 'vfio-pci')
        self.fake.set_address_bits(52)
        machine.cpu(self.fake, 'vmx', 52)
        result = self.check('--rule', PASSTHROUGH_RULE, '--problems')
        self.assertEqual(2, result.code)
        self.assertIn(
            ('virtual-functions', '8 are enabled'),
            [(r['Check'], r['Seen']) for r in result.json],
        )

    def test_group_with_strangers(self) -> None:
        self.fake.add_function(
            '0000:42:00.0', 0x8086, 0x1521, 0x0200, iommu_group=30
        )
        self.assert_found(
            'isolation', 'error', 'IOMMU group 30 with 0000:42:00.0', 'ACS'
        )

    def test_group_with_companions(self) -> None:
        """A card's own audio and USB functions go along with it."""
        for number, code in ((1, 0x0403), (2, 0x0C03)):
            self.fake.add_function(
                f'0000:41:00.{number}', 0x10DE, 0x1AEF, code, iommu_group=30
            )
        self.assertEqual('NVIDIA A40: whole', self.found(0)['card']['Seen'])

    def test_no_way_to_reset(self) -> None:
        (self.fake.device(CARD) / 'reset').unlink()
        self.assert_found('reset', 'warning', 'no way', 'newer kernel')

    def test_node_that_nobody_names(self) -> None:
        machine.huge_pages(self.fake, 0, 0)
        (self.fake.device(CARD) / 'numa_node').write_text('-1\n')
        self.assert_found('numa', 'warning', 'no NUMA node', 'firmware')

    def test_addresses(self) -> None:
        machine.cpu(self.fake, 'vmx', 39)
        self.found(0)
        self.fake.add_gpu(
            '0000:81:00.0', 0x20B0, iommu_group=31, driver='vfio-pci',
            bars=(64 << 30, 32 << 20), resettable=True,
        )  # fmt: skip
        result = self.check('--problems')
        self.assertEqual(2, result.code)
        (row,) = result.json
        self.assertEqual(('addresses', '0000:81:00.0'),
                         (row['Check'], row['Device']))  # fmt: skip
        self.assertIn('39 bits', row['Seen'])

    def test_card_put_aside(self) -> None:
        self.fake.write(f'var/lib/nova/gpu/put-aside/{CARD}', 'reset failed\n')
        result = self.check('--problems')
        self.assertEqual(1, result.code, result)
        (row,) = result.json
        self.assertEqual(('put-aside', CARD), (row['Check'], row['Device']))
        self.assertIn(f'nova-gpu host release {CARD}', row['Mend'])

    def test_ignored_card(self) -> None:
        self.fake.bind(CARD, 'nouveau')
        rows = self.found(0, '--rule', '{"use": "ignore"}')
        self.assertIn('ignored by a rule', rows['card']['Seen'])


class ConsoleTest(HostCheckTest):
    """The card that shows the console."""

    def test_console(self) -> None:
        self.whole_card(boot_vga=1, class_code=0x0300)
        self.assert_found('console', 'warning', 'boot VGA', 'another display')
        row = self.found(2, '--rule', PASSTHROUGH_RULE)['console']
        self.assertEqual('error', row['Result'])


class VgpuTest(HostCheckTest):
    """Cards that are cut into vGPUs."""

    def test_mediated_devices(self) -> None:
        hosts.four_t4(self.fake)
        machine.vgpu_manager(self.fake, 'nvidia_vgpu_vfio')
        result = self.check()
        self.assertEqual((0, []), (result.code, result.errors))
        cards = [r['Seen'] for r in result.json if r['Check'] == 'card']
        self.assertEqual(['NVIDIA Tesla T4: mdev'] * 4, cards)
        self.assertNotIn('vfio', {r['Check'] for r in result.json})

    def test_vendor_vfio(self) -> None:
        hosts.a10_vendor_vfio(self.fake)
        machine.vgpu_manager(self.fake)
        self.assertEqual(0, self.check().code)
        machine.qemu(self.fake, 8001000)
        result = self.check('--problems')
        self.assertEqual(1, result.code)
        self.assertEqual(['qemu'], [r['Check'] for r in result.json])
        self.assertIn('live migrated', result.json[0]['Meaning'])

    def test_vendor_vfio_with_an_old_libvirt(self) -> None:
        hosts.a10_vendor_vfio(self.fake)
        machine.vgpu_manager(self.fake)
        folder = 'usr/lib/x86_64-linux-gnu'
        self.remove(f'{folder}/libvirt.so.0.10000.0')
        for number, level, least in (
            ('9006', 'error', '9.7.0'), ('9007', 'warning', '10.0.0'),
        ):  # fmt: skip
            name = f'{folder}/libvirt.so.0.{number}.0'
            self.fake.write(name, b'')
            (row,) = self.check('--problems').json
            self.assertEqual(level, row['Result'])
            self.assertIn(f'less than {least}', row['Meaning'])
            self.remove(name)

    def problems(self, *args: str) -> dict[str, str]:
        result = self.check('--problems', *args)
        return {r['Check']: r['Mend'] for r in result.json}

    def test_no_vgpu_manager(self) -> None:
        self.fake.add_gpu(CARD, 0x2235, iommu_group=30, driver='vfio-pci')
        found = self.problems('--rule', VGPU_RULE)
        self.assertEqual({'vgpu-manager', 'driver'}, found.keys())
        self.assertIn('vGPU host driver', found['vgpu-manager'])
        self.assertIn('load nvidia', found['driver'])

    def test_driver_for_bare_metal(self) -> None:
        self.fake.add_gpu(CARD, 0x2235, iommu_group=30, driver='nvidia')
        machine.vgpu_manager(self.fake)
        found = self.problems()
        self.assertEqual({'vgpu-manager', 'vgpu'}, found.keys())
        self.assertIn('in its place', found['vgpu-manager'])

    def test_service_is_down(self) -> None:
        hosts.four_t4(self.fake)
        machine.modules(self.fake, 'nvidia', 'nvidia_vgpu_vfio')
        found = self.problems()
        self.assertEqual({'vgpu-manager'}, found.keys())
        self.assertIn('systemctl enable --now', found['vgpu-manager'])

    def test_no_virtual_functions(self) -> None:
        device = self.fake.add_gpu(
            CARD, 0x2235, iommu_group=30, driver='nvidia'
        )
        (device / 'sriov_totalvfs').write_text('32\n')
        machine.vgpu_manager(self.fake, 'nvidia_vgpu_vfio')
        found = self.problems()
        self.assertEqual({'virtual-functions'}, found.keys())
        self.assertIn(f'sriov-manage -e {CARD}', found['virtual-functions'])

    def test_nothing_in_mdev_bus(self) -> None:
        """The manager is there, the functions too, but the types aren't."""
        self.fake.add_gpu(
            CARD, 0x2235, iommu_group=30, driver='nvidia',
            virtual_functions=32, vf_driver='nvidia',
        )  # fmt: skip
        machine.vgpu_manager(self.fake, 'nvidia_vgpu_vfio')
        (row,) = self.check('--problems', '--rule', VGPU_RULE).json
        self.assertEqual(('vgpu', CARD), (row['Check'], row['Device']))
        self.assertIn('/sys/class/mdev_bus', row['Seen'])
        self.assertIn('license', row['Mend'])

    def test_ids_of_vfio_with_the_model(self) -> None:
        hosts.four_t4(self.fake)
        machine.vgpu_manager(self.fake, 'nvidia_vgpu_vfio')
        self.fake.write(
            'etc/modprobe.d/v.conf', 'options vfio_pci ids=10de:1eb8\n'
        )
        machine.at(self.fake, 'etc/modprobe.d/v.conf', 1000)
        result = self.check('--problems')
        self.assertEqual(2, result.code)
        self.assertEqual({'vfio-ids'}, {r['Check'] for r in result.json})
        self.assertIn('/etc/modprobe.d/v.conf', result.json[0]['Seen'])

    def mig_rule(self, *profiles: str) -> tuple[str, str]:
        return '--rule', json.dumps({'profiles': list(profiles)})

    def test_mig_mode_against_the_rules(self) -> None:
        machine.vgpu_manager(self.fake, 'nvidia_vgpu_vfio')
        for make in (hosts.a100_mig, hosts.a100_mig_vendor_vfio):
            self.remove('sys/bus/pci/devices')
            card = '0000:c1:00.0'
            make(self.fake)
            small = self.mig_rule('A100-1-5C', 'A100-2-10C')
            self.assertEqual({}, self.problems(*small))
            found = self.problems(*self.mig_rule('A100-3-20C', 'A100-1-5C'))
            self.assertEqual({'mig'}, found.keys())
            cut = '3g.20gb,1g.5gb,1g.5gb,1g.5gb,1g.5gb'
            self.assertIn(
                f'nvidia-smi mig -i {card} -dgi; nvidia-smi mig -i {card} '
                f'-cgi {cut} -C',
                found['mig'],
            )
            # Types that share the card by time need it off.
            found = self.problems(*self.mig_rule('A100-20C'))
            self.assertEqual(
                f'nvidia-smi -i {card} -mig 0, as it is no MIG-backed type',
                found['mig'],
            )
            found = self.problems(*self.mig_rule('A100-20C', 'A100-1-5C'))
            self.assertIn('say by a rule', found['mig'])
            self.fake.set_gpu_instances(card, None)
            self.assertEqual({}, self.problems(*self.mig_rule('A100-20C')))
            found = self.problems(*small)
            self.assertIn(f'nvidia-smi -i {card} -mig 1', found['mig'])
            self.assertNotIn('virtual_functions', found['mig'])
            self.fake.remove(card)

    def test_mig_without_instances(self) -> None:
        hosts.a100_mig(self.fake)
        machine.vgpu_manager(self.fake, 'nvidia_vgpu_vfio')
        self.assertEqual({}, self.problems())
        for path in self.fake.root.glob(
            'proc/driver/nvidia/capabilities/gpu*/mig/gi*'
        ):
            shutil.rmtree(path)
        found = self.problems()
        self.assertEqual({'mig'}, found.keys())
        self.assertIn('nvidia-smi mig -i 0000:c1:00.0', found['mig'])

    def test_secure_boot(self) -> None:
        self.fake.write(machine.SECURE_BOOT, b'\x06\x00\x00\x00\x01')
        self.fake.add_gpu(CARD, 0x2235, iommu_group=30)
        found = self.problems('--rule', VGPU_RULE)
        self.assertIn('mokutil', found.pop('secure-boot'))
        hosts.four_t4(self.fake)
        machine.vgpu_manager(self.fake, 'nvidia_vgpu_vfio')
        self.assertNotIn('secure-boot', self.problems())

    def test_gvt(self) -> None:
        hosts.gvt_g(self.fake)
        machine.modules(self.fake, 'i915')
        parameter = 'sys/module/i915/parameters/enable_gvt'
        self.assertIn('i915.enable_gvt=1', self.problems()['gvt-g'])
        self.fake.write(parameter, 'Y\n')
        guc = 'sys/module/i915/parameters/enable_guc'
        for value in ('1', '3'):
            self.fake.write(guc, f'{value}\n')
            self.assertIn('i915.enable_guc=0', self.problems()['gvt-g'])
        self.fake.write(guc, '-1\n')
        self.assertIn('modprobe kvmgt', self.problems()['gvt-g'])
        machine.modules(self.fake, 'kvmgt')
        self.assertEqual({}, self.problems())

    def test_secure_boot_with_amd(self) -> None:
        self.fake.write(machine.SECURE_BOOT, b'\x06\x00\x00\x00\x01')
        hosts.mi300x(self.fake, enabled_vfs=0)
        machine.cpu(self.fake, 'vmx', 52)
        self.assertIn('mokutil', self.problems()['secure-boot'])
        machine.modules(self.fake, 'gim')
        self.assertNotIn('secure-boot', self.problems())

    def test_amd(self) -> None:
        hosts.mi300x(self.fake)
        machine.cpu(self.fake, 'vmx', 52)
        self.assertEqual({}, self.problems())

    def test_amd_without_virtual_functions(self) -> None:
        hosts.mi300x(self.fake, enabled_vfs=0)
        machine.cpu(self.fake, 'vmx', 52)
        found = self.problems()
        self.assertEqual({'virtual-functions'}, found.keys())
        self.assertIn('sriov_numvfs', found['virtual-functions'])


class OtherTest(HostCheckTest):
    """What isn't a finding."""

    def test_host_without_cards(self) -> None:
        result = self.check()
        self.assertEqual((0, ['note: no GPU found']),
                         (result.code, result.errors))  # fmt: skip

    def test_no_host(self) -> None:
        result = self.nova_gpu('host', 'check', '--root', '/nowhere')
        self.assertEqual(2, result.code)
        self.assertIn('/nowhere: No such file', result.errors[0])

    def test_empty_host(self) -> None:
        for name in ('dev', 'proc/cmdline', 'boot', 'etc', 'usr', 'var'):
            self.remove(name)
        self.whole_card()
        result = self.check('--problems')
        self.assertEqual(2, result.code)
        self.assertEqual(
            ['virtualization', 'iommu-mode', 'screen-drivers', 'libvirt',
             'qemu'],
            [r['Check'] for r in result.json],
        )  # fmt: skip

    def test_table(self) -> None:
        self.whole_card(driver='nouveau')
        result = self.nova_gpu('host', 'check', '--root', self.root)
        self.assertEqual(2, result.code)
        self.assertIn('| driver ', result.out)
        self.assertLess(max(map(len, result.out.splitlines())), 260)
