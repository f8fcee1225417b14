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

"""What the guest is made of, and where each part is cached.

A part is a folder that is named after a hash of all that goes into it, so
what hasn't changed is never made twice, and nothing has to be invalidated.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import tomllib

LAB = pathlib.Path(__file__).resolve().parent.parent
PROJECT = LAB.parent
CACHE = PROJECT / 'build/lab'

SUITE = 'trixie'
MIRROR = os.environ.get('LAB_MIRROR', 'http://deb.debian.org/debian')

#: Nothing that the lab doesn't use: every file costs time under emulation.
ROOT_PACKAGES = (
    'linux-image-amd64', 'kmod', 'udev', 'busybox-static', 'dbus',
    'iproute2', 'pciutils', 'procps',
    'libvirt-daemon-system', 'libvirt-daemon-driver-qemu', 'libvirt-clients',
    'qemu-system-x86', 'qemu-utils', 'mdevctl', 'python3', 'python3-libvirt',
)  # fmt: skip
#: Besides the headers of the guest's own kernel: what its makefiles run.
BUILD_PACKAGES = (
    'make', 'gcc', 'kmod', 'base-files', 'dash', 'bash', 'coreutils', 'mawk',
    'sed', 'grep', 'findutils', 'diffutils',
)  # fmt: skip

#: For whoever runs Nova in the guest. Python is Debian's there.
PYTHON = '3.13'
PROJECT_NEEDS = tuple(
    tomllib.loads((PROJECT / 'pyproject.toml').read_text())['project'][
        'dependencies'
    ]
)
#: Whatever Python is asked for, pip takes what its own one needs; WebOb needs
#: the second from Python 3.13 on.
REQUIREMENTS = ('nova', 'legacy-cgi', *PROJECT_NEEDS)

MEMORY_MIB = 3072


def root() -> pathlib.Path:
    """Debian, as a tree of files."""
    return part('root', SUITE, *ROOT_PACKAGES)


def modules() -> pathlib.Path:
    """The kernel modules that stand in for vendors' drivers."""
    return part('modules', root().name, *BUILD_PACKAGES, LAB / 'kmod')


def python() -> pathlib.Path:
    """Nova and what it needs, from PyPI."""
    return part('python', PYTHON, *REQUIREMENTS, PROJECT / 'constraints.txt')


def image() -> pathlib.Path:
    """What is started: a disk, a kernel and its first files."""
    parts = (part.name for part in (root(), modules(), python()))
    sources = (LAB / 'parts.py', LAB / 'guest/build.py', LAB / 'guest/files')
    return part('image', *parts, *sources)


def run() -> pathlib.Path:
    """What belongs to the guest that runs: one at a time."""
    return CACHE / 'run'


def part(name: str, *inputs: str | pathlib.Path) -> pathlib.Path:
    """A folder of the cache, named after a hash of all that goes into it."""
    digest = hashlib.sha256()
    for item in inputs:
        paths = [item] if isinstance(item, pathlib.Path) else []
        if paths and paths[0].is_dir():
            paths = sorted(p for p in paths[0].rglob('*') if p.is_file())
        for path in paths:
            digest.update(str(path.relative_to(PROJECT)).encode() + b'\0')
            digest.update(path.read_bytes() + b'\0')
        if not paths:
            digest.update(str(item).encode() + b'\0')
    return CACHE / f'{name}-{digest.hexdigest()[:12]}'
