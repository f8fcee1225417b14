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

"""What guests hold, what Placement counts, what the host has: compared.

Pure functions; :mod:`nova_gpu.tracker` mends what the running service can,
``nova-gpu audit`` tells of all.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import (
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)

from nova_gpu.model.claim import CLAIMED, Claim, Counts, count
from nova_gpu.model.guest import GuestDevices

#: Why what is held without an allocation has to be given back.
NO_GUEST = 'it has no allocation in Placement, and no guest'
OVER = 'it is over'

#: What Placement has allocated: for each consumer the units by pool and
#: resource class.
Allocated = Mapping[str, Mapping[tuple[str, str], int]]

#: When the service compares.
NEXT_TIME = 'after [gpu] audit_interval seconds, or when it is restarted'

CLEAN = 'clean'
MAKE = 'make again'


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One thing that isn't as it should be.

    ``mend`` is what a repair does about the ``device``, or empty if it can't
    be done safely: then ``remedy`` says what a person has to do.
    """

    problem: str
    device: str
    holder: str
    meaning: str
    remedy: str
    mend: str = ''


def balance(
    claims: Iterable[Claim], allocated: Allocated
) -> tuple[dict[str, frozenset[str]], dict[str, Counts]]:
    """What is held and not allocated, and what is allocated and not held.

    The devices by who holds them, and the counts by whom they are allocated
    to. While an instance moves, Placement counts for the move's record what
    the instance still holds: who is allocated as much, and holds nothing
    here, stands for it.
    """
    claims = tuple(claims)
    unheld = {
        consumer: collections.Counter(counts)
        for consumer, counts in allocated.items()
    }
    held_by = set()
    surpluses = {}
    for claim in claims:
        held_by.add(claim.consumer)
        covered, surplus = claim.split(allocated.get(claim.consumer, {}))
        surpluses[claim.consumer] = surplus
        unheld.get(claim.consumer, Counts()).subtract(count(covered))
    for consumer, surplus in surpluses.items():
        movers = (
            mover
            for mover, counts in unheld.items()
            if surplus and mover not in held_by and counts == count(surplus)
        )
        if mover := next(movers, None):
            del unheld[mover]
            surpluses[consumer] = ()
    return (
        {c: frozenset(u.device for u in s) for c, s in surpluses.items()},
        {c: left for c, counts in unheld.items() if (left := +counts)},
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """On the ``devices`` that a consumer holds without an allocation.

    They are given back for the ``reason``, or reserved if there is none: a
    guest has them.
    """

    devices: frozenset[str]
    reason: str = ''


def judge(
    claims: Iterable[Claim], allocated: Allocated, defined: Collection[str]
) -> dict[str, Verdict]:
    """What is to become of what each consumer holds.

    :param defined: the guests that there are
    """
    claims = tuple(claims)
    surpluses, _ = balance(claims, allocated)
    found = {}
    for claim in claims:
        reason = '' if claim.guest is None else OVER
        if (claim.guest or claim.consumer) not in defined:
            reason = NO_GUEST
        found[claim.consumer] = Verdict(surpluses[claim.consumer], reason)
    return found


def differences(
    guests: Sequence[GuestDevices],
    claims: Sequence[Claim],
    vgpus: Mapping[str, str],
    devices: Iterable[str],
    allocated: Allocated | None = None,
    told: Sequence[Claim] | None = None,
) -> list[Difference]:
    """All that isn't as it should be, in a fixed order.

    :param claims: what the guests hold, by their XML
    :param vgpus: the vGPUs that nova-gpu has made, each with its card
    :param devices: all that exists: cards, and vGPUs of anybody
    :param allocated: what Placement says, if it was asked
    :param told: what nova-compute says, if it runs
    """
    holders: dict[str, list[str]] = {}
    for claim in claims:
        for unit in claim.units:
            holders.setdefault(unit.device, []).append(claim.consumer)
    found = [
        *_left_over(holders, vgpus, told),
        *_lost(guests, set(devices)),
        *_doubles(holders),
    ]
    if allocated is not None:
        found += _unbalanced(claims, allocated)
    if told is not None:
        found += _untold(holders, told)
    return sorted(found)


def _left_over(
    holders: Mapping[str, Sequence[str]],
    vgpus: Mapping[str, str],
    told: Sequence[Claim] | None,
) -> Iterator[Difference]:
    claimed = {unit.device for claim in told or () for unit in claim.units}
    # What runs may just be making it for a guest that is still to come.
    remedy, mend = (
        ('destroy it', CLEAN)
        if told is None
        else (f'nova-compute removes it {NEXT_TIME}', '')
    )
    for device, card in vgpus.items():
        if device not in holders and device not in claimed:
            yield Difference(
                'vGPU without a guest',
                device,
                '',
                f'it takes room on card {card} and fixes its profile',
                remedy,
                mend,
            )


def _lost(
    guests: Iterable[GuestDevices], devices: set[str]
) -> Iterator[Difference]:
    for guest in guests:
        holder = guest.uuid or guest.name
        kept = (unit for _, units in guest.kept for unit in units)
        for unit in (*guest.units, *kept):
            if unit.device in devices:
                continue
            if unit.type_id is None:
                yield Difference(
                    'card gone',
                    unit.device,
                    holder,
                    'the guest names a card that is not in this host',
                    'put it back, or migrate the server cold',
                )
            else:
                yield Difference(
                    'vGPU gone',
                    unit.device,
                    holder,
                    f'the guest names a vGPU {unit.name} on card {unit.card} '
                    f'that does not exist: it can not start',
                    'make it again',
                    MAKE,
                )


def _doubles(holders: Mapping[str, Sequence[str]]) -> Iterator[Difference]:
    for device, names in holders.items():
        if len(names) > 1:
            yield Difference(
                'device in two guests',
                device,
                ', '.join(sorted(names)),
                'only one of them can run',
                'stop the server that should not have it, and hard reboot it',
            )


def _unbalanced(
    claims: Sequence[Claim], allocated: Allocated
) -> Iterator[Difference]:
    uncounted, unheld = balance(claims, allocated)
    for consumer, devices in uncounted.items():
        for device in devices:
            yield Difference(
                'held without an allocation',
                device,
                consumer,
                'a guest has it, Placement counts it for nobody; nova-compute '
                'reserves it, so that nobody is promised it',
                'a server of this host: hard reboot it; any other guest: end '
                'and undefine it',
            )
    for consumer, counts in unheld.items():
        for (pool, name), number in counts.items():
            yield Difference(
                'allocated and not held',
                f'{number} {name} of pool {pool}',
                consumer,
                'Placement counts it, and no guest of this host has it',
                'a server of this host: hard reboot it; one that is gone: '
                'nova-manage placement audit --delete',
            )


def _untold(
    holders: Mapping[str, Sequence[str]], told: Sequence[Claim]
) -> Iterator[Difference]:
    known = {
        unit.device: claim
        for claim in told
        for unit in claim.units
        if unit not in claim.stuck
    }
    for device, names in holders.items():
        if device not in known:
            yield Difference(
                'nova-compute does not know',
                device,
                ', '.join(names),
                'the guest was defined behind its back',
                f'nova-compute notes it {NEXT_TIME}',
            )
    for device, claim in known.items():
        if device not in holders and claim.state != CLAIMED:
            yield Difference(
                'held for no guest',
                device,
                claim.consumer,
                'nova-compute holds it, and no guest of this host names it',
                'a server of this host: hard reboot it; one that is gone: '
                'restart nova-compute',
            )
