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

"""Servers whose CPUs and memory are on the NUMA node of their GPUs."""

from __future__ import annotations

from typing import Any

from lxml import etree

from tests.fixtures import hosts
from tests.functional import actions, base

A40 = 'CUSTOM_GPU_NVIDIA_A40'
T4_4Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q'
A10_4Q = 'CUSTOM_VGPU_NVIDIA_A10_4Q'
#: CPUs of each node, one of which is for guests that aren't pinned.
CPUS = 6
PINNED = CPUS - 1
NO_HOST = 'No valid host was found'


class NumaTest(base.GpuServersTest):
    """Hosts of two nodes."""

    # What fails on a host is tried on the next.
    CAST_AS_CALL = False
    ADDITIONAL_FILTERS = ['NUMATopologyFilter', 'GpuFilter']

    def setUp(self) -> None:
        super().setUp()
        self.flags(
            cpu_shared_set=f'0,{CPUS}',
            cpu_dedicated_set=f'1-{CPUS - 1},{CPUS + 1}-{2 * CPUS - 1}',
            group='compute',
        )

    def start(self, name: str, *nodes: int) -> None:
        """Start a host with an A40 on each of ``nodes``."""
        fake = self.new_host(name)
        for number, node in enumerate(nodes):
            fake.add_gpu(
                f'0000:{number + 0x21:02x}:00.0', 0x2235,
                iommu_group=number, numa_node=node,
            )  # fmt: skip
        self.start_gpu_compute(name)

    def flavor(
        self,
        affinity: str | None = 'required',
        resource_class: str = A40,
        count: int = 1,
        vcpu: int = 2,
        **specs: str,
    ) -> str:
        """A flavor for a guest with pinned CPUs."""
        specs = {'hw__cpu_policy': 'dedicated', **specs}
        if affinity is not None:
            specs['gpu__numa_affinity'] = affinity
        specs[f'resources__{resource_class}'] = str(count)
        return self.gpu_flavor(vcpu=vcpu, **specs)

    def guest_nodes(self, server: Any) -> set[int]:
        """Where the guest's CPUs and memory are, by its definition."""
        name = server['OS-EXT-SRV-ATTR:instance_name']
        root = etree.fromstring(self.defined[name])
        cpus = root.xpath('cputune/vcpupin/@cpuset')
        memory = root.xpath('numatune/memnode/@nodeset')
        self.assertEqual(
            {int(cpu) // CPUS for cpu in ','.join(cpus).split(',')},
            {int(node) for node in memory},
        )
        return {int(node) for node in memory}

    def gpu_nodes(self, server: Any) -> set[int]:
        """Where the server's GPUs are."""
        driver = self.computes[self.host(server)].driver
        cards = {unit.card for unit in driver._gpus.units_of(server['id'])}
        view = driver._gpus.view()
        return {c.numa_node for c in view.snapshot.cards if c.address in cards}

    def assert_near(self, server: Any) -> None:
        nodes = self.gpu_nodes(server)
        self.assertNotEqual(set(), nodes)
        self.assertLessEqual(nodes, self.guest_nodes(server))

    def host(self, server: Any) -> str:
        name: str = server['OS-EXT-SRV-ATTR:host']
        return name

    def fill(self, node: int) -> None:
        """Take the CPUs of a node, and leave the others."""
        flavor = self.gpu_flavor(vcpu=PINNED, hw__cpu_policy='dedicated')
        servers = [actions.create(self, flavor) for _ in range(2)]
        for server in servers:
            if self.guest_nodes(server) != {node}:
                actions.delete(self, server)

    def refusal(self, flavor: str) -> str:
        error = self.assertRaises(
            actions.ActionError, actions.create, self, flavor
        )
        actions.delete(self, error.server)
        return error.message


class WholeCardsTest(NumaTest):
    def test_where_the_card_is(self) -> None:
        self.start('gpu1', 1)
        for affinity in ('required', 'preferred', None):
            server = actions.create(self, self.flavor(affinity))
            self.assertEqual({1}, self.guest_nodes(server))
            self.assert_near(server)
            actions.delete(self, server)
        # What Nova does by itself.
        server = actions.create(self, self.flavor('none'))
        self.assertEqual({0}, self.guest_nodes(server))
        self.assertEqual({1}, self.gpu_nodes(server))
        self.assert_consistent()

    def test_node_that_is_full(self) -> None:
        self.start('gpu1', 1)
        self.fill(1)
        self.assertIn(NO_HOST, self.refusal(self.flavor('required')))
        server = actions.create(self, self.flavor('preferred'))
        self.assertEqual({0}, self.guest_nodes(server))
        self.assertEqual({1}, self.gpu_nodes(server))
        self.assert_consistent()

    def test_guests_that_are_not_fitted_to_a_node(self) -> None:
        self.start('gpu1', 1)
        self.fill(1)
        flavor = self.gpu_flavor(
            resources__CUSTOM_GPU_NVIDIA_A40='1',
            gpu__numa_affinity='required',
        )
        actions.create(self, flavor)
        self.assert_consistent()

    def test_guest_that_is_fitted_and_not_pinned(self) -> None:
        self.start('gpu1', 1)
        flavor = self.flavor(
            vcpu=1, hw__cpu_policy='shared', hw__numa_nodes='1'
        )
        server = actions.create(self, flavor)
        self.assertEqual({1}, self.guest_nodes(server))

    def test_one_after_another_while_the_map_is_old(self) -> None:
        self.start('gpu1', 0, 1)
        flavor = self.flavor()
        first = actions.create(self, flavor)
        self._run_periodics()
        actions.delete(self, first)
        servers = []
        for _ in range(2):
            servers.append(actions.create(self, flavor))
            self.assert_near(servers[-1])
        for server in servers:
            actions.delete(self, server)
            self.assert_near(actions.create(self, flavor))
        self.assert_consistent()

    def test_several_at_once(self) -> None:
        self.start('gpu1', 0, 0, 1, 1)
        for server in actions.create_many(self, self.flavor(), 4):
            self.assertEqual('ACTIVE', server['status'])
            self.assert_near(server)
        self.assert_consistent()

    def test_cards_on_two_nodes(self) -> None:
        self.start('gpu1', 0, 1)
        one_node = {'count': 2}
        self.assertIn(NO_HOST, self.refusal(self.flavor(**one_node)))
        server = actions.create(self, self.flavor('preferred', **one_node))
        self.assertEqual({0, 1}, self.gpu_nodes(server))
        actions.delete(self, server)
        server = actions.create(self, self.flavor(count=2, hw__numa_nodes='2'))
        self.assertEqual({0, 1}, self.guest_nodes(server))
        self.assert_near(server)

    def test_card_of_which_the_node_is_not_known(self) -> None:
        self.start('gpu1', -1)
        self.assertIn(NO_HOST, self.refusal(self.flavor('required')))
        actions.create(self, self.flavor('preferred'))

    def test_host_whose_cards_are_free_on_the_node(self) -> None:
        """Others come last, even if more of their cards are in use."""
        self.start('gpu1', 0, 1)
        self.start('gpu2', 0, 1)
        on_one = actions.create(self, self.flavor(), 'gpu1')
        (node,) = {0, 1} - self.guest_nodes(on_one)
        self.fill(node)
        self._run_periodics()
        server = actions.create(self, self.flavor('preferred'))
        self.assertEqual('gpu2', self.host(server))
        self.assert_near(server)
        # It goes where more is in use if it doesn't care.
        server = actions.create(self, self.flavor('none'))
        self.assertEqual('gpu1', self.host(server))

    def test_moves(self) -> None:
        self.start('gpu1', 1)
        self.start('gpu2', 0)
        larger = self.flavor(vcpu=3)
        server = actions.create(self, self.flavor(), 'gpu1')
        self.assertEqual({1}, self.guest_nodes(server))
        server = actions.cold_migrate(self, server)
        self.assertEqual('gpu2', self.host(server))
        self.assertEqual({0}, self.guest_nodes(server))
        server = actions.confirm(self, server)
        server = actions.resize(self, server, larger)
        server = actions.confirm(self, server)
        self.assert_near(server)
        server = actions.unshelve(self, actions.shelve(self, server))
        self.assert_near(server)
        self.assert_consistent()


class VgpusTest(NumaTest):
    def test_near_to_a_card_that_has_room(self) -> None:
        for form, resource_class in (
            (hosts.four_t4, T4_4Q),
            (hosts.a10_vendor_vfio, A10_4Q),
        ):
            name = form.__name__.replace('_', '-')
            form(self.new_host(name))
            self.start_gpu_compute(name)
            flavor = self.flavor(resource_class=resource_class)
            servers = [actions.create(self, flavor, name) for _ in range(4)]
            for server in servers:
                self.assert_near(server)
            nodes = {frozenset(self.guest_nodes(s)) for s in servers}
            # Two guests fill a node's CPUs: the card of the other follows.
            self.assertEqual({frozenset({0}), frozenset({1})}, nodes)
            self.assertIn(NO_HOST, self.refusal(flavor))
            self.assert_consistent()

    def test_card_that_is_not_near(self) -> None:
        self.new_host('gpu1').add_gpu(
            '0000:21:00.0', 0x1EB8, numa_node=1, iommu_group=21,
            driver='nvidia', types=hosts.T4_TYPES, units=16,
        )  # fmt: skip
        self.start_gpu_compute('gpu1')
        flavor = self.flavor('preferred', T4_4Q)
        self.fill(1)
        server = actions.create(self, flavor)
        self.assertEqual({0}, self.guest_nodes(server))
        self.assertEqual({1}, self.gpu_nodes(server))
        required = self.flavor('required', T4_4Q)
        self.assertIn(NO_HOST, self.refusal(required))
        self.assert_consistent()

    def test_live_migration(self) -> None:
        for name in ('gpu1', 'gpu2'):
            hosts.four_t4(self.new_host(name))
            self.start_gpu_compute(
                name, libvirt_version=10000000, qemu_version=8002002
            )
        flavor = self.flavor(resource_class=T4_4Q)
        server = actions.create(self, flavor, 'gpu1')
        server = actions.live_migrate(self, server, 'gpu2')
        self.assertEqual('gpu2', self.host(server))
        self.assert_near(server)
        self.assert_consistent()


class WithoutFilterTest(NumaTest):
    """The scheduler doesn't look at NUMA nodes at all."""

    ADDITIONAL_FILTERS = ['GpuFilter']

    def test_compute_refuses(self) -> None:
        self.start('gpu1', 1)
        self.assertIn(
            'Exceeded maximum number of retries',
            self.refusal(self.flavor('required')),
        )
        self.assertIn(
            'has to name NUMATopologyFilter', self.stdlog.logger.output
        )
        server = actions.create(self, self.flavor('preferred'))
        self.assertEqual({0}, self.guest_nodes(server))
        self.assertEqual({1}, self.gpu_nodes(server))
        self.assert_consistent()
