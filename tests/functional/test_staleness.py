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

"""Schedulers with maps that are no longer true.

What a map shows as free and isn't costs a server one more attempt. What it
shows as taken and isn't costs nothing. See :mod:`.test_topology` for cards
that share something.
"""

from __future__ import annotations

import json
from typing import Any

from nova import context as nova_context
from nova import objects

from nova_gpu.model.hostmap import STATS_KEY, HostMap, PoolState
from nova_gpu.scheduler import likely
from nova_gpu.scheduler.maps import read_map
from tests.fixtures import hosts
from tests.functional import actions, base

A40 = 'CUSTOM_GPU_NVIDIA_A40'
T4 = 'CUSTOM_GPU_NVIDIA_TESLA_T4'
T4_4Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q'
T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q'
#: The id of the type of the 4Q.
TYPE_4Q = 'nvidia-232'
CARDS = ('0000:21:00.0', '0000:22:00.0')


class StalenessTest(base.GpuServersTest):
    """Base: hosts whose maps are renewed only when a test says so."""

    # What fails on a host is tried on the next.
    CAST_AS_CALL = False

    def pools(self, host: str) -> dict[str, PoolState]:
        """The pools of a host, by their keys, as schedulers see them."""
        context = nova_context.get_admin_context()
        node = objects.ComputeNode.get_first_node_by_host_for_old_compat(
            context, host
        )
        found = HostMap.load(node.stats[STATS_KEY])
        return {pool.key: pool for pool in found.pools}

    def flavor(self, resource_class: str, count: int = 1) -> str:
        return self.gpu_flavor(**{f'resources__{resource_class}': str(count)})

    def assert_built(self, flavor: str, *tried: str) -> Any:
        """Boot a server, on the last of the hosts that tried."""
        server = actions.create(self, flavor)
        self.assertEqual([*tried], actions.hosts_tried(self, server))
        self.assertEqual(tried[-1], server['OS-EXT-SRV-ATTR:host'])
        self.assert_no_device_twice()
        return server


class WholeCardsTest(StalenessTest):
    """Two A40 on each of two hosts."""

    def setUp(self) -> None:
        super().setUp()
        for name in ('gpu1', 'gpu2'):
            fake = self.new_host(name)
            for number, address in enumerate(CARDS):
                fake.add_gpu(address, 0x2235, iommu_group=number)
            self.start_gpu_compute(name)

    def test_free_by_now(self) -> None:
        held = [
            actions.create(self, self.flavor(A40, 2), name)
            for name in ('gpu1', 'gpu2')
        ]
        self._run_periodics()
        actions.delete(self, held[0])
        self.assertEqual(2, self.pools('gpu1')['nvidia_a40'].used)
        self.assert_built(self.flavor(A40, 2), 'gpu1')
        self.assert_consistent()

    def test_taken_by_now(self) -> None:
        """Placement counts: the map's word isn't asked for."""
        self._run_periodics()
        for name in ('gpu1', 'gpu2'):
            actions.create(self, self.flavor(A40), name)
            self.assertEqual(0, self.pools(name)['nvidia_a40'].used)
        error = self.assertRaises(
            actions.ActionError, actions.create, self, self.flavor(A40, 2)
        )
        self.assertIn('No valid host was found', error.message)
        self.assertEqual([], actions.hosts_tried(self, error.server))

    def test_gone_by_now(self) -> None:
        """A card that nobody can have, which only its host knows yet."""
        first = actions.create(self, self.flavor(A40), 'gpu1')
        self._run_periodics()
        (taken,) = map(str, self.guest_devices(first).functions)
        (other,) = set(CARDS) - {taken}
        self.hosts['gpu1'].bind(other, 'nouveau')
        self.assertEqual(1, sum(self.pools('gpu1')['nvidia_a40'].free))
        self.assert_built(self.flavor(A40), 'gpu1', 'gpu2')
        # Placement knows it now: no other server is sent there.
        self.assert_built(self.flavor(A40), 'gpu2')

    def test_new_by_now(self) -> None:
        """A card that the map doesn't show, as Placement does already."""
        self._run_periodics()
        self.hosts['gpu1'].add_gpu('0000:31:00.0', 0x1EB8, iommu_group=31)
        # A claim tells Placement of all that its host has.
        actions.create(self, self.flavor(A40), 'gpu1')
        self.assertNotIn('nvidia_tesla_t4', self.pools('gpu1'))
        self.assert_built(self.flavor(T4), 'gpu1')


