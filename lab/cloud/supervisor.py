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

"""Starts the cloud's processes, watches them, and ends every one.

A process of its own, ``python3 -m lab.cloud.supervisor RUN``: SIGTERM ends
the cloud, and so does its time, or the end of one of the processes. It is two,
each of which ends the cloud when the other one is killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from types import FrameType

from lab.cloud import services
from lab.cloud.services import Service, Step
from lab.cloud.settings import Settings

LIFETIME_SECONDS = 3 * 3600
#: How long a service may take to listen, on a machine that is busy.
PATIENCE = 240
_PR_SET_PDEATHSIG = 1


class Ended(Exception):
    """The cloud is to end; its text says why."""


class Supervisor:
    """The processes of one cloud."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.run = settings.run
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._began = time.monotonic()
        self._told_to_end = False

    def main(self) -> None:
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        try:
            self._say('starting')
            for step in services.steps(self.settings):
                self._start(step)
            self._say('up')
            while True:
                self._check()
                time.sleep(0.5)
        except Ended as exc:
            reason = str(exc)
        except Exception as exc:
            reason = f'{type(exc).__name__}: {exc}'
        self._say('ending', reason)
        self._stop()
        self._say('ended', reason)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._told_to_end = True

    def _check(self) -> None:
        if self._told_to_end:
            raise Ended('told to')
        if time.monotonic() - self._began > LIFETIME_SECONDS:
            raise Ended(f'its {LIFETIME_SECONDS} s are over')
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise Ended(f'{name} exited {process.returncode}')

    def _start(self, step: Step) -> None:
        for service in step.services:
            self.processes[service.name] = self._spawn(service)
        self._say('starting', ', '.join(s.name for s in step.services))
        waiting = {service.name: service for service in step.services}
        deadline = time.monotonic() + PATIENCE
        while waiting:
            self._check()
            for name in [n for n, s in waiting.items() if s.listens()]:
                del waiting[name]
                self._say('starting', f'{name} is ready')
            if waiting and time.monotonic() > deadline:
                raise Ended(f'not ready in {PATIENCE} s: {", ".join(waiting)}')
            time.sleep(0.1)
        if step.task is not None:
            self._do(step.task)

    def _do(self, task: Service) -> None:
        process = self._spawn(task)
        try:
            while process.poll() is None:
                self._check()
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise Ended(f'{task.name} exited {process.returncode}')
        self._say('starting', f'{task.name} is done')

    def _spawn(self, service: Service) -> subprocess.Popen[bytes]:
        with open(self.run / f'log/{service.name}.log', 'ab') as log:
            return subprocess.Popen(
                service.command,
                env=services.base_environment() | service.environment,
                cwd=self.run / 'home',
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _stop(self) -> None:
        """The last first; what doesn't end is killed, with its children."""
        for number, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
            for process in reversed(self.processes.values()):
                _kill_group(process.pid, number)
            deadline = time.monotonic() + patience
            for process in self.processes.values():
                try:
                    process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    break
        # Children that have outlived their parent.
        for process in self.processes.values():
            _kill_group(process.pid, signal.SIGKILL)

    def _say(self, state: str, detail: str = '') -> None:
        status = {
            'state': state,
            'detail': detail,
            'seconds': round(time.monotonic() - self._began, 1),
            'pid': os.getpid(),
            'processes': {n: p.pid for n, p in self.processes.items()},
        }
        new = self.run / 'status.new'
        new.write_text(json.dumps(status))
        new.rename(self.run / 'status')
        print(f'{status["seconds"]:6.1f} {state} {detail}', flush=True)


def _kill_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def watched(supervisor: Supervisor) -> None:
    """Let a child run the cloud, and kill what is left if that is killed."""
    parent = os.getpid()
    child = os.fork()
    if not child:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == parent:
            supervisor.main()
        os._exit(0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if os.WIFSIGNALED(status):
        found = json.loads((supervisor.run / 'status').read_text())
        for pid in found['processes'].values():
            _kill_group(pid, signal.SIGKILL)


if __name__ == '__main__':
    os.umask(0o077)
    watched(Supervisor(Settings.load(pathlib.Path(sys.argv[1]))))
