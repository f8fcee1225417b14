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

"""Whether all that is said of GPUs agrees, judged from outside.

What guests hold in their domains, what Placement allocates, what exists on
the cards and what the trackers have claimed are four accounts of one thing.
Each is read here from its source, by other means than the code under test
has: a mistake there must not hide itself.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lxml import etree

from nova_gpu.model.inventory import Unit
from tests.fixtures.sysfs import FakeSysfs

#: Display controllers and processing accelerators.
GPU_CLASSES = (0x03, 0x12)
#: Resource classes of GPUs, in allocations and flavors.
CLASS = re.compile(r'(PGPU|VGPU|CUSTOM_V?GPU_\w+)$')
#: Migrations that are over: nothing may be allocated to them any more.
OVER = {'confirmed', 'reverted', 'completed', 'cancelled', 'failed'}


@dataclasses.dataclass(frozen=True)
class HostState:
    """What is said of one host.

    :param guests: by the UUID of a domain its host devices: addresses of PCI
        functions and UUIDs of mdevs
    :param claims: by consumer what the tracker has claimed
    :param allocations: by consumer and provider what Placement allocates
    """

    name: str
    fake: FakeSysfs
    guests: Mapping[str, frozenset[str]]
    claims: Mapping[str, Sequence[Unit]]
    allocations: Mapping[str, Mapping[str, Mapping[str, int]]]


@dataclasses.dataclass(frozen=True, order=True)
class Holder:
    """Who holds devices: a server, or what is ``kept`` of it for a move."""

    server: str
    kept: bool = False

    def __str__(self) -> str:
        kept = 'what a move keeps of ' if self.kept else ''
        return f'{kept}server {self.server}'


def devices_of(xml: str) -> frozenset[str]:
    """The host devices in a domain's XML."""
    return frozenset(
        device
        for hostdev in etree.fromstring(xml).iterfind('devices/hostdev')
        for device in devices_of_element(hostdev)
    )


def devices_of_element(hostdev: etree._Element) -> Iterator[str]:
    """The device of one ``<hostdev>``."""
    address = hostdev.find('source/address')
    if address is None:
        return
    if hostdev.get('type') == 'mdev':
        yield address.get('uuid').lower()
    else:
        numbers = (
            int(address.get(part), 16)
            for part in ('domain', 'bus', 'slot', 'function')
        )
        yield '{:04x}:{:02x}:{:02x}.{:x}'.format(*numbers)


def differences(
    hosts: Iterable[HostState],
    servers: Iterable[Mapping[str, Any]],
    migrations: Iterable[Mapping[str, Any]],
) -> list[str]:
    """Each difference between what is said, in words."""
    known = {server['id']: server for server in servers}
    moves = {migration['uuid']: migration for migration in migrations}
    return [
        f'{host.name}: {text}'
        for host in hosts
        for text in _Judge(host, known, moves).differences()
    ]


