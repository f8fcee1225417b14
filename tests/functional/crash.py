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

"""Kills a cloud in the midst of an action, and goes on in another process.

A process of its own plays each story. The last thing that it does is to store
what isn't a nova-compute's, then it kills itself with SIGKILL: no ``except``,
``finally`` or ``atexit`` of it runs. Another process restores what is stored,
starts nova-compute again and audits what is there.

Processes are forked from a small server that has imported everything and has
no thread; the process of the tests may have some left from other tests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import multiprocessing
import os
import pathlib
import re
import signal
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from tests.functional import actions, base, oracle

Server = dict[str, Any]

#: How long a process may take, in seconds, until it's given up.
TIMEOUT = 300
#: What a server may be in while nothing is under way.
AT_REST = ('ACTIVE', 'SHUTOFF', 'RESCUE', 'VERIFY_RESIZE',
           'SHELVED_OFFLOADED')  # fmt: skip
#: Moves that Nova doesn't go on with after a crash.
UNFINISHED = ('pre-migrating', 'migrating', 'post-migrating', 'confirming',
              'reverting', 'error', 'accepted', 'preparing')  # fmt: skip
#: What :mod:`oracle` says of such: that Placement allocates something else
#: than is held. What it says of devices is never forgiven.
_FORGIVEN = re.compile(
    r'\w+: ('
    r'Placement allocates (?!nothing)|'
    r'the flavor of server|'
    r'.*server \S+ has no domain and nothing$'
    r')'
)


#: The same in the words of ``nova-gpu audit``.
ALLOCATIONS = ('allocated and not held', 'held without an allocation')


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of unit: the cards, and two flavors of them.

    :param make: puts cards into a host
    :param flavor: the extra specs of most servers' flavor
    :param other: those of what a server is resized to
    """

    name: str
    make: Callable[[Any], Any]
    flavor: dict[str, str]
    other: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Story:
    """An action, and what has to be done before it.

    :param act: the action; its server is None if there is none before
    :param before: actions that nothing interrupts
    :param hosts: how many hosts there are
    """

    name: str
    act: Callable[[Any, Any], Any]
    before: Sequence[Callable[[Any, Any], Any]] = ()
    hosts: int = 1


