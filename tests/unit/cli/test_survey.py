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


"""What both commands read: the root, the rules, the guests."""

from __future__ import annotations

import json
import os
import pathlib

from nova.conf import devices, pci

from nova_gpu.cli.settings import novas_files
from tests.fixtures import hosts
from tests.unit.cli import base

GUEST = '11111111-2222-4333-8444-555555555555'
#: Who may read nothing: nobody, on Linux.
NOBODY = 65534


def rule(**fields: object) -> str:
    return json.dumps(fields)


def give_up_root(test: base.CliTest) -> None:
    """Be a user who is bound by the modes of files."""
    if os.geteuid() == 0:
        os.chmod(test.root, 0o755)
        os.seteuid(NOBODY)
        test.addCleanup(os.seteuid, 0)


class RootTest(base.CliTest):
    def assert_error(self, root: str, line: str) -> None:
        for command in (
            ('host', 'show'),
            ('xml', 'preview', '--profile', 'T4-8Q'),
        ):
            result = self.nova_gpu(*command, '--root', root)
            self.assertEqual(1, result.code)
            self.assertEqual('', result.out)
            self.assertEqual([f'error: {line}'], result.errors)

    def test_not_there(self) -> None:
        path = f'{self.root}/nowhere'
        self.assert_error(
            path,
            f'{path}: No such file or directory (the root of a host holds '
            f'sys/bus/pci/devices)',
        )

    def test_file(self) -> None:
        self.fake.write('recorded.tar', '')
        path = f'{self.root}/recorded.tar'
        self.assert_error(
            path,
            f'{path}: Not a directory (the root of a host holds '
            f'sys/bus/pci/devices)',
        )

    def test_no_pci_bus(self) -> None:
        # People give the sys directory itself, too.
        path = f'{self.root}/sys'
        self.assert_error(
            path,
            f'{path}/sys/bus/pci/devices: No such file or directory (the '
            f'root of a host holds sys/bus/pci/devices)',
        )


