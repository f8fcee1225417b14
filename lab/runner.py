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

"""Runs scenarios: a line for each, and the last one counts."""

from __future__ import annotations

import importlib
import pathlib
import time
import traceback
import unittest
from collections.abc import Iterator, Sequence
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


def run(package: str, folder: pathlib.Path, wanted: Sequence[str]) -> int:
    """Run the tests of a package; gives the exit code.

    :param wanted: parts of the tests' names; all of them if there are none
    """
    loader = unittest.TestLoader()
    result = Lines()
    for path in sorted(folder.glob('test_*.py')):
        module = importlib.import_module(f'{package}.{path.stem}')
        for test in tests(loader.loadTestsFromModule(module)):
            if not wanted or any(name in test.id() for name in wanted):
                test.run(result)
    print(f'{result.passed} passed, {result.failed} failed')
    return 0 if result.passed and not result.failed else 1
