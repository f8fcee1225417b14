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


"""Many claims at once, in the concurrency mode that Nova runs in.

With OS_NOVA_DISABLE_EVENTLET_PATCHING=true the threads are real ones, else
they are eventlet's: the code is the same.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from nova_gpu import exception
from nova_gpu.model.device import Snapshot
from tests.fixtures import hosts
from tests.unit import base

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
WHOLE = 'nvidia_a100_sxm4_40gb'
T4_POOL, T4_4Q = '0000_3b_00_0', 'CUSTOM_VGPU_NVIDIA_T4_4Q'
THREADS = 6
ROUNDS = 25


class ThreadsTest(base.TrackerTest):
    """Two threads never get one unit."""

    def setUp(self) -> None:
        super().setUp()
        for index in range(8):
            self.fake.add_gpu(
                f'0000:{0x20 + index:02x}:00.0', iommu_group=index,
                numa_node=index % 2,
            )  # fmt: skip
        self.fake.add_gpu(
            '0000:3b:00.0', 0x1EB8, driver='nvidia',
            types=hosts.T4_TYPES[2:3], units=16,
        )  # fmt: skip
        self.tracker = self.new_tracker(read=self.slow_read)
        # Threads change places as often as they can.
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1e-6)

    def slow_read(self) -> Snapshot:
        """Read the host, and let the others run before it is used."""
        snapshot = self.snapshot()
        for _ in range(THREADS):
            time.sleep(0)  # no waiting: it yields, in both modes
        return snapshot

    def at_once(
        self, names: list[str], work: Callable[[str], object]
    ) -> list[BaseException]:
        """Run ``work`` for all names at the same time; returns the errors."""
        barrier = threading.Barrier(len(names))
        errors: list[BaseException] = []

        def run(name: str) -> None:
            barrier.wait()
            try:
                work(name)
            except Exception as exc:
                errors.append(exc)

        threads = [threading.Thread(target=run, args=(n,)) for n in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return errors

    def claim_two(self, name: str) -> None:
        if name.startswith('whole'):
            self.claim(name, WHOLE, A100, 2)
        else:
            self.claim(name, T4_POOL, T4_4Q, 2)

    def test_claims(self) -> None:
        # Room for four times two cards and twice two vGPUs.
        names = [
            f'{kind}-{index}'
            for index in range(THREADS)
            for kind in ('whole', 'vgpu')
        ]
        for _ in range(ROUNDS):
            errors = self.at_once(names, self.claim_two)
            self.assertEqual(
                [exception.NotEnoughUnits] * (2 * THREADS - 6),
                [type(error) for error in errors],
            )
            held = [d for name in names for d in self.devices(name)]
            self.assertEqual(12, len(held))
            self.assertEqual(12, len(set(held)))
            self.assertEqual(4, len(self.fake.mdevs))
            self.assertLessEqual(set(self.fake.mdevs), set(held))
            self.assertEqual([], self.at_once(names, self.tracker.release))
            self.assertEqual([], self.fake.mdevs)
            self.assertEqual({A100: (8, 0)}, self.inventory(WHOLE))

    def test_claims_and_releases(self) -> None:
        def live(name: str) -> None:
            for _ in range(ROUNDS // 2):
                try:
                    self.claim_two(name)
                except exception.NotEnoughUnits:
                    continue
                self.tracker.settle(name)
                held = [
                    u.device
                    for c in self.tracker.view().claims
                    for u in c.units
                ]
                if len(held) != len(set(held)):
                    raise AssertionError(f'given twice: {held}')
                self.tracker.release(name)

        names = [f'whole-{i}' for i in range(6)] + [
            'vgpu-1',
            'vgpu-2',
            'vgpu-3',
        ]
        self.assertEqual([], self.at_once(names, live))
        self.assertEqual((), self.tracker.view().claims)
        self.assertEqual([], self.fake.mdevs)
