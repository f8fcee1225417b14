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

"""Booting servers without GPUs, with our driver class and with Nova's.

A cloud in one process with three computes: one with Nova's class, and two
with ours, on a host without cards and on one with eight. A boot is timed from
the request to the API to the end of the build, and each round boots once on
each compute. The processor's time is a row of its own: other work on the
machine disturbs it less.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import unittest
from collections.abc import Iterator

# The functional tests' own limit is no limit for twenty rounds.
os.environ['OS_TEST_TIMEOUT'] = '0'

from tests.bench import measure
from tests.fixtures import hosts
from tests.functional import base

ROUNDS = 20
WARM_UP = 3
NOVA = 'libvirt.LibvirtDriver'


class BootOverhead(base.GpuServersTest):
    """Not a test: the setting is that of the functional tests."""

    def runTest(self) -> None:
        self.new_host('bare')
        hosts.a100_board(self.new_host('cards'))
        for name in ('bare', 'cards'):
            self.start_gpu_compute(name)
        self.new_host('nova')
        self.flags(compute_driver=NOVA)
        self.start_gpu_compute('nova')
        assert type(self.computes['nova'].driver).__name__ == 'LibvirtDriver'
        flavor = self.gpu_flavor()
        # What has no underscore is deleted at the end.
        self._times: dict[str, list[tuple[float, float]]] = {
            name: [] for name in ('nova', 'bare', 'cards')
        }
        for number in range(WARM_UP + ROUNDS):
            # Now this one first, now that one.
            turn = list(self._times)[:: 1 if number % 2 else -1]
            for name in turn:
                took = self._boot(flavor, name)
                if number >= WARM_UP:
                    self._times[name].append(took)

    def _boot(self, flavor: str, host: str) -> tuple[float, float]:
        server = self._build_server(
            flavor_id=flavor, networks='none', host=host
        )
        self.notifier.reset()
        created = []

        def work() -> None:
            created.append(self.api.post_server({'server': server}))
            self.notifier.wait_for_versioned_notifications(
                'instance.create.end', timeout=60.0
            )

        processor = time.process_time()
        took = measure.seconds(work)
        processor = time.process_time() - processor
        found = self._wait_for_state_change(created[0], 'ACTIVE')
        assert found['OS-EXT-SRV-ATTR:host'] == host
        self._delete_server(found)
        return took * 1e3, processor * 1e3


def run() -> Iterator[measure.Row]:
    """Both hosts of ours beside the one of Nova's class."""
    case = BootOverhead()
    result = unittest.TestResult()
    case.run(result)
    for _, text in (*result.errors, *result.failures):
        sys.exit(text)
    for index, what in enumerate(('wall clock', 'processor')):
        medians = {
            name: statistics.median(times[index] for times in found)
            for name, found in case._times.items()
        }
        for name, cards in (('bare', 0), ('cards', 8)):
            yield measure.Row(
                'boot_overhead',
                {'boots': ROUNDS, 'cards': cards, 'time': what},
                medians[name],
                medians['nova'],
                "Nova's LibvirtDriver",
                'ms',
            )


if __name__ == '__main__':
    measure.emit(run())
