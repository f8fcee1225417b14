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


"""Any order of claims, releases, crashes, faults and unplugged cards.

Hypothesis plays Nova, the kernel and the operator; after each step the host,
the guests' XML, the tracker and what Placement is told must agree.
"""

from __future__ import annotations

import collections
import errno
import itertools
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from nova_gpu import exception
from nova_gpu.cli.release import clean
from nova_gpu.host import read_snapshot
from nova_gpu.mechanism.mdev import new_uuid
from nova_gpu.model.claim import Claim, View, Want
from nova_gpu.model.device import Snapshot
from nova_gpu.model.guest import GuestDevices, parse_guest
from nova_gpu.model.hostmap import HostMap
from nova_gpu.model.inventory import Unit
from nova_gpu.model.isolation import STRANGER, Tenant
from nova_gpu.model.request import (
    EXCLUSIVE,
    ISOLATION,
    PROJECT,
    GpuRequest,
)
from nova_gpu.putaside import PutAside
from nova_gpu.restore import Restorer
from nova_gpu.rules import parse_rules
from nova_gpu.sysfs.tree import Tree
from nova_gpu.tracker import NOBODY, Tracker
from tests.machine.host import FORMS, Form, Kernel
from tests.unit import base

EFFECTS = (
    'create_mdev', 'remove_mdev', 'set_vgpu_params', 'set_vgpu_type',
    'reset_function', 'enable_vfs',
)  # fmt: skip
ERRORS = (errno.EIO, errno.EBUSY, errno.EPERM, errno.EINVAL, errno.ENOSPC)
#: Seconds, of no clock, that the host's drivers are waited for.
TIMEOUT = 2

consumers = st.integers(0, 4).map(base.instance)
# Of the forms and of their cards, modulo the number that there are.
positions = st.integers(0, 5)
# Mostly shared, since what isn't leaves little room for others.
isolations = st.sampled_from((ISOLATION[0], *ISOLATION))


