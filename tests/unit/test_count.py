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

"""What CI is told of the outcomes."""

import pathlib
import subprocess
import sys

import fixtures
import subunit
import testtools

TOOL = pathlib.Path(__file__).parents[2] / 'tools' / 'count-tests.py'


class CountTest(testtools.TestCase):
    """Runs the program on repositories as stestr writes them."""

    def setUp(self) -> None:
        super().setUp()
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir()).path)

    def repository(self, name: str, *runs: dict[str, str]) -> pathlib.Path:
        streams = self.root / name / '.stestr'
        streams.mkdir(parents=True)
        for number, run in enumerate(runs):
            with (streams / str(number)).open('wb') as stream:
                client = subunit.TestProtocolClient(stream)
                for test, outcome in run.items():
                    case = testtools.PlaceHolder(test)
                    client.startTest(case)
                    getattr(client, f'add{outcome}')(case, details={})
                    client.stopTest(case)
        (streams / 'next-stream').write_text(f'{len(runs)}\n')
        return streams.parent

    def count(
        self, *repositories: pathlib.Path
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, TOOL, *repositories],
            capture_output=True,
            text=True,
            check=False,
        )

    def test_several_repositories(self) -> None:
        found = self.count(
            self.repository('a', {'one': 'Success', 'two': 'ExpectedFailure'}),
            self.repository('b', {'one': 'Success', 'three': 'Skip'}),
        )
        self.assertEqual('3 passed, 0 failed, 1 skipped\n', found.stdout)
        self.assertEqual((0, ''), (found.returncode, found.stderr))

    def test_failures(self) -> None:
        run = {'a': 'Failure', 'b': 'Error', 'c': 'UnexpectedSuccess'}
        found = self.count(self.repository('a', {**run, 'd': 'Success'}))
        self.assertEqual('1 passed, 3 failed\n', found.stdout)
        self.assertEqual(1, found.returncode)

    def test_failed_tests_that_ran_again(self) -> None:
        first = {'a': 'Failure', 'b': 'Failure', 'c': 'Success'}
        again = {'a': 'Success', 'b': 'Failure'}
        found = self.count(self.repository('a', first, again))
        self.assertEqual('2 passed, 1 failed\n', found.stdout)
        self.assertEqual('passed only when run again: a\n', found.stderr)
        self.assertEqual(1, found.returncode)

    def test_no_run(self) -> None:
        found = self.count(
            self.repository('a', {'a': 'Success'}), self.root / 'b'
        )
        self.assertEqual('1 passed, 1 failed\n', found.stdout)
        self.assertIn(f'{self.root / "b"}: no results', found.stderr)
        self.assertEqual(1, found.returncode)

    def test_run_without_tests(self) -> None:
        found = self.count(self.repository('a', {}))
        self.assertEqual('0 passed, 1 failed\n', found.stdout)
        self.assertEqual(1, found.returncode)
