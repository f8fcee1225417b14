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

"""Whatever is done to twenty servers in whatever order, nothing is lost.

Actions are drawn at random; every tenth meets a fault. ``NOVA_GPU_ACTIONS``
says how many there are, ``NOVA_GPU_SEED`` which: the seed is printed, and
repeats a run.
"""

from __future__ import annotations

import collections
import errno
import logging
import os
import random
import sys
from collections.abc import Callable
from typing import Any

import fixtures
from keystoneauth1 import exceptions as ksa_exceptions

from tests.fixtures import hosts
from tests.functional import actions, base
from tests.functional.test_actions import VERSIONS
from tests.functional.test_boot import A100, T4_4Q, T4_8Q

COUNT = int(os.environ.get('NOVA_GPU_ACTIONS', '50'))
SEED = int(os.environ.get('NOVA_GPU_SEED', '20260401'))
SERVERS = 20
HOSTS = ('gpu1', 'gpu2')
A10_12Q = 'CUSTOM_VGPU_NVIDIA_A10_12Q'
REPORT = 'nova.scheduler.client.report.SchedulerReportClient'
#: The kernel's calls that may be refused, once.
EFFECTS = ('create_mdev', 'remove_mdev', 'set_vgpu_type', 'reset_function')

LOG = logging.getLogger(__name__)


class RandomActionsTest(base.GpuServersTest):
    """Two hosts with all kinds of units, and twenty servers."""

    # Builds run at once, and what fails later is no error of the API.
    CAST_AS_CALL = False
    TIMEOUT_SCALING_FACTOR = 20

    def setUp(self) -> None:
        self.flags(
            allow_resize_to_same_host=True,
            shelved_offload_time=-1,
            resume_guests_state_on_host_boot=True,
        )
        # A guest that doesn't obey is made again: nobody has to wait.
        self.flags(wait_soft_reboot_seconds=1, group='libvirt')
        super().setUp()
        self.logs = self.useFixture(fixtures.FakeLogger(level=logging.WARNING))
        self.random = random.Random(SEED)
        self.away = False
        for name in HOSTS:
            fake = self.new_host(name)
            hosts.a100_board(fake)
            hosts.four_t4(fake)
            hosts.a10_vendor_vfio(fake)
            self.start_gpu_compute(name, **VERSIONS)
        self.flavors = [
            self.gpu_flavor(**{f'resources__{name}': str(count)})
            for name, count in (
                (A100, 1), (A100, 2), (T4_8Q, 1), (T4_8Q, 2), (T4_4Q, 1),
                (A10_12Q, 1), (A10_12Q, 2),
            )
        ] + [self.gpu_flavor()]  # fmt: skip
        self.counts: collections.Counter[str] = collections.Counter()

    def test_nothing_is_lost(self) -> None:
        for number in range(COUNT):
            if number % 10 == 9:
                self.fault()
            else:
                self.act()
            if number % 25 == 24:
                self.settle()
                self.assert_consistent()
        self.settle()
        self.assert_consistent()
        told = ', '.join(
            f'{n} {what}' for what, n in self.counts.most_common()
        )
        print(f'seed {SEED}, {COUNT} actions: {told}', file=sys.stderr)
        for server in self.api.get_servers():
            actions.delete(self, server)
        self.settle()
        self.assert_all_free()
        for name in HOSTS:
            self.assertEqual((0, []), self.run_audit(name)[:2])

    # What users do.

    def act(self) -> None:
        """One action on one server, or another server."""
        servers = self.api.get_servers()
        if len(servers) < SERVERS and self.random.random() < 0.4:
            self.attempt('create', actions.create, self.flavor())
            return
        if not servers:
            return
        server = self.random.choice(servers)
        possible = [
            action
            for action in actions.ACTIONS.values()
            if server['status'] in action.statuses
            and action.name not in ('evacuate', 'delete')
        ]
        if not possible or self.random.random() < 0.1:
            self.attempt('delete', actions.delete, server)
            return
        action = self.random.choice(possible)
        given: dict[str, Any] = {}
        if 'flavor' in action.parameters:
            given['flavor'] = self.flavor()
        self.attempt(action.name, action.perform, server, **given)

    def flavor(self) -> str:
        return self.random.choice(self.flavors)

    def attempt(
        self, name: str, perform: Callable[..., Any], *args: Any, **more: Any
    ) -> None:
        """Do it; that the API refuses it is as good."""
        LOG.warning('Action %s %s %s', name, args, more)
        try:
            perform(self, *args, **more)
        except actions.ActionError as exc:
            self.counts['refused'] += 1
            LOG.warning('Refused: %s', exc)
        except AssertionError as exc:
            # With Placement away Nova doesn't always say how it ended.
            if not self.away:
                raise
            self.counts['given up'] += 1
            LOG.warning('Given up: %s', exc)
        else:
            self.counts[name] += 1

    # What goes wrong meanwhile.

    def fault(self) -> None:
        """An action, with something wrong around it."""
        name = self.random.choice(
            ('effect', 'effect', 'push', 'restart', 'host_boot', 'unplug')
        )
        self.counts[f'fault {name}'] += 1
        LOG.warning('Fault %s', name)
        getattr(self, f'with_{name}')()

    def with_effect(self) -> None:
        """The kernel refuses all calls of one kind."""
        effect = self.random.choice(EFFECTS)
        number = self.random.choice((errno.EIO, errno.EBUSY))
        if effect in ('set_vgpu_type', 'reset_function'):
            number = errno.EBUSY  # otherwise the device is put aside
        for fake in self.hosts.values():
            fake.failures[effect] = number
        try:
            self.act()
        finally:
            for fake in self.hosts.values():
                fake.failures.clear()

    def with_push(self) -> None:
        """Placement takes no changes of providers."""

        def away(*args: Any, **kwargs: Any) -> Any:
            raise ksa_exceptions.ConnectFailure('Placement is away')

        self.away = True
        with (
            fixtures.MonkeyPatch(f'{REPORT}.update_from_provider_tree', away),
            # Of some actions Nova doesn't say that they have failed.
            fixtures.MonkeyPatch('tests.functional.base.PATIENCE', 30),
        ):
            self.act()
        self.away = False

    def with_restart(self) -> None:
        """nova-compute is restarted."""
        self.restart_gpu_compute(self.random.choice(HOSTS))

    def with_host_boot(self) -> None:
        """A host loses power, and all vGPUs with it."""
        name = self.random.choice(HOSTS)
        for domain in self.domains(name):
            if domain.isActive():
                domain.destroy()
        self.hosts[name].reboot()
        self.restart_gpu_compute(name)

    def with_unplug(self) -> None:
        """A card that nobody holds goes, and comes back."""
        name = self.random.choice(HOSTS)
        fake = self.hosts[name]
        tracker = self.computes[name].driver._gpus
        held = {unit.device for unit in tracker.view().units}
        free = [a for a in hosts.A100_ADDRESSES if a not in held]
        if not free:
            return
        address = self.random.choice(free)
        index = hosts.A100_ADDRESSES.index(address)
        fake.remove(address)
        self._run_periodics()
        self.act()
        hosts.a100(fake, index)

    # Afterwards.

    def settle(self) -> None:
        """What an operator does now and then, and the periodic tasks."""
        self._run_periodics()
        for server in self.api.get_servers():
            if server['status'] == 'ERROR':
                self.attempt('reboot_hard', actions.reboot_hard, server)
        for server in self.api.get_servers():
            if server['status'] == 'ERROR':
                actions.delete(self, server)
        self._run_periodics()
