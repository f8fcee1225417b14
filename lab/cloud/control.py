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

"""Starting and ending the cloud, and what it is doing."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from lab.cloud import build, inputs, supervisor
from lab.cloud.settings import Settings
from lab.guest.inputs import PROJECT


class CloudError(Exception):
    """The cloud doesn't do what it should."""


def status() -> dict[str, Any]:
    """What the supervisor has said last; ``ended`` if there is none."""
    try:
        found = json.loads((inputs.run() / 'status').read_text())
    except FileNotFoundError:
        found = {'state': 'ended', 'detail': '', 'pid': 0, 'processes': {}}
    if found['state'] != 'ended' and not _alive(found['pid']):
        found |= {'state': 'ended', 'detail': 'its supervisor was killed'}
    return dict(found)


def up() -> float:
    """Start the cloud; gives the seconds that it took without building."""
    if status()['state'] != 'ended':
        raise CloudError('the cloud runs already')
    build.build()
    began = time.monotonic()
    run = inputs.run()
    shutil.rmtree(run, ignore_errors=True)
    Settings.new(run)
    shutil.copytree(inputs.database(), run / 'mariadb')
    with open(run / 'log/supervisor.log', 'wb') as log:
        process = subprocess.Popen(
            [sys.executable, '-m', 'lab.cloud.supervisor', str(run)],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_up(process)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return time.monotonic() - began


def _wait_until_up(process: subprocess.Popen[bytes]) -> None:
    last = ''
    while True:
        ended = process.poll() is not None
        now = status() if (inputs.run() / 'status').exists() else {}
        detail = str(now.get('detail', ''))
        if detail != last:
            print(f'lab: {now["seconds"]:5.1f} s  {detail}', flush=True)
            last = detail
        if now.get('state') == 'up':
            return
        if ended:
            raise CloudError(f'it has ended: {detail}; see {logs()}')
        time.sleep(0.1)


def down(patience: float = 40) -> None:
    """End the cloud; it is no error if it doesn't run."""
    found = status()
    if found['state'] != 'ended':
        os.kill(found['pid'], signal.SIGTERM)
    deadline = time.monotonic() + patience
    while status()['state'] != 'ended':
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found['pid'], signal.SIGKILL)
        time.sleep(0.1)


def logs() -> pathlib.Path:
    return inputs.run() / 'log'


def log(name: str) -> str:
    """What a service has said, in the run that was last."""
    path = logs() / f'{name}.log'
    if not path.is_file():
        names = ', '.join(sorted(p.stem for p in logs().glob('*.log')))
        others = f'those of: {names}' if names else 'nothing has'
        raise CloudError(f'{name} has no log; {others}')
    return path.read_text(errors='replace')


def memory_mib(pid: int) -> float:
    """What a process takes of the memory, its share of what is shared."""
    try:
        text = pathlib.Path(f'/proc/{pid}/smaps_rollup').read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return sum(
        int(line.split()[1]) / 1024
        for line in text.splitlines()
        if line.startswith('Pss:')
    )


def group(leader: int) -> list[int]:
    """The processes of a group, as one service is."""
    found = []
    for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = path.read_text().rpartition(')')[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == leader:
            found.append(int(path.parent.name))
    return found


def _alive(pid: int) -> bool:
    try:
        text = pathlib.Path(f'/proc/{pid}/cmdline').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return supervisor.__name__ in text
