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

"""Guests on the NUMA nodes of their GPUs: the compute's part.

Nova's scheduler can ask a host for NUMA nodes that are near to physical
networks, and its claim on the host observes that. So each node of a host with
GPUs is reported with a name of ours among its networks; no port of a server
ever has it. Nova's claim comes first: cards are taken on the nodes to which
it has fitted the guest.
"""

from __future__ import annotations

from typing import Any

from nova.objects.numa import NUMATopology

from nova_gpu.model import numa


def report(topology: str | None) -> str | None:
    """A host's NUMA topology as its driver reports it, with our names."""
    if topology is None:
        return None
    found = NUMATopology.obj_from_db_obj(topology)
    for cell in found.cells:
        metadata = cell.network_metadata
        metadata.physnets = metadata.physnets | {numa.name_of(cell.id)}
    text: str = found._to_json()
    return text


def nodes_of(topology: Any, host: Any) -> numa.Nodes:
    """The host's nodes that a guest is on; None if it can't be on others.

    :param topology: an InstanceNUMATopology as it was fitted to the host, or
        None
    :param host: a :class:`nova.virt.libvirt.host.Host`
    """
    if not topology:
        return None
    known = host.get_capabilities().host.topology
    if known is None or len(known.cells) < 2:
        return None
    return frozenset(cell.id for cell in topology.cells)


def claimed_by_move(instance: Any) -> Any:
    """Where a running guest will be, on the host that it is moved to."""
    context = instance.migration_context
    return context and context.new_numa_topology
