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

"""Which cards of a host are close to each other.

===========  ==========================================================
Cards share  which is known from
===========  ==========================================================
NVLink       a rule; or ``nova-gpu host record``; or the board: all
             cards on it are linked
PCIe switch  the bridges above them in sysfs
NUMA node    sysfs
===========  ==========================================================

The closest comes first. A card that is bound to vfio-pci doesn't tell its
links: sysfs has none, and the vendor's driver, which knows, isn't there. So
they are recorded before.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import TypeVar

from nova_gpu.model.address import Address, PciAddress
from nova_gpu.model.device import Card

T = TypeVar('T')

#: What a rule calls the links of a card that has none.
NO_LINKS = 'none'


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """What a card shares with others of its host.

    ``switch`` is the address of the topmost PCIe switch above it, ``clique``
    the name of the set of cards that are all linked with each other. Both
    are None if no other card is there.
    """

    numa_node: int = -1
    switch: PciAddress | None = None
    clique: str | None = None


#: What two cards can share, the closest first; the last is the host.
NVLINK, SWITCH, NUMA, HOST = TIES = ('nvlink', 'switch', 'numa', 'host')


def tie(one: Place, other: Place) -> str:
    """The closest thing that two cards share."""
    if one.clique is not None and one.clique == other.clique:
        return NVLINK
    if one.switch is not None and one.switch == other.switch:
        return SWITCH
    return NUMA if one.numa_node == other.numa_node else HOST


def together(found: Iterable[Place], level: str) -> bool:
    """Whether all cards at these places share ``level``, or what is closer.

    :param found: a place for each card
    """
    found = tuple(found)
    if len(found) < 2 or level == HOST:
        return True
    closest = TIES.index(level)
    shared = (
        {place.clique for place in found},
        {place.switch for place in found},
        {place.numa_node for place in found},
    )
    return any(
        len(values) == 1 and None not in values
        for values in shared[: closest + 1]
    )


def places(cards: Iterable[tuple[Card, str | None]]) -> dict[Address, Place]:
    """Where each card is; with each what a rule says of its links."""
    cards = tuple((c, c.clique if said is None else said) for c, said in cards)
    boards = _boards(card for card, said in cards if said is None)
    switches = {card.address: _switch(card) for card, _ in cards}
    cliques = {
        card.address: boards.get(card.address) if said is None else said
        for card, said in cards
    }
    return {
        card.address: Place(
            card.numa_node,
            _shared(switches, card.address),
            _shared(cliques, card.address),
        )
        for card, _ in cards
    }


def _switch(card: Card) -> PciAddress | None:
    """The topmost switch: what is right below the root port, if not it."""
    return card.bridges[1] if len(card.bridges) > 1 else None


def _boards(cards: Iterable[Card]) -> dict[Address, str]:
    """The linked cards by model; none if they can't all be on one board."""
    models: dict[str, list[Card]] = collections.defaultdict(list)
    for card in cards:
        if card.linked:
            models[card.model].append(card)
    return {
        card.address: f'board of {model}'
        for model, members in models.items()
        for card in members
        if len(members) <= card.linked
    }


def _shared(values: Mapping[Address, T | None], address: Address) -> T | None:
    value = values[address]
    if value is None or value == NO_LINKS:
        return None
    alike = sum(other == value for other in values.values())
    return value if alike > 1 else None
