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

"""Any order of claims, crashes and restarts on a divided board.

Hypothesis plays Nova, Fabric Manager and those who crash; after each step
whoever has cards has those of a partition that is active.
"""

from __future__ import annotations

import shutil
import tempfile

import fixtures
import testtools
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from nova_gpu import exception
from nova_gpu.fabric import FabricManager
from nova_gpu.host import read_snapshot
from nova_gpu.model.claim import Want
from nova_gpu.model.device import Snapshot
from nova_gpu.model.guest import GuestDevices, parse_guest
from nova_gpu.model.request import GpuRequest
from nova_gpu.putaside import PutAside
from nova_gpu.restore import Restorer
from nova_gpu.rules import parse_rules
from nova_gpu.sysfs.tree import Tree
from nova_gpu.tracker import Tracker
from tests.fixtures import fmpm, hosts
from tests.fixtures.sysfs import FakeSysfs
from tests.unit import base

POOL, H100 = 'nvidia_h100_sxm5_80gb', 'CUSTOM_GPU_NVIDIA_H100_SXM5_80GB'
#: What Fabric Manager's commands answer, when they don't do what they should.
ANSWERS = (fmpm.NO_CONNECTION, fmpm.IN_USE, fmpm.NOT_CONFIGURED, -2)

consumers = st.integers(0, 3).map(base.instance)


class Crash(Exception):
    """nova-compute is no more."""


class Dying(FakeSysfs):
    """A host on which nova-compute dies before or after a change."""

    dies: tuple[int, bool] | None = None

    def _step(self, before: bool) -> None:
        if self.dies is None or self.dies[1] != before:
            return
        left, _ = self.dies
        self.dies = (left - 1, before)
        if not left:
            raise Crash

    def activate_partition(self, number: int) -> None:
        self._step(True)
        super().activate_partition(number)
        self._step(False)

    def deactivate_partition(self, number: int, cards: list[str]) -> None:
        self._step(True)
        super().deactivate_partition(number, cards)
        self._step(False)

    def set_active_partitions(self, numbers: list[int]) -> None:
        self._step(True)
        super().set_active_partitions(numbers)
        self._step(False)


