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

"""What Nova says of flavors, servers and hosts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from openstack import exceptions as sdk_exceptions

from nova_gpu.model.capacity import classes
from nova_gpu.osc import error


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """A server; ``classes`` are the units that its flavor asks for."""

    id: str
    name: str
    project: str
    flavor: str
    status: str
    classes: Mapping[str, int]


class Compute:
    """The servers and hosts that Nova lets the user see.

    :param connection: an :class:`openstack.connection.Connection`
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def servers(self, all_projects: bool = False) -> list[Server]:
        """All servers of the user's project, or of all projects."""
        with error.asking('Nova', 'see the servers'):
            found = self._connection.compute.servers(
                details=True, all_projects=all_projects
            )
            return [_server(record) for record in found]

    def server(self, server_id: str) -> Server | None:
        """A server by its ID; None if no server has it."""
        with error.asking('Nova', f'see server {server_id}'):
            try:
                found = self._connection.compute.get_server(server_id)
            except sdk_exceptions.NotFoundException:
                return None
            return _server(found)

    def states(self) -> dict[str, str]:
        """Of each compute node ``up``, ``down`` or ``disabled``."""
        with error.asking('Nova', 'see the state of the hosts'):
            return {
                node.name: (
                    node.state
                    if node.status == 'enabled' or node.state == 'down'
                    else 'disabled'
                )
                for node in self._connection.compute.hypervisors(details=True)
            }


def _server(record: Any) -> Server:
    flavor = record.flavor
    return Server(
        id=record.id,
        name=record.name,
        project=record.project_id,
        # The flavor itself may be gone, or be another one now.
        flavor=flavor.original_name or flavor.name,
        status=record.status,
        classes=classes(flavor.extra_specs or {}),
    )
