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
"""Who gets a request: ours and those that others use, for comparison.

A policy rates each way to put a request on a host, and the highest rating
wins, of equal ones the first host. ``Weights`` is what nova-scheduler does
with our weigher's score and Nova's own CPU and RAM weighers.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from nova_gpu.model.fragmentation import Kind, Mix, score
from nova_gpu.simulate.hosts import Shares, State
from nova_gpu.simulate.tables import WHOLE, Request

#: A rating and the state that a host would be in.
Rated = tuple[Any, State]


class Policy(Protocol):
    """How one of the hosts is chosen."""

    def rate(self, before: State, after: State, request: Request) -> Any:
        """How good it is to do so; the state of other hosts is no matter."""

    def choose(self, rated: Sequence[Rated | None]) -> int | None:
        """The index of a host, or None if there is none."""


class Highest:
    """Chooses the first host with the highest rating."""

    def choose(self, rated: Sequence[Rated | None]) -> int | None:
        best, found = None, None
        for index, each in enumerate(rated):
            if each is not None and (best is None or each[0] > best):
                best, found = each[0], index
        return found


@dataclasses.dataclass(frozen=True)
class Weights:
    """The sum of weights, each with its multiplier, as in nova-scheduler."""

    mix: Mix
    gpu: float = 0.0
    ram: float = 0.0
    cpu: float = 0.0

    def rate(self, before: State, after: State, request: Request) -> Any:
        weight = 0.0
        if self.gpu:
            steps = self.mix.steps(before.room, after.room)
            weight = self.gpu * score(steps, before.fullness)
        return weight, before.memory_mib, before.cpu_milli

    def choose(self, rated: Sequence[Rated | None]) -> int | None:
        found = [(i, each[0]) for i, each in enumerate(rated) if each]
        if not found:
            return None
        sums = [values[0] for _, values in found]
        for position, multiplier in ((1, self.ram), (2, self.cpu)):
            if multiplier:
                # Nova's weighers are normalized over the hosts that passed.
                free = [values[position] for _, values in found]
                low, high = min(free), max(free)
                if high > low:
                    scale = multiplier / (high - low)
                    sums = [
                        total + scale * (value - low)
                        for total, value in zip(sums, free, strict=True)
                    ]
        return found[sums.index(max(sums))][0]


class Random:
    """Any host, and any of its cards."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def rate(self, before: State, after: State, request: Request) -> Any:
        return self._random.random()

    def choose(self, rated: Sequence[Rated | None]) -> int | None:
        able = [index for index, each in enumerate(rated) if each]
        return self._random.choice(able) if able else None


class BestFit(Highest):
    """The least CPUs and GPUs left, as in the FGD paper's comparison."""

    def __init__(self, most_cpus: int, most_gpus: int) -> None:
        self._cpus, self._gpus = most_cpus, most_gpus

    def rate(self, before: State, after: State, request: Request) -> Any:
        left = after.cpu_milli / self._cpus + after.gpus.free / self._gpus
        # Within a host, the card with the least left.
        return int(100 * (1 - left / 2)), -_smallest(before, after)


class Packing(Highest):
    """Cards in use first, then hosts in use, as in the FGD paper's."""

    def rate(self, before: State, after: State, request: Request) -> Any:
        if not request.gpus:
            return 0, 0.0
        whole, left = _whole(before), _whole(after)
        if whole == before.host.gpus:
            return max(33 - whole, whole), 0.0
        if whole > left:
            return max(50 - (whole - left), 33), -_smallest(before, after)
        on = _smallest(before, after)
        return max(100 - int(on * 100) // 10, 50), -on


class Fgd(Highest):
    """Fragmentation gradient descent as published, of our own making.

    The kinds are the most common ones that make 95 % of the requests, memory
    doesn't matter, and the score is a whole number from 0 to 100.
    """

    def __init__(self, requests: Iterable[Request]) -> None:
        counts = collections.Counter(requests)
        enough = 0.95 * counts.total()
        self._kinds: list[tuple[Request, float]] = []
        for request, count in counts.most_common():
            self._kinds.append((request, count))
            enough -= count
            if enough <= 0:
                break
        total = sum(count for _, count in self._kinds)
        self._kinds = [(kind, count / total) for kind, count in self._kinds]
        self._known: dict[tuple[Any, int, str], float] = {}

    def rate(self, before: State, after: State, request: Request) -> Any:
        gain = self._lost(before) - self._lost(after)
        return int(100 / (1 + math.exp(-gain)))

    def _lost(self, state: State) -> float:
        key = (state.gpus, state.cpu_milli, state.host.model)
        lost = self._known.get(key)
        if lost is None:
            lost = state.gpus.free
            for kind, weight in self._kinds:
                if (
                    kind.gpus
                    and kind.cpu_milli <= state.cpu_milli
                    and (not kind.models or state.host.model in kind.models)
                ):
                    most, usable, _ = state.gpus.fit(
                        kind.gpus, kind.share / WHOLE
                    )
                    if most:
                        lost -= weight * usable
            self._known[key] = lost
        return lost


def _whole(state: State) -> int:
    """How many cards nobody uses."""
    return state.gpus.fit(1, 1.0)[0]


def _smallest(before: State, after: State) -> float:
    """What was free of the card that is taken, if its shares are any."""
    one, other = before.gpus, after.gpus
    if not isinstance(one, Shares) or not isinstance(other, Shares):
        return 0.0
    taken = collections.Counter(one.cards) - collections.Counter(other.cards)
    return max(taken, default=0) / WHOLE


def kinds(requests: Iterable[Request]) -> tuple[Kind, ...]:
    """What is asked, and how often; CPUs are in thousandths, as there."""
    counts = collections.Counter(
        request._replace(models=()) for request in requests if request.gpus
    )
    return tuple(
        Kind(r.gpus, r.share / WHOLE, r.cpu_milli, r.memory_mib, count)
        for r, count in counts.most_common()
    )


def in_milli(mix: Mix) -> Mix:
    """A mix of the configuration, with CPUs in thousandths."""
    return Mix(
        dataclasses.replace(kind, vcpus=kind.vcpus * 1000)
        for kind in mix.kinds
    )


Make = Callable[[Mix, Sequence[Request], Sequence[State], int], Policy]

POLICIES: dict[str, Make] = {
    'nova-gpu': lambda mix, *_: Weights(mix, gpu=100.0, ram=1.0, cpu=1.0),
    'score': lambda mix, *_: Weights(mix, gpu=1.0),
    'nova': lambda mix, *_: Weights(mix, ram=1.0, cpu=1.0),
    'stacking': lambda mix, *_: Weights(mix, ram=-1.0, cpu=-1.0),
    'fgd': lambda _, requests, *__: Fgd(requests),
    'best-fit': lambda _, __, states, ___: BestFit(
        max(max(state.host.cpu_milli for state in states), 1),
        max(state.host.gpus for state in states),
    ),
    'packing': lambda *_: Packing(),
    'random': lambda *args: Random(args[-1]),
}
