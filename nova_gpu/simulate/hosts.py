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
"""Hosts that fill: what is free of each, and how a request can be put there.

Cards of a host are kept in order, so that hosts that are alike are equal.
Which of them a guest has, :mod:`nova_gpu.simulate.cloud` knows.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator
from typing import NamedTuple

from nova_gpu.model.fragmentation import Cards, Room
from nova_gpu.simulate.tables import WHOLE, Host, Request

#: How many vGPUs a card can be cut into, by the profiles of an NVIDIA A40.
PROFILES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Shares(NamedTuple):
    """Cards that give shares of any size, side by side, as containers do.

    Of each card what is free, in thousandths.
    """

    cards: tuple[int, ...]

    @property
    def free(self) -> float:
        return sum(self.cards) / WHOLE

    def fit(self, gpus: int, share: float) -> tuple[int, float, float]:
        asked = round(share * WHOLE)
        able = [left for left in self.cards if left >= asked]
        most = sum(left // asked for left in able) // gpus
        return most, sum(able) / WHOLE, gpus * share

    def ways(self, count: int, share: int) -> Iterator[Shares]:
        """Every way to give a share, of cards that are alike only one."""
        if count > 1:
            if sum(left >= share for left in self.cards) >= count:
                last = len(self.cards) - count
                yield self._with(
                    *self.cards[:last],
                    *(left - share for left in self.cards[last:]),
                )
            return
        for left in sorted(set(self.cards)):
            if left >= share:
                rest = list(self.cards)
                rest.remove(left)
                yield self._with(*rest, left - share)

    def _with(self, *cards: int) -> Shares:
        return Shares(tuple(sorted(cards)))


class Cut(NamedTuple):
    """Cards that each give vGPUs of one size at a time.

    Of each into how many it is cut, 0 if it is free, and how many are used.
    """

    cards: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...] = PROFILES

    @property
    def free(self) -> float:
        return _as_seen(self).free

    def fit(self, gpus: int, share: float) -> tuple[int, float, float]:
        return _as_seen(self).fit(gpus, share)

    def ways(self, count: int, share: int) -> Iterator[Cut]:
        """The way that the filter's order of candidates leads to, if any.

        The fullest card that is cut so, then an empty one.
        """
        size = _as_seen(self).size_for(share / WHOLE)
        cards = list(self.cards)
        for _ in range(count):
            able = [
                (cut, used)
                for cut, used in cards
                if cut in (0, size) and used < size
            ]
            if not able:
                return
            chosen = max(able, key=lambda card: card[1])
            cards.remove(chosen)
            cards.append((size, chosen[1] + 1))
        yield self._replace(cards=tuple(sorted(cards)))


@functools.lru_cache(1 << 14)
def _as_seen(gpus: Cut) -> Cards:
    """The cards as the weigher sees them."""
    parts: collections.Counter[int] = collections.Counter()
    for size, used in gpus.cards:
        if used < size:
            parts[size] += size - used
    return Cards(
        gpus.cards.count((0, 0)), tuple(sorted(parts.items())), gpus.sizes
    )


class State(NamedTuple):
    """A host, and what is free of it."""

    host: Host
    gpus: Shares | Cut
    cpu_milli: int
    memory_mib: int

    @property
    def room(self) -> Room:
        """It, as the weigher sees it."""
        gpus = self.gpus
        return Room(
            _as_seen(gpus) if isinstance(gpus, Cut) else gpus,
            self.cpu_milli,
            self.memory_mib,
        )

    @property
    def fullness(self) -> float:
        """The share of its GPUs that is in use."""
        return round(1 - self.gpus.free / self.host.gpus, 6)

    def ways(self, request: Request) -> Iterator[State]:
        """The states that the host can be in with the request."""
        cpu_milli = self.cpu_milli - request.cpu_milli
        memory_mib = self.memory_mib - request.memory_mib
        if cpu_milli < 0 or memory_mib < 0:
            return
        if request.models and self.host.model not in request.models:
            return
        if not request.gpus:
            yield self._replace(cpu_milli=cpu_milli, memory_mib=memory_mib)
            return
        for gpus in self.gpus.ways(request.gpus, request.share):
            yield State(self.host, gpus, cpu_milli, memory_mib)


def empty(host: Host, sizes: tuple[int, ...] = ()) -> State:
    """A host on which nothing is.

    :param sizes: of the profiles of its cards; without, they give any share
    """
    gpus: Shares | Cut = Shares((WHOLE,) * host.gpus)
    if sizes:
        gpus = Cut(((0, 0),) * host.gpus, sizes)
    return State(host, gpus, host.cpu_milli, host.memory_mib)
