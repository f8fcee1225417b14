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

"""Run benchmarks, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

NAMES = (
    'schedule_host',
    'refresh',
    'cli_start',
    'exporter',
    'boot_overhead',
    'candidates',
    'vgpu_acceptance',
    'tracker_steps',
    'linked8',
    'openb',
    'nova_variant',
)
RESULTS = pathlib.Path('build/bench.json')
COLUMNS = ('benchmark', 'ours', 'peer', 'unit', 'ratio', 'peer is')
WIDTHS = (58, 9, 9, 7, 7)


def main() -> int:
    """Run those that are named, or all."""
    parser = argparse.ArgumentParser(prog='python -m tests.bench')
    parser.add_argument('names', nargs='*', metavar='name')
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(NAMES))
    if unknown:
        parser.error(f'{unknown[0]!r} is none of {", ".join(NAMES)}')
    failed = []
    _print_line(*COLUMNS)
    for name in args.names or NAMES:
        rows = []
        try:
            for row in _measure(name):
                rows.append(row)
                _print_row(row)
        except subprocess.CalledProcessError as exc:
            print(f'{name} failed: exit code {exc.returncode}')
            failed.append(name)
        _save(name, rows)
    print(f'written to {RESULTS}')
    return 1 if failed else 0


def _measure(name: str) -> Iterator[dict[str, Any]]:
    rows, write = os.pipe()
    command = [sys.executable, '-m', f'tests.bench.{name}', str(write)]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        pass_fds=[write],
        env={**os.environ, 'PYTHONWARNINGS': 'ignore'},
    ) as process:
        os.close(write)
        with os.fdopen(rows) as stream:
            yield from map(json.loads, stream)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _save(name: str, rows: list[dict[str, Any]]) -> None:
    """Replace the benchmark's rows of an earlier run, and only them."""
    try:
        known = json.loads(RESULTS.read_text())
    except (FileNotFoundError, ValueError):
        known = []
    kept = [row for row in known if row['name'] != name]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([*kept, *rows], indent=1) + '\n')


def _print_row(row: dict[str, Any]) -> None:
    params = ' '.join(f'{key}={value}' for key, value in row['params'].items())
    _print_line(
        f'{row["name"]} {params}',
        _figure(row['ours']),
        _figure(row['peer']),
        row['unit'],
        _figure(row['ratio']),
        row['peer_name'] or '',
    )


def _print_line(*texts: str) -> None:
    first, *rest, last = texts
    cells = [first.ljust(WIDTHS[0])]
    cells += [t.rjust(w) for t, w in zip(rest, WIDTHS[1:], strict=True)]
    print('  '.join([*cells, last]), flush=True)


def _figure(value: float | None) -> str:
    if value is None:
        return '-'
    return f'{value:.0f}' if value >= 1000 else f'{value:.3g}'


if __name__ == '__main__':
    sys.exit(main())
