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


"""The program around the commands."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from importlib import metadata

from nova_gpu.cli import main
from tests.fixtures import hosts
from tests.unit.cli import base

#: What no run of ``host show`` may import: Nova, which may not be there, and
#: what takes longer to import than the whole run should take.
SLOW = {
    'cmd2',
    'jsonschema',
    'lxml',
    'nova',
    'oslo_config',
    'oslo_log',
    'oslo_privsep',
    'yaml',
}


class StartTest(base.CliTest):
    def test_host_show_needs_no_nova_and_nothing_slow(self) -> None:
        hosts.a100_board(self.fake)
        done = self.in_process_of_its_own('host', 'show', '--root', self.root)
        self.assertEqual(0, done.code, done.err)
        self.assertIn(hosts.A100_ADDRESSES[0], done.out)
        self.assertIn('nova_gpu', done.imported)
        self.assertEqual(set(), SLOW & done.imported)
        # Cliff reads those of every distribution if it is let.
        self.assertIn('numa_node', done.opened)
        self.assertNotIn('RECORD', done.opened)

    def test_other_commands_import_no_nova(self) -> None:
        hosts.four_t4(self.fake)
        self.fake.write('nova.conf', '[gpu]\nrule = {"use": "vgpu"}\n')
        done = self.in_process_of_its_own(
            *('xml', 'preview', '--root', self.root, '--profile', 'T4-8Q'),
            *('--config-file', f'{self.root}/nova.conf'),
        )
        self.assertEqual(0, done.code, done.err)
        self.assertIn('<hostdev', done.out)
        self.assertIn('oslo_config', done.imported)
        self.assertNotIn('nova', done.imported)
        self.assertNotIn('RECORD', done.opened)

    def test_no_command_is_help_and_no_shell(self) -> None:
        done = self.in_process_of_its_own()
        self.assertEqual(1, done.code)
        for command in ('host show', 'xml preview'):
            self.assertIn(command, done.out)
        self.assertNotIn('cmd2', done.imported)


class MainTest(base.CliTest):
    def test_help(self) -> None:
        result = self.nova_gpu('--help')
        self.assertEqual(0, result.code)
        self.assertIn('usage: nova-gpu ', result.out)
        for command in ('host show', 'xml preview'):
            self.assertIn(command, result.out)

    def test_help_of_a_command(self) -> None:
        result = self.nova_gpu('host', 'show', '--help')
        self.assertEqual(0, result.code)
        self.assertIn('usage: nova-gpu host show', result.out)
        self.assertIn('--root DIR', result.out)

    def test_version(self) -> None:
        result = self.nova_gpu('--version')
        self.assertEqual(0, result.code)
        self.assertRegex(result.out, r'\d+\.\d+')

    def test_unknown_command(self) -> None:
        result = self.nova_gpu('card', 'show')
        self.assertEqual(2, result.code)
        self.assertNotIn('Traceback', '\n'.join(result.errors))

    def test_unknown_option(self) -> None:
        self.assertEqual(2, self.host_show('--rot', 'x').code)

    def test_traceback_only_with_debug(self) -> None:
        command = ('host', 'show', '--root', '/nowhere')
        [line] = self.nova_gpu(*command).errors
        self.assertTrue(line.startswith('error: /nowhere: '), line)
        result = self.nova_gpu('--debug', *command)
        self.assertEqual(1, result.code)
        self.assertEqual(line, result.errors[0])
        self.assertIn('Traceback', result.errors[1])

    def test_output_that_nobody_reads(self) -> None:
        hosts.four_t4(self.fake)
        # Without a buffer it is found out while it is written.
        for unbuffered in '', '1':
            for command in ('host', 'show'), ('host', 'prepare'):
                read, write = os.pipe()
                os.close(read)
                done = self.run_with(
                    write,
                    *command,
                    '--root',
                    self.root,
                    PYTHONUNBUFFERED=unbuffered,
                )
                os.close(write)
                self.assertEqual((141, ''), (done.returncode, done.stderr))

    def test_output_without_room(self) -> None:
        hosts.four_t4(self.fake)
        with open('/dev/full', 'w') as output:
            done = self.run_with(
                output.fileno(),
                'host',
                'show',
                '--root',
                self.root,
                PYTHONUNBUFFERED='',
            )
        self.assertEqual(
            (2, 'error: the standard output: No space left on device\n'),
            (done.returncode, done.stderr),
        )

    def test_output_that_is_closed(self) -> None:
        done = self.run_with(None, 'host', 'show', '--root', self.root)
        self.assertEqual(
            (2, 'error: the standard output is closed\n'),
            (done.returncode, done.stderr),
        )

    def run_with(
        self, output: int | None, *args: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the program in a new process, with that as its output."""
        command = [sys.executable, '-m', 'nova_gpu.cli.main', *args]
        if output is None:
            command = ['sh', '-c', 'exec "$@" >&-', 'sh', *command]
        return subprocess.run(
            command,
            env={
                **os.environ,
                'PYTHONPATH': os.pathsep.join(sys.path),
                **environment,
            },
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    def test_help_is_for_every_terminal(self) -> None:
        for found in metadata.entry_points(group=main.NAMESPACE):
            result = self.nova_gpu(*found.name.split('_'), '--help')
            self.assertEqual(0, result.code, found.name)
            self.assertTrue(result.out.isascii(), found.name)

    def test_log_file(self) -> None:
        path = f'{self.root}/log'
        self.nova_gpu('--log-file', path, 'host', 'show', '--root', '/nowhere')
        with open(path) as stream:
            self.assertIn('ERROR', stream.read())

    def test_logging_of_the_caller_is_left_alone(self) -> None:
        root = logging.getLogger()
        self.addCleanup(root.setLevel, root.level)
        root.setLevel(logging.ERROR)
        before = (root.level, root.handlers[:])
        self.host_show()
        self.host_show('--rot')
        self.assertEqual(before, (root.level, root.handlers))
