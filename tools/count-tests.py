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

"""Count the outcomes of the last runs that stestr's repositories hold.

A repository without a run counts as a failure: its tests never got to run.
"""

import pathlib
import sys

import subunit
import testtools


def last_run(repository: pathlib.Path) -> testtools.TestResult:
    """Replay the last run of a repository."""
    result = testtools.TestResult()
    streams = repository / '.stestr'
    try:
        following = int((streams / 'next-stream').read_text())
        stream = (streams / str(following - 1)).open('rb')
    except FileNotFoundError:
        missing = testtools.PlaceHolder(f'{repository}: no results')
        print(missing.id(), file=sys.stderr)
        result.startTest(missing)
        result.addFailure(missing, details={})
        return result
    with stream:
        # stestr's files hold the first version of the protocol.
        subunit.ProtocolTestCase(stream).run(result)
    return result


def main() -> int:
    """Print the one line."""
    passed = failed = skipped = 0
    for name in sys.argv[1:]:
        result = last_run(pathlib.Path(name))
        bad = result.failures + result.errors + result.unexpectedSuccesses
        missed = sum(map(len, result.skip_reasons.values()))
        failed += len(bad)
        skipped += missed
        passed += result.testsRun - len(bad) - missed
    line = f'{passed} passed, {failed} failed'
    print(f'{line}, {skipped} skipped' if skipped else line)
    return 1 if failed or not passed else 0


if __name__ == '__main__':
    sys.exit(main())
