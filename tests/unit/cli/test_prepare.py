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

import json
import os
import pathlib
import subprocess

from nova_gpu.cli import backup
from nova_gpu.model import prepare
from tests.fixtures import hosts, machine
from tests.unit.cli import base

FIRST, SECOND = '0000:41:00.0', '0000:42:00.0'
GRUB = 'etc/default/grub'
MODPROBE = 'etc/modprobe.d/nova-gpu.conf'


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

    def test_family_of_red_hat(self) -> None:
        self.fake.write('etc/os-release', 'ID="rocky"\nID_LIKE="rhel centos"')
        result = self.prepare('--apply')
        self.assertNotIn('iommu', self.read(GRUB))
        self.assertIn(
            "grubby --update-kernel=ALL '--args=intel_iommu=on iommu=pt'",
            result.out,
        )
        self.assertIn('dracut -f', result.out)

    def test_unknown_family(self) -> None:
        self.fake.write('etc/os-release', 'ID=haiku\n')
        result = self.prepare()
        self.assertIn('the distribution is unknown', result.errors[0])
        self.assertIn('intel_iommu=on iommu=pt', result.errors[0])
        self.assertNotIn('update-', result.out)

    def test_amd(self) -> None:
        machine.cpu(self.fake, 'svm')
        self.prepare('--apply')
        self.assertIn('"console=tty0 iommu=pt"', self.read(GRUB))

    def test_broken_backup(self) -> None:
        self.fake.write(f'{backup.FOLDER}/files.json', 'not json')
        for option in ('--apply', '--undo'):
            result = self.prepare(option, code=1)
            (line,) = result.errors
            self.assertIn(f'{backup.FOLDER}/files.json: Expecting', line)
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
        self.assertNotIn('etc/nova-gpu/prepare-cards', self.files())

    def test_one_of_a_model(self) -> None:
        rule = json.dumps({'address': SECOND, 'use': 'vgpu'})
        text = self.modprobe('--rule', rule)
        self.assertIn('blacklist nouveau', text)
        self.assertNotIn('ids=', text)
        script = self.read('etc/nova-gpu/prepare-cards')
        device = f'/sys/bus/pci/devices/{FIRST}'
        self.assertIn(f'echo vfio-pci > {device}/driver_override', script)
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
        script = self.read('etc/nova-gpu/prepare-cards')
        script = script.replace('/sys/', f'{self.root}/sys/')
        subprocess.run(['/bin/sh', '-eu'], input=script, text=True, check=True)
        self.assertEqual(
            'vfio-pci\n', (device / 'driver_override').read_text()
        )
        self.assertEqual(f'{FIRST}\n', (device / 'driver/unbind').read_text())
        self.assertEqual(f'{FIRST}\n', self.read('sys/bus/pci/drivers_probe'))

    def test_card_that_a_guest_holds(self) -> None:
        self.add_guest_with(FIRST)
        self.fake.bind(FIRST, 'vfio-pci')
        rule = json.dumps({'address': SECOND, 'use': 'vgpu'})
        self.prepare('--apply', '--rule', rule)
        self.assertNotIn(
            FIRST, self.files().get('etc/nova-gpu/prepare-cards', '')
        )

    def test_card_that_shows_the_console(self) -> None:
        self.fake.add_gpu(
            '0000:01:00.0', 0x1EB8, class_code=0x0300, boot_vga=1,
            driver='nouveau',
        )  # fmt: skip
        result = self.prepare()
        self.assertIn('0000:01:00.0 shows the console', result.errors[0])
        self.assertNotIn('1eb8', result.out)

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
        script = self.read('etc/nova-gpu/prepare-cards')
        self.assertIn(f'/usr/lib/nvidia/sriov-manage -e {FIRST}\n', script)
        self.assertNotIn('etc/modules-load.d/nova-gpu.conf', self.files())
        self.prepare('--undo')
        # A rule lets nova-compute do it.
        rule = '{"use": "vgpu", "virtual_functions": "all"}'
        self.prepare('--apply', '--rule', rule)
        self.assertNotIn('etc/nova-gpu/prepare-cards', self.files())

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
