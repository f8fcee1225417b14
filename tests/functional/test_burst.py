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


"""Many requests at once: two schedulers, two computes, empty cards.

Placement can't say that a card takes one profile at a time, so requests that
come together meet on empty cards. ``NOVA_GPU_BURSTS`` says how often each
test is repeated on the same cloud.
"""

from __future__ import annotations

import collections
import os
import time
import uuid
from collections.abc import Iterable
from typing import Any

import fixtures

from nova_gpu.model.address import PciAddress
from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs
from tests.functional import base

RUNS = int(os.environ.get('NOVA_GPU_BURSTS', '1'))
CARDS = ('0000:41:00.0', '0000:61:00.0', '0000:81:00.0', '0000:a1:00.0')


def add_a40s(fake: FakeSysfs) -> FakeSysfs:
    """Four A40 that hold their mediated devices themselves."""
    for index, address in enumerate(CARDS):
        fake.add_gpu(
            address, 0x2235, numa_node=index // 2, iommu_group=30 + index,
            driver='nvidia', types=hosts.A40_TYPES, units=48,
        )  # fmt: skip
    return fake


class BurstTest(base.GpuServersTest):
    """Two hosts of four A40 each, asked from all sides at once."""

    CAST_AS_CALL = False
    TIMEOUT_SCALING_FACTOR = 3

    def setUp(self) -> None:
        super().setUp()
        self.start_second_scheduler()
        for name in ('gpu1', 'gpu2'):
            add_a40s(self.new_host(name))
            self.start_gpu_compute(name)
        self.flavors = {
            size: self.gpu_flavor(
                **{f'resources__CUSTOM_VGPU_NVIDIA_A40_{size}Q': '1'}
            )
            for size in (4, 8, 12, 16, 24, 48)
        }

    def ask(self, wanted: dict[int, int]) -> list[str]:
        """Ask for servers of several profiles, mixed; returns their ids."""
        left = dict(wanted)
        servers = []
        while left:
            for size in tuple(left):
                body = self._build_server(
                    flavor_id=self.flavors[size], networks='none'
                )
                servers.append(self.api.post_server({'server': body})['id'])
                left[size] -= 1
                if not left[size]:
                    del left[size]
        return servers

    def burst(self, wanted: dict[int, int], served: int) -> None:
        """Ask for all of ``wanted`` at once; ``served`` of them must come."""
        before = self.state()
        ids = self.ask(wanted)
        self.wait_until_none(ids, status='BUILD')
        servers = [self.api.get_server(id) for id in ids]
        refused = [s for s in servers if s['status'] != 'ACTIVE']
        faults = [s['fault']['message'] for s in refused]
        found = collections.Counter(s['status'] for s in servers)
        self.assertEqual(served, found['ACTIVE'], faults)
        for fault in faults:
            self.assertIn('No valid host', fault)
        self.assert_no_device_twice()
        self.assert_counts_agree()
        for id in ids:
            self.api.delete_server(id)
        self.wait_until_none(ids)
        self.assertEqual(before, self.state())

    def wait_until_none(self, ids: Iterable[str], **options: str) -> None:
        """Wait until no server of ``ids`` is listed.

        Asked rarely and for all at once: in one process, the time that the
        API takes is missing to those who build.
        """
        for _ in range(200):
            listed = self.api.get_servers(detail=False, search_opts=options)
            if not {server['id'] for server in listed}.intersection(ids):
                return
            time.sleep(3)
        self.fail(f'servers are still listed with {options}')

    def state(self) -> object:
        """What is in use: mdevs, and usages and reservations in Placement."""
        return {
            name: (
                fake.mdevs,
                self.nonzero_usages(name),
                {
                    provider: {c: r['reserved'] for c, r in found.items()}
                    for provider, found in self.providers_of(name).items()
                },
            )
            for name, fake in self.hosts.items()
        }

    def assert_counts_agree(self) -> None:
        """As many vGPUs of each type exist as Placement has allocated."""
        for name, fake in self.hosts.items():
            made = collections.Counter(
                kind for address in CARDS for _, kind in fake.made(address)
            )
            names = {t.id: t.name.removeprefix('NVIDIA ').replace('-', '_')
                     for t in hosts.A40_TYPES}  # fmt: skip
            self.assertEqual(
                self.nonzero_usages(name),
                {
                    f'CUSTOM_VGPU_NVIDIA_{names[kind]}': count
                    for kind, count in made.items()
                },
            )

    def test_room_for_all(self) -> None:
        # Four cards would do. A profile may open one more on each host, for
        # neither schedulers nor computes know of the other host's.
        for _ in range(RUNS):
            self.burst({4: 12, 8: 6, 12: 6}, served=24)

    def test_room_for_twenty(self) -> None:
        # One server on each card fixes its profile, so that the room doesn't
        # depend on the order of the burst: 10 of 8Q, 6 of 12Q, 4 of 16Q.
        for host in self.hosts:
            for size in (8, 12, 16, 48):
                self.boot(self.flavors[size], host=host)
        for _ in range(RUNS):
            self.burst({8: 10, 12: 8, 16: 6}, served=20)


