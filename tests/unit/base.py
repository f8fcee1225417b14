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


"""What the unit tests share: a host of files, and a tracker on it."""

from __future__ import annotations

import os
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import fixtures
import hypothesis
import testtools

from nova_gpu import xml
from nova_gpu.fabric import FabricManager
from nova_gpu.host import read_snapshot
from nova_gpu.mechanism.base import Mechanism
from nova_gpu.mechanism.mdev import MdevVgpu
from nova_gpu.mechanism.vendor_vfio import VendorVfio
from nova_gpu.mechanism.vf import PlainVf
from nova_gpu.mechanism.whole import WholeCard
from nova_gpu.model.address import PciAddress
from nova_gpu.model.claim import Claim, Want
from nova_gpu.model.device import Card, Snapshot
from nova_gpu.model.guest import (
    GuestDevices,
    Hostdev,
    metadata,
    parse_guest,
)
from nova_gpu.model.inventory import Unit
from nova_gpu.model.request import GpuRequest
from nova_gpu.putaside import PutAside
from nova_gpu.restore import Restorer
from nova_gpu.rules import parse_rules
from nova_gpu.sysfs.tree import Tree
from nova_gpu.tracker import Tracker
from tests.fixtures.sysfs import FakeSysfs

# The same examples in each run; HYPOTHESIS_PROFILE=explore looks further.
hypothesis.settings.register_profile(
    'steady', deadline=None, derandomize=True, database=None
)
hypothesis.settings.register_profile(
    'explore', deadline=None, max_examples=2000, database=None
)
hypothesis.settings.load_profile(
    os.environ.get('HYPOTHESIS_PROFILE', 'steady')
)

# In memory, as sysfs is: on some disks the tests would take minutes.
MEMORY = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None

NAMESPACE = uuid.UUID('f6dbdb3f-5a20-4e2b-8d1a-9c1a3d6e7b10')


def instance(name: object) -> str:
    """The UUID of an instance, by a short name."""
    return str(uuid.uuid5(NAMESPACE, str(name)))


def mechanisms() -> tuple[Mechanism, ...]:
    """Ours, in the order in which cards are offered to them."""
    return (MdevVgpu(), VendorVfio(), PlainVf(), WholeCard())


def card(address: str = '0000:25:00.0', **kwargs: Any) -> Card:
    """A card for passthrough, where nothing else is said."""
    fields: dict[str, Any] = {
        'vendor_id': 0x10DE,
        'product_id': 0x20B0,
        'class_code': 0x0302,
        'name': 'NVIDIA A100 SXM4 40GB',
        'model': 'NVIDIA A100 SXM4 40GB',
        'memory_mib': 40960,
        'numa_node': 0,
        'iommu_group': 47,
        'driver': 'vfio-pci',
    }
    return Card(PciAddress.parse(address), **{**fields, **kwargs})


def domain_xml(
    name: str,
    uuid: str,
    hostdevs: list[Hostdev],
    units: Iterable[Unit] = (),
    kept: Mapping[str, Iterable[Unit]] | None = None,
) -> str:
    """The XML of a guest with these devices, which are our ``units``.

    :param kept: what it had before a resize, by the move
    """
    recorded = ET.tostring(metadata(units, kept), encoding='unicode')
    devices = ''.join(
        xml.etree.tostring(device.element, encoding='unicode')
        for device in xml.build(hostdevs)
    )
    return (
        f"<domain type='kvm'>\n  <name>{name}</name>\n"
        f'  <uuid>{uuid}</uuid>\n  <metadata>{recorded}</metadata>\n'
        f'  <devices>{devices}</devices>\n</domain>\n'
    )


class HostTest(testtools.TestCase):
    """One host of files, empty at first, and what is logged."""

    maxDiff = None

    def setUp(self) -> None:
        super().setUp()
        self.fake = self.new_host()
        self.logs = self.useFixture(fixtures.FakeLogger())

    def new_host(self) -> FakeSysfs:
        """A host with nothing in it."""
        return FakeSysfs(self.useFixture(fixtures.TempDir(MEMORY)).path)

    def snapshot(self) -> Snapshot:
        return read_snapshot(Tree(self.fake.root))

    def cards(self) -> dict[str, Card]:
        return {str(c.address): c for c in self.snapshot().cards}

    def path(self, name: str) -> str:
        """The full path of a file, as warnings name it."""
        return f'{self.fake.root}/{name}'


class TrackerTest(HostTest):
    """A tracker on the host of files."""

    request = GpuRequest({})

    def setUp(self) -> None:
        super().setUp()
        self.aside = PutAside(self.fake.root / 'aside')
        self.tracker = self.new_tracker()

    def new_tracker(self, *rules: str, **kwargs: Any) -> Tracker:
        """Another tracker: what a restart of nova-compute has."""
        return Tracker(
            kwargs.pop('read', self.snapshot),
            mechanisms(),
            kwargs.pop('effects', self.fake),
            kwargs.pop('aside', self.aside),
            parse_rules(rules),
            **kwargs,
        )

    def restorer(
        self,
        pause: Callable[[float], None] = time.sleep,
        manager: FabricManager | None = None,
    ) -> Restorer:
        """What brings back what a boot of the host has taken."""
        return Restorer(
            self.snapshot, mechanisms(), self.fake, (), lambda _: (), pause,
            manager,
        )  # fmt: skip

    def claim(
        self, consumer: str, pool: str, name: str, count: int = 1
    ) -> Claim:
        return self.tracker.claim(
            consumer, [Want(pool, name, count)], self.request
        )

    def devices(self, consumer: str) -> list[str]:
        """What the consumer holds."""
        claim = self.tracker.claim_of(consumer)
        return sorted(u.device for u in claim.units) if claim else []

    def inventory(self, pool: str) -> Mapping[str, tuple[int, int]]:
        """Total and reserved by resource class; nothing if it isn't there."""
        found = self.tracker.view().pool(pool)
        return {
            name: (i.total, i.reserved)
            for name, i in (found.inventories if found else {}).items()
        }

    def guest_xml(self, consumer: str, name: str = 'instance-1') -> str:
        """The XML of the consumer's guest, with what the consumer holds."""
        hostdevs = self.tracker.hostdevs(consumer, self.request)
        units = self.tracker.units_of(consumer)
        kept = self.tracker.kept_for(consumer)
        return domain_xml(name, consumer, hostdevs, units, kept)

    def guest(self, consumer: str, name: str = 'instance-1') -> GuestDevices:
        return parse_guest(self.guest_xml(consumer, name), name)