class Cloud(base.StoredCloud):
    """A cloud in which a story is played, up to its end or to a kill."""

    ADMIN_API = True

    def __init__(
        self,
        folder: pathlib.Path,
        schemas: pathlib.Path,
        kind: Kind,
        kill_at: int | None = None,
    ) -> None:
        super().__init__(folder, schemas)
        self.kind = kind
        self.kill_at = kill_at
        #: The moments at which the process could have been killed.
        self.moments: list[str] = []
        self._acting = False
        self._effects: Counter[str] = Counter()

    def setUp(self) -> None:
        self.flags(allow_resize_to_same_host=True, shelved_offload_time=0)
        super().setUp()

    @contextlib.contextmanager
    def effect(self, name: str, host: str) -> Iterator[None]:
        if not self._acting:
            yield
            return
        self._effects[name] += 1
        number = self._effects[name]
        if number > 1:
            name = f'{name} ({number})'
        self._pass(f'before: {name}')
        yield
        self._pass(f'after: {name}')

    def _pass(self, moment: str) -> None:
        if len(self.moments) == self.kill_at:
            self.store()
            os.kill(os.getpid(), signal.SIGKILL)
        self.moments.append(moment)

    def flavor(self, specs: dict[str, str]) -> str:
        return self.gpu_flavor(**specs)

    # The two processes.

    def play(self, story: Story) -> dict[str, Any]:
        """Play a story up to its end."""
        for number in range(1, story.hosts + 1):
            name = f'gpu{number}'
            self.kind.make(self.new_host(name))
            self.start_host(name)
        server = None
        if story.before or story.act is not create:
            server = create(self, None)
        for action in story.before:
            server = action(self, server)
        self._acting = True
        story.act(self, server)
        self._acting = False
        return {'moments': self.moments}

    def audit(self) -> dict[str, Any]:
        """Go on after a kill; returns all that is wrong, by when it is."""
        self.start_again()
        self._run_periodics()
        wrong = {'after the restart': self._differences(forgive=True)}
        wrong['by nova-gpu audit'] = self._audited(ALLOCATIONS)
        seen = [
            (s['status'], s['OS-EXT-STS:task_state'])
            for s in self.api.get_servers()
        ]
        wrong['after a hard reboot'] = self._mend()
        wrong['after a hard reboot'] += self._differences(forgive=True)
        for server in self.api.get_servers():
            self._delete_server(server)
        self._run_periodics()
        wrong['as it was left'] = self.remove_orphans()
        self._run_periodics()
        wrong['after the deletion'] = self._differences(forgive=False)
        try:
            self.assert_all_free()
        except Exception as exc:
            wrong['after the deletion'].append(str(exc))
        wrong['by nova-gpu audit, in the end'] = self._audited()
        return {'wrong': wrong, 'seen': seen}

    def _audited(self, forgiven: Collection[str] = ()) -> list[str]:
        """What the operator's own tool finds."""
        return [
            f'{name}: {found["Problem"]} {found["Device"]}'
            for name in self.computes
            for found in self.run_audit(name)[1]
            if found['Problem'] not in forgiven
        ]

    def _mend(self) -> list[str]:
        """Do what an operator does with a server that isn't well."""
        failed = []
        # Nova frees what the lost host has when that is back: there is
        # nothing to start there, nor anywhere else if it ended before.
        evacuated = {
            m['instance_uuid']
            for m in self.api.get_migrations()
            if m['migration_type'] == 'evacuation'
        }
        for server in self.api.get_servers():
            busy = server['OS-EXT-STS:task_state'] is not None
            if (
                server['OS-EXT-SRV-ATTR:host'] is None
                or server['id'] in evacuated
                or server['OS-SRV-USG:launched_at'] is None
                or (server['status'] in AT_REST and not busy)
            ):
                continue
            state = {'os-resetState': {'state': 'active'}}
            self.api.post_server_action(server['id'], state)
            try:
                actions.reboot_hard(self, server)
            except Exception as exc:
                failed.append(f'hard reboot of {server["status"]}: {exc}')
        return failed

    def _differences(self, *, forgive: bool) -> list[str]:
        """What :mod:`oracle` finds.

        :param forgive: Nova may allocate more than is held, or on another
            host, to a server that it calls broken, that it thinks to be busy
            or that has a move which nobody will ever finish
        """
        servers = self.api.get_servers()
        migrations = self.api.get_migrations()
        found = oracle.differences(
            [self.gpu_state(name) for name in self.computes],
            servers,
            migrations,
        )
        if not forgive:
            return found
        found = _without_moves(found)
        unwell = {
            s['id']
            for s in servers
            if s['status'] not in AT_REST or s['OS-EXT-STS:task_state']
        } | {
            m['instance_uuid'] for m in migrations if m['status'] in UNFINISHED
        }
        return [
            difference
            for difference in found
            if not _FORGIVEN.match(difference)
            or not any(server in difference for server in unwell)
        ]


def _without_moves(found: Sequence[str]) -> list[str]:
    """Without what is held by a server and allocated to its move.

    When Nova takes a move back after a crash it leaves the allocation with
    the move's record; what is held and what is counted are the same.
    """
    left = list(found)
    for difference in found:
        held = re.fullmatch(
            r'(\w+): Placement allocates nothing to server (\S+), '
            r'the tracker has claimed (.*)',
            difference,
        )
        if held is None:
            continue
        counted = (
            f'{held[1]}: Placement allocates {held[3]} to what a move keeps '
            f'of server {held[2]}, the tracker has claimed nothing'
        )
        if counted in left:
            left.remove(counted)
            left.remove(difference)
    return left


