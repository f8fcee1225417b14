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

"""From what was seen of a host to the samples of its metrics."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence

from nova_gpu.model import metric
from nova_gpu.model.audit import Difference
from nova_gpu.model.claim import ALLOCATED, CLAIMED, REMOVED, Claim
from nova_gpu.model.claimtimes import STUCK, ClaimTimes, told_state
from nova_gpu.model.guest import GuestDevices
from nova_gpu.model.inventory import Unit, Use, pools
from nova_gpu.model.metric import Samples

AVAILABLE = 'available'
PUT_ASIDE = 'put_aside'
STATES = (CLAIMED, ALLOCATED, REMOVED, STUCK)
#: What nova-compute reserves, as its claims tell.
UNCOUNTED = 'held without an allocation'
#: What an audit can find without Placement.
PROBLEMS = (
    'card gone',
    'device in two guests',
    UNCOUNTED,
    'held for no guest',
    'nova-compute does not know',
    'partition not active',
    'partition without a guest',
    'vGPU gone',
    'vGPU without a guest',
)
#: Reasons are texts of ours and of the kernel's: none is longer than this.
REASON = 200


def add_cards(
    samples: Samples, uses: Iterable[Use], mechanisms: Iterable[str]
) -> None:
    """The cards, and what they are used for."""
    for name in (*mechanisms, 'none'):
        samples.set(metric.CARDS, 0, name)
    for use in uses:
        card = use.card
        what = use.mechanism if use.pool is not None else 'none'
        samples.add(metric.CARDS, 1, what)
        samples.set(
            metric.CARD_INFO, 1,
            card.address, card.model, card.vendor, card.driver,
            card.numa_node, what, use.pool,
        )  # fmt: skip
        if use.reason is not None:
            reason = use.reason[:REASON]
            samples.set(metric.CARD_UNUSED_INFO, 1, card.address, reason)


def add_units(
    samples: Samples, uses: Iterable[Use], claims: Iterable[Claim]
) -> None:
    """The units of each card by state; a card that has gone too."""
    for use in uses:
        card = use.card.address
        for state in STATES:
            samples.set(metric.UNITS, 0, card, state)
        samples.set(metric.UNITS, len(use.aside), card, PUT_ASIDE)
        free = max(map(use.available, use.offers), default=0)
        samples.set(metric.UNITS, free, card, AVAILABLE)
    for claim in claims:
        for unit in claim.units:
            state = STUCK if unit in claim.stuck else claim.state
            samples.add(metric.UNITS, 1, unit.card, state)


def add_profiles(samples: Samples, uses: Sequence[Use]) -> None:
    """What each pool has of each profile, as Placement counts it."""
    used: collections.Counter[tuple[str, str]] = collections.Counter()
    names: dict[tuple[str, str], set[str]] = {}
    for use in uses:
        for offer in use.offers:
            key = str(use.pool), offer.resource_class
            used[key] += offer.used
            names.setdefault(key, set()).add(offer.name or '')
    for pool in pools(uses):
        for name, has in pool.inventories.items():
            key = pool.key, name
            # A rule may give one class to several vGPU types.
            profile = '/'.join(sorted(names[key]))
            labels = pool.key, profile, name
            samples.set(metric.PROFILE_UNITS, has.total, *labels)
            samples.set(metric.PROFILE_USED, used[key], *labels)
            free = max(0, has.total - has.reserved - used[key])
            samples.set(metric.PROFILE_FREE, free, *labels)


def add_put_aside(
    samples: Samples, aside: Mapping[str, str], uses: Iterable[Use]
) -> None:
    """Devices that wait for an operator."""
    cards = {d: use.card.address for use in uses for d, _ in use.aside}
    for device, reason in aside.items():
        samples.set(
            metric.PUT_ASIDE_INFO, 1, device, cards.get(device),
            reason[:REASON],
        )  # fmt: skip


def add_differences(
    samples: Samples,
    differences: Iterable[Difference],
    told: Iterable[Claim],
) -> None:
    """What an audit would list, by problem."""
    for problem in PROBLEMS:
        samples.set(metric.DIFFERENCES, 0, problem)
    for difference in differences:
        samples.add(metric.DIFFERENCES, 1, difference.problem)
    uncounted = sum(len(claim.uncounted) for claim in told)
    samples.set(metric.DIFFERENCES, uncounted, UNCOUNTED)


def add_claims(
    samples: Samples, claims: Iterable[Claim], times: ClaimTimes
) -> None:
    """Who has claimed, since when, and how long it took."""
    for state in STATES:
        samples.set(metric.CLAIMS, 0, state)
    for claim in claims:
        state = told_state(claim)
        samples.add(metric.CLAIMS, 1, state)
        if claim.consumer in times.since:
            samples.set(
                metric.CLAIM_SINCE, times.since[claim.consumer][1],
                claim.consumer, claim.server, state,
            )  # fmt: skip
    samples.set(metric.CLAIM_DURATION, times.settled, 'count')
    samples.set(metric.CLAIM_DURATION, times.seconds, 'sum')
    samples.set(metric.CLAIMS_ABANDONED, times.abandoned)


def add_instances(
    samples: Samples, held: Iterable[tuple[GuestDevices, Unit]]
) -> None:
    """What each guest holds."""
    for guest, unit in held:
        samples.set(
            metric.INSTANCE_INFO, 1,
            guest.server, unit.project, guest.flavor, unit.card,
            unit.device, unit.name, unit.resource_class,
        )  # fmt: skip
