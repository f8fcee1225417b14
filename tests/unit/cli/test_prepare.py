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

"""``nova-gpu host prepare``, in a root of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import subprocess
from typing import Any

from nova_gpu.cli import backup, main
from nova_gpu.model import prepare
from tests.fixtures import hosts, machine, nvidia_tools
from tests.unit.cli import base

FIRST, SECOND = '0000:41:00.0', '0000:42:00.0'
GRUB = 'etc/default/grub'
MODPROBE = 'etc/modprobe.d/nova-gpu.conf'
SCRIPT = 'etc/nova-gpu/prepare-cards'


class PrepareTest(base.CliTest):
    def prepare(self, *args: str, code: int = 0) -> base.Result:
        result = self.nova_gpu('host', 'prepare', '--root', self.root, *args)
        self.assertEqual(code, result.code, result)
        return result

    def check(self, *args: str) -> base.Result:
        return self.nova_gpu(
            'host', 'check', '--root', self.root, '--problems', '-f', 'json',
            *args,
        )  # fmt: skip

    def read(self, name: str) -> str:
        return (pathlib.Path(self.root) / name).read_text()

    def files(self) -> dict[str, str]:
        """All files below etc, by path."""
        top = pathlib.Path(self.root) / 'etc'
        return {
            str(path.relative_to(self.root)): path.read_text()
            for path in sorted(top.rglob('*'))
            if path.is_file()
        }

    def add_guest_with(self, address: str) -> None:
        self.add_guest('instance-1', 'a' * 8, functions=[address])

    def run_script(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run what is done at each boot, on the files of this host."""
        return nvidia_tools.run_script(self.fake, self.read(SCRIPT), *args)