def rehearse(kind: Kind) -> None:
    """Play a short story; no thread is left of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        cloud = Cloud(path, path / 'schemas', kind)
        try:
            cloud.setUp()
            cloud.play(Story('delete', actions.delete))
        finally:
            cloud.doCleanups()
            tempfile.tempdir = None
    deadline = time.monotonic() + TIMEOUT
    while threading.active_count() > 1:
        if time.monotonic() > deadline:
            raise AssertionError(f'left over: {threading.enumerate()}')
        # A thread of a pool ends when nothing has the pool any more.
        gc.collect()
        time.sleep(0.01)


# What stories are made of: actions without parameters.


def create(test: Cloud, server: None) -> Server:
    return actions.create(test, test.flavor(test.kind.flavor))


def resize(test: Cloud, server: Server) -> Server:
    return actions.resize(test, server, test.flavor(test.kind.other))


#: What happens to one server, by the name that documents give it.
STORIES = (
    Story('create', create),
    Story('delete', actions.delete),
    Story('hard reboot', actions.reboot_hard),
    Story('stop', actions.stop),
    Story('start', actions.start, [actions.stop]),
    Story('rebuild', actions.rebuild),
    Story('rescue', actions.rescue),
    Story('unrescue', actions.unrescue, [actions.rescue]),
    Story('resize', resize),
    Story('confirm a resize', actions.confirm, [resize]),
    Story('revert a resize', actions.revert, [resize]),
    Story('shelve', actions.shelve),
    Story('unshelve', actions.unshelve, [actions.shelve]),
    Story('cold migrate', actions.cold_migrate, hosts=2),
    Story('confirm a cold migration', actions.confirm,
          [actions.cold_migrate], hosts=2),
    Story('revert a cold migration', actions.revert,
          [actions.cold_migrate], hosts=2),
    Story('evacuate', actions.evacuate, hosts=2),
)  # fmt: skip


def chosen(moments: Sequence[str], *, everything: bool) -> list[int]:
    """The moments at which to kill: the first, and after each effect.

    Between one effect and the next a compute only changes Nova's database.
    The second of the same effects, marked as ``(2)``, is left out.
    """
    return [
        number
        for number, moment in enumerate(moments)
        if everything
        or not number
        or (moment.startswith('after') and not moment.endswith(')'))
    ]


# Processes.


def _context() -> Any:
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['tests.functional.crash_forks'])
    return context


class Process:
    """Something that is done in a process of its own.

    :param folder: where it works; its output is there, if it fails
    """

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        self._report = folder / f'{name}.json'
        self._output = folder / f'{name}.txt'

    def run(
        self, work: Callable[..., dict[str, Any]], *args: Any
    ) -> dict[str, Any] | None:
        """What the work returns; None if it has killed the process."""
        process = _context().Process(target=self._work, args=(work, *args))
        process.start()
        process.join(TIMEOUT)
        if process.exitcode == -signal.SIGKILL:
            return None
        if process.exitcode is None:
            process.kill()
        if process.exitcode != 0 or not self._report.exists():
            output = self._output.read_text(errors='replace')
            raise AssertionError(
                f'the process ended with {process.exitcode}:\n'
                f'{output[-20000:]}'
            )
        found: dict[str, Any] = json.loads(self._report.read_text())
        return found

    def _work(self, work: Callable[..., dict[str, Any]], *args: Any) -> None:
        # What it prints must not get into the stream of test results.
        descriptor = os.open(self._output, os.O_WRONLY | os.O_CREAT)
        for number in (1, 2):
            os.dup2(descriptor, number)
        code = 1
        try:
            self._report.write_text(json.dumps(work(*args)))
            code = 0
        except BaseException:
            text = traceback.format_exc().encode()
            os.write(descriptor, text)
        finally:
            # Neither services nor fixtures are stopped: the folder goes.
            os._exit(code)
