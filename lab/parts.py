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

"""Parts of the lab: each is made once, in a folder named after its inputs."""

from __future__ import annotations

import contextlib
import os
import pathlib
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

from lab.guest import inputs

#: Nobody reads them in the guest.
_LEFT_OUT = ('doc', 'man', 'locale', 'info')


class BuildError(Exception):
    """A step of the build has failed."""


def require_machine() -> None:
    """Packages, wheels and programs are of this architecture alone."""
    if platform.machine() != 'x86_64':
        raise BuildError(
            f'the lab is for x86-64, and this machine is {platform.machine()}'
        )


def make(path: pathlib.Path, make: Callable[[pathlib.Path], None]) -> None:
    """Make a part: all of it, or none.

    What can't be moved is made in place, with an empty folder for the new part
    beside it until all of it is there: without the end of that, both go.
    """
    new = path.with_name(f'{path.name}.new')
    if path.exists() and not new.exists():
        return
    began = time.monotonic()
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(new, ignore_errors=True)
    make(new)
    if path.exists():
        new.rmdir()
    else:
        new.rename(path)
    print(f'lab: {path.name} in {time.monotonic() - began:.0f} s', flush=True)


def run(*command: str | pathlib.Path, **options: object) -> str:
    """Run a program, and say what it said only if it fails."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **options,  # type: ignore[call-overload]
        )
    except FileNotFoundError as exc:
        raise BuildError(
            f'{command[0]} is not installed: see bindep.txt'
        ) from exc
    if done.returncode:
        said = '\n'.join(done.stdout.splitlines()[-30:])
        raise BuildError(f'{command[0]} exited {done.returncode}:\n{said}')
    return str(done.stdout)


def debootstrap(
    path: pathlib.Path,
    packages: Sequence[str],
    variant: str = 'minbase',
    suite: str = inputs.SUITE,
) -> None:
    """Debian's packages, as a tree of files."""
    run(
        'mmdebstrap', f'--variant={variant}', '--mode=root', '--quiet',
        '--aptopt=Apt::Install-Recommends "false"',
        '--dpkgopt=force-unsafe-io',
        *(f'--dpkgopt=path-exclude=/usr/share/{n}/*' for n in _LEFT_OUT),
        f'--include={",".join(packages)}',
        suite, path, f'deb {inputs.MIRROR} {suite} main',
        # The guest starts from files of our own.
        env=os.environ | {'INITRD': 'No', 'LC_ALL': 'C'},
    )  # fmt: skip


@contextlib.contextmanager
def scratch(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder beside a part, gone when the part is there."""
    folder = path.with_name(f'{path.name}.scratch')
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
