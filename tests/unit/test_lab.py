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

"""The guest of the lab, as far as it can be looked at from outside."""

from __future__ import annotations

import ast
import pathlib
import platform
import re
import shutil
import subprocess

import fixtures
import testtools

from lab import parts
from lab.guest import build, inputs, machine
from tests.lab import test_core


class LabTest(testtools.TestCase):
    """Its parts, its devices and its scenarios."""

    def files(self, pattern: str) -> list[pathlib.Path]:
        found = sorted(inputs.LAB.glob(pattern))
        self.assertNotEqual([], found)
        return found

    def test_what_has_not_changed_is_not_made_again(self) -> None:
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        copy = folder / 'lab/kmod'
        shutil.copytree(inputs.LAB / 'kmod', copy)
        self.patch(inputs, 'PROJECT', folder)
        before = inputs.part('modules', copy)
        self.assertEqual(before, inputs.part('modules', copy))
        with open(copy / 'card.c', 'a') as file:
            file.write('\n')
        self.assertNotEqual(before, inputs.part('modules', copy))

    def test_a_part_is_made_whole_or_not_at_all(self) -> None:
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        part, new = folder / 'part', folder / 'part.new'

        def dies(path: pathlib.Path) -> None:
            path.mkdir()
            raise KeyboardInterrupt

        self.assertRaises(KeyboardInterrupt, parts.make, part, dies)
        self.assertFalse(part.exists())
        parts.make(part, pathlib.Path.mkdir)
        self.assertFalse(new.exists())
        # There is one: it isn't made.
        parts.make(part, dies)
        self.assertTrue(part.exists())

    def test_a_part_that_is_made_in_place(self) -> None:
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        part, new = folder / 'part', folder / 'part.new'

        def half(path: pathlib.Path) -> None:
            path.mkdir()
            part.mkdir()
            (part / 'half').touch()
            raise KeyboardInterrupt

        def whole(path: pathlib.Path) -> None:
            path.mkdir()
            part.mkdir()
            (part / 'whole').touch()

        self.assertRaises(KeyboardInterrupt, parts.make, part, half)
        parts.make(part, whole)
        self.assertEqual([part / 'whole'], list(part.iterdir()))
        self.assertFalse(new.exists())

    def test_a_program_that_is_missing_is_named(self) -> None:
        exc = self.assertRaises(parts.BuildError, parts.run, 'no-such-thing')
        self.assertEqual(
            'no-such-thing is not installed: see bindep.txt', str(exc)
        )

    def test_another_architecture_is_refused(self) -> None:
        self.patch(platform, 'machine', lambda: 'aarch64')
        exc = self.assertRaises(parts.BuildError, build.build)
        self.assertEqual(
            'the lab is for x86-64, and this machine is aarch64', str(exc)
        )

    def test_an_image_depends_on_all_parts(self) -> None:
        before = inputs.image()
        self.patch(inputs, 'REQUIREMENTS', ('nova', 'another'))
        self.assertNotEqual(before, inputs.image())

    def test_modules_are_licensed_as_the_kernel_is(self) -> None:
        for path in (*self.files('kmod/*.[ch]'), *self.files('kmod/Kbuild')):
            first = path.read_text().splitlines()[0]
            self.assertIn('SPDX-License-Identifier: GPL-2.0-only', first, path)

    def test_the_page_lists_the_devices(self) -> None:
        page = (inputs.LAB / 'README.rst').read_text()
        script = (inputs.LAB / 'guest/files/lab/devices').read_text()
        made = set(re.findall(r'0000:([0-9a-f:.]+)=', script))
        self.assertNotEqual(set(), made)
        for address in made:
            self.assertIn(f'``{address}``', page)

    def test_every_port_has_a_device(self) -> None:
        ports = {
            option.removeprefix('id=')
            for name, options in machine.TOPOLOGY
            for option in options.split(',')
            if name == 'pcie-root-port' and option.startswith('id=')
        }
        used = {
            option.removeprefix('bus=')
            for _, options in machine.TOPOLOGY
            for option in options.split(',')
            if option.startswith('bus=port')
        }
        self.assertEqual(ports, used)

    def test_every_scenario_has_a_title_of_its_own(self) -> None:
        titles = [
            ast.get_docstring(node)
            for path in self.files('scenarios/test_*.py')
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef)
            and node.name.startswith('test_')
        ]
        self.assertNotIn(None, titles)
        self.assertEqual(len(titles), len(set(titles)))

    def test_the_core_names_scenarios(self) -> None:
        scenarios = [
            f'{path.stem}.{node.name}.{item.name}'
            for path in self.files('scenarios/test_*.py')
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ClassDef)
            for item in node.body
            if isinstance(item, ast.FunctionDef)
            and item.name.startswith('test_')
        ]
        for name in test_core.CORE:
            self.assertTrue(
                any(name in scenario for scenario in scenarios), name
            )

    def test_scripts_can_be_parsed(self) -> None:
        for path in self.files('guest/files/**/*'):
            if path.is_file() and path.read_text().startswith('#!/bin/b'):
                subprocess.run(['bash', '-n', path], check=True)
