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

"""What users and operators do to servers, each by the API until it's over.

An action takes the test (a :class:`tests.functional.base.GpuServersTest`)
and a server, and returns the server as the API shows it afterwards. What
isn't done raises :class:`ActionError` with the message that the user gets.
Whether casts are calls or not makes no difference. Nothing here knows GPUs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.functional import base

Server = dict[str, Any]

#: How often to look, in seconds: rarely, as in one process the API takes its
#: time from those who act.
FIRST_LOOK, LAST_LOOK = 0.15, 0.6

ANY = ('ACTIVE', 'SHUTOFF', 'PAUSED', 'SUSPENDED', 'RESCUE', 'ERROR',
       'SHELVED', 'SHELVED_OFFLOADED', 'VERIFY_RESIZE')  # fmt: skip

#: What is said of a migration that fails on its way; Nova says nothing.
FAILED = 'the migration has failed'


class ActionError(Exception):
    """An action that the API refuses, or that fails later.

    :param message: what the user is told: by the API's error, or by the
        events of the instance action
    :param code: the HTTP status, None if it failed later
    :param server: as the API shows it afterwards
    """

    def __init__(self, message: str, code: int | None, server: Server) -> None:
        super().__init__(f'{message} ({code or "later"})')
        # Nova ends some with a space, for reasons that it doesn't have.
        self.message = message.strip()
        self.code = code
        self.server = server


@dataclasses.dataclass(frozen=True)
class Action:
    """An action, and what a caller at random has to know of it.

    :param statuses: those of servers for which the API takes it
    :param parameters: the names of those that it has beside the server;
        ``flavor`` has to be given, all others may be
    """

    name: str
    perform: Callable[..., Server | None]
    statuses: tuple[str, ...]
    parameters: tuple[str, ...] = ()


#: All actions on a server that exists, by name.
ACTIONS: dict[str, Action] = {}


def action(
    *statuses: str, parameters: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a function into ``ACTIONS``."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__
        ACTIONS[name] = Action(name, function, statuses, parameters)
        return function

    return register


# Beginning and end.


def create(
    test: Any, flavor: str, host: str | None = None, **fields: Any
) -> Server:
    """Boot a server.

    :param fields: more of the request's; ``hints`` are for the scheduler
    """
    hints = fields.pop('hints', None)
    body = test._build_server(flavor_id=flavor, networks='none', host=host)
    if 'block_device_mapping_v2' in fields:
        del body['imageRef']
    request: dict[str, Any] = {'server': {**body, **fields}}
    if hints:
        request['os:scheduler_hints'] = hints
    server_id = test.api.post_server(request)['id']
    return _built(test, server_id)


def create_many(test: Any, flavor: str, count: int) -> list[Server]:
    """Boot several servers by one request."""
    body = test._build_server(flavor_id=flavor, networks='none')
    body.update(min_count=count, max_count=count, return_reservation_id=True)
    reservation = test.api.post_server({'server': body})['reservation_id']
    found = test.api.get_servers(search_opts={'reservation_id': reservation})
    return [_built(test, server['id']) for server in found]


@action(*ANY)
def delete(test: Any, server: Server) -> None:
    """Delete a server; what it was allocated is free again."""
    consumers = [server['id'], *(m['uuid'] for m in _migrations(test, server))]
    _send(test, server, lambda: test.api.delete_server(server['id']))

    def gone() -> bool:
        try:
            found = test.api.get_server(server['id'])
        except base.ApiError:
            return not any(_allocations(test, c) for c in consumers)
        if found['status'] == 'ERROR' and server['status'] != 'ERROR':
            raise ActionError(found['fault']['message'], None, found)
        return False

    _wait(gone, f'the end of server {server["id"]}')


# On the server's own host.


@action('ACTIVE')
def reboot_soft(test: Any, server: Server) -> Server:
    """Reboot: the guest is asked to shut down."""
    return _act(test, server, {'reboot': {'type': 'SOFT'}}, 'ACTIVE')


@action('ACTIVE', 'SHUTOFF', 'PAUSED', 'SUSPENDED', 'ERROR')
def reboot_hard(test: Any, server: Server) -> Server:
    """Reboot: the guest is made again."""
    return _act(test, server, {'reboot': {'type': 'HARD'}}, 'ACTIVE')


@action('ACTIVE')
def stop(test: Any, server: Server) -> Server:
    """Shut the guest down."""
    return _act(test, server, {'os-stop': None}, 'SHUTOFF')


@action('SHUTOFF')
def start(test: Any, server: Server) -> Server:
    """Start a guest that was shut down."""
    return _act(test, server, {'os-start': None}, 'ACTIVE')


@action('ACTIVE')
def pause(test: Any, server: Server) -> Server:
    """Hold the guest's CPUs."""
    return _act(test, server, {'pause': None}, 'PAUSED')


@action('PAUSED')
def unpause(test: Any, server: Server) -> Server:
    """Let the guest's CPUs run on."""
    return _act(test, server, {'unpause': None}, 'ACTIVE')


