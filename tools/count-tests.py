#!/usr/bin/env python3
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

"""Count the outcomes that stestr's repositories hold.

What a repository's later run says of a test replaces what an earlier one said:
those that failed may have been run again. A repository without a run counts as
a failure: its tests never got to run.
"""

import pathlib
import sys
from collections import Counter
from typing import Any

import subunit
import testtools

Test = Any


class Outcomes(testtools.TestResult):
    """Remembers how each test ended."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def _keep(self, test: Test, outcome: str) -> None:
        self.found[test.id()] = outcome

    def addSuccess(self, test: Test, details: object = None) -> None:
        self._keep(test, 'passed')

    def addExpectedFailure(
        self, test: Test, err: object = None, details: object = None
    ) -> None:
        self._keep(test, 'passed')

    def addSkip(
        self, test: Test, reason: object = None, details: object = None
    ) -> None:
        self._keep(test, 'skipped')

    def addFailure(
        self, test: Test, err: object = None, details: object = None
    ) -> None:
        self._keep(test, 'failed')

    addError = addFailure

    def addUnexpectedSuccess(self, test: Test, details: object = None) -> None:
        self._keep(test, 'failed')


def outcomes(repository: pathlib.Path) -> dict[str, str]:
    """How each test of a repository ended when it was last run."""
    found: dict[str, str] = {}
    streams = repository / '.stestr'
    for number in range(_runs(streams)):
        result = Outcomes()
        with (streams / str(number)).open('rb') as stream:
            # stestr's files hold the first version of the protocol.
            subunit.ProtocolTestCase(stream).run(result)
        for test, outcome in result.found.items():
            if found.get(test) == 'failed' and outcome == 'passed':
                print(f'passed only when run again: {test}', file=sys.stderr)
        found |= result.found
    if not found:
        print(f'{repository}: no results', file=sys.stderr)
        found['no results'] = 'failed'
    return found


def _runs(streams: pathlib.Path) -> int:
    try:
        return int((streams / 'next-stream').read_text())
    except FileNotFoundError:
        return 0


def main() -> int:
    """Print the one line."""
    total: Counter[str] = Counter()
    for name in sys.argv[1:]:
        total.update(outcomes(pathlib.Path(name)).values())
    passed, failed = total['passed'], total['failed']
    line = f'{passed} passed, {failed} failed'
    skipped = total['skipped']
    print(f'{line}, {skipped} skipped' if skipped else line)
    return 1 if failed or not passed else 0


if __name__ == '__main__':
    sys.exit(main())
