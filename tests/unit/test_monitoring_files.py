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

"""Rules, dashboard and unit file, each by its own tool where there is one."""

from __future__ import annotations

import configparser
import json
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import testtools
import yaml

from nova_gpu.cli import exporter
from nova_gpu.model import audit, fabric, metric, sampling
from tests.fixtures import monitoring
from tests.unit import test_docs

TOP = pathlib.Path(__file__).parents[2]
PAGE = TOP / 'doc/source/admin/monitoring.rst'
UNIT = TOP / 'etc/nova-gpu/systemd/nova-gpu-exporter.service'
NAME = re.compile(r'\bnova_gpu_\w+')


def names() -> set[str]:
    """All that Prometheus may know of a host, by name."""
    found = {m.name for m in metric.METRICS if m.kind != metric.SUMMARY}
    for summary in metric.METRICS:
        if summary.kind == metric.SUMMARY:
            found |= {f'{summary.name}_sum', f'{summary.name}_count'}
    return found


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(monitoring.RULES.read_text())['groups']
    rules: list[dict[str, Any]] = group['rules']
    return rules


class MonitoringFilesTest(testtools.TestCase):
    """What is in etc is about what the exporter tells."""

    def promtool(self, *args: str) -> str:
        tool = shutil.which('promtool')
        if tool is None:
            self.skipTest('promtool is not installed (Debian: prometheus)')
        done = subprocess.run(
            [tool, *args],
            capture_output=True,
            text=True,
            cwd=TOP,
        )
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        return done.stdout

    def test_rules_are_valid(self) -> None:
        out = self.promtool('check', 'rules', str(monitoring.RULES))
        self.assertIn(f'{len(alerts())} rules found', out)

    def test_rules_fire(self) -> None:
        self.promtool('test', 'rules', str(monitoring.RULES_TEST))
        text = monitoring.RULES_TEST.read_text()
        for alert in alerts():
            self.assertIn(f'alertname="{alert["alert"]}"', text)

    def test_queries_name_what_there_is(self) -> None:
        queries = [alert['expr'] for alert in alerts()]
        queries += monitoring.queries()
        asked = {name for query in queries for name in NAME.findall(query)}
        self.assertEqual(set(), asked - names())
        # What nobody looks at would better not be there.
        told = asked | set(NAME.findall(PAGE.read_text()))
        self.assertEqual(set(), names() - told)

    def test_dashboard(self) -> None:
        panels = monitoring.dashboard()['panels']
        numbers = [panel['id'] for panel in panels]
        self.assertEqual(len(numbers), len(set(numbers)))
        for panel in panels:
            if panel['type'] != 'row':
                self.assertTrue(panel['targets'], panel['title'])
                place = panel['gridPos']
                self.assertLessEqual(place['x'] + place['w'], 24)
        text = monitoring.DASHBOARD.read_text()
        self.assertEqual(json.loads(text), monitoring.dashboard())

    def test_unit_file(self) -> None:
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read(UNIT)
        words = unit['Service']['ExecStart'].split()
        self.assertEqual(['/usr/bin/env', 'nova-gpu', 'exporter'], words[:3])
        arguments = [word for word in words[3:] if '$' not in word]
        parser = exporter.Exporter(None, None).get_parser('nova-gpu exporter')
        self.assertTrue(parser.parse_args(arguments).partial)

    def test_problems_are_those_of_an_audit(self) -> None:
        # Placement isn't asked for what is allocated and held by nobody.
        found = {'allocated and not held'}
        for module in (audit, fabric):
            found |= set(
                re.findall(
                    r"Difference\(\n\s+'([^']+)'",
                    pathlib.Path(str(module.__file__)).read_text(),
                )
            )
        self.assertEqual(found, {*sampling.PROBLEMS, 'allocated and not held'})

    def test_table_of_metrics(self) -> None:
        """``python -m tests.unit.test_monitoring_files`` writes it."""
        self.assertIn(table(), PAGE.read_text())

    def test_page_is_one_of_the_documentation(self) -> None:
        self.assertIn(PAGE, test_docs.PAGES)
        index = (PAGE.parent / 'index.rst').read_text()
        self.assertIn('   monitoring\n', index)


BEGIN, END = '.. begin of the metrics\n', '.. end of the metrics\n'


def table() -> str:
    """The metrics as the page has them."""
    lines = [BEGIN]
    for found in metric.METRICS:
        labels = ', '.join(f'``{label}``' for label in found.labels)
        text = f'{found.help} Labels: {labels}.' if labels else found.help
        lines += [f'``{found.name}`` ({found.kind})\n', f'    {text}\n', '\n']
    return ''.join([*lines[:1], '\n', *lines[1:], END])


def main() -> None:
    """Write the table into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f'{before}{table()}{rest.partition(END)[2]}')


if __name__ == '__main__':
    sys.exit(main())
