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


"""Nova's private names: those we list are there, those we use are listed.

The wheels of the supported releases are downloaded once, without what they
depend on, and read as source.
"""

from __future__ import annotations

import ast
import functools
import os
import pathlib
import subprocess
import sys
import tempfile

import fixtures
import testtools

from nova_gpu.virt import nova_seams
from nova_gpu.virt.nova_seams import Seam
from tests.unit.virt import source, uses

ROOT = pathlib.Path(__file__).parents[3]
PACKAGE = ROOT / 'nova_gpu'
WHEELS = pathlib.Path(
    os.environ.get('NOVA_GPU_WHEELS') or ROOT / 'build/nova-wheels'
)
RELEASES = ('29.4.0', '31.3.1', '33.0.2', '34.0.0')


@functools.cache
def release(version: str) -> source.Library:
    """The source of one release of Nova."""
    name = f'nova-{version}-py3-none-any.whl'
    if not (WHEELS / name).exists():
        _download(version, name)
    return source.Library.of_wheel(WHEELS / name)


def _download(version: str, name: str) -> None:
    WHEELS.mkdir(parents=True, exist_ok=True)
    # Tests run side by side: what has the wheel's name is complete.
    with tempfile.TemporaryDirectory(dir=WHEELS) as directory:
        done = subprocess.run(
            [
                sys.executable, '-m', 'pip', 'download', '--quiet',
                '--no-deps', '--only-binary=:all:', '--dest', directory,
                f'nova=={version}',
            ],
            # tox's constraints name one release.
            env={**os.environ, 'PIP_CONSTRAINT': ''},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        if done.returncode:
            raise AssertionError(
                f'pip can not download nova {version}; {WHEELS / name} '
                f'would do:\n{done.stdout}'
            )
        os.replace(pathlib.Path(directory, name), WHEELS / name)


@functools.cache
def our_methods() -> dict[tuple[str, str, str], list[source.Parameters]]:
    """Our methods by class of Nova that they are in, and name."""
    found: dict[tuple[str, str, str], list[source.Parameters]] = {}
    for path in PACKAGE.rglob('*.py'):
        for base, cls in uses.classes_of(path):
            for node in cls.body:
                if isinstance(node, source.Function):
                    module, _, name = base.rpartition('.')
                    found.setdefault((module, name, node.name), []).append(
                        source.parameters(node, method=True)
                    )
    return found


#: Uses that are listed, and others.
SAMPLE = """\
from nova.virt.libvirt import driver as libvirt_driver
from nova import rpc


class Driver(libvirt_driver.LibvirtDriver):
    def spawn(self, context: Any, instance: Any, *args: Any) -> None:
        minimum = libvirt_driver.MIN_VERSION
        name = self._host.get_hostname().lower()
        cpus = self._host.get_cpus()
        for guest in self._host.list_guests(only_running=False):
            guest.host_parts
        if instance.uuid or instance.power_state or context:
            self._image_api
        super().rescue(context, instance)
        super().spawn(context, instance, *args)
        self.ours()

    def ours(self) -> None:
        self._tracker = self.virtapi.reportclient
"""


def problem(
    seam: Seam, library: source.Library, number: int = 0
) -> str | None:
    """What is wrong with a seam in a release of Nova, or None."""
    if seam.until is not None and seam.until < number:
        return None
    if library.module(seam.module) is None:
        return 'the module is gone'
    if seam.cls:
        node = library.find_in_class(seam.module, seam.cls, seam.name)
    else:
        node = library.find(seam.module, seam.name)
    if node is None:
        return 'it is not defined there'
    if seam.signature is None:
        return None
    if not isinstance(node, source.Function):
        return f'it is no function but {ast.unparse(node)}'
    theirs = source.parameters(node, method=bool(seam.cls))
    wanted, by_name, renamed = _parse(seam.signature)
    if theirs.positional[: len(wanted)] != wanted:
        return f'its parameters are {", ".join(theirs.positional)}'
    named = {*theirs.positional, *theirs.keyword}
    if not (theirs.any_keyword or by_name <= named):
        return f'it takes no {", ".join(sorted(by_name - named))}'
    overrides = our_methods().get((seam.module, seam.cls, seam.name))
    if overrides is None:
        missing = theirs.required - {*wanted, *by_name}
        if missing:
            return f'it needs {", ".join(sorted(missing))}, which we lack'
    for ours in overrides or ():
        if seam.name == '__init__':
            continue  # called by us, and not by Nova in place of theirs
        if not renamed and ours.positional[: len(wanted)] != wanted:
            return f'our parameters are {", ".join(ours.positional)}'
        count = len(theirs.positional) + len(theirs.keyword)
        open_ended = ours.any_positional and ours.any_keyword
        if not open_ended and len(ours.positional) != count:
            return f'it has {count} parameters, ours {len(ours.positional)}'
    return None


def _parse(signature: str) -> tuple[tuple[str, ...], set[str], bool]:
    """The parameters in order, those by name, and if ours may differ."""
    parts = [part.strip() for part in signature.split(',') if part.strip()]
    renamed = '/' in parts
    parts = [part for part in parts if part != '/']
    if '*' not in parts:
        return tuple(parts), set(), renamed
    index = parts.index('*')
    return tuple(parts[:index]), set(parts[index + 1 :]), renamed


class ReleaseTest(testtools.TestCase):
    """Every seam is in every supported release, as we use it."""

    maxDiff = None

    def check(self, version: str) -> None:
        library = release(version)
        number = int(version.partition('.')[0])
        problems = [
            f'{seam.module} {seam.cls} {seam.name}: {found}'
            for seam in nova_seams.SEAMS
            if (found := problem(seam, library, number))
        ]
        self.assertEqual([], problems, f'nova {version}')

    def test_2024_1(self) -> None:
        self.check('29.4.0')

    def test_2025_1(self) -> None:
        self.check('31.3.1')

    def test_2026_1(self) -> None:
        self.check('33.0.2')

    def test_2026_2(self) -> None:
        self.check('34.0.0')

    def test_a_changed_name_is_found(self) -> None:
        library = release(RELEASES[-1])
        driver = ('nova.virt.libvirt.driver', 'LibvirtDriver')
        for seam, expected in (
            (Seam('nova.gone', '', 'x', None, ''), 'the module is gone'),
            (Seam(*driver, '_host_x', None, ''), 'it is not defined there'),
            (
                Seam('nova.virt.libvirt.driver', '', 'X', None, ''),
                'it is not defined there',
            ),
            (
                Seam(*driver, 'confirm_migration', 'context, x', ''),
                'its parameters are context, migration, instance, '
                'network_info',
            ),
            (
                Seam(*driver, 'list_instances', '*, x', ''),
                'it takes no x',
            ),
            (
                Seam(*driver, '_guest_needs_pcie', '', ''),
                'it needs guest, which we lack',
            ),
        ):
            self.assertEqual(expected, problem(seam, library))


class UseTest(testtools.TestCase):
    """What nova-gpu uses of Nova is listed."""

    maxDiff = None

    def setUp(self) -> None:
        super().setUp()
        self.listed = {
            (f'{s.module}.{s.cls}' if s.cls else s.module, s.name)
            for s in nova_seams.SEAMS
        }
        self.attributes = {s.name for s in nova_seams.SEAMS if s.cls}
        modules = {s.module for s in nova_seams.SEAMS}
        # A package on the way to a module isn't a name of its own.
        self.packages = {
            module.rpartition('.')[::2]
            for module in modules
            for module in _with_parents(module)
        }

    def unlisted(self, path: pathlib.Path) -> list[uses.Use]:
        found = set()
        for use in uses.uses_of(path):
            if use.owner:
                known = (use.owner, use.name) in self.listed | self.packages
            else:
                known = use.name in self.attributes
            if not known:
                found.add(use)
        return sorted(found)

    def test_every_use_is_listed(self) -> None:
        found = [
            use
            for path in PACKAGE.rglob('*.py')
            for use in self.unlisted(path)
        ]
        self.assertEqual([], found)

    def test_an_unlisted_use_is_found(self) -> None:
        directory = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        path = directory / 'ours.py'
        path.write_text(SAMPLE)
        self.assertEqual(
            [
                (2, 'nova', 'rpc'),
                (7, 'nova.virt.libvirt.driver', 'MIN_VERSION'),
                (9, '', 'get_cpus'),
                (11, '', 'host_parts'),
                (12, '', 'power_state'),
                (
                    13,
                    'nova.virt.libvirt.driver.LibvirtDriver',
                    '_image_api',
                ),
                (
                    14,
                    'nova.virt.libvirt.driver.LibvirtDriver',
                    'rescue',
                ),
            ],
            [(u.line, u.owner, u.name) for u in self.unlisted(path)],
        )

    def test_every_override_is_listed(self) -> None:
        library = release(RELEASES[-1])
        found = [
            (base, name)
            for path in PACKAGE.rglob('*.py')
            for base, cls in uses.classes_of(path)
            for name in uses.members(cls)
            if library.find_in_class(*base.rpartition('.')[::2], name)
        ]
        self.assertIn(
            ('nova.virt.libvirt.driver.LibvirtDriver', 'spawn'), found
        )
        self.assertEqual([], sorted(set(found) - self.listed))

    def test_every_seam_says_why(self) -> None:
        self.assertEqual([], [s for s in nova_seams.SEAMS if not s.why])
        keys = [(s.module, s.cls, s.name) for s in nova_seams.SEAMS]
        self.assertEqual(sorted(set(keys)), sorted(keys))


def _with_parents(module: str) -> list[str]:
    parts = module.split('.')
    return ['.'.join(parts[: n + 1]) for n in range(1, len(parts))]