class BareHostTest(PrepareTest):
    """From a new host to one on which all is well."""

    def setUp(self) -> None:
        super().setUp()
        machine.bare(self.fake)

    def test_the_plan_changes_nothing(self) -> None:
        before = self.files()
        out = self.prepare().out
        self.assertEqual(before, self.files())
        self.assertIn('cat > /etc/default/grub <<"EOF"\n', out)
        self.assertIn(
            'GRUB_CMDLINE_LINUX="console=tty0 intel_iommu=on iommu=pt"\n', out
        )
        for command in ('update-grub', 'update-initramfs -u'):
            self.assertIn(f'\n{command}\n', out)
        self.assertEqual('Then reboot the host.', out.splitlines()[-1])

    def test_the_plan_is_a_script(self) -> None:
        text = self.prepare().out.replace('/etc/', f'{self.root}/etc/')
        text = text.rpartition('Then reboot')[0]
        for command in ('update-grub', 'update-initramfs'):
            text = text.replace(f'\n{command}', '\ntrue')
        os.makedirs(f'{self.root}/etc/modprobe.d')
        os.makedirs(f'{self.root}/etc/modules-load.d')
        subprocess.run(['/bin/sh', '-eu', '-c', text], check=True)
        written = self.files()
        self.assertIn('intel_iommu=on', written[GRUB])
        self.prepare('--apply')
        self.assertEqual(written, self.files())

    def test_apply_reboot_check(self) -> None:
        found = {row['Check'] for row in self.check().json}
        self.assertEqual({'iommu', 'vfio', 'screen-drivers', 'driver'}, found)
        result = self.prepare('--apply')
        self.assertIn(f'not run below {self.root}: update-grub', result.out)
        self.assertIn('/etc/default/grub is written', result.out)
        machine.boot(self.fake)
        self.assertEqual((0, []), (self.check().code, self.check().json))
        cards = self.cards()
        self.assertEqual({'whole'}, {card['Use'] for card in cards.values()})

    def test_twice(self) -> None:
        self.prepare('--apply')
        before = self.files()
        result = self.prepare('--apply')
        self.assertEqual(['note: no file is left to write'], result.errors)
        self.assertEqual('Then reboot the host.\n', result.out)
        self.assertEqual(before, self.files())
        machine.boot(self.fake)
        self.assertEqual('', self.prepare('--apply').out)

    def test_undo(self) -> None:
        before = self.files()
        os.chmod(f'{self.root}/{GRUB}', 0o640)
        self.prepare('--apply')
        self.assertNotEqual(before, self.files())
        result = self.prepare('--undo')
        self.assertEqual(before, self.files())
        mode = os.stat(f'{self.root}/{GRUB}').st_mode
        self.assertEqual(0o640, mode & 0o7777)
        self.assertIn('/etc/default/grub is as it was', result.out)
        self.assertIn('update-grub', result.out)
        result = self.prepare('--undo')
        self.assertEqual(
            ['note: nothing was changed by --apply'], result.errors
        )

    def test_undo_after_two_changes(self) -> None:
        """What was there first comes back, not what --apply has written."""
        before = self.files()
        self.prepare('--apply', '--rule', '{"use": "ignore"}')
        self.prepare('--apply')
        self.prepare('--undo')
        self.assertEqual(before, self.files())

    def test_what_is_off_on_the_command_line(self) -> None:
        self.fake.write(
            GRUB, "GRUB_CMDLINE_LINUX='intel_iommu=off quiet'\nX=1\n"
        )
        self.prepare('--apply')
        self.assertEqual(
            'GRUB_CMDLINE_LINUX="quiet intel_iommu=on iommu=pt"\nX=1\n',
            self.read(GRUB),
        )
        self.fake.write(GRUB, 'GRUB_TIMEOUT=0')
        self.prepare('--apply')
        self.assertEqual(
            'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX="intel_iommu=on iommu=pt"\n',
            self.read(GRUB),
        )

    def test_files_that_are_not_utf_8(self) -> None:
        before = b'# \xe9t\xe9\nGRUB_CMDLINE_LINUX="quiet"\n'
        after = before.replace(b'quiet', b'quiet intel_iommu=on iommu=pt')
        self.fake.write(GRUB, before)
        self.fake.write(MODPROBE, b'# \xe9t\xe9\n')
        with io.TextIOWrapper(io.BytesIO(), 'utf-8') as out:
            with contextlib.redirect_stdout(out):
                code = main.main(['host', 'prepare', '--root', self.root])
            out.flush()
            self.assertEqual(0, code)
            self.assertIn(after, out.buffer.getvalue())
        self.prepare('--apply')
        path = pathlib.Path(self.root) / GRUB
        self.assertEqual(after, path.read_bytes())
        self.assertIn('blacklist nouveau', self.read(MODPROBE))
        self.prepare('--undo')
        self.assertEqual(before, path.read_bytes())

    def test_family_of_red_hat(self) -> None:
        self.fake.write('etc/os-release', 'ID="rocky"\nID_LIKE="rhel centos"')
        result = self.prepare('--apply')
        self.assertNotIn('iommu', self.read(GRUB))
        self.assertIn(
            "grubby --update-kernel=ALL '--args=intel_iommu=on iommu=pt'",
            result.out,
        )
        self.assertIn('dracut -f', result.out)
        before = self.read(GRUB)
        for _ in range(2):  # it is remembered once
            self.prepare('--apply')
        lines = self.prepare('--undo').out.splitlines()
        self.assertEqual(before, self.read(GRUB))
        self.assertEqual(
            [
                f'not run below {self.root}: grubby --update-kernel=ALL '
                "'--remove-args=intel_iommu=on iommu=pt'"
            ],
            [line for line in lines if 'grubby' in line],
        )

    def test_what_is_off_with_grubby(self) -> None:
        self.fake.write('etc/os-release', 'ID=fedora\n')
        machine.command_line(self.fake, 'amd_iommu=off')
        self.assertIn(
            "'--args=intel_iommu=on iommu=pt' --remove-args=amd_iommu=off\n",
            self.prepare('--apply').out,
        )
        self.assertIn(
            "'--remove-args=intel_iommu=on iommu=pt' --args=amd_iommu=off\n",
            self.prepare('--undo').out,
        )

    def test_unknown_family(self) -> None:
        self.fake.write('etc/os-release', 'ID=haiku\n')
        result = self.prepare()
        self.assertIn('the distribution is unknown', result.errors[0])
        self.assertIn('intel_iommu=on iommu=pt', result.errors[0])
        self.assertNotIn('update-', result.out)

    def test_without_grub(self) -> None:
        """As systemd-boot has it; where it keeps the line is not known."""
        (pathlib.Path(self.root) / GRUB).unlink()
        rule = json.dumps({'address': SECOND, 'use': 'vgpu'})
        said = (
            'warning: /etc/default/grub is not there: add intel_iommu=on '
            'iommu=pt to the kernel command line yourself, and reboot'
        )
        result = self.prepare('--apply', '--rule', rule)
        self.assertEqual([said], result.errors)
        self.assertNotIn('update-grub', result.out)
        self.assertNotIn(GRUB, self.files())
        # Its modprobe.d takes nouveau's cards away.
        self.assertIn('Then reboot the host.', result.out)
        result = self.prepare('--apply', '--rule', rule)
        self.assertEqual('', result.out)
        self.assertIn(said, result.errors)
        # Without an IOMMU vfio-pci takes no card: that is for the boot.
        other = json.dumps({'address': FIRST, 'use': 'vgpu'})
        result = self.prepare('--apply', '--rule', other)
        self.assertEqual(f'/{SCRIPT} is written\n', result.out)
        self.prepare('--apply', '--rule', rule)
        machine.command_line(self.fake, 'intel_iommu=on iommu=pt')
        result = self.prepare('--apply', '--rule', rule)
        self.assertEqual(['note: no file is left to write'], result.errors)

    def test_amd(self) -> None:
        machine.cpu(self.fake, 'svm')
        self.prepare('--apply')
        self.assertIn('"console=tty0 iommu=pt"', self.read(GRUB))

    def test_broken_backup(self) -> None:
        for name, text, wrong in (
            ('commands.json', '[{"words": 1}]', 'TypeError'),
            ('commands.json', '[]', 'Expecting'),
            ('files.json', 'not json', 'Expecting'),
        ):
            path = f'{backup.FOLDER}/{name}'
            self.fake.write(path, text)
            self.fake.write(f'{backup.FOLDER}/files.json', 'not json')
            for option in ('--apply', '--undo'):
                (line,) = self.prepare(option, code=1).errors
                self.assertIn(backup.FOLDER, line)
                self.assertIn(wrong, line)
        self.assertEqual(machine.GRUB, self.read(GRUB))

    def test_nothing_is_written_where_that_fails(self) -> None:
        self.fake.write('var/lib/nova-gpu', 'a file')
        (line,) = self.prepare('--apply', code=1).errors
        self.assertIn('var/lib/nova-gpu', line)
        self.assertEqual(machine.GRUB, self.read(GRUB))


