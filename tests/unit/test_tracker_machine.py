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
the guests' XML and the tracker must agree.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile

import fixtures
import testtools
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nova_gpu import exception
from nova_gpu.host import read_snapshot
from nova_gpu.mechanism.mdev import is_ours, new_uuid
from nova_gpu.model.address import PciAddress
from nova_gpu.model.guest import GuestDevices, parse_guest
from nova_gpu.model.hostmap import HostMap
from nova_gpu.model.inventory import vgpu_class
from nova_gpu.model.request import GpuRequest
from nova_gpu.sysfs.tree import Tree
from nova_gpu.tracker import Claim, Tracker, View, Want
from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs, FakeType
from tests.unit import base

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
WHOLE = 'nvidia_a100_sxm4_40gb'
CARDS = tuple(f'0000:2{i}:00.0' for i in range(3))
#: vGPU cards with their units, types and virtual functions.
VGPU: dict[str, tuple[int, int, tuple[FakeType, ...], int]] = {
    '0000:3b:00.0': (0x1EB8, 16, hosts.T4_TYPES[2:5], 0),
    '0000:5e:00.0': (0x1EB8, 16, hosts.T4_TYPES[2:5], 0),
    '0000:41:00.0': (0x2235, 48, hosts.A40_TYPES[4:7], 5),
}
EFFECTS = ('create_mdev', 'remove_mdev', 'set_vgpu_params')
PARAMS = GpuRequest({}, vgpu_params='a=b')

wants = st.tuples(
    st.sampled_from([*CARDS[:1], *VGPU]), st.integers(0, 2), st.integers(1, 3)
)
consumers = st.integers(0, 4).map(base.instance)