class TrackerMachine(RuleBasedStateMachine):
    """The host, Nova's guests, and what must hold."""

    #: The forms of all hosts; None draws some for each.
    forms_wanted: ClassVar[tuple[Form, ...] | None] = None
    #: What has happened, over all runs.
    counts: ClassVar[collections.Counter[str]] = collections.Counter()

    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp(dir=base.MEMORY)
        self.kernel = Kernel(self.root)
        self.aside = PutAside(f'{self.root}/aside')
        #: The guests that are defined, as libvirt has them.
        self.guests: dict[str, str] = {}
        #: The devices that guests have open, of running and of dying ones.
        self.open: dict[str, list[str]] = {}
        self.dying: list[str] = []
        #: Resizes that wait to be confirmed: the consumer of the old units.
        self.moving: dict[str, str] = {}
        #: The isolation that was asked for with each device.
        self.isolation: dict[str, str] = {}
        #: Made by others.
        self.foreign: set[str] = set()
        #: Brought back by the operator as they were, with what is in them.
        self.forced: set[str] = set()
        #: Whether an unreadable guest has kept leaks from being removed.
        self.leaking = False

    def teardown(self) -> None:
        self.counts['faults'] += self.kernel.faults
        shutil.rmtree(self.root)

    @initialize(
        drawn=st.sets(st.integers(0, len(FORMS) - 1), min_size=1, max_size=3)
    )
    def install(self, drawn: set[int]) -> None:
        forms = self.forms_wanted or [FORMS[n] for n in sorted(drawn)]
        self.cards = {address: f for f in forms for address in f.addresses}
        self.rules = [
            text % address
            for form in forms
            for text, address in zip(form.rules, form.addresses, strict=False)
        ]
        for address, form in self.cards.items():
            form.plug(self.kernel, address)
        self.start_service(self.parsed_guests())

    def card_at(self, position: int) -> str:
        return list(self.cards)[position % len(self.cards)]

    # What Nova does.

    def snapshot(self) -> Snapshot:
        return read_snapshot(Tree(self.root))

    def live(self, consumer: str) -> Claim | None:
        """The claim, unless all of it waits to be given back."""
        claim = self.tracker.claim_of(consumer)
        return claim if claim and claim.units != claim.stuck else None

    def free(self, view: View, pool: str, name: str) -> int:
        """What Placement would allocate."""
        found = view.pool(pool)
        if found is None or name not in found.inventories:
            return 0
        record = found.inventories[name]
        allocated = sum(
            unit.pool == pool and unit.resource_class == name
            for unit in _allocated(view)
        )
        return record.total - record.reserved - allocated

    @rule(
        consumer=consumers,
        chosen=st.tuples(positions, st.integers(0, 3), st.integers(1, 2)),
        may_move=st.booleans(),
        running=st.booleans(),
        isolation=isolations,
    )
    def boot(
        self,
        consumer: str,
        chosen: tuple[int, int, int],
        may_move: bool,
        running: bool,
        isolation: str,
    ) -> None:
        """A guest with units of one kind, all the way."""
        self.spawn(consumer, [chosen], True, may_move, isolation)
        self.define(consumer, running)

    @precondition(lambda self: self.guests)
    @rule(
        consumer=consumers,
        index=positions,
        may_move=st.booleans(),
        isolation=isolations,
    )
    def join(
        self, consumer: str, index: int, may_move: bool, isolation: str
    ) -> None:
        """As what is there already, on the same card."""
        units = [
            unit
            for unit in _allocated(self.tracker.view())
            if unit.resource_class in self.classes_at(str(unit.card))
        ]
        if units:
            unit = units[index % len(units)]
            position = list(self.cards).index(str(unit.card))
            names = self.classes_at(str(unit.card))
            kind = names.index(unit.resource_class)
            chosen = (position, kind, 1)
            self.boot(consumer, chosen, may_move, False, isolation)

    def classes_at(self, address: str) -> tuple[str, ...]:
        return self.cards[address].classes(address)

    @rule(
        consumer=consumers,
        chosen=st.lists(
            st.tuples(positions, st.integers(0, 3), st.integers(1, 3)),
            min_size=1,
            max_size=3,
        ),
        params=st.booleans(),
        may_move=st.booleans(),
        isolation=isolations,
    )
    def spawn(
        self,
        consumer: str,
        chosen: list[tuple[int, int, int]],
        params: bool,
        may_move: bool,
        isolation: str,
    ) -> None:
        """Claim units; the guest is defined later, or never."""
        self.destroy(consumer)
        self.claim(consumer, chosen, params, may_move, isolation)

    def claim(
        self,
        consumer: str,
        chosen: list[tuple[int, int, int]],
        params: bool,
        may_move: bool,
        isolation: str,
    ) -> None:
        """Claim what is chosen, and judge whether that is right."""
        wants: dict[str, Want] = {}
        others: dict[str, set[str]] = {}
        for position, kind, count in chosen:
            address = self.card_at(position)
            form = self.cards[address]
            params = params and form.params
            names = form.classes(address)
            pool = form.pool(address)
            wants[pool] = Want(pool, names[kind % len(names)], count)
            others[pool] = {form.pool(other) for other in form.addresses}
        view = self.tracker.view()
        asking = Tenant(consumer, self.project(consumer), isolation)

        def has_room(pool: str, want: Want) -> bool:
            return self.is_open(
                view, pool, asking
            ) and want.count <= self.free(view, pool, want.resource_class)

        fits = all(has_room(want.pool, want) for want in wants.values())
        could_move = len(wants) == 1 and any(
            has_room(other, want)
            for want in wants.values()
            for other in others[want.pool]
        )
        stuck = self.tracker.claim_of(consumer)
        before = {unit.device for unit in stuck.units} if stuck else set()
        sane = self.kernel.is_sane
        request = GpuRequest(
            {}, vgpu_params='a=b' if params else None, isolation=isolation
        )
        self.counts['requests'] += 1
        try:
            claim = self.tracker.claim(
                consumer,
                wants.values(),
                request,
                others if may_move else None,
                project=asking.project,
            )
        except exception.EffectFailed:
            assert not sane
            assert self.live(consumer) is None
        except exception.NotEnoughUnits:
            assert not (fits and sane)
            assert not (may_move and could_move and sane)
            assert self.live(consumer) is None
        except exception.UnknownProvider as exc:
            found = self.tracker.view().pool(exc.provider)
            assert found is None or exc.resource_class not in found.inventories
            assert self.live(consumer) is None
        else:
            self.counts['claims'] += 1
            self.counts['moves'] += len(claim.moves)
            # What was stuck may have been freed by the claim itself.
            assert fits or may_move or not sane
            self.check_claim(consumer, wants.values(), claim)
        # What failed may be stuck.
        after = self.tracker.claim_of(consumer)
        for unit in after.units if after else ():
            if unit.device not in before:
                self.isolation[unit.device] = isolation

    def check_claim(
        self, consumer: str, wants: Iterable[Want], claim: Claim
    ) -> None:
        """Exactly what was wanted is there for the guest."""
        moved = {move.want.pool: move.pool for move in claim.moves}
        expected = collections.Counter(
            {
                (moved.get(w.pool, w.pool), w.resource_class): w.count
                for w in wants
            }
        )
        units = self.tracker.units_of(consumer)
        assert expected == collections.Counter(
            (unit.pool, unit.resource_class) for unit in units
        )
        for unit in units:
            assert self.kernel.exists(unit.device, unit.type_id), unit
        devices = self.tracker.hostdevs(consumer, GpuRequest({}))
        assert len(devices) == len(units)

    @rule(consumer=consumers, running=st.booleans())
    def define(self, consumer: str, running: bool) -> None:
        """The guest is there: from now on its XML tells what it holds."""
        claim = self.live(consumer)
        if claim is None or consumer in self.open:
            return
        hostdevs = self.tracker.hostdevs(consumer, GpuRequest({}))
        units = self.tracker.units_of(consumer)
        self.guests[consumer] = base.domain_xml(
            'x', consumer, hostdevs, units, self.tracker.kept_for(consumer)
        )
        self.tracker.settle(consumer)
        if running and all(
            self.kernel.exists(u.device, u.type_id) for u in units
        ):
            self.run_guest(consumer, units)

    def run_guest(self, consumer: str, units: Iterable[Unit]) -> None:
        """Open the units; the kernel sees to it that nobody else has them."""
        still_open = {d for key in self.dying for d in self.open[key]}
        devices = [unit.device for unit in units]
        if still_open.isdisjoint(devices):
            for device in devices:
                self.kernel.use(device)
            self.open[consumer] = devices

    @rule(consumer=consumers, dying=st.booleans())
    def destroy(self, consumer: str, dying: bool = False) -> None:
        """Delete a guest; QEMU may take its time to go."""
        self.finish(consumer, revert=False)
        self.guests.pop(consumer, None)
        devices = self.open.pop(consumer, [])
        if dying and devices:
            key = f'{consumer} {len(self.dying)}'
            self.dying.append(key)
            self.open[key] = devices
        else:
            self.close(devices)
        self.tracker.release(consumer)
        assert self.live(consumer) is None

    def close(self, devices: Iterable[str]) -> None:
        for device in devices:
            if self.kernel.device(device).is_dir():
                self.kernel.unuse(device)

    def die(self) -> None:
        if self.dying:
            self.close(self.open.pop(self.dying.pop(0)))

    @precondition(lambda self: self.guests)
    @rule(
        consumer=consumers,
        chosen=st.tuples(positions, st.integers(0, 3), st.integers(1, 2)),
        running=st.booleans(),
        isolation=isolations,
    )
    def resize(
        self,
        consumer: str,
        chosen: tuple[int, int, int],
        running: bool,
        isolation: str,
    ) -> None:
        """To other units of this host; the old ones are kept for now."""
        move = base.instance(f'move of {consumer}')
        if (
            consumer not in self.guests
            or consumer in self.moving
            or self.live(consumer) is None
            or self.tracker.claim_of(move) is not None
        ):
            return
        self.counts['resizes'] += 1
        self.close(self.open.pop(consumer, []))
        self.tracker.hand_over(consumer, move)
        self.moving[consumer] = move
        self.claim(consumer, [chosen], True, False, isolation)
        if self.live(consumer) is None:
            # It failed: everything is as it was.
            self.tracker.hand_over(self.moving.pop(consumer), consumer)
        self.define(consumer, running)

    @rule(consumer=consumers, revert=st.booleans())
    def finish(self, consumer: str, revert: bool) -> None:
        """Confirm a resize, or take it back."""
        move = self.moving.pop(consumer, None)
        if move is None:
            return
        if not revert:
            self.tracker.release(move)
            return
        self.guests.pop(consumer)
        self.close(self.open.pop(consumer, []))
        self.tracker.release(consumer)
        self.tracker.hand_over(move, consumer)
        self.define(consumer, False)

    def hard_reboot(self, consumer: str) -> None:
        before = self.tracker.claim_of(consumer)
        with self.tracker.keeping(consumer):
            self.tracker.release(consumer)
        assert self.tracker.claim_of(consumer) == before

    # What happens to nova-compute.

    def parsed_guests(self) -> list[GuestDevices]:
        return [parse_guest(text, 'x') for text in self.guests.values()]

    def start_service(
        self, guests: list[GuestDevices], late: Iterable[str] = ()
    ) -> None:
        """What nova-compute does when it starts."""
        waiting = list(late)

        def pause(seconds: float) -> None:
            while waiting:
                self.kernel.load_driver(waiting.pop())

        rules = parse_rules(self.rules)
        mechanisms = base.mechanisms()
        Restorer(
            self.snapshot, mechanisms, self.kernel, rules, lambda _: {}, pause
        ).restore(guests, TIMEOUT)
        pause(0)
        self.tracker = Tracker(
            self.snapshot, mechanisms, self.kernel, self.aside, rules
        )
        self.tracker.rebuild(guests)
        self.tracker.reconcile(
            self.tracker.consumers(),
            self.allocated(self.guests),
            lambda: guests,
            at_start=True,
        )
        self.leaking = False
        self.forced.clear()

    def allocated(
        self, consumers: Iterable[str]
    ) -> dict[str, dict[tuple[str, str], int]]:
        """What Placement has: for consumers, and for moves that go on."""
        found: dict[str, dict[tuple[str, str], int]] = {}
        for consumer in {*consumers, *self.moving.values()}:
            counts: collections.Counter[tuple[str, str]] = (
                collections.Counter()
            )
            for unit in self.tracker.units_of(consumer):
                counts[unit.pool, unit.resource_class] += 1
            found[consumer] = counts
        return found

    def compare(self) -> None:
        """What nova-compute does now and then: nobody loses anything."""
        before = {
            c: claim for c in map(base.instance, range(5))
            if (claim := self.live(c))
        }  # fmt: skip
        self.tracker.reconcile(
            self.tracker.consumers(),
            self.allocated(before),
            self.parsed_guests,
        )
        self.leaking = False
        self.forced.clear()
        assert before == {c: self.live(c) for c in before}

    def restart(self) -> None:
        self.start_service(self.parsed_guests())

    def restart_with_broken_xml(self, position: int) -> None:
        if not self.guests:
            return
        broken = sorted(self.guests)[position % len(self.guests)]
        self.start_service(
            [
                parse_guest(
                    text.replace('</domain>', '') if uuid == broken else text,
                    'x',
                )
                for uuid, text in self.guests.items()
            ]
        )
        self.leaking = True

    # What happens to the host.

    def reboot(self, late: int) -> None:
        """All that was made is gone, and comes back for the guests."""
        missing = self.missing(self.tracker.view())
        refusing = any(left for left, _ in self.kernel.refusals.values())
        for function in self.kernel.wedged:
            self.kernel.unwedge(function)
        cards = {a for a in [self.card_at(late)] if not self.state_less(a)}
        self.open.clear()
        self.dying.clear()
        self.kernel.reboot(sorted(cards))
        self.start_service(self.parsed_guests(), sorted(cards))
        self.foreign.clear()
        if refusing or missing:
            return
        for guest in self.parsed_guests():
            for unit in guest.units:
                if not self.kernel.has(str(unit.card)):
                    continue
                assert self.kernel.exists(unit.device, unit.type_id), unit
                if unit.params:
                    assert self.kernel.params_of(unit.device) == unit.params

    @rule(
        event=st.sampled_from(
            ('restart', 'restart_with_broken_xml', 'reboot', 'hard_reboot',
             'compare', 'unplug_or_plug', 'somebody_else_makes_one')
        ),
        position=positions,
    )  # fmt: skip
    def disturb(self, event: str, position: int) -> None:
        """What happens less often than all other things."""
        self.counts[event] += 1
        if event in ('restart', 'compare'):
            getattr(self, event)()
        elif event == 'hard_reboot':
            self.hard_reboot(base.instance(position))
        else:
            getattr(self, event)(position)

    def state_less(self, address: str) -> bool:
        """Whether a card is absent, or has no driver that could be late."""
        return self.cards[address].mechanism == 'whole' or not self.kernel.has(
            address
        )

    @rule(
        effect=st.sampled_from(EFFECTS),
        count=st.integers(1, 3),
        number=st.sampled_from(ERRORS),
    )
    def refuse(self, effect: str, count: int, number: int) -> None:
        self.kernel.refusals[effect] = (count, number)

    @rule(position=positions, index=positions, unreadable=st.booleans())
    def wedge(self, position: int, index: int, unreadable: bool) -> None:
        address = self.card_at(position)
        if self.cards[address].mechanism != 'vendor_vfio':
            return
        if functions := self.functions(address):
            function = functions[index % len(functions)]
            if function not in self.kernel.wedged:
                self.counts['wedged'] += 1
                self.kernel.wedge(function, unreadable=unreadable)

    @rule(everything=st.booleans())
    def mend(self, everything: bool) -> None:
        self.die()
        if everything:
            self.kernel.mend()

    def unplug_or_plug(self, position: int) -> None:
        address = self.card_at(position)
        if not self.kernel.has(address):
            self.cards[address].plug(self.kernel, address)
            return
        gone = {address, *self.functions(address)}
        for function in gone & set(self.kernel.wedged):
            self.kernel.unwedge(function)
        before = set(self.kernel.mdevs)
        self.kernel.remove(address)
        gone |= before - set(self.kernel.mdevs)
        self.foreign -= gone
        for key, devices in self.open.items():
            self.open[key] = [d for d in devices if d not in gone]

    def somebody_else_makes_one(self, position: int) -> None:
        address = self.card_at(position)
        form = self.cards[address]
        if form.mechanism != 'mdev' or not self.kernel.has(address):
            return
        # A UUID of version 4: new_uuid's, with another version.
        uuid = new_uuid().replace('-8', '-4', 1)
        type_id = form.types[position % len(form.types)].id
        for parent in self.functions(address) or [address]:
            try:
                self.kernel.create_mdev(parent, type_id, uuid)
            except exception.EffectFailed:
                continue
            self.foreign.add(uuid)
            break

    # What the operator does.

    @precondition(lambda self: self.aside.read())
    @rule(position=positions, force=st.booleans())
    def release_put_aside(self, position: int, force: bool) -> None:
        """As ``nova-gpu host release``."""
        devices = sorted(self.aside.read())
        device = devices[position % len(devices)]
        self.counts['released by hand'] += 1
        card = next(
            (
                card
                for card in self.snapshot().cards
                if str(card.address) == device
                or any(str(vf.address) == device for vf in card.vfs)
            ),
            None,
        )
        try:
            if card is not None:
                clean(card, device, self.kernel)
        except exception.EffectFailed:
            if not force:
                return
            self.forced.add(device)
        self.aside.remove(device)

    # What must hold.

    def functions(self, address: str) -> list[str]:
        """The virtual functions of a card that are there."""
        form = self.cards[address]
        if not form.options.get('virtual_functions'):
            return []
        return (
            self.kernel.functions(address) if self.kernel.has(address) else []
        )

    def missing(self, view: View) -> list[Unit]:
        """What guests hold and isn't there: it went with its card."""
        held = list(view.units)
        held += [unit for g in self.parsed_guests() for unit in g.units]
        return [u for u in held if not self.kernel.exists(u.device, u.type_id)]

    @invariant()
    def everything_agrees(self) -> None:
        self.counts['steps'] += 1
        view = self.tracker.view()
        self.check_units(view)
        self.check_guests()
        self.check_isolation(view)
        self.check_placement(view)
        host_map = self.tracker.map(view)
        assert HostMap.load(host_map.dump()) == host_map

    def check_units(self, view: View) -> None:
        """Nothing is held twice; what was made is held, or put aside."""
        devices = [unit.device for unit in view.units]
        assert len(devices) == len(set(devices)), 'held twice'
        held = {*devices, *self.aside.read(), *self.forced}
        mdevs = set(self.kernel.mdevs)
        assert self.foreign <= mdevs, 'somebody else has lost one'
        assert self.leaking or mdevs - self.foreign <= held, 'leaked'
        for address, form in self.cards.items():
            if form.mechanism == 'vendor_vfio' and self.kernel.has(address):
                # One that doesn't tell its type may have any or none.
                made = {
                    function
                    for function, _ in self.kernel.made(address)
                    if not self.kernel.is_unreadable(function)
                }
                assert self.leaking or made <= held, 'leaked'

    def check_guests(self) -> None:
        """What a guest has in its XML is its own."""
        for consumer, text in self.guests.items():
            guest = parse_guest(text, 'x')
            claim = self.tracker.claim_of(consumer)
            own = {u.device for u in claim.units} if claim else set()
            assert guest.mdevs & set(self.kernel.mdevs) <= own
            assert {
                str(f) for f in guest.functions if self.kernel.has(str(f))
            } <= own

    def project(self, consumer: str) -> str:
        """Every other server is of the same."""
        return f'project {int(consumer[:8], 16) % 2}'

    def tenants(self, view: View) -> dict[str, set[Tenant]]:
        """Who is on each card, by what was asked for and not by the units."""
        found: dict[str, set[Tenant]] = {}
        for claim in view.claims:
            for unit in claim.units:
                tenant = STRANGER
                if claim.consumer != NOBODY:
                    tenant = Tenant(
                        claim.server,
                        self.project(claim.server),
                        self.isolation[unit.device],
                    )
                found.setdefault(str(unit.card), set()).add(tenant)
        held = {unit.device for claim in view.claims for unit in claim.units}
        for address, form in self.cards.items():
            if form.mechanism != 'mdev' or not self.kernel.has(address):
                continue
            if not held.issuperset(self.kernel.vgpus(address)):
                found.setdefault(address, set()).add(STRANGER)
        return found

    def is_open(self, view: View, pool: str, asking: Tenant) -> bool:
        """Whether isolation lets who asks have parts of the pool's card."""
        there = self.tenants(view)
        return all(
            self.cards[address].mechanism == 'whole'
            or not _apart(tenant, asking)
            for address in self.pools().get(pool, ())
            for tenant in there.get(address, ())
        )

    def check_isolation(self, view: View) -> None:
        """Who is on one card with others may be; what is told is true."""
        for address, there in self.tenants(view).items():
            for one, other in itertools.combinations(there - {STRANGER}, 2):
                assert not _apart(one, other), (address, one, other)
        for claim in view.claims:
            for unit in claim.units:
                if claim.consumer != NOBODY:
                    assert unit.project == self.project(claim.server), unit
                    assert unit.isolation == self.isolation[unit.device], unit

    def check_placement(self, view: View) -> None:
        """Placement is told of what can be had: not more, not less."""
        for pool in view.pools:
            for name, record in pool.inventories.items():
                assert 0 <= record.reserved <= record.total, (pool.key, name)
        missing = {unit.card for unit in self.missing(view)}
        there = self.tenants(view)
        for key, addresses in self.pools().items():
            form = self.cards[addresses[0]]
            present = [a for a in addresses if self.kernel.has(a)]
            room: collections.Counter[str] = collections.Counter()
            for address in present:
                most_of_each = dict(self.room(view, address))
                if form.mechanism != 'whole' and any(
                    tenant.isolation == EXCLUSIVE
                    for tenant in there.get(address, ())
                ):
                    most_of_each = dict.fromkeys(most_of_each, 0)
                room.update(most_of_each)
            exact = form.exact and not missing.intersection(
                card.address
                for card in view.snapshot.cards
                if str(card.address) in addresses
            )
            exact &= not any(
                self.kernel.is_unreadable(function)
                for address in addresses
                for function in self.functions(address)
            )
            for name, most in room.items():
                free = self.free(view, key, name)
                assert free <= most, (key, name, free, most)
                if exact:
                    assert free == most, (key, name, free, most)
                elif most and not missing and not self.aside.read():
                    assert free >= 1, (key, name, free, most)

    def pools(self) -> dict[str, list[str]]:
        """The cards of each pool."""
        found: dict[str, list[str]] = {}
        for address, form in self.cards.items():
            found.setdefault(form.pool(address), []).append(address)
        return found

    def room(self, view: View, address: str) -> Iterator[tuple[str, int]]:
        """What the hardware takes of each class, and the operator allows."""
        form = self.cards[address]
        closed = {*(u.device for u in view.units), *self.aside.read()}
        if form.mechanism == 'whole':
            yield form.resource_class, int(address not in closed)
            return
        functions = self.functions(address)
        if form.mechanism == 'vf':
            free = [f for f in functions if f not in closed]
            yield form.resource_class, len(free)
            return
        room = self.kernel.room(address)
        free = [f for f in self.kernel.usable(address) if f not in closed]
        for kind in form.types:
            most = room[kind.id]
            if form.options.get('virtual_functions'):
                most = min(most, len(free))
            yield form.class_of(kind, address), most


def _apart(one: Tenant, other: Tenant) -> bool:
    """Whether two servers must not be on one card."""
    isolations = {one.isolation, other.isolation}
    if one.server == other.server:
        return False
    unlike = None in (one.project, other.project) or (
        one.project != other.project
    )
    return EXCLUSIVE in isolations or (PROJECT in isolations and unlike)


def _allocated(view: View) -> Iterator[Unit]:
    """The units that allocations in Placement stand for."""
    for claim in view.claims:
        for unit in claim.units:
            if unit.allocated and unit not in claim.stuck:
                yield unit