class RaceTest(base.GpuServersTest):
    """A card that is taken between the scheduler's look and the claim."""

    def setUp(self) -> None:
        super().setUp()
        self.logs = self.useFixture(fixtures.FakeLogger())
        self.fake = add_a40s(self.new_host('gpu1'))
        self.start_gpu_compute('gpu1')
        self.flavor = self.gpu_flavor(resources__CUSTOM_VGPU_NVIDIA_A40_8Q='2')

    def card_of(self, server: dict[str, Any]) -> str:
        """The card that the server's vGPUs are on."""
        cards = {
            parent
            for parent in CARDS
            if not self.guest_devices(server).mdevs.isdisjoint(
                self.fake.mdevs_of(parent)
            )
        }
        self.assertEqual(1, len(cards))
        return cards.pop()

    def take(self, card: str) -> None:
        """Somebody makes a vGPU of another profile, and tells nobody."""
        self.fake.create_mdev(card, 'nvidia-563', str(uuid.uuid4()))

    def used(self) -> dict[str, int]:
        """The providers that have allocations, and how many units."""
        return {
            provider['name']: sum(usages.values())
            for provider in self.placement.get(
                '/resource_providers', version='1.36'
            ).body['resource_providers']
            if '_gpu_' in provider['name']
            and (usages := self._get_provider_usages(provider['uuid']))
            and any(usages.values())
        }

    def provider(self, card: str) -> str:
        """The name of a card's resource provider."""
        return f'gpu1_gpu_{PciAddress.parse(card).token}'

    def test_the_allocation_follows_to_another_card(self) -> None:
        server = self.boot(self.flavor)
        first = self.card_of(server)
        self._delete_server(server)
        self.take(first)
        # The scheduler, who knows nothing, chooses as before.
        server = self.boot(self.flavor)
        card = self.card_of(server)
        self.assertNotEqual(first, card)
        self.assertEqual({self.provider(card): 2}, self.used())
        self.assertIn(
            f'Moved the allocation of 2 CUSTOM_VGPU_NVIDIA_A40_8Q from pool '
            f'{PciAddress.parse(first).token} to pool '
            f'{PciAddress.parse(card).token}',
            self.logs.output,
        )
        # What was moved is given back where it is.
        self._delete_server(server)
        self.assertEqual({}, self.used())
        self.assertEqual(1, len(self.fake.mdevs))

    def test_a_card_with_another_trait_is_no_substitute(self) -> None:
        server = self.boot(self.flavor)
        first = self.card_of(server)
        self._delete_server(server)
        for card in CARDS:
            if card != first:
                self.add_trait(self.provider(card), 'CUSTOM_NOISY')
        self.restart_gpu_compute('gpu1')
        self.take(first)
        server = self.boot(self.flavor, state='ERROR')
        self.assertNotIn('Moved the allocation', self.logs.output)
        self.assertEqual({}, self.used())

    def test_no_other_card_has_room(self) -> None:
        server = self.boot(self.flavor)
        first = self.card_of(server)
        self._delete_server(server)
        for card in CARDS:
            self.take(card)
        server = self.boot(self.flavor, state='ERROR')
        self.assertIn(
            f'pool {PciAddress.parse(first).token} can not give 2 '
            f'CUSTOM_VGPU_NVIDIA_A40_8Q',
            self.logs.output,
        )
        self.assertEqual({}, self.used())
        self.assertEqual(len(CARDS), len(self.fake.mdevs))

    def test_the_host_without_room_hands_on_to_the_next(self) -> None:
        add_a40s(self.new_host('gpu2'))
        self.start_gpu_compute('gpu2')
        server = self.boot(self.flavor)
        name = server['OS-EXT-SRV-ATTR:host']
        self._delete_server(server)
        self.fake = self.hosts[name]
        for card in CARDS:
            self.take(card)
        server = self.boot(self.flavor)
        self.assertNotEqual(name, server['OS-EXT-SRV-ATTR:host'])
        self.assertEqual({}, self.nonzero_usages(name))
        self.assertEqual(4, len(self.hosts[name].mdevs))