class CardsTest(PrepareTest):
    """Which cards are touched, and which are not."""

    def setUp(self) -> None:
        super().setUp()
        machine.bare(self.fake)

    def modprobe(self, *args: str) -> str:
        self.prepare('--apply', *args)
        return self.read(MODPROBE)

    def test_all_of_a_model(self) -> None:
        self.assertIn(
            'options vfio-pci ids=10de:2235\nsoftdep nouveau pre: vfio-pci\n',
            self.modprobe(),
        )
        self.assertNotIn(SCRIPT, self.files())

    def test_one_of_a_model(self) -> None:
        rule = json.dumps({'address': SECOND, 'use': 'vgpu'})
        text = self.modprobe('--rule', rule)
        self.assertIn('blacklist nouveau', text)
        self.assertNotIn('ids=', text)
        script = self.read(SCRIPT)
        self.assertIn(f'{{ to_vfio {FIRST}; }} || status=1\n', script)
        self.assertNotIn(SECOND, script)
        subprocess.run(['/bin/sh', '-n'], input=script, text=True, check=True)
        path = f'{self.root}/etc/nova-gpu/prepare-cards'
        self.assertEqual(0o755, os.stat(path).st_mode & 0o777)
        unit = self.read('etc/systemd/system/nova-gpu-cards.service')
        self.assertIn('ExecStart=/bin/sh /etc/nova-gpu/prepare-cards', unit)
        self.assertIn('Before=nova-compute.service', unit)

    def test_the_script_works(self) -> None:
        """Run on the files of a host: what the kernel is told, in order."""
        rule = json.dumps({'address': SECOND, 'use': 'vgpu'})
        self.modprobe('--rule', rule)
        self.fake.write('sys/bus/pci/drivers_probe', '')
        device = pathlib.Path(self.root) / f'sys/bus/pci/devices/{FIRST}'
        self.assertEqual(0, self.run_script().returncode)
        self.assertEqual(
            'vfio-pci\n', (device / 'driver_override').read_text()
        )
        self.assertEqual(f'{FIRST}\n', (device / 'driver/unbind').read_text())
        self.assertEqual(f'{FIRST}\n', self.read('sys/bus/pci/drivers_probe'))

    def test_card_that_a_guest_holds(self) -> None:
        """What it has already it needs after the next boot; no more."""
        self.add_guest_with(FIRST)
        rule = json.dumps({'address': SECOND, 'use': 'vgpu'})
        result = self.prepare('--rule', rule)
        self.assertIn(f'{FIRST} is held by a guest', result.errors[0])
        self.assertNotIn(f'to_vfio {FIRST}', result.out)
        self.fake.bind(FIRST, 'vfio-pci')
        result = self.prepare('--apply', '--rule', rule)
        self.assertEqual([], result.errors)
        self.assertIn(f'to_vfio {FIRST}', self.read(SCRIPT))
        before = self.tree()
        self.assertEqual(0, self.run_script().returncode)
        self.assertEqual(before, self.tree())

    def tree(self) -> dict[str, str]:
        """What the script could write to."""
        top = pathlib.Path(self.root) / 'sys'
        return {
            str(path): path.read_text()
            for pattern in ('unbind', 'driver_override', 'drivers_probe')
            for path in top.rglob(pattern)
        }

    def test_card_that_shows_the_console(self) -> None:
        self.fake.add_gpu(
            '0000:01:00.0', 0x1EB8, class_code=0x0300, boot_vga=1,
            driver='nouveau',
        )  # fmt: skip
        result = self.prepare()
        self.assertIn('0000:01:00.0 shows the console', result.errors[0])
        self.assertNotIn('1eb8', result.out)
        self.assertNotIn('0000:01:00.0', result.out)
        # Its driver goes on showing it, and comes after vfio-pci.
        self.assertNotIn('blacklist nouveau', result.out)
        self.assertIn('softdep nouveau pre: vfio-pci', result.out)

    def test_card_that_is_the_hosts_own(self) -> None:
        rule = json.dumps({'address': SECOND, 'use': 'ignore'})
        text = self.modprobe('--rule', rule)
        self.assertNotIn('blacklist nouveau', text)
        self.assertIn(f'to_vfio {FIRST}', self.read(SCRIPT))
        self.assertNotIn(SECOND, self.read(SCRIPT))

    def test_the_vendors_driver_is_there(self) -> None:
        """It takes the cards no more, whether it is bound to them or not."""
        for address in (FIRST, SECOND):
            self.fake.bind(address, 'nvidia')
        rule = '{"use": "passthrough"}'
        text = self.modprobe('--rule', rule)
        self.assertIn('softdep nvidia pre: vfio-pci\n', text)
        machine.boot(self.fake)
        self.assertEqual('', self.prepare('--rule', rule).out)

    def test_ignored_cards(self) -> None:
        text = self.prepare('--rule', '{"use": "ignore"}').out
        self.assertNotIn('blacklist', text)
        self.assertNotIn('vfio', text)


