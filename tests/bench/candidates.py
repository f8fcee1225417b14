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

"""Allocation candidates from Placement: a pool a host, or a provider a card.

Ours are the providers that the production code makes: all cards of a model
in one. The peer's are those of Nova's PCI in Placement, one a card, and so
its requests have one group for each card. Placement is the real one, in
process on SQLite; each side has a process of its own, so that the peer can be
stopped after :data:`LIMIT`. What is larger than a case that took longer isn't
tried.
"""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from tests.bench import measure
from tests.bench.placement import KINDS

HOSTS = (1, 100, 1000)
CARDS = (1, 2, 4, 8)
ROUNDS = 5
#: Seconds after which a request of the peer's is given up.
LIMIT = 60.0
#: Seconds after which no further round of a case begins.
ENOUGH = 60.0
PEER = 'one provider a card, one group a card'


def run() -> Iterator[measure.Row]:
    """Every number of cards on every number of hosts."""
    too_many = (max(HOSTS) + 1, max(CARDS) + 1)
    for hosts in HOSTS:
        ours, peer = (Placement(kind, hosts) for kind in KINDS)
        with ours, peer:
            for cards in CARDS:
                bounded = hosts >= too_many[0] and cards >= too_many[1]
                if not bounded:
                    row = _compare(ours, peer, hosts, cards)
                    bounded = row is None
                if bounded:
                    too_many = (min(hosts, too_many[0]), cards)
                    row = _alone(ours, hosts, cards)
                assert row is not None
                yield row


def _compare(
    ours: Placement, peer: Placement, hosts: int, cards: int
) -> measure.Row | None:
    """None if the peer takes too long."""
    times: list[tuple[float, float]] = []
    start = time.monotonic()
    while len(times) <= ROUNDS and time.monotonic() - start < ENOUGH:
        mine = ours.ask(cards)
        theirs = peer.ask(cards)
        if theirs is None:
            return None
        times.append((mine or LIMIT, theirs))
    counted = times[1:] or times
    return _row(
        {'hosts': hosts, 'cards': cards, 'rounds': len(counted)},
        [pair[0] for pair in counted],
        [pair[1] for pair in counted],
    )


def _alone(ours: Placement, hosts: int, cards: int) -> measure.Row:
    times = [ours.ask(cards) or LIMIT for _ in range(ROUNDS + 1)][1:]
    return _row(
        {'hosts': hosts, 'cards': cards, 'peer_bounded': True}, times, [LIMIT]
    )


def _row(
    params: dict[str, Any], ours: list[float], peer: list[float]
) -> measure.Row:
    return measure.Row(
        'candidates',
        params,
        measure.middle(ours),
        measure.middle(peer),
        PEER,
        's',
    )


class Placement:
    """A Placement in a process of its own; gone if it took too long."""

    def __init__(self, kind: str, hosts: int) -> None:
        self._kind = kind
        self._hosts = hosts

    def __enter__(self) -> Placement:
        self._root = tempfile.TemporaryDirectory(dir=measure.ram_folder())
        self._start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._root.cleanup()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable, '-m', 'tests.bench.placement',
                self._kind, str(self._hosts), self._root.name,
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._read(None) == 'ready'

    def ask(self, cards: int) -> float | None:
        """The seconds of one request, or None if it takes too long."""
        assert self._process.stdin is not None
        print(cards, file=self._process.stdin, flush=True)
        answer: float | None = self._read(LIMIT)
        if answer is None:
            self._process.kill()
            self._process.communicate()
            self._start()
        return answer

    def _read(self, timeout: float | None) -> Any:
        stream = self._process.stdout
        assert stream is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            if not selector.select(timeout):
                return None
        return json.loads(stream.readline())


if __name__ == '__main__':
    measure.emit(run())