class VgpuTest(StalenessTest):
    """T4 with any profile: two on one host, one on the other."""

    def setUp(self) -> None:
        super().setUp()
        for name, cards in (('gpu1', CARDS), ('gpu2', CARDS[:1])):
            fake = self.new_host(name)
            for number, address in enumerate(cards):
                fake.add_gpu(
                    address, 0x1EB8, iommu_group=number, driver='nvidia',
                    types=hosts.T4_TYPES, units=16,
                )  # fmt: skip
            self.start_gpu_compute(name)

    def fill_a_card(self) -> str:
        """Fill one card of the first host, with 8Q; returns the other."""
        for _ in range(2):
            actions.create(self, self.flavor(T4_8Q), 'gpu1')
        fake = self.hosts['gpu1']
        (empty,) = (card for card in CARDS if not fake.mdevs_of(card))
        return empty

    def test_profile_that_has_gone(self) -> None:
        """The map says that each card holds another profile."""
        self.fill_a_card()
        held = [
            actions.create(self, self.flavor(T4_4Q), name)
            for name in ('gpu1', 'gpu2')
        ]
        self._run_periodics()
        actions.delete(self, held[0])
        self.assertEqual(
            {T4_4Q, T4_8Q},
            {pool.active for pool in self.pools('gpu1').values()},
        )
        self.assert_built(self.flavor(T4_8Q), 'gpu1')
        self.assert_consistent()

    def test_profile_that_has_come(self) -> None:
        """A card that somebody has given another profile, by hand."""
        empty = self.fill_a_card()
        self._run_periodics()
        by_hand = '0f0e0d0c-0b0a-4908-8706-050403020100'
        self.hosts['gpu1'].create_mdev(empty, TYPE_4Q, by_hand)
        key = empty.replace(':', '_').replace('.', '_')
        self.assertIsNone(self.pools('gpu1')[key].active)
        self.assert_built(self.flavor(T4_8Q), 'gpu1', 'gpu2')
        self.assertEqual([by_hand], self.hosts['gpu1'].mdevs_of(empty))

    def test_full_by_map_and_free_by_now(self) -> None:
        self.fill_a_card()
        large = 'CUSTOM_VGPU_NVIDIA_T4_16Q'
        held = [
            actions.create(self, self.flavor(large), name)
            for name in ('gpu1', 'gpu2')
        ]
        self._run_periodics()
        actions.delete(self, held[1])
        self.assertEqual(
            [1.0], [pool.fullness for pool in self.pools('gpu2').values()]
        )
        self.assert_built(self.flavor(large), 'gpu2')
        self.assert_consistent()