class SharedTest(PrepareTest):
    """Cards that are cut into vGPUs."""

    def setUp(self) -> None:
        super().setUp()
        machine.bare(self.fake, cards=0)

    def test_virtual_functions(self) -> None:
        device = self.fake.add_gpu(FIRST, 0x2235, driver='nvidia')
        (device / 'sriov_totalvfs').write_text('32\n')
        self.prepare('--apply')
        script = self.read(SCRIPT)
        self.assertIn(f'&& sriov {FIRST} 32; }}', script)
        self.assertNotIn('etc/modules-load.d/nova-gpu.conf', self.files())
        self.prepare('--undo')
        # A rule lets nova-compute do it.
        rule = '{"use": "vgpu", "virtual_functions": "all"}'
        self.prepare('--apply', '--rule', rule)
        self.assertNotIn(SCRIPT, self.files())

    def test_amd(self) -> None:
        hosts.mi300x(self.fake, enabled_vfs=0)
        self.prepare('--apply')
        self.assertEqual(
            ['vfio-pci', 'gim'],
            self.read('etc/modules-load.d/nova-gpu.conf').splitlines()[1:],
        )
        self.assertIn('blacklist amdgpu', self.read(MODPROBE))
        self.assertNotIn('ids=', self.read(MODPROBE))
        done = self.run_script()
        self.assertEqual(0, done.returncode, done)
        card = self.fake.device('0000:0c:00.0')
        self.assertEqual('8\n', (card / 'sriov_numvfs').read_text())

    def test_beside_each_other(self) -> None:
        hosts.gvt_g(self.fake)
        hosts.mi300x(self.fake)
        self.prepare('--apply')
        self.assertEqual(
            ['vfio-pci', 'kvmgt', 'gim'],
            self.read('etc/modules-load.d/nova-gpu.conf').splitlines()[1:],
        )

    def test_vendor_that_is_not_known(self) -> None:
        device = self.fake.add_gpu(FIRST, 0x1050, vendor=0x1AF4)
        (device / 'sriov_totalvfs').write_text('4\n')
        result = self.prepare('--rule', '{"use": "vgpu"}')
        self.assertNotIn(FIRST, result.out)

    def test_amd_with_functions(self) -> None:
        hosts.mi300x(self.fake)
        self.prepare('--apply')
        before = self.files()
        self.assertIn('sriov 0000:0c:00.0 8', self.read(SCRIPT))
        self.assertNotIn('ids=', self.read(MODPROBE))
        self.assertEqual(0, self.run_script().returncode)
        self.prepare('--apply')
        self.assertEqual(before, self.files())

    def test_gvt(self) -> None:
        hosts.gvt_g(self.fake)
        result = self.prepare('--apply')
        self.assertEqual([], result.errors)
        self.assertIn('i915.enable_gvt=1', self.read(GRUB))
        self.assertIn(
            '\nkvmgt\n', self.read('etc/modules-load.d/nova-gpu.conf')
        )

    def test_host_that_is_ready(self) -> None:
        machine.well(self.fake)
        result = self.prepare()
        self.assertEqual('', result.out)
        self.assertEqual(['note: no file is left to write'], result.errors)


