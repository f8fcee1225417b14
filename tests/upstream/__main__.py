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

"""Run Nova's tests with Nova's class, then with ours, and compare.

Exit code 1: a test ends otherwise with ours and isn't listed, one that is
listed doesn't, or our class didn't really run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import pathlib
import sys

from tests.upstream.differences import DIFFERENCES
from tests.upstream.run import GOOD, Run, run
from tests.upstream.suites import NOVAS, OURS, SUITES

LOGS = pathlib.Path('build/upstream')
COLUMNS = (
    'suite', 'class', 'run', 'passed', 'skipped', 'xfailed', 'failed',
    'again', 'drivers', 'seconds',
)  # fmt: skip


def main() -> int:
    """Run all suites of the installed release, or what is named."""
    version = importlib.metadata.version('nova')
    release = int(version.split('.')[0])
    parser = argparse.ArgumentParser(prog='python -m tests.upstream')
    parser.add_argument(
        '--suite', action='append', choices=SUITES[release], default=[]
    )
    parser.add_argument('--concurrency', default='0')
    parser.add_argument('filters', nargs='*', metavar='regex')
    args = parser.parse_args()
    options = ['--concurrency', args.concurrency, *args.filters]
    LOGS.mkdir(parents=True, exist_ok=True)
    print(f'Tests of Nova {version}')
    _print_line(*COLUMNS)
    listed = DIFFERENCES.get(release, {})
    problems = []
    seen: set[str] = set()
    for name in args.suite or SUITES[release]:
        runs = []
        for cls in (NOVAS, OURS):
            log = LOGS / f'{release}-{name}-{cls}.log'
            done = run(release, name, cls, options, log)
            _print_run(name, cls, done)
            if not done.statuses:
                problems.append(f'no test ran: see {log}')
            runs.append(done)
            seen.update(done.statuses)
        problems += compare(*runs, listed)
    if not args.suite and not args.filters:
        problems += [
            f'listed, and not among the tests: {test}'
            for test in sorted(set(listed) - seen)
        ]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def compare(novas: Run, ours: Run, listed: dict[str, str]) -> list[str]:
    """What is wrong with ours; prints what is not."""
    problems = []
    if not ours.made:
        problems.append(f'{OURS} was never made')
    for test in sorted({*novas.statuses, *ours.statuses}):
        before = novas.statuses.get(test, 'missing')
        after = ours.statuses.get(test, 'missing')
        if before not in GOOD:
            print(f'{before} with {NOVAS}, {after} with {OURS}: {test}')
        elif before == after:
            if test in listed:
                problems.append(f'listed, and {after} with both: {test}')
        elif test in listed:
            print(f'{after} and listed: {test}: {listed[test]}')
        else:
            text = ours.details.get(test, '')
            problems.append(f'{before} turned {after}: {test}\n{text}')
    return problems


def _print_run(name: str, cls: str, done: Run) -> None:
    _print_line(
        name,
        cls,
        len(done.statuses),
        done.count('success'),
        done.count('skip'),
        done.count('xfail'),
        done.failed,
        done.again,
        done.made if cls == OURS else '-',
        round(done.seconds),
    )


def _print_line(suite: str, cls: str, *numbers: object) -> None:
    cells = ''.join(f'{number:>8}' for number in numbers)
    print(f'{suite:<11}{cls:<16}{cells}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
