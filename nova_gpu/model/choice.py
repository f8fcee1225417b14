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

import itertools
from collections.abc import (
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)

from nova_gpu.model.address import Address
from nova_gpu.model.claim import Want
from nova_gpu.model.device import Card
from nova_gpu.model.inventory import Use
from nova_gpu.model.topology import HOST, Place, together

#: How many linked cards requests ask for: sets that are worth keeping whole.
SETS = (2, 4, 8, 16)
#: Sets that are compared at most; all cards in places of their own have more.
MOST_SETS = 2000


def choose_cards(
    count: int,
    free: Iterable[Card],
    places: Mapping[Address, Place] | None = None,
    level: str = HOST,
    required: bool = False,
) -> tuple[Card, ...]:
    """Choose ``count`` of the ``free`` cards, or none if it can't be done.

    Such as share ``level`` or what is closer, if they can be had or if that
    is ``required``. Among them such as are as close to each other as can be:
    linked cards first, then those of one NUMA node, and there those behind
    one PCIe switch. Then those that break the fewest sets of 2, 4, 8 and 16
    cards that are as close, and leave large sets. Ties go to the lower
    addresses: the same state, the same choice.

    :param places: where the cards are; by default only their NUMA nodes tell
    """
    known = places or {}
    cells: dict[Place, list[Card]] = {}
    for card in sorted(free, key=lambda c: c.address):
        place = known.get(card.address) or Place(card.numa_node)
        cells.setdefault(place, []).append(card)
    sizes = {place: len(cards) for place, cards in cells.items()}
    if sum(sizes.values()) < count:
        return ()
    ways = list(itertools.islice(_ways(count, list(sizes.items())), MOST_SETS))
    if fitting := [way for way in ways if _fits(way, level)]:
        ways = fitting
    elif required:
        return ()
    crossed = list(map(_crossed, ways))
    closest = min(crossed)
    groups = _groups(sizes)
    found = min(
        (w for w, c in zip(ways, crossed, strict=True) if c == closest),
        key=lambda taken: _broken(taken, sizes, groups),
    )
    return tuple(
        card for place, number in found for card in cells[place][:number]
    )


Taken = tuple[tuple[Place, int], ...]
#: For each level, the closest first, the sets of places that share it.
Groups = tuple[tuple[tuple[Place, ...], ...], ...]


def _ways(count: int, sizes: Sequence[tuple[Place, int]]) -> Iterator[Taken]:
    """All ways to take ``count`` cards, by how many from each place.

    Cards in one place are alike. Those that take many from one come first.
    """
    if not count:
        yield ()
        return
    left = sum(size for _, size in sizes)
    for index, (place, size) in enumerate(sizes):
        if left < count:
            return
        left -= size
        for number in range(min(size, count), 0, -1):
            for rest in _ways(count - number, sizes[index + 1 :]):
                yield (place, number), *rest


def _fits(taken: Taken, level: str) -> bool:
    # Two cards of a place tell as much as all of them.
    cards = (place for place, n in taken for _ in range(min(n, 2)))
    return together(cards, level)


def _crossed(taken: Taken) -> tuple[int, int, int]:
    """How many cliques, NUMA nodes and switches a choice is spread over.

    A card that has no clique, or no switch, counts for itself.
    """
    cliques = {place.clique for place, _ in taken}
    switches = {place.switch for place, _ in taken}
    return (
        len(cliques - {None})
        + sum(n for place, n in taken if place.clique is None),
        len({place.numa_node for place, _ in taken}),
        len(switches - {None})
        + sum(n for place, n in taken if place.switch is None),
    )


def _groups(places: Iterable[Place]) -> Groups:
    """The places that share a clique, a NUMA node, a switch."""
    places = tuple(places)
    levels = []
    for level in ('clique', 'numa_node', 'switch'):
        shared: dict[object, list[Place]] = {}
        for place in places:
            value = getattr(place, level)
            if value is not None:
                shared.setdefault(value, []).append(place)
        levels.append(tuple(map(tuple, shared.values())))
    return tuple(levels)


def _broken(
    taken: Taken, sizes: Mapping[Place, int], groups: Groups
) -> tuple[object, ...]:
    """What a choice costs those who come later; the smaller, the better."""
    numbers = dict(taken)
    broken = []
    left_over = []
    for level in groups:
        lost = 0
        kept = 0
        for group in level:
            before = sum(sizes[place] for place in group)
            after = before - sum(numbers.get(place, 0) for place in group)
            lost += sum(n * (before // n - after // n) for n in SETS)
            kept += after * after
        broken.append(lost)
        left_over.append(-kept)
    return tuple(broken), tuple(left_over)


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
            elif use.pool in others and use.available(offer) >= want.count:
                room = use.available(offer)
                rooms.append((not offer.used, room, str(use.pool)))
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
