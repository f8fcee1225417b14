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

"""The lab's cloud, as far as it can be looked at without starting it."""

from __future__ import annotations

import ast
import configparser
import contextlib
import io
import os
import pathlib
import platform
import re
import stat

import fixtures
import testtools
from oslo_config import cfg

from lab import parts
from lab.cloud import build, inputs, services, settings
from lab.cloud.__main__ import main
from lab.guest.inputs import LAB


class LabCloudTest(testtools.TestCase):
    """Its configuration, its processes and its scenarios."""

    def setUp(self) -> None:
        super().setUp()
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.settings = settings.Settings.new(folder / 'run')

    def parse(self, path: pathlib.Path) -> dict[str, dict[str, list[str]]]:
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(str(path), sections).parse()
        return sections

    def test_a_machine_that_cannot_run_it_is_refused(self) -> None:
        for libc, here in (
            (('glibc', '2.35'), 'here is glibc 2.35'),
            # As with musl
            (('', ''), 'here is another'),
        ):
            self.patch(platform, 'libc_ver', lambda libc=libc: libc)
            exc = self.assertRaises(parts.BuildError, build.build)
            self.assertIn('needs glibc 2.36 or newer', str(exc))
            self.assertTrue(str(exc).endswith(here), exc)
        self.patch(platform, 'machine', lambda: 'aarch64')
        exc = self.assertRaises(parts.BuildError, build.build)
        self.assertIn('aarch64', str(exc))

    def test_every_configuration_file_can_be_parsed(self) -> None:
        for name, expected in self.settings.files().items():
            found = self.parse(self.settings.run / 'etc' / name)
            self.assertEqual(set(expected), set(found), name)
            for section, options in expected.items():
                self.assertEqual(set(options), set(found[section]), section)

    def test_only_the_owner_reads_them(self) -> None:
        files = [p for p in self.settings.run.rglob('*') if p.is_file()]
        secret = set(self.settings.passwords.values())
        named = {p.name for p in files if secret & self.words(p)}
        self.assertLessEqual({'nova.conf', 'passwords', 'guest.conf'}, named)
        for path in (self.settings.run, *files):
            mode = stat.S_IMODE(path.stat().st_mode)
            self.assertEqual(0, mode & 0o077, path)

    def words(self, path: pathlib.Path) -> set[str]:
        return set(re.findall('[0-9a-f]{32}', path.read_text()))

    def test_passwords_are_of_one_run(self) -> None:
        other = settings.Settings.new(self.settings.run.parent / 'other')
        both = {*self.settings.passwords.values(), *other.passwords.values()}
        self.assertEqual(2 * len(other.passwords), len(both))
        again = settings.Settings.load(other.run)
        self.assertEqual(other.passwords, again.passwords)

    def test_every_port_is_of_one_service(self) -> None:
        ports = settings.PORTS.values()
        self.assertEqual(len(set(ports)), len(ports))
        self.assertLess(1024, min(ports))

    def test_filters_are_the_readmes(self) -> None:
        text = (LAB.parent / 'README.rst').read_text()
        documented = configparser.RawConfigParser(strict=False)
        block = text[text.index('    [filter_scheduler]') :].split('\n\n')[0]
        documented.read_string(block.replace('    ', ''))
        section = documented['filter_scheduler']
        found = self.settings.nova()['filter_scheduler']
        filters = str(found['enabled_filters']).split(',')
        self.assertLessEqual(
            set(section['enabled_filters'].split(',')), set(filters)
        )
        # GpuFilter reads the NUMA nodes that the other one has chosen.
        self.assertEqual(['NUMATopologyFilter', 'GpuFilter'], filters[-2:])
        self.assertEqual(section['weight_classes'], found['weight_classes'])

    def test_computes_are_two_hosts(self) -> None:
        fake, gpu = self.settings.fake_compute(), self.settings.gpu_compute()
        for name in ('host', 'state_path', 'compute_driver'):
            self.assertNotEqual(fake['DEFAULT'][name], gpu['DEFAULT'][name])
        self.assertNotIn(settings.ADDRESS, settings.to_ini(gpu))

    def test_no_password_is_on_a_command_line(self) -> None:
        tree = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        (tree / 'usr/lib/rabbitmq/lib/home').mkdir(parents=True)
        (tree / 'usr/lib/erlang/erts-1/bin').mkdir(parents=True)
        self.patch(inputs, 'debian', lambda: tree)
        names: list[str] = []
        for step in services.steps(self.settings):
            tasks = (step.task,) if step.task else ()
            for service in (*step.services, *tasks):
                names.append(service.name)
                line = ' '.join(service.command)
                for password in self.settings.passwords.values():
                    self.assertNotIn(password, line)
        self.assertEqual(len(set(names)), len(names))

    def command(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output and errors of ``python3 -m lab.cloud``."""
        self.patch(inputs, 'run', lambda: self.settings.run)
        self.addCleanup(os.umask, os.umask(0o077))
        out, errors = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
        ):
            code = main(list(arguments))
        return code, out.getvalue(), errors.getvalue()

    def test_logs(self) -> None:
        log = self.settings.run / 'log'
        self.assertEqual(
            (1, '', 'lab: nova has no log; nothing has\n'),
            self.command('logs', 'nova'),
        )
        (log / 'nova.log').write_text('said\n')
        (log / 'glance.log').write_text('')
        self.assertEqual((0, 'said\n', ''), self.command('logs', 'nova'))
        self.assertEqual(
            (1, '', 'lab: nova-api has no log; those of: glance, nova\n'),
            self.command('logs', 'nova-api'),
        )

    def test_environment_for_a_shell(self) -> None:
        self.assertEqual(
            (1, '', 'lab: the cloud is not up\n'), self.command('shell-env')
        )

    def test_every_scenario_has_a_title_of_its_own(self) -> None:
        titles = [
            ast.get_docstring(node)
            for path in sorted(LAB.glob('**/scenarios/test_*.py'))
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef)
            and node.name.startswith('test_')
        ]
        self.assertNotIn(None, titles)
        self.assertEqual(len(titles), len(set(titles)))
        self.assertLess(15, sum('cloud' in str(title) for title in titles))

    def test_pins_are_not_given_twice(self) -> None:
        names = [
            line.partition('==')[0]
            for path in inputs.CONSTRAINTS
            for line in path.read_text().splitlines()
            if '==' in line
        ]
        self.assertEqual(len(set(names)), len(names))
