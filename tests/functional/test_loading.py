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


"""The wheel beside Nova, and both ways of loading the driver from it.

Each of the latter starts a real nova-compute in a process of its own.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import sysconfig
import zipfile

import fixtures
import testtools

from tests.fixtures import hosts, wheels
from tests.fixtures.sysfs import FakeSysfs
from tests.functional import base

#: Nova's modules import libvirt before Nova's fake of it can be imported.
LIBVIRT = """
def __getattr__(name):
    from nova.tests.fixtures import libvirt
    return getattr(libvirt, name)
"""

#: Only the driver's start writes this, with the last of the board's cards.
FOUND = (
    r'nova_gpu\.virt\.driver .* Found card 0000:cb:00\.0 '
    r'\(NVIDIA A100 .*\): whole, pool '
)
#: Up to Nova 31 all of it runs on eventlet.
HAS_THREADS = base.NOVA_RELEASE > 31
#: How long a process that hangs may keep the tests.
LIMIT_S = '240'


class WheelTest(testtools.TestCase):
    """What is in the wheel, and what it leaves behind."""

    def test_holds_the_driver_and_nothing_of_nova(self) -> None:
        with zipfile.ZipFile(wheels.build_wheel()) as archive:
            names = archive.namelist()
        self.assertIn('nova_gpu/virt/driver.py', names)
        self.assertEqual(
            ['nova/virt/gpu/__init__.py'],
            [name for name in names if name.startswith('nova/')],
        )
        packages = {name.partition('/')[0] for name in names}
        self.assertEqual(
            {'nova', 'nova_gpu'}, {n for n in packages if '-' not in n}
        )

    def test_uninstall_leaves_nothing(self) -> None:
        venv = self.useFixture(wheels.Venv())
        nova = venv.site / 'nova'
        (nova / 'virt').mkdir(parents=True)
        (nova / '__init__.py').write_text('')
        (nova / 'virt/__init__.py').write_text('')
        (venv.path / 'etc/nova').mkdir(parents=True)
        before = venv.files()
        venv.install(wheels.build_wheel())
        self.assertTrue((nova / 'virt/gpu/__init__.py').exists())
        self.assertTrue((venv.path / 'bin/nova-gpu-compute').exists())
        venv.uninstall('nova-gpu')
        self.assertEqual(before, venv.files())


class LoadingTest(testtools.TestCase):
    """nova-compute finds the driver, and the driver the cards."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.modules = self.directory / 'modules'
        self.modules.mkdir()
        (self.modules / 'libvirt.py').write_text(LIBVIRT)
        self.venv = self.useFixture(wheels.Venv())
        host = self.directory / 'host'
        hosts.a100_board(FakeSysfs(host))
        (self.directory / 'nova.conf').write_text(
            '[DEFAULT]\n'
            'compute_driver = gpu.GpuLibvirtDriver\n'
            'debug = true\n'
            'host = gpu1\n'
            f'state_path = {self.directory}\n'
            '[oslo_concurrency]\n'
            f'lock_path = {self.directory}\n'
            '[libvirt]\n'
            'virt_type = qemu\n'
            '[gpu]\n'
            f'host_root = {host}\n'
            f'put_aside_dir = {self.directory}/put-aside\n'
            f'claims_file = {self.directory}/claims.json\n'
        )

    def _python(self, threads: bool) -> list[str]:
        return [
            'env', f'PYTHONPATH={self.modules}',
            f'OS_NOVA_DISABLE_EVENTLET_PATCHING={threads}',
            str(self.venv.python),
        ]  # fmt: skip

    def _driver_module(self) -> str:
        """The file that Nova's way of looking for the driver leads to."""
        code = (
            'from importlib import util\n'
            'spec = util.find_spec("nova.virt.gpu")\n'
            'print(spec and spec.origin)'
        )
        done = subprocess.run(
            [*self._python(threads=True), '-c', code],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def _assert_starts(self, script: pathlib.Path, threads: bool) -> None:
        done = subprocess.run(
            [
                sys.executable, '-m', 'tests.fixtures.nova_process',
                str(self.directory), FOUND, LIMIT_S,
                *self._python(threads), str(script),
                '--config-file', 'nova.conf',
            ],
            cwd=wheels.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        self.assertEqual(0, done.returncode, done.stdout[-20000:])
        self.assertIn(
            "Loading compute driver 'gpu.GpuLibvirtDriver'", done.stdout
        )
        if HAS_THREADS:
            backend = '_threading' if threads else '_eventlet'
            self.assertIn(f'oslo_service.backend.{backend}', done.stdout)

    def test_nova_compute_with_the_wheel_beside_nova(self) -> None:
        wheels.link_nova(self.venv.site / 'nova')
        self.venv.install(wheels.build_wheel())
        self.venv.see_test_packages()
        self.assertEqual(
            str(self.venv.site / 'nova/virt/gpu/__init__.py'),
            self._driver_module(),
        )
        nova_compute = pathlib.Path(
            sysconfig.get_path('scripts'), 'nova-compute'
        )
        self._assert_starts(nova_compute, threads=HAS_THREADS)

    def _install_away_from_nova(self) -> pathlib.Path:
        """The wheel in one directory, Nova in another; our own command."""
        wheels.link_nova(self.modules / 'nova')
        self.venv.install(wheels.build_wheel())
        self.venv.see_test_packages()
        # Nova 29 has made nova.virt a namespace package: there it is found
        # wherever it is.
        if base.NOVA_RELEASE > 29:
            self.assertEqual('None', self._driver_module())
        return self.venv.path / 'bin/nova-gpu-compute'

    @testtools.skipUnless(
        HAS_THREADS, 'native threading of nova-compute came with Nova 32'
    )
    def test_nova_gpu_compute_on_threads(self) -> None:
        self._assert_starts(self._install_away_from_nova(), threads=True)

    def test_nova_gpu_compute_on_eventlet(self) -> None:
        self._assert_starts(self._install_away_from_nova(), threads=False)
