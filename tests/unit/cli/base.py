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


"""Running ``nova-gpu`` on a host of files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import fixtures
import testtools

from nova_gpu.cli import main, settings
from nova_gpu.model.guest import metadata
from nova_gpu.model.inventory import Unit
from tests.fixtures.sysfs import FakeSysfs


class Result(NamedTuple):
    """What one run of the program left; ``errors`` are stderr's lines."""

    code: int
    out: str
    errors: list[str]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class OwnProcess(NamedTuple):
    """What a process left, and what it imported and opened, by name."""

    code: int
    out: str
    err: str
    imported: frozenset[str]
    opened: frozenset[str]


WATCHED = """
import atexit, json, os, sys
opened = set()
def watch(event, args):
    if event == 'open' and isinstance(args[0], (str, os.PathLike)):
        opened.add(os.path.basename(os.fspath(args[0])))
sys.addaudithook(watch)
@atexit.register
def tell():
    imported = {name.partition('.')[0] for name in sys.modules}
    print(json.dumps({'imported': [*imported], 'opened': [*opened]}), end='')
from nova_gpu.cli import main
sys.exit(main.main(sys.argv[1:]))
"""


class CliTest(testtools.TestCase):
    """Base of the tests of the command line: one empty host."""

    maxDiff = None

    def setUp(self) -> None:
        super().setUp()
        self.fake = FakeSysfs(self.useFixture(fixtures.TempDir()).path)
        self.root = str(self.fake.root)
        # Not that of the machine which runs the tests.
        self.patch(settings, 'NOVA_ETC', f'{self.root}/etc/nova')

    def nova_gpu(self, *args: str) -> Result:
        """Run the program in this process."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main.main(list(args))
            except SystemExit as exc:  # from argparse
                code = int(str(exc.code or 0))
        return Result(code, out.getvalue(), err.getvalue().splitlines())

    def host_show(self, *args: str) -> Result:
        return self.nova_gpu('host', 'show', '--root', self.root, *args)

    def topology(self, *args: str) -> Result:
        return self.nova_gpu('host', 'topology', '--root', self.root, *args)

    def release(self, *args: str) -> Result:
        return self.nova_gpu('host', 'release', '--root', self.root, *args)

    def xml_preview(self, *args: str) -> Result:
        return self.nova_gpu('xml', 'preview', '--root', self.root, *args)

    def cards(self, *args: str) -> dict[str, dict[str, Any]]:
        """The cards as JSON, by address, from a run that succeeds."""
        result = self.host_show('-f', 'json', *args)
        self.assertEqual(0, result.code, result.errors)
        return {card['Address']: card for card in result.json}

    def add_guest(
        self,
        name: str,
        uuid: str,
        *,
        functions: Iterable[str] = (),
        mdevs: Iterable[str] = (),
        running: bool = False,
        units: Iterable[Unit] = (),
        kept: Mapping[str, Iterable[Unit]] | None = None,
    ) -> str:
        """Write libvirt's file of a guest; returns its path.

        :param units: what its metadata says that we gave it
        :param kept: what it had before a resize, by the move
        """
        devices = ''
        for function in functions:
            domain, bus, rest = function.split(':')
            slot, _, number = rest.partition('.')
            devices += (
                f"<hostdev mode='subsystem' type='pci' managed='yes'>"
                f"<source><address domain='0x{domain}' bus='0x{bus}' "
                f"slot='0x{slot}' function='0x{number}'/></source></hostdev>"
            )
        for mdev in mdevs:
            devices += (
                f"<hostdev mode='subsystem' type='mdev' model='vfio-pci'>"
                f"<source><address uuid='{mdev}'/></source></hostdev>"
            )
        record = ET.tostring(metadata(units, kept), encoding='unicode')
        text = (
            f"<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid>"
            f'<metadata>{record}</metadata>'
            f'<devices>{devices}</devices></domain>'
        )
        folder = 'etc/libvirt/qemu'
        if running:
            folder = 'run/libvirt/qemu'
            text = f"<domstatus state='running'>{text}</domstatus>"
        self.fake.write(f'{folder}/{name}.xml', text)
        return f'{self.root}/{folder}/{name}.xml'

    def in_process_of_its_own(self, *args: str) -> OwnProcess:
        """Run the program in a new process, and watch what it needs."""
        done = subprocess.run(
            [sys.executable, '-c', WATCHED, *args],
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        out, _, last = done.stdout.rpartition('\n')
        self.assertTrue(last.startswith('{'), done.stderr)
        watched = json.loads(last)
        return OwnProcess(
            done.returncode,
            out,
            done.stderr,
            frozenset(watched['imported']),
            frozenset(watched['opened']),
        )
