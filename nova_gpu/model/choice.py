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

"""Which pools and devices serve a claim: pure functions, no effects."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from nova_gpu.model.claim import Want
from nova_gpu.model.device import Card
from nova_gpu.model.inventory import Use


def choose_cards(count: int, free: Iterable[Card]) -> tuple[Card, ...]:
    """Choose ``count`` of the ``free`` cards, or none if there are fewer.

    All from one NUMA node if one has as many, and from the node where the
    fewest are left, so that the large sets stay whole; otherwise from the
    nodes with the most, so that as few nodes as possible are crossed. Ties
    go to the lower node and address: the same state, the same choice.
    """
    nodes: dict[int, list[Card]] = {}
    for card in sorted(free, key=lambda c: c.address):
        nodes.setdefault(card.numa_node, []).append(card)
    fitting = [cards for cards in nodes.values() if len(cards) >= count]
    if fitting:
        best = min(fitting, key=lambda cards: (len(cards), cards[0].address))
        return tuple(best[:count])
    by_size = sorted(
        nodes.values(), key=lambda cards: (-len(cards), cards[0].address)
    )
    chosen = [card for cards in by_size for card in cards][:count]
    return tuple(chosen) if len(chosen) == count else ()


def pools_in_order(
    uses: Iterable[Use], want: Want, others: Collection[str]
) -> list[str]:
    """The pools that may serve what is wanted, best first.

    Those that give the class already, the fullest before all: an empty card
    stays open for any profile. Then the pool that was asked for, then empty
    ones.

    :param others: the pools that may stand in for the one that was asked for
    """
    rooms = []
    asked = (True, 0, want.pool)
    for use in uses:
        for offer in use.offers:
            if offer.resource_class != want.resource_class:
                continue
            if use.pool == want.pool:
                asked = (asked[0] and not offer.used, 0, want.pool)
            elif use.pool in others and offer.free >= want.count:
                rooms.append((not offer.used, offer.free, str(use.pool)))
    return [pool for _, _, pool in sorted([*rooms, asked])]


def could_pack(uses: Collection[Use], want: Want) -> bool:
    """Whether a card in use could spare an empty one that was asked for."""
    cut = {
        use.pool
        for use in uses
        if use.pool is not None and any(o.type_id for o in use.offers)
    }
    return want.pool in cut and (
        pools_in_order(uses, want, cut)[0] != want.pool
    )
