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
"""Eight linked cards on a thousand hosts: from Placement's query to a host.

Ours asks the real Placement, in process on SQLite, for the pools that the
production code makes, and runs filter and weighers on what it answers. The
peer is Placement's answer alone for Nova's PCI in Placement, one provider and
one request group a card, which can't say that cards are linked; it is
stopped after :data:`~tests.bench.candidates.LIMIT`.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from typing import Any

from placement import db_api

from nova_gpu.scheduler.filter import GpuFilter
from nova_gpu.scheduler.weigher import GpuAvoidWeigher, GpuWeigher
from tests.bench import candidates, measure, placement
from tests.fixtures import hosts
from tests.fixtures.scheduler import (
    host_state,
    host_tracker,
    map_text,
    request_spec,
    run_filter,
    run_weighers,
    take,
)
from tests.fixtures.sysfs import FakeSysfs

HOSTS, CARDS = 1000, 8
ROUNDS = 5
SPECS = {
    f'resources:{placement.CUSTOM["pool"]}': str(CARDS),
    'gpu:topology': 'nvlink:required',
}
POOL = 'nvidia_a100_sxm4_40gb'


def run() -> Iterator[measure.Row]:
    """All hosts are free but one in two, which has seven free cards."""
    logging.disable(logging.CRITICAL)
    with candidates.Placement('card', HOSTS) as peer:
        theirs = peer.ask(CARDS)
    with tempfile.TemporaryDirectory(dir=measure.ram_folder()) as folder:
        application = placement.application(folder)
        with db_api.get_placement_engine().begin() as connection:
            placement.fill(connection, 'pool', HOSTS)
        states = _states()
        ours = measure.median(
            lambda: measure.seconds(lambda: _choose(application, states)),
            ROUNDS,
        )
    yield measure.Row(
        'linked8',
        {
            'hosts': HOSTS,
            'cards': CARDS,
            'rounds': ROUNDS,
            'peer_bounded': theirs is None,
        },
        ours,
        candidates.LIMIT if theirs is None else theirs,
        candidates.PEER,
        's',
    )


def _states() -> dict[str, Any]:
    """The hosts by the UUID of their root provider."""
    with tempfile.TemporaryDirectory(dir=measure.ram_folder()) as root:
        tracker = host_tracker(hosts.a100_board(FakeSysfs(root)))
        texts = [map_text(tracker)]
        take(tracker, POOL, placement.CUSTOM['pool'], 1)
        # Placement has them all: the map is newer than it.
        texts.append(map_text(tracker))
    found = {}
    for number in range(HOSTS):
        node = f'node{number}'
        uuid = placement.root_uuid(node)
        found[uuid] = host_state(node, texts[number % 2], uuid=uuid)
    return found


def _choose(application: Any, states: dict[str, Any]) -> str:
    """The host that the scheduler would choose."""
    answer = placement.query('pool', CARDS).get_response(application)
    assert answer.status_code == 200, answer.text
    for state in states.values():
        state.allocation_candidates = []
    for candidate in json.loads(answer.body)['allocation_requests']:
        for provider in candidate['allocations']:
            if provider in states:
                states[provider].allocation_candidates.append(candidate)
    found = [s for s in states.values() if s.allocation_candidates]
    spec = request_spec(SPECS)
    passed = set(run_filter(GpuFilter(), found, spec))
    able = [state for state in found if state.host in passed]
    weights = run_weighers([GpuWeigher(), GpuAvoidWeigher()], able, spec)
    assert len(weights) == HOSTS
    chosen = next(iter(weights))
    assert int(chosen.removeprefix('node')) % 2 == 0, chosen
    return chosen


if __name__ == '__main__':
    measure.emit(run())