class MigTest(PrepareTest):
    """Cards that are cut into GPU instances."""

    CARD = '0000:c1:00.0'
    RULE = json.dumps({'use': 'vgpu', 'profiles': ['A100-3-20C', 'A100-1-5C']})

    def setUp(self) -> None:
        super().setUp()
        machine.well(self.fake)
        machine.vgpu_manager(self.fake, 'nvidia_vgpu_vfio')
        self.fake.write('etc/os-release', 'ID=debian\n')
        self.add_a100()

    def add_a100(self, enabled_vfs: int = 0, **more: Any) -> None:
        self.fake.add_gpu(
            self.CARD, 0x20F1, iommu_group=50, driver='nvidia',
            types=hosts.A100_TYPES, units=40, virtual_functions=16,
            enabled_vfs=enabled_vfs, **more,
        )  # fmt: skip

    def problems(self) -> dict[str, str]:
        rows = self.check('--rule', self.RULE).json
        return {row['Check']: row['Seen'] for row in rows}

    def test_boots(self) -> None:
        """Mode, functions and instances, whatever the last boot kept."""
        self.assertEqual(
            {'mig': 'MIG mode is off',
             'virtual-functions': 'none of 16 is enabled'},
            self.problems(),
        )  # fmt: skip
        result = self.prepare('--rule', self.RULE)
        cut = '3g.20gb,1g.5gb,1g.5gb,1g.5gb,1g.5gb'
        self.assertIn(
            f'{{ wait_for {self.CARD} nvidia && mig_on {self.CARD} && '
            f'sriov {self.CARD} 16 && instances {self.CARD} {cut}; }}',
            result.out,
        )
        self.assertIn('systemctl restart nova-gpu-cards.service', result.out)
        self.assertNotIn('reboot the host', result.out)
        self.prepare('--apply', '--rule', self.RULE)
        self.fake.write(machine.INITRAMFS, b'07070100')
        # The second run finds all done; then a boot takes it all.
        for take in (lambda: None, self.fake.reboot, lambda: None):
            done = self.run_script()
            self.assertEqual((0, ''), (done.returncode, done.stderr))
            self.assertEqual(
                [3, 1, 1, 1, 1], self.fake.gpu_instances(self.CARD)
            )
            self.assertEqual({}, self.problems())
            take()
        self.assertEqual('', self.prepare('--rule', self.RULE).out)

    def test_functions_that_are_enabled_already(self) -> None:
        self.fake.enable_vfs(self.CARD, 16)
        self.assertEqual({'mig': 'MIG mode is off'}, self.problems())
        result = self.prepare('--apply', '--rule', self.RULE)
        self.assertNotIn('systemctl restart', result.out)
        self.assertIn('Then reboot the host.', result.out)
        self.fake.write(machine.INITRAMFS, b'07070100')
        done = self.run_script()
        self.assertEqual(1, done.returncode)
        self.assertIn('MIG mode waits for a reset or a reboot', done.stderr)
        self.fake.reboot()
        self.assertEqual(0, self.run_script().returncode)
        self.assertEqual({}, self.problems())

    def test_driver_that_does_not_come(self) -> None:
        self.prepare('--apply', '--rule', self.RULE)
        self.fake.bind(self.CARD, None)
        done = self.run_script()
        self.assertEqual(1, done.returncode)
        self.assertEqual(f'{self.CARD} is not bound to nvidia\n', done.stderr)

    def test_undo(self) -> None:
        self.prepare('--apply', '--rule', self.RULE)
        self.run_script()
        off = f'/bin/sh /etc/nova-gpu/prepare-cards without-mig {self.CARD}'
        # The second time it is on, and there is nothing to remember.
        self.prepare('--apply', '--rule', self.RULE)
        script = self.read(SCRIPT)
        lines = self.prepare('--undo').out.splitlines()
        self.assertEqual(
            [
                f'not run below {self.root}: systemctl disable '
                'nova-gpu-cards.service',
                f'not run below {self.root}: {off}',
                '/etc/modprobe.d/nova-gpu.conf is as it was',
                '/etc/nova-gpu/prepare-cards is as it was',
                '/etc/systemd/system/nova-gpu-cards.service is as it was',
                f'not run below {self.root}: update-initramfs -u',
                f'not run below {self.root}: systemctl daemon-reload',
                'Then reboot the host.',
            ],
            lines,
        )
        self.assertNotIn(SCRIPT, self.files())
        self.fake.write(SCRIPT, script)
        self.fake.reboot()
        self.fake.set_gpu_instances(self.CARD, [1])
        done = self.run_script('without-mig', self.CARD)
        self.assertEqual(0, done.returncode, done)
        self.assertIsNone(self.fake.gpu_instances(self.CARD))

    def test_undo_while_a_guest_holds_the_card(self) -> None:
        self.prepare('--apply', '--rule', self.RULE)
        self.run_script()
        mdev = '0f8c1e0e-6d55-4c0a-9d1b-2d6f3e6d0001'
        self.fake.create_mdev('0000:c1:00.4', 'nvidia-474', mdev)
        self.add_guest('instance-1', 'a' * 8, mdevs=[mdev])
        result = self.prepare('--undo')
        self.assertNotIn('without-mig', result.out)
        (line,) = result.errors
        self.assertIn(f'{self.CARD} is held by a guest: not run', line)

    def test_card_that_a_guest_holds(self) -> None:
        """Its mode is not touched; what it has stays for the next boot."""
        self.prepare('--apply', '--rule', self.RULE)
        self.run_script()
        before = self.files()
        mdev = '0f8c1e0e-6d55-4c0a-9d1b-2d6f3e6d0001'
        self.fake.create_mdev('0000:c1:00.4', 'nvidia-474', mdev)
        self.add_guest('instance-1', 'a' * 8, mdevs=[mdev])
        self.prepare('--apply', '--rule', self.RULE)
        files = self.files()
        del files['etc/libvirt/qemu/instance-1.xml']
        self.assertEqual(before, files)
        self.assertEqual(0, self.run_script().returncode)
        self.assertTrue(self.fake.device('0000:c1:00.4').exists())
        self.assertIn(mdev, self.fake.mdevs)

    def test_rules_that_contradict_themselves(self) -> None:
        rule = json.dumps({'profiles': ['A100-1-5C', 'A100-20C']})
        result = self.prepare('--rule', rule)
        self.assertEqual(
            [f'warning: {self.CARD} gets no GPU instances: A100-1-5C needs '
             'MIG mode, and A100-20C that it is off'],
            result.errors,
        )  # fmt: skip
        self.assertNotIn('instances', result.out.rpartition('fi\n')[2])


class FamilyTest(base.CliTest):
    def test_families(self) -> None:
        for text, expected in (
            ('ID=debian\n', prepare.DEBIAN),
            ('ID="centos"\nID_LIKE="rhel fedora"\n', prepare.RHEL),
            ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", prepare.DEBIAN),
            ('ID=arch\n', None),
            ('', None),
        ):
            self.assertEqual(expected, prepare.family(text), text)
