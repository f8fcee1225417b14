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

"""Commands in the guest, through a folder that it shares with the host.

No network and no keys: /lab/init in the guest runs each script that appears
in ``in``, as root, and writes what it says and how it ends to ``out``.
"""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from typing import TextIO

from lab.guest import inputs, machine


def execute(
    script: str, timeout: int = 600, out: TextIO | None = None
) -> tuple[int, str]:
    """Run a script in the guest's shell: its exit code, and what it said.

    :param timeout: seconds; 124 is the exit code of what took longer
    :param out: gets what the script says while it runs
    """
    if not machine.running():
        raise machine.MachineError('the guest does not run')
    share = inputs.run() / 'share'
    name = uuid.uuid4().hex
    folder = share / f'out/{name}'
    folder.mkdir()
    (folder / 'script').write_text(script + '\n')
    (folder / 'timeout').write_text(f'{timeout}\n')
    # From now on it is there, all of it.
    (share / f'in/{name}').touch()
    said = ''
    deadline = time.monotonic() + timeout + 60
    while True:
        ended = (folder / 'exit').exists()
        text = _text(folder / 'said')
        if out is not None and len(text) > len(said):
            out.write(text[len(said) :])
            out.flush()
        said = text
        if ended:
            code = int((folder / 'exit').read_text())
            shutil.rmtree(folder)
            return code, said
        if not machine.running():
            raise machine.MachineError(f'the guest has ended; it said {said}')
        if time.monotonic() > deadline:
            raise machine.MachineError(f'no answer to {script!r}: {said}')
        time.sleep(0.1)


def install_project() -> None:
    """Give the guest this tree's nova-gpu, and the lab's scenarios."""
    wheels = inputs.run() / 'wheels'
    shutil.rmtree(wheels, ignore_errors=True)
    # setuptools would put modules that are gone into the wheel.
    shutil.rmtree(inputs.PROJECT / 'build/lib', ignore_errors=True)
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps',
         '--disable-pip-version-check', '--wheel-dir', wheels,
         inputs.PROJECT],
        check=True,
    )  # fmt: skip
    (wheel,) = wheels.glob('nova_gpu-*.whl')
    site = inputs.run() / 'share/site'
    shutil.rmtree(site, ignore_errors=True)
    subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps',
         '--root-user-action=ignore',
         '--disable-pip-version-check', '--no-compile', '--target', site,
         '--python-version', inputs.PYTHON, '--only-binary=:all:', wheel],
        check=True,
    )  # fmt: skip
    # The programs are for this machine's Python.
    shutil.rmtree(site / 'bin', ignore_errors=True)
    copy_lab()
    code, said = execute('/lab/install', timeout=600)
    if code:
        raise machine.MachineError(f'/lab/install exited {code}: {said}')


def copy_lab() -> None:
    """The scenarios as they are now."""
    target = inputs.run() / 'share/lab'
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(
        inputs.LAB,
        target,
        ignore=shutil.ignore_patterns('__pycache__', 'kmod', 'guest'),
    )


def scenarios(names: list[str], out: TextIO) -> int:
    """Run scenarios; gives the exit code, and the log if some fail."""
    copy_lab()
    command = shlex.join(['python3', '-m', 'lab.scenarios', *names])
    code, _ = execute(f'cd /mnt/share && {command}', 3600, out)
    if code:
        _, log = execute('cat /var/log/scenarios.log')
        path = inputs.CACHE / 'scenarios.log'
        path.write_text(log)
        print(f'lab: what nova-gpu said is in {path}', file=sys.stderr)
    return code


def reboot(patience: float = 400) -> None:
    """Boot the guest's kernel again, as after a loss of power."""
    (inputs.run() / 'share/ready').unlink()
    execute('(sleep 1; busybox reboot -f) >/dev/null 2>&1 &')
    machine.wait_until_ready(patience)


def _text(path: pathlib.Path) -> str:
    if not os.path.exists(path):
        return ''
    return path.read_text(errors='replace')
