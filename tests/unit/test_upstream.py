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

"""How the results of Nova's own tests are compared."""

from __future__ import annotations

import contextlib
import io

import testtools

from tests.upstream.__main__ import compare
from tests.upstream.run import Run


def run(made: int = 1, **statuses: str) -> Run:
    """A run with tests that ended so."""
    return Run(statuses, {name: f'why {name}' for name in statuses}, made, 1)


class CompareTest(testtools.TestCase):
    """Nova's run first, then ours."""

    def check(self, novas: Run, ours: Run, *listed: str) -> tuple[str, ...]:
        """The problems; what is only told is left in ``told``."""
        with contextlib.redirect_stdout(io.StringIO()) as output:
            found = compare(novas, ours, dict.fromkeys(listed, 'by design'))
        self.told = output.getvalue()
        return tuple(found)

    def test_same(self) -> None:
        both = {'a': 'success', 'b': 'skip', 'c': 'xfail'}
        self.assertEqual((), self.check(run(**both), run(**both)))
        self.assertEqual('', self.told)

    def test_fails_with_ours(self) -> None:
        (problem,) = self.check(run(a='success'), run(a='fail'))
        self.assertEqual('success turned fail: a\nwhy a', problem)

    def test_skipped_with_ours(self) -> None:
        (problem,) = self.check(run(a='success'), run(a='skip'))
        self.assertEqual('success turned skip: a\nwhy a', problem)

    def test_never_ends_with_ours(self) -> None:
        (problem,) = self.check(run(a='success', b='skip'), run(b='skip'))
        self.assertEqual('success turned missing: a\n', problem)

    def test_fails_with_novas(self) -> None:
        for after in ('fail', 'success'):
            self.assertEqual((), self.check(run(a='fail'), run(a=after)))
            self.assertIn(f'{after} with GpuLibvirtDriver: a', self.told)

    def test_listed(self) -> None:
        self.assertEqual((), self.check(run(a='success'), run(a='fail'), 'a'))
        self.assertIn('by design', self.told)

    def test_listed_and_the_same(self) -> None:
        (problem,) = self.check(run(a='success'), run(a='success'), 'a')
        self.assertEqual('listed, and success with both: a', problem)

    def test_ours_did_not_run(self) -> None:
        (problem,) = self.check(run(0, a='skip'), run(0, a='skip'))
        self.assertEqual('GpuLibvirtDriver was never made', problem)
