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

"""Servers that ask for cards which share something."""

from __future__ import annotations

from typing import Any

from tests.fixtures.nvml import FakeNvml, card
from tests.functional import actions, base

A40 = 'CUSTOM_GPU_NVIDIA_A40'
#: Two cards on each of two nodes.
NODES = {
    '0000:21:00.0': 0,
    '0000:22:00.0': 0,
    '0000:81:00.0': 1,
    '0000:82:00.0': 1,
}


class TopologyTest(base.GpuServersTest):
    """Two hosts with four A40, two on each NUMA node."""

    # What fails on a host is tried on the next.
    CAST_AS_CALL = False

    def setUp(self) -> None:
        super().setUp()
        for name in ('gpu1', 'gpu2'):
            fake = self.new_host(name)
            for number, (address, node) in enumerate(NODES.items()):
                fake.add_gpu(
                    address, 0x2235, iommu_group=number, numa_node=node
                )
            self.start_gpu_compute(name)

    def flavor(self, count: int, topology: str | None = None) -> str:
        specs = {f'resources__{A40}': str(count)}
        if topology is not None:
            specs['gpu__topology'] = topology
        return self.gpu_flavor(**specs)

    def leave_one_a_node(self, name: str) -> None:
        """Fill a host but for a card of each node."""
        one = self.flavor(1)
        on_node: dict[int, Any] = {}
        for _ in NODES:
            server = actions.create(self, one, name)
            on_node[self.nodes(server).pop()] = server
        for server in on_node.values():
            actions.delete(self, server)

    def nodes(self, server: Any) -> set[int]:
        """The NUMA nodes of a server's cards."""
        functions = self.guest_devices(server).functions
        return {NODES[str(function)] for function in functions}

    def host(self, server: Any) -> str:
        name: str = server['OS-EXT-SRV-ATTR:host']
        return name

    def test_where_such_are_free(self) -> None:
        self.leave_one_a_node('gpu1')
        self._run_periodics()
        near = actions.create(self, self.flavor(2, 'numa'))
        self.assertEqual('gpu2', self.host(near))
        self.assertEqual(1, len(self.nodes(near)))
        # Who doesn't ask goes where most is in use.
        apart = actions.create(self, self.flavor(2))
        self.assertEqual('gpu1', self.host(apart))
        self.assertEqual({0, 1}, self.nodes(apart))
        last = actions.create(self, self.flavor(2, 'numa:preferred'))
        self.assertEqual('gpu2', self.host(last))
        self.assert_consistent()

    def test_map_that_is_old(self) -> None:
        """The first host that is tried hands the server on, once."""
        one = actions.create(self, self.flavor(1), 'gpu1')
        self._run_periodics()
        # Schedulers see three free cards here, and take it for the better.
        actions.delete(self, one)
        self.leave_one_a_node('gpu1')
        server = actions.create(self, self.flavor(2, 'numa:required'))
        self.assertEqual('gpu2', self.host(server))
        self.assertEqual(['gpu1', 'gpu2'], actions.hosts_tried(self, server))
        self.assertEqual(1, len(self.nodes(server)))
        self.assert_consistent()

    def test_map_that_says_no(self) -> None:
        """Cards that have become free since are found all the same."""
        held = [
            actions.create(self, self.flavor(2), name)
            for name in ('gpu1', 'gpu1', 'gpu2', 'gpu2')
        ]
        self._run_periodics()
        actions.delete(self, held[0])
        server = actions.create(self, self.flavor(2, 'numa:required'))
        self.assertEqual('gpu1', self.host(server))
        self.assertEqual(['gpu1'], actions.hosts_tried(self, server))
        self.assertEqual(1, len(self.nodes(server)))

    def test_what_no_host_has(self) -> None:
        for count, topology in ((3, 'numa'), (2, 'switch')):
            error = self.assertRaises(
                actions.ActionError,
                actions.create, self, self.flavor(count, topology),
            )  # fmt: skip
            self.assertIn('No valid host was found', error.message)
            actions.delete(self, error.server)
        actions.create(self, self.flavor(3, 'numa:preferred'))


class RecordedTest(base.GpuServersTest):
    """Bridges join cards of different nodes, as the driver has told."""

    def test_servers_get_what_is_linked(self) -> None:
        fake = self.new_host('gpu1')
        nvml = self.useFixture(FakeNvml())
        ones, others = list(NODES)[:2], list(NODES)[2:]
        pairs = dict(zip(ones + others, others + ones, strict=True))
        for number, (address, other) in enumerate(pairs.items()):
            fake.add_gpu(
                address, 0x2235, iommu_group=number, driver='nvidia',
                numa_node=NODES[address],
            )  # fmt: skip
            nvml.add_card(address, 0x2235, [card(other)] * 4)
        code, _, err = self.nova_gpu('gpu1', 'host', 'record')
        self.assertEqual((0, ''), (code, err))
        for address in pairs:
            fake.bind(address, 'vfio-pci')
        self.start_gpu_compute('gpu1')
        specs = {f'resources__{A40}': '2', 'gpu__topology': 'nvlink'}
        for _ in range(2):
            server = self.boot(self.gpu_flavor(**specs))
            one, other = map(str, self.guest_devices(server).functions)
            self.assertEqual(other, pairs[one])
        self.assert_consistent()
