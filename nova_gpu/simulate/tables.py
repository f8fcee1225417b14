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
"""Requests and hosts from CSV files.

The columns are those of Alibaba's GPU traces of 2023; others are ignored. CPUs
are in thousandths, and so is the share of a card.
"""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from nova_gpu import exception

#: The share of a whole card.
WHOLE = 1000


T = TypeVar('T')


class Request(NamedTuple):
    """What is asked: ``share`` of each of so many cards, and the rest."""

    gpus: int
    share: int
    cpu_milli: int
    memory_mib: int
    models: tuple[str, ...] = ()

    @property
    def milli(self) -> int:
        """In thousandths of a card."""
        return self.gpus * self.share


class Host(NamedTuple):
    """What a host has."""

    gpus: int
    cpu_milli: int
    memory_mib: int
    model: str = ''


class _Row:
    def __init__(self, path: str, line: int, cells: dict[str, str]) -> None:
        self._path, self._line, self._cells = path, line, cells

    def wrong(self, column: str, reason: str) -> exception.InvalidTable:
        return exception.InvalidTable(
            self._path, self._line, column, self.text(column), reason
        )

    def number(self, column: str) -> int:
        text = self.text(column)
        # int() takes more than that, as 1_000.
        if not text.isascii() or not text.isdecimal():
            raise self.wrong(column, 'not a number, 0 or above')
        return int(text)

    def text(self, column: str) -> str:
        # None in a row that is too short.
        return (self._cells.get(column) or '').strip()


def read_requests(path: str) -> tuple[Request, ...]:
    """The requests of a file, in its order.

    :raises InvalidTable: naming line, column and value
    """

    def parse(row: _Row) -> Request:
        gpus, share = row.number('num_gpu'), row.number('gpu_milli')
        if gpus and not 0 < share <= WHOLE:
            raise row.wrong('gpu_milli', f'not from 1 to {WHOLE}')
        if gpus > 1 and share != WHOLE:
            raise row.wrong(
                'gpu_milli', f'a request for {gpus} GPUs has to have {WHOLE}'
            )
        models = row.text('gpu_spec')
        return Request(
            gpus,
            share if gpus else 0,
            row.number('cpu_milli'),
            row.number('memory_mib'),
            tuple(sorted(models.split('|'))) if models else (),
        )

    columns = ('cpu_milli', 'memory_mib', 'num_gpu', 'gpu_milli')
    found = tuple(_read(path, columns, parse))
    if not any(request.gpus for request in found):
        raise exception.InvalidTable(
            path, 1, 'num_gpu', '', 'no row asks for a GPU'
        )
    return found


def read_hosts(path: str) -> tuple[Host, ...]:
    """The hosts of a file that have GPUs, in its order.

    :raises InvalidTable: naming line, column and value
    """

    def parse(row: _Row) -> Host:
        return Host(
            row.number('gpu'),
            row.number('cpu_milli'),
            row.number('memory_mib'),
            row.text('model'),
        )

    columns = ('cpu_milli', 'memory_mib', 'gpu')
    found = tuple(host for host in _read(path, columns, parse) if host.gpus)
    if not found:
        raise exception.InvalidTable(path, 1, 'gpu', '', 'no host has a GPU')
    return found


def _read(
    path: str, columns: tuple[str, ...], parse: Callable[[_Row], T]
) -> Iterator[T]:
    try:
        # Excel's "CSV UTF-8" begins with a byte-order mark.
        file = pathlib.Path(path)
        with file.open(encoding='utf-8-sig', newline='') as stream:
            reader = csv.DictReader(stream, strict=True)
            for column in columns:
                if column not in (reader.fieldnames or ()):
                    raise exception.InvalidTable(
                        path, 1, column, '', 'there is no such column'
                    )
            for cells in reader:
                yield parse(_Row(path, reader.line_num, cells))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise exception.InvalidTable(path, 0, '', '', str(exc)) from exc
