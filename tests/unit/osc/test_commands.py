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

"""The commands as the client loads them, and as pages name them."""

from __future__ import annotations

import argparse
import contextlib
import io
import pathlib
import re
import shlex
import tomllib

import stevedore
import testtools

from nova_gpu.osc import error, plugin
from nova_gpu.osc.progress import shown

TOP = pathlib.Path(__file__).parents[3]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class CommandsTest(testtools.TestCase):
    def setUp(self) -> None:
        super().setUp()
        found = stevedore.ExtensionManager('openstack.gpu.v1')
        self.commands = {e.name.replace('_', ' '): e.plugin for e in found}

    def test_all_are_there(self) -> None:
        project = tomllib.loads((TOP / 'pyproject.toml').read_text())
        points = project['project']['entry-points']
        names = {name.replace('_', ' ') for name in points['openstack.gpu.v1']}
        self.assertEqual(names, self.commands.keys())
        extension = points['openstack.cli.extension']
        self.assertEqual({plugin.API_NAME: plugin.__name__}, extension)
        parser = plugin.build_option_parser(argparse.ArgumentParser())
        self.assertIn(
            parser.parse_args([]).os_gpu_api_version, plugin.API_VERSIONS
        )

    def test_each_says_what_it_does(self) -> None:
        for name, command in self.commands.items():
            text = command(None, None).get_parser(name).format_help()
            self.assertIn(command.__doc__.partition('.')[0].split()[0], text)
            self.assertTrue(text.isascii(), name)  # for every terminal

    def test_pages_name_commands_and_options_that_are_there(self) -> None:
        found = [
            shlex.split(line)
            for page in sorted(TOP.glob('doc/source/**/*.rst'))
            for line in re.findall(
                r'^ +\$ openstack (gpu .*)$', page.read_text(), re.M
            )
        ]
        self.assertGreater(len(found), 6)
        for words in found:
            name = next(
                ' '.join(words[:n])
                for n in (3, 2)
                if ' '.join(words[:n]) in self.commands
            )
            parser = self.commands[name](None, None).get_parser(name)
            parser.parse_args(words[len(name.split()) :])


class ProgressTest(testtools.TestCase):
    def test_on_a_terminal_alone(self) -> None:
        with contextlib.redirect_stderr(io.StringIO()) as stream:
            with shown('Reading') as progress:
                self.assertIsNone(progress)
            self.assertEqual('', stream.getvalue())
        with contextlib.redirect_stderr(Terminal()) as stream:
            with shown('Reading') as progress:
                progress(3, 8)
            self.assertEqual('\rReading: 3 of 8\r\x1b[K', stream.getvalue())


class ErrorTest(testtools.TestCase):
    def test_long_lists_are_cut(self) -> None:
        names = [f'gpu{n}' for n in range(100)]
        text = str(error.NotFound('host', 'x', names, 'look there'))
        self.assertIn('gpu11, ...); look there', text)
        self.assertNotIn('gpu12', text)
        self.assertIn('none', str(error.NotFound('host', 'x', (), 'y')))
