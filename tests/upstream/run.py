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

"""One run of one suite with one class, in workers of stestr."""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import subunit
import testtools

from tests.upstream import suites

#: How a test ends well.
GOOD = ('success', 'skip', 'xfail')
#: What fails runs again in a new process, as long as fewer fail each time: on
#: threads a service of an earlier test may close the thread pools that Nova's
#: fixture has just made, and then no later test of the process passes.
ROUNDS = 5
ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass
class Run:
    """How each test ended, by id, and the output of those that failed.

    ``made`` is how many of our drivers there were in all processes, ``again``
    how many tests ended well only when they ran again.
    """

    statuses: dict[str, str]
    details: dict[str, str]
    made: int
    seconds: float
    again: int = 0

    def count(self, status: str) -> int:
        """How many tests ended so."""
        return sum(ended == status for ended in self.statuses.values())

    @property
    def failed(self) -> int:
        """How many tests ended in any other way than a good one."""
        return sum(ended not in GOOD for ended in self.statuses.values())


def run(
    release: int,
    name: str,
    cls: str,
    options: Sequence[str],
    log: pathlib.Path,
) -> Run:
    """Run a suite; ``log`` gets what stestr and the tests print."""
    suite = suites.SUITES[release][name]
    with (
        tempfile.TemporaryDirectory() as folder,
        log.open('wb') as output,
    ):
        made = pathlib.Path(folder, 'made')
        made.mkdir()
        environment = {
            **os.environ,
            'OS_NOVA_DISABLE_EVENTLET_PATCHING': str(suite.threading).lower(),
            'PYTHONWARNINGS': 'ignore',
            suites.CLASS: cls,
            suites.RELEASE: str(release),
            suites.SUITE: name,
            suites.MADE: str(made),
        }
        stestr = [sys.executable, '-m', 'stestr', '--repo-url', folder,
                  '--test-path', 'tests/upstream']  # fmt: skip
        start = time.monotonic()
        statuses: dict[str, str] = {}
        details: dict[str, str] = {}
        left = again = 0
        for _ in range(ROUNDS):
            subprocess.run(
                [*stestr, 'run', *options],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            last = subprocess.run(
                [*stestr, 'last', '--subunit'],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=output,
            )
            found = _parse(last.stdout)
            again += sum(
                statuses.get(test, 'success') not in GOOD and status in GOOD
                for test, status in found[0].items()
            )
            statuses |= found[0]
            details |= found[1]
            before, left = left, sum(s not in GOOD for s in statuses.values())
            if left in (0, before):
                break
            options = ['--failing', '--serial']
        seconds = time.monotonic() - start
        return Run(
            statuses,
            details,
            sum(int(path.read_text()) for path in made.iterdir()),
            seconds,
            again,
        )


def _parse(stream: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """What a subunit stream says of each test."""
    statuses: dict[str, str] = {}
    details: dict[str, str] = {}

    def note(test: dict[str, Any]) -> None:
        name = test['id']
        statuses[name] = test['status']
        details[name] = '\n'.join(
            content.as_text().strip()
            for key, content in test['details'].items()
            if key.startswith(('traceback', 'reason'))
        )

    result = testtools.StreamToDict(note)
    result.startTestRun()
    subunit.ByteStreamToStreamResult(
        io.BytesIO(stream), non_subunit_name='stdout'
    ).run(result)
    result.stopTestRun()
    return statuses, details
