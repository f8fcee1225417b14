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

"""What all benchmarks share: rows, and runs taken in turn."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table; ``peer`` is None where there is none.

    ``unit`` is of both figures, of which less is better, but for shares in
    per cent. What else was seen goes into ``params``.
    """

    name: str
    params: Mapping[str, Any]
    ours: float
    peer: float | None
    peer_name: str | None
    unit: str

    def as_dict(self) -> dict[str, Any]:
        """The row as it goes into the file."""
        ratio = None
        if self.peer:
            ratio = round(self.ours / self.peer, 4)
        return {
            **dataclasses.asdict(self),
            'ours': _rounded(self.ours),
            'peer': None if self.peer is None else _rounded(self.peer),
            'ratio': ratio,
        }


def _rounded(value: float) -> float:
    """Four digits that count."""
    return float(f'{value:.4g}')


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes, without pauses for garbage of others."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    finally:
        gc.enable()


def in_turn(
    ours: Callable[[], float], peer: Callable[[], float], rounds: int
) -> tuple[float, float]:
    """The medians of measurements of both, taken in turn.

    What disturbs the machine for a while disturbs both. The first of each is
    not counted.
    """
    pairs = [(ours(), peer()) for _ in range(rounds + 1)][1:]
    return middle(pair[0] for pair in pairs), middle(pair[1] for pair in pairs)


def middle(values: Iterable[float]) -> float:
    """The median."""
    return statistics.median(values)


def median(ours: Callable[[], float], rounds: int) -> float:
    """The median of measurements without a peer."""
    return statistics.median([ours() for _ in range(rounds + 1)][1:])


def ram_folder() -> str | None:
    """A directory in memory, so that no disk is measured."""
    return '/dev/shm' if os.access('/dev/shm', os.W_OK) else None


def emit(rows: Iterable[Row]) -> None:
    """Hand rows to :mod:`tests.bench.__main__`, each when it is ready.

    Through the descriptor that it names, since Nova logs to the standard
    output; alone, to there.
    """
    descriptor = int(sys.argv[1]) if sys.argv[1:] else sys.stdout.fileno()
    with os.fdopen(descriptor, 'w') as stream:
        for row in rows:
            print(json.dumps(row.as_dict()), file=stream, flush=True)