class Kernel(FakeSysfs):
    """A host whose kernel refuses the calls that are named, n at most."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.refusals: dict[str, int] = {}

    def _fail(self, action: str, effect: str, path: os.PathLike[str]) -> None:
        if self.refusals.get(effect, 0) > 0:
            self.refusals[effect] -= 1
            raise self._error(action, path, errno.EIO)

    @property
    def is_sane(self) -> bool:
        return not any(self.refusals.values())

    def plug(self, address: str) -> None:
        """Add one of the cards of this host."""
        if address in CARDS:
            index = CARDS.index(address)
            self.add_gpu(address, numa_node=index % 2, iommu_group=index)
            return
        product, units, types, functions = VGPU[address]
        self.add_gpu(
            address, product, driver='nvidia', types=types, units=units,
            virtual_functions=functions,
        )  # fmt: skip

    def has(self, address: str) -> bool:
        return self.device(address).is_dir()

    def type_of(self, uuid: str) -> str:
        link = self.sys / 'bus/mdev/devices' / uuid / 'mdev_type'
        return os.path.basename(os.readlink(link))

    def room(self, address: str) -> dict[str, int]:
        """How many more vGPUs of each type the card takes, by class.

        Worked out from what exists, not from the files that the product
        reads.
        """
        _, units, types, functions = VGPU[address]
        parents = [address]
        if functions:
            links = self.device(address).glob('virtfn*')
            parents = [link.resolve().name for link in links]
        made = [self.type_of(u) for p in parents for u in self.mdevs_of(p)]
        sizes = {kind.id: kind.size for kind in types}
        left = units - sum(sizes[kind] for kind in made)
        card = base.card(address)
        room = {}
        for kind in types:
            count = left // kind.size
            if made and made[0] != kind.id:
                count = 0
            if functions:
                count = min(count, functions - len(made))
            room[vgpu_class(card, str(kind.name))] = count
        return room


class TrackerMachine(RuleBasedStateMachine):
    """The host, Nova's guests, and what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp(dir=base.MEMORY)
        self.kernel = Kernel(self.root)
        #: The guests that are defined, as libvirt has them.
        self.guests: dict[str, str] = {}
        #: mdevs that went with their card.
        self.lost: set[str] = set()
        #: Whether an unreadable guest has kept leaks from being removed.
        self.leaking = False

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def new_tracker(self) -> Tracker:
        return Tracker(
            lambda: read_snapshot(Tree(self.root)),
            base.mechanisms(),
            self.kernel,
        )

    @initialize()
    def install(self) -> None:
        for address in (*CARDS, *VGPU):
            self.kernel.plug(address)
        self.tracker = self.new_tracker()
        self.tracker.rebuild([])

    # What Nova does.

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
        return record.total - record.reserved - self.held(view, pool, name)

    @staticmethod
    def held(view: View, pool: str, name: str) -> int:
        return sum(
            u.pool == pool and u.resource_class == name for u in view.units
        )

    @rule(
        consumer=consumers,
        chosen=st.lists(
            wants, min_size=1, max_size=3, unique_by=lambda w: w[0]
        ),
        params=st.booleans(),
    )
    def spawn(
        self, consumer: str, chosen: list[tuple[str, int, int]], params: bool
    ) -> None:
        """Claim units; the guest is defined later, or never."""
        self.destroy(consumer)
        asked = []
        for address, position, count in chosen:
            if address in CARDS:
                asked.append(Want(WHOLE, A100, count))
                continue
            kind = VGPU[address][2][position]
            name = vgpu_class(base.card(address), str(kind.name))
            pool = PciAddress.parse(address).token
            asked.append(Want(pool, name, count))
        view = self.tracker.view()
        fits = all(
            want.count <= self.free(view, want.pool, want.resource_class)
            for want in asked
        )
        sane = self.kernel.is_sane
        try:
            self.tracker.claim(
                consumer, asked, PARAMS if params else GpuRequest({})
            )
        except exception.EffectFailed:
            assert not sane
            assert self.live(consumer) is None
        except exception.NotEnoughUnits:
            assert not fits
            assert self.live(consumer) is None
        except exception.UnknownProvider as exc:
            pool = self.tracker.view().pool(exc.provider)
            assert pool is None or exc.resource_class not in pool.inventories
            assert self.live(consumer) is None
        else:
            # What was stuck may have been freed by the claim itself.
            assert fits or not sane
            claim = self.live(consumer)
            assert claim is not None
            devices = self.tracker.hostdevs(consumer, GpuRequest({}))
            assert len(devices) == sum(want.count for want in asked)

    @rule(consumer=consumers)
    def define(self, consumer: str) -> None:
        """The guest is there: from now on its XML tells what it holds."""
        if self.live(consumer) is not None:
            hostdevs = self.tracker.hostdevs(consumer, GpuRequest({}))
            self.guests[consumer] = base.domain_xml('x', consumer, hostdevs)
            self.tracker.settle(consumer)

    @rule(consumer=consumers)
    def destroy(self, consumer: str) -> None:
        self.guests.pop(consumer, None)
        self.tracker.release(consumer)
        assert self.live(consumer) is None

    @rule(consumer=consumers)
    def hard_reboot(self, consumer: str) -> None:
        before = self.tracker.claim_of(consumer)
        with self.tracker.keeping(consumer):
            self.tracker.release(consumer)
        assert self.tracker.claim_of(consumer) == before

    # What happens to nova-compute.

    @rule()
    def restart(self) -> None:
        self.rebuild([parse_guest(x, 'x') for x in self.guests.values()])
        self.leaking = False

    @precondition(lambda self: self.guests)
    @rule(data=st.data())
    def restart_with_broken_xml(self, data: st.DataObject) -> None:
        broken = data.draw(st.sampled_from(sorted(self.guests)))
        self.rebuild(
            [
                parse_guest(
                    xml.replace('</domain>', '') if uuid == broken else xml,
                    'x',
                )
                for uuid, xml in self.guests.items()
            ]
        )
        self.leaking = True

    def rebuild(self, guests: list[GuestDevices]) -> None:
        self.tracker = self.new_tracker()
        self.tracker.rebuild(guests)
        self.lost.clear()

    # What happens to the host.

    @rule(effect=st.sampled_from(EFFECTS), count=st.integers(1, 3))
    def refuse(self, effect: str, count: int) -> None:
        self.kernel.refusals[effect] = count

    @rule()
    def mend(self) -> None:
        self.kernel.refusals.clear()

    @rule(address=st.sampled_from([*CARDS, *VGPU]))
    def unplug_or_plug(self, address: str) -> None:
        if self.kernel.has(address):
            before = set(self.kernel.mdevs)
            self.kernel.remove(address)
            self.lost |= before - set(self.kernel.mdevs)
        else:
            self.kernel.plug(address)

    @rule(address=st.sampled_from([*VGPU]))
    def somebody_else_makes_one(self, address: str) -> None:
        # A UUID of version 4: new_uuid's, with another version.
        uuid = new_uuid().replace('-8', '-4', 1)
        kind = VGPU[address][2][0]
        parents = [address]
        if VGPU[address][3]:
            links = sorted(self.kernel.device(address).glob('virtfn*'))
            parents = [link.resolve().name for link in links]
        for parent in parents:
            try:
                self.kernel.create_mdev(parent, kind.id, uuid)
            except exception.EffectFailed:
                continue
            break

    # What must hold.

    @invariant()
    def everything_agrees(self) -> None:
        foreign = {u for u in self.kernel.mdevs if not is_ours(u)}
        view = self.tracker.view()
        devices = [unit.device for unit in view.units]
        assert len(devices) == len(set(devices)), 'held twice'

        # What is held exists, and what we made is held.
        held = {u.device for u in view.units if u.mechanism == 'mdev'}
        made = set(self.kernel.mdevs) - foreign
        assert held - self.lost <= made
        if not self.leaking:
            assert made <= held
        assert foreign <= set(self.kernel.mdevs)

        # What a guest has in its XML is its own.
        for consumer, xml in self.guests.items():
            guest = parse_guest(xml, 'x')
            claim = self.tracker.claim_of(consumer)
            own = {u.device for u in claim.units} if claim else set()
            assert guest.mdevs & made <= own
            assert {
                str(f) for f in guest.functions if self.kernel.has(str(f))
            } <= own

        # Placement is told of what can be had: not more, not less.
        present = {c for c in CARDS if self.kernel.has(c)}
        assert self.free(view, WHOLE, A100) == len(present - set(devices))
        for address in VGPU:
            if self.kernel.has(address):
                pool = PciAddress.parse(address).token
                for name, room in self.kernel.room(address).items():
                    assert self.free(view, pool, name) == room, (pool, name)
        for pool in view.pools:
            for record in pool.inventories.values():
                assert 0 <= record.reserved <= record.total

        host_map = self.tracker.map(view)
        assert HostMap.load(host_map.dump()) == host_map


class TrackerMachineTest(testtools.TestCase):
    """The machine, run."""

    def test_any_order(self) -> None:
        self.useFixture(fixtures.FakeLogger())
        half = settings(
            max_examples=settings().max_examples // 2, stateful_step_count=30
        )
        run_state_machine_as_test(TrackerMachine, settings=half)