@action('ACTIVE')
def suspend(test: Any, server: Server) -> Server:
    """Save the guest's memory to disk."""
    return _act(test, server, {'suspend': None}, 'SUSPENDED')


@action('SUSPENDED')
def resume(test: Any, server: Server) -> Server:
    """Run a guest on from its saved memory."""
    return _act(test, server, {'resume': None}, 'ACTIVE')


@action('ACTIVE', 'SHUTOFF', parameters=('image',))
def rebuild(test: Any, server: Server, image: str | None = None) -> Server:
    """Make the guest anew from its image, or from another."""
    image = image or server['image']['id']
    body = {'rebuild': {'imageRef': image}}
    return _act(test, server, body, server['status'])


@action('ACTIVE', 'SHUTOFF')
def rescue(test: Any, server: Server) -> Server:
    """Boot the guest from a rescue image."""
    return _act(test, server, {'rescue': {}}, 'RESCUE')


@action('RESCUE')
def unrescue(test: Any, server: Server) -> Server:
    """Boot a rescued guest from its own disk."""
    return _act(test, server, {'unrescue': None}, 'ACTIVE')


@action('ACTIVE', 'SHUTOFF', 'PAUSED', 'SUSPENDED')
def shelve(test: Any, server: Server) -> Server:
    """Shelve a server; ``shelved_offload_time`` says if that offloads it."""
    return _act(test, server, {'shelve': None}, 'SHELVED', 'SHELVED_OFFLOADED')


@action('SHELVED')
def shelve_offload(test: Any, server: Server) -> Server:
    """Remove a shelved server from its host."""
    return _act(test, server, {'shelveOffload': None}, 'SHELVED_OFFLOADED')


# From one host to another, or from one flavor to another.


@action('SHELVED', 'SHELVED_OFFLOADED', parameters=('host',))
def unshelve(test: Any, server: Server, host: str | None = None) -> Server:
    """Boot a shelved server; only an offloaded one on another host."""
    where = {'host': host} if host else None
    return _act(test, server, {'unshelve': where}, 'ACTIVE')


@action('ACTIVE', 'SHUTOFF', parameters=('flavor', 'host'))
def resize(
    test: Any, server: Server, flavor: str, host: str | None = None
) -> Server:
    """Give a server another flavor; it waits for confirm or revert then.

    :param host: where, by keeping new servers away from all others; the
        server's own needs ``allow_resize_to_same_host``
    """
    body = {'resize': {'flavorRef': flavor}}
    with _only(test, host):
        return _act(test, server, body, 'VERIFY_RESIZE', over='finished')


@action('ACTIVE', 'SHUTOFF', parameters=('host',))
def cold_migrate(test: Any, server: Server, host: str | None = None) -> Server:
    """Move a server, stopped; it waits for confirm or revert then."""
    where = {'host': host} if host else None
    return _act(
        test, server, {'migrate': where}, 'VERIFY_RESIZE', over='finished'
    )


@action('VERIFY_RESIZE')
def confirm(test: Any, server: Server) -> Server:
    """Let a server be as it was resized or migrated."""
    body = {'confirmResize': None}
    return _act(test, server, body, 'ACTIVE', 'SHUTOFF', over='confirmed')


@action('VERIFY_RESIZE')
def revert(test: Any, server: Server) -> Server:
    """Let a server be as it was before a resize or a migration."""
    body = {'revertResize': None}
    return _act(test, server, body, 'ACTIVE', 'SHUTOFF', over='reverted')


@action('ACTIVE', 'PAUSED', parameters=('host',))
def live_migrate(test: Any, server: Server, host: str | None = None) -> Server:
    """Move a running guest."""
    body = {'os-migrateLive': {'host': host, 'block_migration': 'auto'}}
    return _act(test, server, body, server['status'], over='completed')


@action('ACTIVE', 'SHUTOFF', 'ERROR', parameters=('host',))
def evacuate(test: Any, server: Server, host: str | None = None) -> Server:
    """Lose the server's host, and make the server on another.

    The host is down afterwards: see :func:`bring_back`.
    """
    lose(test, server['OS-EXT-SRV-ATTR:host'])
    body = {'evacuate': {'host': host} if host else {}}
    return _act(test, server, body, 'ACTIVE', 'SHUTOFF', over='done')


def lose(test: Any, host: str) -> None:
    """Let a host be down; its guests may be running, nobody knows."""
    test.computes[host].stop()
    _force_down(test, host, True)


def bring_back(test: Any, host: str) -> None:
    """Start nova-compute on a host that was lost."""
    # In this order: the API wants evacuations to be known there first.
    test.restart_gpu_compute(host)
    _force_down(test, host, False)


def _force_down(test: Any, host: str, down: bool) -> None:
    (service,) = test.api.get_services(binary='nova-compute', host=host)
    test.api.put_service(service['id'], {'forced_down': down})