class RulesTest(base.CliTest):
    def setUp(self) -> None:
        super().setUp()
        hosts.four_t4(self.fake)

    def test_ignore(self) -> None:
        cards = self.cards(
            '--rule', rule(address='0000:3b:00.0', use='ignore')
        )
        card = cards['0000:3b:00.0']
        self.assertEqual('rule 1 says to ignore it', card['Reason'])
        self.assertIsNone(card['Use'])
        self.assertIsNone(card['Pool'])
        self.assertEqual([], card['Profiles'])
        self.assertIsNone(cards['0000:5e:00.0']['Reason'])

    def test_profiles_and_class(self) -> None:
        cards = self.cards(
            '--rule',
            rule(numa_node=1, profiles=['T4-8Q'], resource_class='VGPU'),
            '--rule',
            rule(numa_node=0, profiles=['nvidia-230']),
        )
        self.assertEqual(
            [('GRID T4-8Q', 'VGPU')],
            [
                (p['profile'], p['resource_class'])
                for p in cards['0000:af:00.0']['Profiles']
            ],
        )
        self.assertEqual(
            ['GRID T4-1Q'],
            [p['profile'] for p in cards['0000:3b:00.0']['Profiles']],
        )

    def test_ignored_card_of_a_guest_stays_with_it(self) -> None:
        mdev = '6e6f7661-6770-8000-8000-000000000001'
        self.fake.create_mdev('0000:3b:00.0', 'nvidia-233', mdev)
        self.add_guest('instance-1', GUEST, mdevs=[mdev])
        card = self.cards('--rule', rule(use='ignore'))['0000:3b:00.0']
        self.assertEqual('mdev', card['Use'])
        self.assertEqual([GUEST], card['Instances'])
        self.assertEqual('rule 1 says to ignore it', card['Reason'])
        self.assertEqual({0}, {p['free'] for p in card['Profiles']})

    def test_wrong_rules(self) -> None:
        good = rule(use='vgpu')
        for text, field, said in (
            (rule(use='sing'), "'use'", "'sing'"),
            (rule(numa_node='0'), "'numa_node'", "'0'"),
            (rule(profile=['T4-8Q']), "'profile'", 'unexpected'),
            ('{"use":', "'(all)'", 'is not JSON'),
        ):
            result = self.host_show('--rule', good, '--rule', text)
            self.assertEqual(1, result.code, text)
            self.assertEqual('', result.out)
            [line] = result.errors
            self.assertTrue(
                line.startswith(f'error: [gpu] rule 2, field {field}: '), line
            )
            self.assertIn(said, line)

    def test_rule_that_matches_nothing(self) -> None:
        result = self.host_show(
            '--rule', rule(use='vgpu'), '--rule', rule(address='0000:01:*')
        )
        self.assertEqual(0, result.code)
        self.assertEqual(
            ['warning: rule 2 matches no card of this host'], result.errors
        )

    def test_rules_that_contradict(self) -> None:
        result = self.host_show(
            '--rule',
            rule(address='0000:3b:00.0', use='vgpu'),
            '--rule',
            rule(address='0000:3b:*', use='ignore'),
        )
        self.assertEqual(0, result.code)
        self.assertEqual(
            [
                "warning: rules contradict: card 0000:3b:00.0: rule 2 says "
                "use 'ignore', but rule 1 already said 'vgpu'"
            ],
            result.errors,
        )

    def test_one_class_for_several_profiles(self) -> None:
        of = 'to several profiles of NVIDIA Tesla T4: offered is'
        for fields, line in (
            ({'profiles': ['T4-8Q', 'T4-16Q'], 'resource_class': 'VGPU'},
             f'rule 1 gives one class, VGPU, {of} GRID T4-8Q, and not GRID '
             f'T4-16Q; name one alone in profiles'),
            ({'resource_class': 'CUSTOM_X'},
             f'rule 1 gives one class, CUSTOM_X, {of} GRID T4-1Q, and not '
             f'GRID T4-2Q, GRID T4-4Q, GRID T4-8Q, GRID T4-16Q; name one '
             f'alone in profiles'),
        ):  # fmt: skip
            result = self.host_show('--rule', rule(**fields))
            self.assertEqual(0, result.code)
            # One line for four cards.
            self.assertEqual([f'warning: {line}'], result.errors)
        hosts.a100_board(self.fake)
        for fields in (
            {'profiles': ['T4-8Q'], 'resource_class': 'VGPU'},
            {'profiles': ['T4-8Q', 'T4-16Q']},
            {'mechanism': 'whole', 'resource_class': 'PGPU'},
        ):
            result = self.nova_gpu(
                '-q', 'host', 'show', '--root', self.root, '--rule',
                rule(**fields),
            )  # fmt: skip
            self.assertEqual([], result.errors, fields)


