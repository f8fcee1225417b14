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

"""The services that the commands ask, over one connection."""

from __future__ import annotations

from typing import Any

from nova_gpu.osc.compute import Compute
from nova_gpu.osc.flavors import Flavors
from nova_gpu.osc.identity import Identity
from nova_gpu.osc.trees import Hosts


class Cloud:
    """Placement, Nova and Keystone as one user sees them.

    :param connection: an :class:`openstack.connection.Connection`
    """

    def __init__(self, connection: Any) -> None:
        self.placement = Hosts(connection)
        self.compute = Compute(connection)
        self.flavors = Flavors(connection)
        self.identity = Identity(connection)

    @classmethod
    def of(cls, app: Any) -> Cloud:
        """The cloud of a running client.

        The client manager keeps what plugins make for it in its class, so
        that two clients in one process would share it.
        """
        return cls(app.client_manager.sdk_connection)
