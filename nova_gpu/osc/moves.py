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


"""Giving a server another flavor: a resize, confirmed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nova_gpu.model.flavor import Flavor
from nova_gpu.osc import error
from nova_gpu.osc.flavors import from_record

#: Servers in other states aren't resized by Nova.
READY = ('ACTIVE', 'SHUTOFF')
WAITING = 'VERIFY_RESIZE'
#: Seconds between two looks at the server.
POLL = 1.0

#: Is told how far the resize is.
Tell = Callable[[str], None]


class Moves:
    """Resizes servers.

    :param tell: is told each new state of a server
    :param patience: how many seconds a server may take for each half
    """

    def __init__(self, connection: Any, tell: Tell, patience: float) -> None:
        self._compute = connection.compute
        self._tell = tell
        self._patience = patience

    def find(self, name: str) -> Any:
        """The server of that name or ID.

        :raises NotMoved: the user sees none
        """
        with error.asking('Nova', 'see servers'):
            found = self._compute.find_server(name, ignore_missing=True)
        if found is None:
            raise error.NotMoved(
                name,
                'is not in your project; see "openstack server list", or '
                'give the ID of a server of another project',
            )
        return found

    def flavor_of(self, server: Any) -> Flavor:
        """What the server has kept of its flavor."""
        return from_record(server.flavor)

    def to(self, server: Any, flavor: Flavor) -> Any:
        """Resize a server to a flavor, and confirm it.

        :raises NotMoved: it stays, or stands still on its way
        """
        if server.status not in READY:
            raise error.NotMoved(
                server.name,
                f'is {server.status}, and only one that is '
                f'{" or ".join(READY)} can be resized',
            )
        with error.changing('Nova', f'resize the server {server.name}'):
            self._compute.resize_server(server, flavor.id)
        moved = self._wait(server, lambda s: s.status in (*READY, WAITING))
        if moved.status == WAITING:
            with error.changing('Nova', f'confirm server {server.name}'):
                self._compute.confirm_server_resize(server)
            moved = self._wait(server, lambda s: s.status in READY)
        # Nova may have confirmed it itself; or it has given up, and the
        # server is as it was before.
        if self.flavor_of(moved).name != flavor.name:
            raise error.NotMoved(
                server.name,
                f'stays as it was, since it could not be resized to '
                f'{flavor.name}: {self._why(server)}; see "openstack gpu '
                f'flavor check {flavor.name}"',
            )
        return moved

    def _wait(self, server: Any, done: Callable[[Any], bool]) -> Any:
        end = time.monotonic() + self._patience
        before = None
        while True:
            with error.asking('Nova', f'see the server {server.name}'):
                found = self._compute.get_server(server.id)
            state = f'{server.name}: {found.status}'
            if found.task_state:
                state += f', {found.task_state}'
            if state != before:
                self._tell(state)
                before = state
            if found.status == 'ERROR':
                raise error.NotMoved(
                    server.name,
                    f'is in ERROR: {self._why(server)}; see "openstack '
                    f'server show {server.id}"',
                )
            if done(found) and not found.task_state:
                return found
            if time.monotonic() > end:
                raise error.NotMoved(
                    server.name,
                    f'is still {found.status}, and goes on; look at it with '
                    f'"openstack server show {server.id}", and once it is '
                    f'{WAITING} use "openstack server resize confirm '
                    f'{server.id}"',
                )
            time.sleep(POLL)

    def _why(self, server: Any) -> str:
        """What Nova says of the last resize; members see less of it."""
        with error.asking('Nova', f'see what became of {server.name}'):
            for action in self._compute.server_actions(server):
                if action.action != 'resize':
                    continue
                details = self._compute.get_server_action(
                    action.request_id, server
                )
                texts = [e.details for e in details.events or () if e.details]
                return ' '.join(str((*texts, details.message)[0]).split())
        return 'Nova does not say why'