class _Judge:
    """Compares what is said of one host."""

    def __init__(
        self,
        host: HostState,
        servers: Mapping[str, Mapping[str, Any]],
        migrations: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.host = host
        self.servers = servers
        self.migrations = migrations
        self.allocated = {
            self._consumer(consumer): allocation
            for consumer, allocation in host.allocations.items()
        }
        self.claimed: dict[Holder, list[Unit]] = {}
        for consumer, units in host.claims.items():
            holder = self._holder(consumer)
            self.claimed.setdefault(holder, []).extend(units)
        self.guests = {
            self._holder(uuid): frozenset(filter(self._is_gpu, devices))
            for uuid, devices in host.guests.items()
        }
        #: By device the card that a vGPU is on, and its type's name.
        self.made = dict(self._made())

    def differences(self) -> Iterator[str]:
        yield from self._consumers()
        holders = {*self.allocated, *self.claimed}
        holders |= {h for h, devices in self.guests.items() if devices}
        for holder in sorted(holders):
            yield from self._placement(holder)
            yield from self._domain(holder)
        yield from self._flavors()
        yield from self._devices()

    # Who is who.

    def _consumer(self, consumer: str) -> Holder:
        migration = self.migrations.get(consumer)
        if migration is None:
            return Holder(consumer)
        return Holder(migration['instance_uuid'], kept=True)

    def _holder(self, consumer: str) -> Holder:
        """The same for a domain or a claim, which go by the server's name.

        On the host that a server has left, what they have is what is kept.
        """
        holder = self._consumer(consumer)
        kept = Holder(holder.server, kept=True)
        if self._host_of(holder.server) != self.host.name and (
            kept in self.allocated
        ):
            return kept
        return holder

    def _host_of(self, server: str) -> str | None:
        found = self.servers.get(server, {}).get('OS-EXT-SRV-ATTR:host')
        return None if found is None else str(found)

    # The four accounts.

    def _consumers(self) -> Iterator[str]:
        for consumer in self.host.allocations:
            migration = self.migrations.get(consumer)
            if migration is not None:
                if migration['status'] in OVER:
                    yield (
                        f'Placement allocates to migration {consumer}, which '
                        f'is {migration["status"]}'
                    )
            elif consumer not in self.servers:
                yield f'Placement allocates to {consumer}, which is no server'
            elif not self._is_here(consumer):
                yield (
                    f'Placement allocates to server {consumer}, which is on '
                    f'{self._host_of(consumer)}'
                )

    def _is_here(self, server: str) -> bool:
        if self._host_of(server) == self.host.name:
            return True
        # A host that died keeps what a guest of it had until it is back.
        return any(
            migration['instance_uuid'] == server
            and migration['migration_type'] == 'evacuation'
            and migration['source_compute'] == self.host.name
            and migration['status'] not in OVER
            for migration in self.migrations.values()
        )

    def _placement(self, holder: Holder) -> Iterator[str]:
        allocated = collections.Counter(
            {
                (provider, name): count
                for provider, found in self.allocated.get(holder, {}).items()
                for name, count in found.items()
            }
        )
        claimed = collections.Counter(
            (f'{self.host.name}_gpu_{unit.pool}', unit.resource_class)
            for unit in self.claimed.get(holder, ())
            if unit.allocated
        )
        if allocated != claimed:
            yield (
                f'Placement allocates {_counts(allocated)} to {holder}, the '
                f'tracker has claimed {_counts(claimed)}'
            )

    def _domain(self, holder: Holder) -> Iterator[str]:
        claimed = {
            device
            for unit in self.claimed.get(holder, ())
            for device in (map(str, unit.functions) or [unit.device])
            if self._is_gpu(device)
        } | {
            unit.device
            for unit in self.claimed.get(holder, ())
            if not unit.functions
        }
        held = self.guests.get(holder)
        if held is None:
            # While a server awaits a decision on its own host, its domain
            # only shows the new devices.
            if not holder.kept:
                yield f'{holder} has no domain and {_names(claimed)}'
        elif held != claimed:
            yield (
                f'the domain of {holder} has {_names(held)}, the tracker has '
                f'claimed {_names(claimed)}'
            )

    def _flavors(self) -> Iterator[str]:
        for holder, found in self.allocated.items():
            server = self.servers.get(holder.server)
            if server is None or holder.kept:
                continue
            allocated: collections.Counter[str] = collections.Counter()
            for resources in found.values():
                allocated.update(resources)
            yield from self._flavor(server, allocated)
        for server in self.servers.values():
            if (
                self._host_of(server['id']) == self.host.name
                and Holder(server['id']) not in self.allocated
                # Nova's record keeps the host of one that it offloaded if
                # Placement went away in between.
                and server['status'] != 'SHELVED_OFFLOADED'
            ):
                yield from self._flavor(server, collections.Counter())

    def _flavor(
        self, server: Mapping[str, Any], has: collections.Counter[str]
    ) -> Iterator[str]:
        asked: collections.Counter[str] = collections.Counter()
        for key, value in server['flavor']['extra_specs'].items():
            name = key.partition(':')[2]
            if key.startswith('resources') and CLASS.match(name):
                asked[name] += int(value)
        if asked != has:
            yield (
                f'the flavor of server {server["id"]} asks for '
                f'{_counts(asked)}, Placement allocates {_counts(has)}'
            )

    def _devices(self) -> Iterator[str]:
        """Each device in one hand, and none made that nobody holds."""
        owners: dict[str, Holder] = {}
        for holder, units in self.claimed.items():
            for unit in units:
                yield from self._device(holder, unit)
                if unit.device in owners:
                    yield (
                        f'{unit.device} is claimed for '
                        f'{owners[unit.device]} and for {holder}'
                    )
                owners[unit.device] = holder
        for (one, had), (other, has) in itertools.combinations(
            self.guests.items(), 2
        ):
            for device in sorted(had & has):
                yield f'{device} is in the domains of {one} and of {other}'
        for device in sorted(self.made.keys() - owners.keys()):
            card, kind = self.made[device]
            yield f'{device} ({kind}) of card {card} exists, nobody holds it'

    def _device(self, holder: Holder, unit: Unit) -> Iterator[str]:
        if unit.type_id is None:
            return
        if unit.device not in self.made:
            yield f'{unit.device}, claimed for {holder}, does not exist'
            return
        card, kind = self.made[unit.device]
        token = re.sub(r'\W+', '_', kind.split(' ', 1)[-1]).upper()
        if not unit.resource_class.endswith(token):
            yield (
                f'{unit.device}, claimed for {holder} as '
                f'{unit.resource_class}, is a {kind}'
            )
        if re.sub(r'\W', '_', card) != unit.pool:
            yield (
                f'{unit.device}, claimed for {holder} from pool {unit.pool}, '
                f'is on card {card}'
            )

    # What there is.

    def _is_gpu(self, device: str) -> bool:
        """Whether a guest's device is one, or belongs to one."""
        path = self.host.fake.root / 'sys/bus/pci/devices' / device / 'class'
        if not path.exists():
            return '-' in device  # an mdev, whether it exists or not
        return int(path.read_text(), 16) >> 16 in GPU_CLASSES

    def _made(self) -> Iterator[tuple[str, tuple[str, str]]]:
        for card in self.host.fake.vgpu_cards:
            for device, kind in self.host.fake.vgpus(card).items():
                yield device, (card, kind)


def _counts(counter: collections.Counter[Any]) -> str:
    found = (
        f'{count} {" ".join(reversed(key)) if isinstance(key, tuple) else key}'
        for key, count in sorted(counter.items())
        if count
    )
    return ', '.join(found) or 'nothing'


def _names(devices: Iterable[str]) -> str:
    return ', '.join(sorted(devices)) or 'nothing'
