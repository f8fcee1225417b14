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

"""Builds the guest: Debian, kernel modules, Python packages, a disk.

As root, for the tree has files of root's and programs run in it; nothing is
mounted, and nothing outside of the cache is changed.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import shutil
import subprocess
import sys

from lab import parts
from lab.guest import agent, inputs, machine

_FILES = pathlib.Path(__file__).parent / 'files'
#: Each one is asked for its capabilities when libvirtd starts.
_NEEDLESS = ('usr/bin/qemu-system-i386', 'usr/bin/qemu-system-x86_64-microvm')
_DISK_MODULES = ('virtio_blk', 'crc32c_generic', 'ext4')
#: What the disk has free, for servers' images and logs.
_FREE_MIB = 1500
#: Wheels of the machine that the guest is; newest first.
_PLATFORMS = (
    *(f'manylinux_2_{n}_x86_64' for n in (41, 39, 34, 31, 28, 26, 17, 12, 5)),
    'manylinux2014_x86_64',
)
#: On PyPI as source only; plain Python, so that it is built here.
_WITHOUT_WHEELS = ('ovs',)


def build() -> None:
    """Make what isn't in the cache."""
    parts.require_machine()
    if inputs.image().exists():
        return
    if os.geteuid() != 0:
        raise parts.BuildError('building the guest takes root: sudo make lab')
    inputs.CACHE.mkdir(parents=True, exist_ok=True)
    with open(inputs.CACHE / 'lock', 'w') as lock:
        # Two at once would take each other's scratch folders away.
        fcntl.flock(lock, fcntl.LOCK_EX)
        parts.make(inputs.root(), _build_root)
        parts.make(inputs.modules(), _build_modules)
        parts.make(inputs.python(), _build_python)
        parts.make(inputs.image(), _build_image)


def clean() -> None:
    """Remove parts of the cache that nothing is made of any more."""
    used = {
        inputs.root(), inputs.modules(), inputs.python(), inputs.image(),
        inputs.run(),
    }  # fmt: skip
    for path in inputs.CACHE.iterdir():
        # The cloud's parts are its own.
        if path.is_dir() and path not in used and path.name != 'cloud':
            shutil.rmtree(path)


def _build_root(path: pathlib.Path) -> None:
    parts.debootstrap(path, inputs.ROOT_PACKAGES)
    for name in _NEEDLESS:
        (path / name).unlink(missing_ok=True)


def kernel() -> str:
    """The release of the guest's kernel."""
    (found,) = (inputs.root() / 'usr/lib/modules').iterdir()
    return found.name


def _build_modules(path: pathlib.Path) -> None:
    """Compile against the guest's kernel, with the compiler that it took."""
    release = kernel()
    with parts.scratch(path) as tree:
        packages = (f'linux-headers-{release}', *inputs.BUILD_PACKAGES)
        # Only a compiler's files: none of it is set up.
        parts.debootstrap(tree, packages, 'extract')
        (tree / 'usr/bin/awk').symlink_to('mawk')
        shutil.copytree(inputs.LAB / 'kmod', tree / 'kmod')
        parts.run(
            'chroot', tree, 'make', '-C', f'/lib/modules/{release}/build',
            'M=/kmod', 'modules',
        )  # fmt: skip
        path.mkdir()
        for module in (tree / 'kmod').glob('*.ko'):
            parts.run('chroot', tree, 'strip', '-g', f'/kmod/{module.name}')
            shutil.copy(module, path)


def _build_python(path: pathlib.Path) -> None:
    """Install for the guest's Python with this one's pip."""
    platforms = [f'--platform={name}' for name in _PLATFORMS]
    pip = (sys.executable, '-m', 'pip', '--disable-pip-version-check')
    constraints = ('--constraint', inputs.PROJECT / 'constraints.txt')
    with parts.scratch(path) as wheels:
        parts.run(
            *pip, 'wheel', '--no-deps', *constraints, '--wheel-dir', wheels,
            *_WITHOUT_WHEELS,
        )  # fmt: skip
        parts.run(
            *pip, 'install', '--quiet', '--no-compile', '--only-binary=:all:',
            '--python-version', inputs.PYTHON, *platforms, *constraints,
            '--find-links', wheels, '--target', path, *inputs.REQUIREMENTS,
        )  # fmt: skip
    # Nova brings its own tests along; nobody runs them here.
    shutil.rmtree(path / 'nova/tests')


def _build_image(path: pathlib.Path) -> None:
    """The disk, started once so that libvirt knows its QEMU already."""
    release = kernel()
    path.mkdir()
    with parts.scratch(path) as tree:
        parts.run('cp', '-a', '--reflink=auto', inputs.root(), tree)
        extra = tree / 'usr/lib/modules' / release / 'extra'
        extra.mkdir()
        for module in inputs.modules().iterdir():
            shutil.copy(module, extra)
        parts.run('chroot', tree, 'depmod', release)
        packages = tree / f'usr/local/lib/python{inputs.PYTHON}/dist-packages'
        shutil.copytree(inputs.python(), packages, dirs_exist_ok=True)
        # Templates and the like don't compile, and needn't.
        folder = packages.relative_to(tree)
        parts.run(
            'chroot', tree, 'sh', '-c',
            f'python3 -m compileall -qq /{folder} || true',
        )  # fmt: skip
        parts.run('cp', '-r', '--preserve=mode', f'{_FILES}/.', tree)
        shutil.copy(tree / f'boot/vmlinuz-{release}', path / 'vmlinuz')
        shutil.rmtree(tree / 'boot')
        _build_initramfs(tree, release, path / 'initrd')
        size = int(parts.run('du', '-sm', tree).split()[0]) + _FREE_MIB
        parts.run(
            'mke2fs', '-q', '-t', 'ext4', '-d', tree, '-O', '^has_journal',
            '-m', '0', path / 'disk', f'{size}M',
        )  # fmt: skip
    machine.start(path, keep=True, patience=900)
    agent.execute('virsh -q capabilities >/dev/null; python3 -c "import nova"')
    machine.stop()


def _build_initramfs(
    tree: pathlib.Path, release: str, path: pathlib.Path
) -> None:
    """A shell, and the modules that mounting the disk takes."""
    with parts.scratch(path) as files:
        for name in ('bin', 'proc', 'sys', 'dev', 'root', 'modules'):
            (files / name).mkdir(parents=True)
        shutil.copy(tree / 'bin/busybox', files / 'bin')
        shutil.copy(_FILES / 'lab/initramfs', files / 'init')
        needed: list[str] = []
        for module in _DISK_MODULES:
            listed = parts.run(
                'chroot', tree, 'modprobe', '--set-version', release,
                '--show-depends', module,
            )  # fmt: skip
            for line in listed.splitlines():
                word, _, name = line.strip().partition(' ')
                # Intel's own instruction isn't emulated.
                if word == 'insmod' and 'intel' not in name:
                    needed.append(name.strip())
        for number, name in enumerate(dict.fromkeys(needed)):
            source = tree / name.lstrip('/')
            target = files / f'modules/{number:02}.ko'
            if source.suffix == '.xz':
                target.write_text('')
                with target.open('wb') as out:
                    subprocess.run(
                        ['xz', '-dc', source], stdout=out, check=True
                    )
            else:
                shutil.copy(source, target)
        parts.run(
            'sh', '-c',
            f'find . | cpio -o -H newc --quiet | gzip -1 > {path.resolve()}',
            cwd=files,
        )  # fmt: skip
