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
"""Requests that come to hosts, one after the other, and what becomes of them.

A request is rated on each host, but only where something has changed since
the last one like it: hosts and requests that are alike are rated once.
"""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from nova_gpu.simulate.hosts import State
from nova_gpu.simulate.policies import Policy, Rated
from nova_gpu.simulate.tables import WHOLE, Request

#: How many rated states are kept.
KNOWN = 1 << 20
#: Of the curve of a cloud that fills.
POINTS = 100


#: What is free of one, or into how many it is cut and how many are used.
Card = Any


class Guest(NamedTuple):
    """Where a request is."""

    host: int
    request: Request
    cards: tuple[int, ...]


class Cloud:
    """Hosts, and a policy that says which of them gets a request."""

    def __init__(self, states: Sequence[State], policy: Policy) -> None:
        self.states = list(states)
        self._policy = policy
        self._cards: list[list[Card]] = [list(s.gpus.cards) for s in states]
        #: The hosts that have changed, in the order in which they have.
        self._changes: list[int] = []
        self._rated: dict[Request, tuple[int, list[Rated | None]]] = {}
        self._known: dict[tuple[State, Request], Rated | None] = {}

    def place(self, request: Request) -> Guest | None:
        """Put a request on the host that the policy chooses, if any."""
        now = len(self._changes)
        seen, column = self._rated.get(request, (0, []))
        stale: Iterable[int] = set(self._changes[seen:])
        if not column:
            column = [None] * len(self.states)
            stale = range(len(self.states))
        for index in stale:
            column[index] = self._rate(self.states[index], request)
        self._rated[request] = (now, column)
        chosen = self._policy.choose(column)
        if chosen is None:
            return None
        rated = column[chosen]
        assert rated is not None
        before, after = self.states[chosen].gpus.cards, rated[1].gpus.cards
        self._change(chosen, rated[1])
        return Guest(chosen, request, self._take(chosen, before, after))

    def _take(
        self, host: int, before: Sequence[Card], after: Sequence[Card]
    ) -> tuple[int, ...]:
        """Which cards have changed, all of them in the same way."""
        gone = collections.Counter(before)
        gone.subtract(after)
        cards = self._cards[host]
        taken = []
        come = sorted(card for card, n in gone.items() for _ in range(-n))
        for new in come:
            old = next(card for card, n in gone.items() if n > 0)
            gone[old] -= 1
            taken.append(cards.index(old))
            cards[taken[-1]] = new
        return tuple(taken)

    def release(self, guest: Guest) -> None:
        """Take back what a guest has."""
        cards = self._cards[guest.host]
        for index in guest.cards:
            cards[index] = _given_back(cards[index], guest.request)
        state = self.states[guest.host]
        self._change(
            guest.host,
            state._replace(
                gpus=state.gpus._replace(cards=tuple(sorted(cards))),
                cpu_milli=state.cpu_milli + guest.request.cpu_milli,
                memory_mib=state.memory_mib + guest.request.memory_mib,
            ),
        )

    def _change(self, index: int, state: State) -> None:
        self.states[index] = state
        self._changes.append(index)

    def _rate(self, state: State, request: Request) -> Rated | None:
        key = (state, request)
        if key in self._known:
            return self._known[key]
        found = [
            (self._policy.rate(state, after, request), after)
            for after in state.ways(request)
        ]
        best = max(found, key=lambda rated: rated[0], default=None)
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[key] = best
        return best


def _given_back(card: Card, request: Request) -> Card:
    if isinstance(card, int):
        return card + request.share
    size, used = card
    return (size, used - 1) if used > 1 else (0, 0)


@dataclasses.dataclass
class Outcome:
    """What came of the requests; all in thousandths of a GPU.

    By the number of cards that a request asks for, 0 being parts of one.
    ``curve`` is what was in use when so much had been asked for.
    """

    capacity: int
    asked: collections.Counter[int] = dataclasses.field(
        default_factory=collections.Counter
    )
    accepted: collections.Counter[int] = dataclasses.field(
        default_factory=collections.Counter
    )
    curve: list[tuple[float, float]] = dataclasses.field(default_factory=list)

    @property
    def acceptance(self) -> float:
        """The share of the GPUs asked for that was given."""
        return self.accepted.total() / max(1, self.asked.total())

    @property
    def allocated(self) -> float:
        """The share of all GPUs that was given; when filling, is in use."""
        return self.accepted.total() / self.capacity

    def by_size(self) -> dict[int, float]:
        """The acceptance by request size, of sizes that were asked for."""
        return {
            size: self.accepted[size] / asked
            for size, asked in sorted(self.asked.items())
        }

    def count(self, request: Request, taken: bool) -> None:
        """Add one request."""
        if request.gpus:
            size = request.gpus if request.share == WHOLE else 0
            self.asked[size] += request.milli
            self.accepted[size] += request.milli * taken


def arrivals(
    requests: Sequence[Request], source: random.Random
) -> Iterator[Request]:
    """The requests in any order, then more like them, without an end.

    This is how the published figures were made.
    """
    once = list(requests)
    source.shuffle(once)
    yield from once
    while True:
        yield source.choice(requests)


def fill(
    cloud: Cloud,
    requests: Iterator[Request],
    load: float = 1.0,
    tell: Callable[[float], object] = lambda share: None,
) -> Outcome:
    """Let requests come until so much of the capacity has been asked for."""
    outcome = Outcome(_capacity(cloud))
    wanted = load * outcome.capacity
    while outcome.asked.total() < wanted:
        request = next(requests)
        outcome.count(request, cloud.place(request) is not None)
        asked = outcome.asked.total()
        if asked * POINTS >= (len(outcome.curve) + 1) * wanted:
            share = asked / outcome.capacity
            outcome.curve.append((share, outcome.allocated))
            tell(asked / wanted)
    return outcome


def churn(
    cloud: Cloud,
    requests: Iterator[Request],
    source: random.Random,
    mean: float,
    load: float = 1.0,
    tell: Callable[[float], object] = lambda share: None,
) -> Outcome:
    """Let requests come and go, so that the load is asked for at any time.

    Lifetimes are exponential. What comes while the cloud fills, for the time
    of one mean life, isn't counted; what comes in the next two is.

    :param mean: what a request asks for, in thousandths of a GPU
    """
    outcome = Outcome(_capacity(cloud))
    life = load * outcome.capacity / mean
    ends: dict[int, list[Guest]] = {}
    total = round(3 * life)
    for now in range(total):
        for guest in ends.pop(now, ()):
            cloud.release(guest)
        request = next(requests)
        # Drawn for all, so that every policy sees the same lives.
        lasts = max(1, round(source.expovariate(1 / life)))
        placed = cloud.place(request)
        if placed is not None:
            ends.setdefault(now + lasts, []).append(placed)
        if now >= life:
            outcome.count(request, placed is not None)
        tell((now + 1) / total)
    return outcome


def _capacity(cloud: Cloud) -> int:
    return WHOLE * sum(state.host.gpus for state in cloud.states)
