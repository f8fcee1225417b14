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
"""``nova-gpu simulate``."""

from __future__ import annotations

import importlib.util
import pathlib
import sys

from nova_gpu.model.expected import mix
from tests.unit.cli import base

REQUESTS = """\
cpu_milli,memory_mib,num_gpu,gpu_milli
12000,49152,1,1000
12000,49152,1,1000
4500,8192,1,460
96000,393216,8,1000
"""
HOSTS = 'cpu_milli,memory_mib,gpu\n' + 4 * '96000,393216,8\n'


class SimulateTest(base.CliTest):
    def setUp(self) -> None:
        super().setUp()
        self.trace, self.hosts = (
            self.fake.root / name for name in ('trace.csv', 'hosts.csv')
        )
        self.trace.write_text(REQUESTS)
        self.hosts.write_text(HOSTS)

    def simulate(self, *args: str) -> base.Result:
        return self.nova_gpu(
            'simulate', '--trace', str(self.trace),
            '--hosts', str(self.hosts), *args,
        )  # fmt: skip

    def test_all_policies(self) -> None:
        result = self.simulate('-f', 'json')
        self.assertEqual(0, result.code, result.errors)
        rows = {row['Policy']: row for row in result.json}
        self.assertEqual(['nova-gpu', 'nova', 'stacking'], list(rows))
        for row in rows.values():
            self.assertEqual(
                ['Accepted %', '+/-', 'Given %', 'Parts %', '1 GPU %',
                 '8 GPU %'],
                list(row)[1:],
            )  # fmt: skip
        self.assertGreater(
            rows['nova-gpu']['8 GPU %'], rows['nova']['8 GPU %']
        )
        self.assertIn('stacking: seed 3 of 3, 100%', result.errors)
        self.assertTrue(result.out.isascii())  # for every terminal

    def test_one_seed_tells_nothing_of_others(self) -> None:
        result = self.simulate('--seeds', '1', '--churn', '-f', 'json')
        self.assertEqual({None}, {row['+/-'] for row in result.json})

    def test_multipliers_and_what_is_expected(self) -> None:
        result = self.simulate(
            '--policy', 'gpu=100,ram=0,cpu=-1.5', '--policy', 'fgd',
            '--expected-request', '{"gpus": 8}', '--seeds', '1',
            '--profiles', 'any', '--load', '0.5', '-f', 'json',
        )  # fmt: skip
        self.assertEqual(
            ['gpu=100,ram=0,cpu=-1.5', 'fgd'],
            [row['Policy'] for row in result.json],
        )

    def test_kinds_are_lines_of_nova_conf(self) -> None:
        result = self.simulate('--kinds', '2', '-f', 'value')
        lines = result.out.splitlines()
        self.assertEqual(2, len(lines))
        texts = tuple(
            line.removeprefix('expected_request = ') for line in lines
        )
        first, _ = mix(texts).kinds
        self.assertEqual((12.0, 49152, 2), (
            first.vcpus, first.memory_mib, first.weight,
        ))  # fmt: skip

    def refusal(self, *args: str) -> str:
        result = self.simulate(*args)
        self.assertNotEqual(0, result.code)
        return ' '.join(result.errors)

    def test_what_is_wrong_is_named(self) -> None:
        for args, text in (
            (('--policy', 'gpu=x'), "'gpu=x' is none of nova-gpu, "),
            (('--seeds', '0'), "'0' is not above 0"),
            (('--profiles', '1,a'), "'a' is not above 0"),
            (('--load', 'nan'), "'nan' is not above 0"),
            (('--expected-request', '{"gpus": -1}'), "field 'gpus': -1 "),
        ):
            self.assertIn(text, self.refusal(*args))
        self.trace.write_text(REQUESTS.replace('460', '46o'))
        self.assertEqual(
            f"error: {self.trace}, line 4, column 'gpu_milli', value '46o': "
            'not a number, 0 or above',
            self.refusal(),
        )

    def test_plots_that_can_not_be_made(self) -> None:
        """That is known before anything is simulated."""
        before = {n: m for n, m in sys.modules.items() if n == 'matplotlib'}
        self.addCleanup(sys.modules.update, before)
        self.addCleanup(sys.modules.pop, 'matplotlib')
        sys.modules['matplotlib'] = None  # type: ignore[assignment]
        line = self.refusal('--plot', f'{self.root}/plots')
        self.assertTrue(line.startswith('error: no plots in '), line)
        self.assertIn('pip install nova-gpu[plot]', line)

    def test_plots(self) -> None:
        if importlib.util.find_spec('matplotlib') is None:
            self.skipTest('there is no matplotlib')
        folder = pathlib.Path(self.root) / 'plots'
        result = self.simulate('--seeds', '1', '--plot', str(folder))
        self.assertEqual(0, result.code, result.errors)
        self.assertEqual(
            {'fill.png', 'sizes.png'}, {path.name for path in folder.iterdir()}
        )
        result = self.simulate('--seeds', '1', '--plot', str(self.trace))
        self.assertIn(str(self.trace), result.errors[-1])

    def test_nova_is_not_imported(self) -> None:
        done = self.in_process_of_its_own('simulate', '--help')
        self.assertEqual(0, done.code)
        self.assertNotIn('nova', done.imported)
        self.assertNotIn('matplotlib', done.imported)
