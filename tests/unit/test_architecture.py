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


"""Imports go one way, and few parts know Nova."""

from __future__ import annotations

import ast
import pathlib
import sys
from collections.abc import Iterator

import testtools

import nova_gpu

ROOT = pathlib.Path(nova_gpu.__file__).parent
#: What each part of the package may import of it; ``nova_gpu`` itself is
#: empty. Modules in the top folder are parts of their own.
ALLOWED: dict[str, set[str]] = {
    'exception': set(),
    'conf': {'claimsfile', 'linksfile', 'putaside'},
    'claimsfile': {'model'},
    'linksfile': {'model'},
    'model': {'exception'},
    'effects': {'exception', 'model'},
    'privsep': {'conf', 'effects', 'exception'},
    'putaside': {'exception', 'model'},
    'rules': {'exception', 'model'},
    'xml': {'model'},
    'sysfs': {'exception', 'model'},
    'host': {'linksfile', 'model', 'sysfs'},
    'mechanism': {'exception', 'model'},
    'fabric': {'exception', 'mechanism', 'model'},
    'cleaner': {'exception', 'fabric', 'mechanism', 'model', 'putaside'},
    'waiting': {'mechanism', 'model'},
    'book': {'cleaner', 'fabric', 'mechanism', 'model', 'putaside', 'waiting'},
    'taking': {'book', 'exception', 'mechanism', 'model'},
    'recovery': {'book', 'exception', 'model'},
    'tracker': {
        'book', 'exception', 'fabric', 'mechanism', 'model', 'putaside',
        'recovery', 'taking',
    },
    'restore': {'exception', 'fabric', 'mechanism', 'model'},
    'extra_specs': {'exception', 'model'},
    'scheduler': {'conf', 'exception', 'model'},
    'simulate': {'exception', 'model'},
    'cli': {
        'claimsfile', 'conf', 'exception', 'fabric', 'host', 'linksfile',
        'mechanism', 'model', 'privsep', 'putaside', 'rules', 'scheduler',
        'simulate', 'sysfs', 'xml',
    },
    'osc': {'cli', 'exception', 'model', 'scheduler', 'sysfs'},
    'virt': {
        'claimsfile', 'conf', 'exception', 'fabric', 'host', 'linksfile',
        'mechanism',
        'model', 'privsep', 'putaside', 'restore', 'rules', 'sysfs',
        'tracker', 'xml',
    },
    'cmd': {'virt'},
}  # fmt: skip
KNOWS_NOVA = {'virt', 'scheduler', 'extra_specs', 'cmd'}


def part_of(path: pathlib.Path) -> str:
    """The part that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix('.py')


def imports(path: pathlib.Path) -> Iterator[str]:
    """The full name of everything that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError(f'{path}: a relative import')
            for alias in node.names:
                yield f'{node.module}.{alias.name}'


class ArchitectureTest(testtools.TestCase):
    """Every file of the package."""

    def setUp(self) -> None:
        super().setUp()
        self.files = [
            path for path in sorted(ROOT.rglob('*.py')) if path.parent != ROOT
            or path.name != '__init__.py'
        ]  # fmt: skip

    def test_every_part_is_known(self) -> None:
        self.assertEqual(set(ALLOWED), {part_of(path) for path in self.files})

    def test_imports_go_one_way(self) -> None:
        for path in self.files:
            part = part_of(path)
            for name in imports(path):
                if name.split('.')[0] == 'nova_gpu':
                    self.assertIn(
                        name.split('.')[1], {part, *ALLOWED[part]},
                        f'{path} imports {name}',
                    )  # fmt: skip

    def test_no_way_leads_back(self) -> None:
        seen: set[str] = set()
        while len(seen) < len(ALLOWED):
            ready = {
                part for part, below in ALLOWED.items()
                if part not in seen and below <= seen
            }  # fmt: skip
            self.assertTrue(ready, f'a circle in {set(ALLOWED) - seen}')
            seen |= ready

    def test_who_knows_nova(self) -> None:
        for path in self.files:
            tops = {name.split('.')[0] for name in imports(path)}
            if 'nova' in tops:
                self.assertIn(part_of(path), KNOWS_NOVA, path)

    def test_model_needs_python_alone(self) -> None:
        for path in self.files:
            if part_of(path) in ('model', 'exception'):
                for name in imports(path):
                    self.assertIn(
                        name.split('.')[0],
                        {'nova_gpu', *sys.stdlib_module_names},
                        f'{path} imports {name}',
                    )

    def test_the_package_itself_is_empty(self) -> None:
        # Importing a part brings no other along.
        for path in (ROOT / '__init__.py', ROOT / 'model/__init__.py'):
            self.assertEqual([], list(imports(path)))
