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

"""What a host reports of its NUMA nodes, and where its guests are."""

from __future__ import annotations

import types
from typing import Any

import testtools
from nova import objects
from nova.virt.libvirt import config as vconfig

from nova_gpu.virt import numa

objects.register_all()


def host(cells: int | None) -> Any:
    """A host of libvirt's with so many nodes; None: it tells none."""
    caps = vconfig.LibvirtConfigCaps()
    caps.host = vconfig.LibvirtConfigCapsHost()
    if cells is not None:
        caps.host.topology = vconfig.LibvirtConfigCapsNUMATopology()
        for number in range(cells):
            cell = vconfig.LibvirtConfigCapsNUMACell()
            cell.id = number
            caps.host.topology.cells.append(cell)
    return types.SimpleNamespace(get_capabilities=lambda: caps)


def guest(*nodes: int) -> objects.InstanceNUMATopology:
    """A guest that Nova has fitted to nodes of a host."""
    return objects.InstanceNUMATopology(
        cells=[objects.InstanceNUMACell(id=node) for node in nodes]
    )


class ReportTest(testtools.TestCase):
    def test_no_topology(self) -> None:
        self.assertIsNone(numa.report(None))

    def test_names_come_to_the_networks(self) -> None:
        cells = [
            objects.NUMACell(
                id=number, cpuset={number}, pcpuset=set(), memory=512,
                cpu_usage=0, memory_usage=0, pinned_cpus=set(), siblings=[],
                mempages=[], socket=0,
                network_metadata=objects.NetworkMetadata(
                    physnets=physnets, tunneled=bool(number)
                ),
            )
            for number, physnets in ((0, {'physnet0'}), (1, set()))
        ]  # fmt: skip
        topology = objects.NUMATopology(cells=cells)
        text = numa.report(topology._to_json())
        found = objects.NUMATopology.obj_from_db_obj(text)
        self.assertEqual(
            [({'physnet0', 'nova-gpu:0'}, False), ({'nova-gpu:1'}, True)],
            [
                (c.network_metadata.physnets, c.network_metadata.tunneled)
                for c in found.cells
            ],
        )
        for old, new in zip(cells, found.cells, strict=True):
            new.network_metadata = old.network_metadata
            self.assertEqual(old, new)


class NodesTest(testtools.TestCase):
    def test_where_a_guest_is(self) -> None:
        for nodes in ([1], [0, 1]):
            self.assertEqual(
                frozenset(nodes), numa.nodes_of(guest(*nodes), host(2))
            )

    def test_guests_that_can_be_nowhere_else(self) -> None:
        self.assertIsNone(numa.nodes_of(None, host(2)))
        for cells in (None, 0, 1):
            self.assertIsNone(numa.nodes_of(guest(0), host(cells)))

    def test_guests_that_are_moved(self) -> None:
        instance = objects.Instance(migration_context=None)
        self.assertIsNone(numa.claimed_by_move(instance))
        instance.migration_context = objects.MigrationContext(
            new_numa_topology=guest(1)
        )
        found = numa.claimed_by_move(instance)
        self.assertEqual({1}, numa.nodes_of(found, host(2)))
