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

"""Builds what the cloud is made of."""

from __future__ import annotations

import fcntl
import os
import pathlib
import platform
import shutil
import sys

from lab import parts
from lab.cloud import database, inputs
from lab.guest.inputs import PROJECT

#: Whose own one is newer: the host's C library serves these programs.
_C_LIBRARY = (
    'ld-*', 'libc.so*', 'libm.so*', 'libmvec.so*', 'libanl.so*', 'libdl.so*',
    'libpthread.so*', 'libresolv.so*', 'librt.so*', 'libutil.so*',
    'libnss_*', 'libthread_db.so*', 'libc_malloc_debug*', 'libmemusage*',
    'libpcprofile*', 'libBrokenLocale*', 'libnsl.so*',
)  # fmt: skip
_PIP = ('-m', 'pip', '--quiet', '--disable-pip-version-check')


def build() -> None:
    """Make what isn't in the cache."""
    parts.require_machine()
    _require_c_library()
    folder = inputs.run().parent
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        parts.make(inputs.debian(), _build_debian)
        parts.make(inputs.venv(), _build_venv)
        parts.make(inputs.project(), _build_project)
        parts.make(inputs.database(), database.build)


def _require_c_library() -> None:
    name, version = platform.libc_ver()
    here = f'{name} {version}' if name else 'another'
    if name != 'glibc' or _numbers(version) < _numbers(inputs.C_LIBRARY):
        raise parts.BuildError(
            f'the cloud needs glibc {inputs.C_LIBRARY} or newer, as Debian 12 '
            f'and Ubuntu 22.10 have it; here is {here}'
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split('.')))


def _build_debian(path: pathlib.Path) -> None:
    if os.geteuid() != 0:
        raise parts.BuildError('unpacking Debian packages takes root')
    parts.debootstrap(path, inputs.PACKAGES, 'extract', inputs.SUITE)
    for pattern in _C_LIBRARY:
        for name in (path / 'lib/x86_64-linux-gnu').glob(pattern):
            name.unlink()


def _build_venv(path: pathlib.Path) -> None:
    # Programs in it name the place where it was made.
    path.mkdir()
    venv = inputs.venv()
    parts.run(sys.executable, '-m', 'venv', venv)
    constraints = [f'--constraint={pins}' for pins in inputs.CONSTRAINTS]
    parts.run(
        venv / 'bin/python', *_PIP, 'install', '--no-compile',
        *constraints, *inputs.REQUIREMENTS,
    )  # fmt: skip


def _build_project(path: pathlib.Path) -> None:
    python = inputs.venv() / 'bin/python'
    # setuptools would put modules that are gone into the wheel.
    shutil.rmtree(PROJECT / 'build/lib', ignore_errors=True)
    parts.run(python, *_PIP, 'install', '--no-deps', '--target', path, PROJECT)