class ConfigFileTest(base.CliTest):
    def setUp(self) -> None:
        super().setUp()
        hosts.four_t4(self.fake)

    def conf(self, text: str) -> str:
        self.fake.write('nova.conf', text)
        return f'{self.root}/nova.conf'

    def test_rules_and_root(self) -> None:
        path = self.conf(
            f'[gpu]\nhost_root = {self.root}\n'
            f'rule = {rule(address="0000:3b:00.0", use="ignore")}\n'
            f'rule = {rule(address="0000:5e:00.0", profiles=["T4-8Q"])}\n'
        )
        result = self.nova_gpu(
            *('host', 'show', '--config-file', path, '-f', 'json')
        )
        self.assertEqual(0, result.code)
        self.assertEqual([], result.errors)
        self.assertEqual('rule 1 says to ignore it', result.json[0]['Reason'])
        self.assertEqual(1, len(result.json[1]['Profiles']))
        self.assertEqual(5, len(result.json[2]['Profiles']))

    def test_root_of_the_command_line_wins(self) -> None:
        path = self.conf('[gpu]\nhost_root = /nowhere\n')
        self.assertEqual(4, len(self.cards('--config-file', path)))

    def test_later_files_add(self) -> None:
        path = self.conf('[DEFAULT]\ndebug = true\n')
        self.fake.write(
            'compute.conf', f'[gpu]\nrule = {rule(use="ignore")}\n'
        )
        cards = self.cards(
            *('--config-file', path),
            *('--config-file', f'{self.root}/compute.conf'),
        )
        self.assertEqual(
            {'rule 1 says to ignore it'}, {c['Reason'] for c in cards.values()}
        )

    def nova_has(self, name: str, text: str) -> str:
        path = self.fake.root / 'etc/nova' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def reasons(self, *args: str) -> list[str | None]:
        result = self.nova_gpu('host', 'show', '-f', 'json', *args)
        self.assertEqual((0, []), (result.code, result.errors))
        return [card['Reason'] for card in result.json]

    def test_novas_own_files(self) -> None:
        ignored = rule(address='0000:3b:00.0', use='ignore')
        other = rule(address='0000:5e:00.0', use='ignore')
        self.nova_has(
            'nova.conf',
            f'[gpu]\nhost_root = {self.root}\nrule = {ignored}\n',
        )
        said = 'rule 1 says to ignore it'
        self.assertEqual([said, None, None, None], self.reasons())
        self.nova_has('nova.conf.d/gpu.conf', f'[gpu]\nrule = {other}\n')
        self.nova_has('nova.conf.d/README', 'not a file of options')
        both = [said, said.replace('1', '2'), None, None]
        self.assertEqual(both, self.reasons())
        # Another host, and files that are named: without it.
        self.assertEqual([None] * 4, self.reasons('--root', self.root))
        path = self.conf(f'[gpu]\nhost_root = {self.root}\n')
        self.assertEqual([None] * 4, self.reasons('--config-file', path))

    def test_novas_own_files_are_wrong(self) -> None:
        path = self.nova_has('nova.conf', '[gpu]\nrule = {')
        result = self.nova_gpu('host', 'show')
        self.assertEqual((1, ''), (result.code, result.out))
        self.assertIn('[gpu] rule 1', result.errors[0])
        pathlib.Path(path).write_text('gpu')
        result = self.nova_gpu('host', 'show')
        self.assertEqual((1, ''), (result.code, result.out))
        self.assertIn(f'{path}:1', result.errors[0])

    def test_novas_own_files_are_not_for_everybody(self) -> None:
        path = self.nova_has('nova.conf', '[gpu]\n')
        os.chmod(path, 0o600)
        with self.assertLogs('nova_gpu.cli', 'WARNING') as logs:
            give_up_root(self)
            self.assertEqual([], novas_files())
        self.assertEqual(
            [
                'what nova.conf says is not heeded, run this as root: '
                f"[Errno 13] Permission denied: '{path}'"
            ],
            [record.getMessage() for record in logs.records],
        )

    def test_cards_that_nova_hands_out_itself(self) -> None:
        path = self.conf(
            '[pci]\ndevice_spec = {"vendor_id": "10de"}\n'
            '[devices]\nenabled_mdev_types = nvidia-233\n'
        )
        result = self.host_show('--config-file', path)
        self.assertEqual(0, result.code)
        self.assertEqual(
            [
                'warning: [pci] device_spec is set and [devices] '
                'enabled_mdev_types is set: Nova itself hands out the cards '
                'listed there, which is not looked at here'
            ],
            result.errors,
        )

    def test_all_names_of_novas_options(self) -> None:
        for module, name in ((pci, 'device_spec'),
                             (devices, 'enabled_mdev_types')):  # fmt: skip
            ((group, opts),) = module.list_opts().items()
            (opt,) = (opt for opt in opts if opt.name == name)
            older = [
                (each.group or group.name, each.name)
                for each in opt.deprecated_opts
            ]
            self.assertTrue(older, name)
            for section, key in ((group.name, name), *older):
                path = self.conf(f'[{section}]\n{key} = {{}}\n')
                result = self.host_show('--config-file', path)
                self.assertIn(
                    f'[{group.name}] {name} is set', result.errors[-1], key
                )

    def test_wrong_files(self) -> None:
        for path, said in (
            (f'{self.root}/none.conf', 'none.conf'),
            (self.conf('gpu'), 'nova.conf:1'),
            (f'{self.root}/sys', 'Is a directory'),
        ):
            result = self.host_show('--config-file', path)
            self.assertEqual(1, result.code)
            self.assertEqual('', result.out)
            [line] = result.errors
            self.assertTrue(line.startswith('error: '), line)
            self.assertIn(said, line)

    def test_wrong_rule(self) -> None:
        path = self.conf(f'[gpu]\nrule = {rule(use="sing")}\n')
        result = self.host_show('--config-file', path)
        self.assertEqual(1, result.code)
        self.assertIn("[gpu] rule 1, field 'use'", result.errors[0])

    def test_not_together_with_rules(self) -> None:
        path = self.conf('')
        result = self.host_show(
            '--config-file', path, '--rule', rule(use='ignore')
        )
        self.assertEqual(2, result.code)
        self.assertIn('not allowed with argument', result.errors[-1])