class FabricMachine(RuleBasedStateMachine):
    """A board, its guests, and what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp(dir=base.MEMORY)
        self.fake = hosts.divided_h100_board(Dying(self.root))
        self.guests: dict[str, str] = {}
        self.running: dict[str, list[str]] = {}
        self.now = 0.0
        self.rules = parse_rules(hosts.H100_RULES)
        self.start_service()

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    # What nova-compute does.

    def start_service(self) -> None:
        self.now += 60
        self.fake.dies = None
        manager = FabricManager(self.fake, True, lambda: self.now)

        def read() -> Snapshot:
            return manager.complete(read_snapshot(Tree(self.root)))

        found = self.parsed()
        Restorer(
            read, base.mechanisms(), self.fake, self.rules, lambda _: (),
            lambda _: None, manager,
        ).restore(found, 0)  # fmt: skip
        self.tracker = Tracker(
            read, base.mechanisms(), self.fake,
            PutAside(f'{self.root}/aside'), self.rules, manager=manager,
        )  # fmt: skip
        self.tracker.rebuild(found)

    def parsed(self) -> list[GuestDevices]:
        return [parse_guest(text, 'x') for text in self.guests.values()]

    def crashing(self, action: str, *args: object) -> bool:
        """Whether the service survives what it is asked for."""
        try:
            getattr(self.tracker, action)(*args)
        except Crash:
            self.start_service()
            return False
        except exception.GpuError:
            return False
        return True

    @property
    def fabric(self) -> fmpm.Fabric:
        return fmpm.Fabric.load(self.fake.fabric)

    @property
    def is_sane(self) -> bool:
        found = self.fabric
        return found.running and not found.waits and not found.failures

    @rule(
        consumer=consumers,
        count=st.sampled_from((1, 1, 2, 2, 3, 4, 8)),
        defined=st.booleans(),
        dies=st.none() | st.tuples(st.integers(0, 1), st.booleans()),
    )
    def boot(
        self,
        consumer: str,
        count: int,
        defined: bool,
        dies: tuple[int, bool] | None,
    ) -> None:
        """Claim cards; the guest comes of it, or the service dies before."""
        self.destroy(consumer, None)
        self.now += 60
        free = self.free_sizes()
        sane = self.is_sane
        self.fake.dies = dies
        wants = [Want(POOL, H100, count)]
        done = self.crashing('claim', consumer, wants, GpuRequest({}))
        crashed = self.fake.dies is None and dies is not None
        self.fake.dies = None
        if not crashed and sane:
            assert done == (count in free), (count, free)
        if done:
            assert len(self.tracker.units_of(consumer)) == count
        if done and defined:
            self.define(consumer)

    def define(self, consumer: str) -> None:
        request = GpuRequest({})
        units = self.tracker.units_of(consumer)
        self.guests[consumer] = base.domain_xml(
            'x', consumer, self.tracker.hostdevs(consumer, request), units
        )
        self.tracker.settle(consumer)
        self.running[consumer] = [unit.device for unit in units]
        for device in self.running[consumer]:
            self.fake.use(device)

    def free_sizes(self) -> set[int]:
        (pool,) = self.tracker.map(self.tracker.view()).pools
        return set(pool.free_sizes)

    @rule(
        consumer=consumers,
        dies=st.none() | st.tuples(st.integers(0, 1), st.booleans()),
    )
    def destroy(self, consumer: str, dies: tuple[int, bool] | None) -> None:
        self.stop(consumer)
        self.guests.pop(consumer, None)
        self.fake.dies = dies
        self.crashing('release', consumer)
        self.fake.dies = None

    @rule(consumer=consumers)
    def stop(self, consumer: str) -> None:
        """Shut a guest down; it keeps what it has."""
        for device in self.running.pop(consumer, ()):
            self.fake.unuse(device)

    @rule()
    def crash(self) -> None:
        """nova-compute starts anew."""
        self.start_service()

    @rule()
    def minute(self) -> None:
        """The periodic update, with a comparison."""
        self.now += 60
        self.tracker.view()
        self.tracker.reconcile((), {}, self.parsed)

    # What happens to Fabric Manager.

    @rule(resilient=st.booleans())
    def restart_fabric(self, resilient: bool) -> None:
        with fmpm.changing(self.fake.fabric) as fabric:
            fabric.resilient = resilient
            fabric.start()
        self.now += 60

    @rule()
    def stop_fabric(self) -> None:
        with fmpm.changing(self.fake.fabric) as fabric:
            fabric.stop()

    @rule(
        command=st.sampled_from(('-l', '-a', '-d', '--set-activated-list')),
        answers=st.lists(st.sampled_from(ANSWERS), max_size=3),
    )
    def fail(self, command: str, answers: list[int]) -> None:
        with fmpm.changing(self.fake.fabric) as fabric:
            fabric.failures[command] = answers

    @rule(number=st.integers(0, 14))
    def stranger(self, number: int) -> None:
        """Somebody activates a partition by hand."""
        with fmpm.changing(self.fake.fabric) as fabric:
            if fabric.running and not fabric.waits:
                fabric.run(['-a', str(number)])

    @rule()
    def mend(self) -> None:
        """Everything works, two minutes long: then all is as it should be."""
        with fmpm.changing(self.fake.fabric) as fabric:
            fabric.failures.clear()
            if not fabric.running:
                fabric.start()
        self.minute()
        self.minute()
        held = self.held_partitions()
        active = set(self.fabric.active)
        for number in held - active:
            # A stranger was faster, when Fabric Manager had lost it.
            modules = set(fmpm.HGX_H100[number])
            assert self.fabric.linked & modules, (number, active)
        # What overlaps with what guests have is somebody's business.
        for number in active - held:
            assert set(fmpm.HGX_H100[number]) & self.held_modules(), number

    def held_partitions(self) -> set[int]:
        return {
            unit.partition
            for consumer in self.tracker.consumers()
            for unit in self.tracker.units_of(consumer)
            if unit.partition is not None
        }

    def held_modules(self) -> set[int]:
        return {
            hosts.H100_MODULES[unit.device]
            for claim in self.tracker.view().claims
            for unit in claim.units
        }

    # What must hold.

    @invariant()
    def who_has_cards_has_a_partition(self) -> None:
        seen: set[str] = set()
        for consumer in self.tracker.consumers():
            units = self.tracker.units_of(consumer)
            if not units:
                continue  # it waits to be given back
            devices = {unit.device for unit in units}
            (number,) = {unit.partition for unit in units}
            assert number is not None
            modules = sorted(hosts.H100_MODULES[d] for d in devices)
            assert modules == sorted(fmpm.HGX_H100[number])
            assert seen.isdisjoint(devices)
            seen |= devices

    @invariant()
    def nobody_is_cut_off(self) -> None:
        """No running guest's partition is ever deactivated by us."""
        for consumer in self.running:
            claim = self.tracker.claim_of(consumer)
            assert claim is not None
            (number,) = {unit.partition for unit in claim.units}
            assert not any(
                call == ['-d', str(number)]
                for call in self.calls_since(consumer)
            )

    def calls_since(self, consumer: str) -> list[list[str]]:
        """The calls after the last activation of a guest's partition."""
        calls = self.fabric.calls
        units = self.tracker.units_of(consumer)
        activation = ['-a', str(units[0].partition)]
        for index in range(len(calls) - 1, -1, -1):
            if calls[index] == activation:
                return calls[index:]
        return []


class FabricMachineTest(testtools.TestCase):
    """The machine, run."""

    def test_any_order(self) -> None:
        self.useFixture(fixtures.FakeLogger())
        run_state_machine_as_test(
            FabricMachine,
            settings=settings(
                max_examples=max(1, settings().max_examples // 4),
                stateful_step_count=25,
            ),
        )
