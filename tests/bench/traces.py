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
"""Where the published GPU trace is, for the benchmarks that replay it."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from nova_gpu import exception
from nova_gpu.simulate import tables

T = TypeVar('T')

FOLDER = pathlib.Path(os.environ.get('OPENB', 'build/openb'))
MIXES = ('default', 'multigpu50')
HINT = (
    f'the benchmark replays the trace openb: put openb_node_list_gpu_node.csv'
    f' and openb_pod_list_{{{",".join(MIXES)}}}.csv into {FOLDER}, or name '
    f'their folder in OPENB (they are in data/csv of the repository '
    f'hkust-adsl/kubernetes-scheduler-simulator)'
)


def requests(mix: str) -> Sequence[tables.Request]:
    """What is asked for."""
    return _read(tables.read_requests, f'pod_list_{mix}')


def hosts() -> Sequence[tables.Host]:
    """The hosts with GPUs."""
    return _read(tables.read_hosts, 'node_list_gpu_node')


def _read(read: Callable[[str], T], name: str) -> T:
    try:
        return read(str(FOLDER / f'openb_{name}.csv'))
    except exception.InvalidTable as exc:
        sys.exit(f'{exc}\n{HINT}')