@contextlib.contextmanager
def _only(test: Any, host: str | None) -> Iterator[None]:
    """Keep the scheduler away from all hosts but one."""
    others = []
    if host is not None:
        others = [
            service['id']
            for service in test.api.get_services(binary='nova-compute')
            if service['host'] != host and service['status'] == 'enabled'
        ]
    for service in others:
        test.api.put_service(service, {'status': 'disabled'})
    try:
        yield
    finally:
        for service in others:
            test.api.put_service(service, {'status': 'enabled'})


# How an action is sent, and how one knows that it's over.


def _send(test: Any, server: Server, send: Callable[[], Any]) -> None:
    try:
        send()
    except base.ApiError as exc:
        code = exc.response.status_code
        # If casts are calls, what fails later is an error of the server.
        if code < 500:
            (error,) = exc.response.json().values()
            raise ActionError(
                error['message'], code, _show(test, server)
            ) from exc


def _act(
    test: Any, server: Server, body: object, *statuses: str, over: str = ''
) -> Server:
    """Send an action and wait until it's over.

    :param statuses: those that the server may have if it's done
    :param over: the status that its migration then has, if it has one
    """
    seen = {a['request_id'] for a in _actions(test, server)}
    before = _show(test, server)['status']
    moves = {m['uuid'] for m in _migrations(test, server)} if over else set()
    _send(
        test, server, lambda: test.api.post_server_action(server['id'], body)
    )
    decided = over in ('confirmed', 'reverted')
    if decided:
        moves = set()  # it is that of the move before

    def outcome() -> Server | None:
        # In this order: what shows the server at rest has begun its last
        # event before.
        found = _show(test, server)
        if found['OS-EXT-STS:task_state'] is not None:
            return None
        events = _events(test, server, seen)
        if not events or any(e['finish_time'] is None for e in events):
            return None
        errors = [e for e in events if e['result'] == 'Error']
        status = found['status']
        if errors and (status not in statuses or status == before):
            details = (e['details'] for e in errors)
            message = next(filter(None, details), str(errors[0]))
            raise ActionError(message, None, found)
        states = {
            m['status']
            for m in (_migrations(test, server) if over else ())
            if m['uuid'] not in moves
        }
        if not decided and states & {'error', 'failed'}:
            raise ActionError(FAILED, None, found)
        if status not in statuses or (over and over not in states):
            return None
        # Shown anew: an evacuation changes the host after the status.
        return _show(test, server)

    return _wait(outcome, f'{body} of server {server["id"]}')


def _built(test: Any, server_id: str) -> Server:
    def outcome() -> Server | None:
        found: Server = test.api.get_server(server_id)
        if found['status'] == 'BUILD' or found['OS-EXT-STS:task_state']:
            return None
        if found['status'] == 'ERROR':
            return found if 'fault' in found else None
        events = _events(test, found, set())
        # Of a build that one host handed on to another Nova finishes one.
        handed_on = len({event['host'] for event in events}) > 1
        if not handed_on and any(e['finish_time'] is None for e in events):
            return None
        return found

    server = _wait(outcome, f'server {server_id}')
    if server['status'] == 'ERROR':
        raise ActionError(server['fault']['message'], None, server)
    return server


def _wait(outcome: Callable[[], Any], what: str) -> Any:
    """Ask until there is an outcome."""
    deadline = time.monotonic() + base.PATIENCE
    pause = FIRST_LOOK
    while not (found := outcome()):
        if time.monotonic() > deadline:
            raise AssertionError(f'gave up waiting for {what}')
        time.sleep(pause)
        pause = min(1.5 * pause, LAST_LOOK)
    return found


def _show(test: Any, server: Server) -> Server:
    found: Server = test.api.get_server(server['id'])
    return found


def _actions(test: Any, server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = test.api.get_instance_actions(server['id'])
    return found


def _events(test: Any, server: Server, seen: set[str]) -> list[dict[str, Any]]:
    """The events of all actions that weren't ``seen``, newest first."""
    return [
        event
        for found in _actions(test, server)
        if found['request_id'] not in seen
        for event in test.api.get_instance_action_details(
            server['id'], found['request_id']
        )['events']
    ]


def hosts_tried(test: Any, server: Server) -> list[str]:
    """The hosts that tried to build the server, in their order."""
    events = [
        event
        for event in _events(test, server, set())
        if event['event'] == 'compute__do_build_and_run_instance'
    ]
    return [
        event['host']
        for event in sorted(events, key=lambda e: e['start_time'])
    ]


def _migrations(test: Any, server: Server) -> list[dict[str, Any]]:
    """The server's moves, newest first."""
    url = f'/os-migrations?instance_uuid={server["id"]}'
    found: list[dict[str, Any]] = test.api.api_get(url).body['migrations']
    return found


def _allocations(test: Any, consumer: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = test.placement.get(
        f'/allocations/{consumer}'
    ).body['allocations']
    return found
