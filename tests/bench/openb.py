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
"""The share of GPUs given when as many have been asked for as there are.

The trace, its hosts and the way to inflate it are those of the paper on
fragmentation gradient descent (FGD), so that its figures stand beside: 1,213
hosts in one order, and the requests in ten random ones, filled up with more
like them. Cards give shares of any size, side by side; hosts run out of CPUs
and memory. What rates is the code of the weigher; that cards are shared as by
containers is the simulator's.

``OPENB_SEEDS`` changes the number of orders.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence

from nova_gpu.model.fragmentation import Mix
from nova_gpu.simulate.cloud import Cloud, arrivals, fill
from nova_gpu.simulate.hosts import empty
from nova_gpu.simulate.policies import POLICIES, kinds
from nova_gpu.simulate.runs import interval
from nova_gpu.simulate.tables import Host, Request
from tests.bench import measure, traces

SEEDS = int(os.environ.get('OPENB_SEEDS', '10'))
FIRST = 3000
ORDER = 7
PEERS = ('random', 'best-fit', 'packing', 'fgd')
#: Of the default mix, as published.
PUBLISHED = {
    'random': 86.30,
    'best-fit': 92.86,
    'packing': 91.78,
    'fgd': 95.23,
}


def run() -> Iterator[measure.Row]:
    """Ours beside each peer, in the same orders."""
    hosts = list(traces.hosts())
    random.Random(ORDER).shuffle(hosts)
    for mix in traces.MIXES:
        requests = traces.requests(mix)
        ours = _given('score', requests, hosts)
        for name in PEERS:
            theirs = _given(name, requests, hosts)
            more, wide = interval(
                [a - b for a, b in zip(ours, theirs, strict=True)]
            )
            yield measure.Row(
                'openb',
                {
                    'mix': mix,
                    'seeds': SEEDS,
                    'more': f'{more:+.2f}±{wide:.2f}',
                },
                interval(ours)[0],
                interval(theirs)[0],
                f'{name}, of our own making',
                '%',
            )
        if mix == 'default':
            for name, figure in PUBLISHED.items():
                yield measure.Row(
                    'openb',
                    {'mix': mix, 'seeds': SEEDS},
                    interval(ours)[0],
                    figure,
                    f'{name}, as published',
                    '%',
                )


def _given(
    name: str, requests: Sequence[Request], hosts: Sequence[Host]
) -> list[float]:
    """In per cent of all GPUs, by seed."""
    mix = Mix(kinds(requests))
    shares = []
    for seed in range(FIRST, FIRST + SEEDS):
        states = [empty(host) for host in hosts]
        policy = POLICIES[name](mix, requests, states, seed)
        coming = arrivals(requests, random.Random(seed))
        shares.append(100 * fill(Cloud(states, policy), coming).allocated)
    return shares


if __name__ == '__main__':
    measure.emit(run())