class GuestFilesTest(base.CliTest):
    """libvirt's files are for root alone."""

    NOTE = 'permission denied; run as root to see which instance holds a card'

    def setUp(self) -> None:
        super().setUp()
        hosts.a100_board(self.fake)
        self.card = hosts.A100_ADDRESSES[0]
        self.file = self.add_guest('instance-1', GUEST, functions=[self.card])

    def assert_denied(self, note: str) -> None:
        # Once as it is: the imports must not meet what nobody may read.
        self.assertEqual([GUEST], self.cards()[self.card]['Instances'])
        self.addCleanup(os.chmod, self.denied, 0o755)
        os.chmod(self.denied, 0)
        give_up_root(self)
        result = self.nova_gpu(
            *('-q', 'host', 'show', '--root', self.root, '-f', 'json')
        )
        self.assertEqual(0, result.code)
        self.assertEqual([f'warning: {note}'], result.errors)
        self.assertEqual([], result.json[0]['Instances'])
        self.assertEqual(8, len(result.json))

    def test_folder(self) -> None:
        self.denied = os.path.dirname(self.file)
        self.assert_denied(f'{self.denied}: {self.NOTE}')

    def test_file(self) -> None:
        self.denied = self.file
        self.assert_denied(f'{self.file}: {self.NOTE}')

    def test_exporter(self) -> None:
        command = ('exporter', '--once', '--no-nvml', '--root', self.root)
        self.nova_gpu(*command, '--partial')  # imports, as above
        os.chmod(self.file, 0)
        give_up_root(self)
        self.assertEqual(
            [
                f'error: not all guests of this host can be read: '
                f'{self.file}: permission denied: run as root, or with the '
                f'capability CAP_DAC_READ_SEARCH; or start with --partial'
            ],
            self.nova_gpu(*command).errors,
        )

    def test_many_files_are_one_line(self) -> None:
        for name in ('instance-2', 'instance-3'):
            os.chmod(self.add_guest(name, name), 0)
        self.denied = self.file
        self.assert_denied(
            f'{self.file}: '
            + self.NOTE.replace('denied;', 'denied (and 2 more);')
        )

    def test_other_errors_have_their_own_lines(self) -> None:
        path = f'{self.root}/etc/libvirt/qemu/instance-9.xml'
        os.mkdir(path)
        result = self.nova_gpu('-q', 'host', 'show', '--root', self.root)
        self.assertEqual(0, result.code)
        self.assertEqual([f'warning: {path}: Is a directory'], result.errors)
