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

"""Units near to a guest: on the NUMA nodes that it is on."""

from __future__ import annotations

from nova_gpu import exception
from nova_gpu.model.claim import Claim, Want
from nova_gpu.model.request import GpuRequest
from tests.fixtures import hosts
from tests.unit import base

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
T4_4Q, T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q', 'CUSTOM_VGPU_NVIDIA_T4_8Q'
WHOLE = 'nvidia_a100_sxm4_40gb'
#: The T4: two on node 0, two on node 1.
T4 = ('0000_3b_00_0', '0000_5e_00_0', '0000_af_00_0', '0000_d8_00_0')
A, B, C = map(base.instance, 'abc')


class NumaTest(base.TrackerTest):
    """On the host: four A100 and two T4 on each of two nodes."""

    def setUp(self) -> None:
        super().setUp()
        for index in range(8):
            hosts.a100(self.fake, index)
        hosts.four_t4(self.fake)

    def take(
        self, consumer: str, affinity: str, *nodes: int, pool: str = WHOLE,
        name: str = A100, count: int = 1, others: set[str] | None = None,
    ) -> Claim:  # fmt: skip
        return self.tracker.claim(
            consumer,
            [Want(pool, name, count)],
            GpuRequest({}, numa_affinity=affinity),
            {pool: others or set()},
            nodes=frozenset(nodes) or None,
        )

    def nodes(self, consumer: str) -> list[int]:
        """The nodes of all cards that the consumer holds."""
        claim = self.tracker.claim_of(consumer)
        cards = {c.address: c.numa_node for c in self.snapshot().cards}
        return sorted(cards[u.card] for u in claim.units) if claim else []

    def refusal(self, affinity: str, *nodes: int, **kwargs: object) -> str:
        before = self.tracker.view().claims
        error = self.assertRaises(
            exception.NotEnoughUnits,
            self.take, C, affinity, *nodes, **kwargs,
        )  # fmt: skip
        self.assertEqual(before, self.tracker.view().claims)
        return error.reason

    def test_whole_cards(self) -> None:
        for node in (1, 0):
            for affinity in ('required', 'preferred'):
                self.take(A, affinity, node, count=3)
                self.assertEqual([node] * 3, self.nodes(A))
                self.tracker.release(A)

    def test_where_cards_are_all_alike(self) -> None:
        for affinity, nodes in (('none', [1]), ('required', [])):
            self.take(A, affinity, *nodes)
            self.assertEqual([0], self.nodes(A))
            self.tracker.release(A)

    def test_node_that_is_full(self) -> None:
        self.take(A, 'required', 1, count=3)
        self.assertEqual(
            'on NUMA node 1, where the guest is: 1 of its 4 cards are free',
            self.refusal('required', 1, count=2),
        )
        self.take(B, 'preferred', 1, count=2)
        self.assertEqual([0, 0], self.nodes(B))

    def test_guest_on_two_nodes(self) -> None:
        self.take(A, 'required', 0, count=3)
        self.take(B, 'required', 0, 1, count=5)
        self.assertEqual([0, 1, 1, 1, 1], self.nodes(B))

    def test_node_without_cards(self) -> None:
        reason = self.refusal('required', 2, 3)
        self.assertEqual(
            'it has no card on NUMA node 2, 3, where the guest is', reason
        )
        self.take(A, 'preferred', 2)

    def test_nothing_is_free(self) -> None:
        self.take(A, 'none', count=8)
        self.assertEqual(
            '0 of its 8 cards are free', self.refusal('preferred', 1)
        )

    def test_card_of_which_the_node_is_not_known(self) -> None:
        self.fake.add_gpu('0000:99:00.0', 0x2235, numa_node=-1, iommu_group=99)
        card = {'pool': 'nvidia_a40', 'name': 'CUSTOM_GPU_NVIDIA_A40'}
        self.refusal('required', 0, 1, **card)
        self.take(A, 'preferred', 0, 1, **card)

    def test_vgpu_of_another_card(self) -> None:
        claim = self.take(
            A, 'required', 1, pool=T4[0], name=T4_4Q, others=set(T4)
        )
        self.assertEqual([1], self.nodes(A))
        self.assertEqual([T4[2]], [move.pool for move in claim.moves])
        self.assertIn('no card on NUMA node 1', self.refusal(
            'required', 1, pool=T4[0], name=T4_4Q, others={T4[1]}
        ))  # fmt: skip

    def test_near_comes_before_full(self) -> None:
        vgpu = {'pool': T4[0], 'name': T4_4Q, 'others': set(T4)}
        self.take(A, 'none', **vgpu)
        for nodes in ([1], [1, 1]):
            self.take(B, 'preferred', 1, **vgpu)
            self.assertEqual(nodes, self.nodes(B))
        # Once no card there takes the profile any more, others do.
        for pool in T4[2:]:
            self.tracker.release(B)
            self.take(base.instance(pool), 'none', pool=pool, name=T4_8Q)
        self.take(B, 'preferred', 1, **vgpu)
        self.assertEqual([0], self.nodes(B))
        self.refusal('required', 1, **vgpu)