class ExplainTest(StalenessTest):
    """What is explained from the database is what schedulers do with it."""

    def test_as_it_is_done(self) -> None:
        for name, nodes in (('apart', (0, 1)), ('near', (1, 1))):
            fake = self.new_host(name)
            for number, (address, node) in enumerate(
                zip(CARDS, nodes, strict=True)
            ):
                fake.add_gpu(
                    address, 0x2235, iommu_group=number, numa_node=node
                )
            self.start_gpu_compute(name)
        self._run_periodics()
        near = {f'resources:{A40}': '2', 'gpu:topology': 'numa'}
        first, second = self.explained(near)
        self.assertEqual(
            ('near', 'passes', 'apart', 'refused by GpuFilter'),
            (*first[:2], *second[:2]),
        )
        specs = {key.replace(':', '__'): value for key, value in near.items()}
        self.assert_built(self.gpu_flavor(**specs), 'near')
        self._run_periodics()
        for host, decision, reason in self.explained(near):
            expected = ('refused by GpuFilter', 'it has no such')
            if host == 'near':
                expected = ('refused by Placement', 'has 0 free')
            self.assertEqual(expected[0], decision)
            self.assertIn(expected[1], reason)
        error = self.assertRaises(
            actions.ActionError, actions.create, self, self.gpu_flavor(**specs)
        )
        self.assertIn('No valid host was found', error.message)
        self.assertIn(
            f'Host apart is refused: {second[2]}', self.stdlog.logger.output
        )

    def test_candidates_are_those_of_placement(self) -> None:
        fake = self.new_host('gpu1')
        for number, address in enumerate((*CARDS, '0000:23:00.0')):
            fake.add_gpu(
                address, 0x1EB8, iommu_group=number, driver='nvidia',
                types=hosts.T4_TYPES, units=16,
            )  # fmt: skip
        fake.add_gpu('0000:81:00.0', 0x2235, iommu_group=8)
        self.start_gpu_compute('gpu1')
        for name in (T4_4Q, T4_8Q, T4_8Q):
            self.boot(self.flavor(name))
        self._run_periodics()
        for query, isolate in (
            (f'resources={T4_4Q}:1', False),
            (f'resources={T4_4Q}:4', False),
            (f'resources={T4_8Q}:1,{A40}:1', False),
            (f'resources={A40}:2', False),
            (f'resources1={T4_8Q}:1&resources2={T4_8Q}:1', False),
            (f'resources1={T4_8Q}:1&resources2={T4_8Q}:1', True),
            (f'resources1={T4_4Q}:2&resources2={T4_4Q}:2', False),
            (f'resources1={T4_4Q}:1&resources2={T4_8Q}:2', False),
        ):
            policy = 'isolate' if isolate else 'none'
            url = f'/allocation_candidates?{query}&group_policy={policy}'
            body = self.placement.get(url, version='1.36').body
            context = nova_context.get_admin_context()
            (node,) = objects.ComputeNodeList.get_all(context)
            gpus = read_map(node.uuid, node.stats[STATS_KEY])
            specs = {
                f'{group}:{amount.partition(":")[0]}': amount.partition(':')[2]
                for part in query.split('&')
                for group, _, amounts in [part.partition('=')]
                for amount in amounts.split(',')
            }
            asked = likely.parts(specs, gpus.classes)
            self.assertEqual(
                _amounts(body['allocation_requests']),
                _amounts(likely.candidates(gpus.providers, asked, isolate)),
                (query, isolate),
            )

    def explained(self, specs: dict[str, str]) -> list[tuple[str, str, str]]:
        """Host, decision and reason, by the rows of the table."""
        context = nova_context.get_admin_context()
        path = self.hosts['near'].root / 'maps.json'
        path.write_text(
            json.dumps(
                [
                    {'host': n.host, 'uuid': n.uuid,
                     'stats': json.dumps(n.stats)}
                    for n in objects.ComputeNodeList.get_all(context)
                ]
            )
        )  # fmt: skip
        arguments = [
            word
            for key, value in specs.items()
            for word in ('--property', f'{key}={value}')
        ]
        code, out, err = self.run_nova_gpu(
            'schedule', 'explain', '-f', 'json', '--maps', str(path),
            *arguments,
        )  # fmt: skip
        self.assertEqual((0, ''), (code, err))
        return [
            (row['Host'], row['Decision'], row['Reason'])
            for row in json.loads(out)
        ]


def _amounts(candidates: list[Any]) -> set[tuple[tuple[str, str, int], ...]]:
    """The candidates by what each takes, of provider and class."""
    return {
        tuple(
            sorted(
                (provider, name, count)
                for provider, allocation in candidate['allocations'].items()
                for name, count in allocation['resources'].items()
            )
        )
        for candidate in candidates
    }
