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

"""``python3 -m lab.scenarios [NAME…]``, in the guest.

A line a scenario, and the last one counts.
"""

from __future__ import annotations

import importlib
import logging
import pathlib
import sys
import time
import traceback
import unittest
from collections.abc import Iterator
from typing import Any


class Lines(unittest.TestResult):
    """Says of each test how it went."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0
        self._began = 0.0

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._began = time.monotonic()

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.passed += 1
        self._say('ok  ', test)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._say('FAIL', test)
        print(''.join(traceback.format_exception(*err)), flush=True)

    addError = addFailure

    @property
    def failed(self) -> int:
        return len(self.failures)

    def _say(self, word: str, test: unittest.TestCase) -> None:
        took = time.monotonic() - self._began
        title = test.shortDescription() or test.id()
        print(f'{word}  {title} ({took:.0f} s)', flush=True)


def tests(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """The tests of a suite, however deep they are."""
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from tests(item)
        else:
            yield item


def main(wanted: list[str]) -> int:
    # What nova-gpu warns of is for who reads on after a failure.
    logging.basicConfig(
        filename='/var/log/scenarios.log', level=logging.INFO, force=True
    )
    loader = unittest.TestLoader()
    result = Lines()
    for path in sorted(pathlib.Path(__file__).parent.glob('test_*.py')):
        module = importlib.import_module(f'lab.scenarios.{path.stem}')
        for test in tests(loader.loadTestsFromModule(module)):
            if not wanted or any(name in test.id() for name in wanted):
                test.run(result)
    print(f'{result.passed} passed, {result.failed} failed')
    return 0 if result.passed and not result.failed else 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
