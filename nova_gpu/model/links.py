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

"""Cards that are linked with each other, as their driver has told.

The driver knows only while a card is bound to it; ``nova-gpu host record``
asks it then, and discovery reads the record once the cards are bound to
vfio-pci.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from nova_gpu.model.address import Address, PciAddress
from nova_gpu.model.device import Card
from nova_gpu.model.topology import NO_LINKS

#: Vendor and device of the board that a card is on.
Subsystem = tuple[int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class LinkedCard:
    """A card's links, and what it takes to know the card again.

    ``links`` are how many lead to each other card, ``switches`` the NVSwitches
    that others lead to. ``switched`` says that there are such also where
    their addresses aren't known. ``down`` is how many links lead nowhere.
    """

    address: PciAddress
    vendor_id: int
    product_id: int
    subsystem: Subsystem
    links: Mapping[PciAddress, int] = dataclasses.field(default_factory=dict)
    switched: bool = False
    switches: tuple[PciAddress, ...] = ()
    down: int = 0

    def is_card(self, card: Card, subsystem: Subsystem | None) -> bool:
        """Whether ``card``, which is where this one was, can be this one."""
        return (
            self.vendor_id,
            self.product_id,
            self.subsystem,
        ) == (card.vendor_id, card.product_id, subsystem)


def cliques(cards: Collection[LinkedCard]) -> dict[PciAddress, str]:
    """For each card the name of the set of cards that are all linked.

    Cards that share an NVSwitch are. Where cards are linked directly the
    largest set comes first, and of those as large the one with most links.
    """
    names: dict[PciAddress, str] = dict.fromkeys(
        (card.address for card in cards), NO_LINKS
    )
    left = sorted(cards, key=lambda card: card.address)
    for members in _switched(left):
        if len(members) > 1:
            first = members[0].switches
            name = f'NVSwitch {first[0]}' if first else 'NVSwitch'
            names.update((card.address, name) for card in members)
    left = [card for card in left if not card.switched]
    while len(linked := _largest(left)) > 1:
        name = f'NVLink {linked[0].address}'
        names.update((card.address, name) for card in linked)
        left = [card for card in left if card not in linked]
    return names


def recall(
    cards: Sequence[Card],
    recorded: Iterable[LinkedCard],
    subsystems: Mapping[Address, Subsystem | None],
) -> tuple[tuple[Card, ...], tuple[str, ...]]:
    """The cards with their cliques, and why some of the record isn't used.

    :param subsystems: of those cards that were recorded
    """
    here = {card.address: card for card in cards}
    known: list[LinkedCard] = []
    missing: list[LinkedCard] = []
    warnings = []
    for told in recorded:
        card = here.get(told.address)
        if card is None:
            missing.append(told)
        elif told.is_card(card, subsystems.get(card.address)):
            known.append(told)
        else:
            warnings.append(
                f'at {told.address} is another card than was recorded: its '
                f'links are not known'
            )
    if moved := _moved(here, known, missing):
        return tuple(cards), (
            f'{moved} was recorded and is not there, but another card of its '
            f'model is: no record is used, as addresses may have changed',
        )
    names = cliques(known)
    return tuple(
        dataclasses.replace(card, clique=names[card.address])
        if isinstance(card.address, PciAddress) and card.address in names
        else card
        for card in cards
    ), tuple(warnings)


def _moved(
    here: Mapping[Address, Card],
    known: Iterable[LinkedCard],
    missing: Iterable[LinkedCard],
) -> PciAddress | None:
    """A card that may have another address now."""
    recorded = {told.address for told in known}
    models = {
        (card.vendor_id, card.product_id)
        for address, card in here.items()
        if address not in recorded
    }
    return next(
        (t.address for t in missing if (t.vendor_id, t.product_id) in models),
        None,
    )


def _switched(cards: Iterable[LinkedCard]) -> list[list[LinkedCard]]:
    """The cards by the switches that they share, at least through others."""
    groups: list[tuple[set[PciAddress], list[LinkedCard]]] = []
    for card in cards:
        if not card.switched:
            continue
        switches = set(card.switches)
        members = [card]
        apart = []
        for group in groups:
            if group[0] & switches or not (group[0] or switches):
                switches |= group[0]
                members = group[1] + members
            else:
                apart.append(group)
        groups = [*apart, (switches, members)]
    return [members for _, members in groups]


def _largest(cards: Sequence[LinkedCard]) -> tuple[LinkedCard, ...]:
    """The largest set of which each is linked with each other."""
    numbers: collections.Counter[frozenset[PciAddress]] = collections.Counter()
    for card in cards:
        for other, number in card.links.items():
            pair = frozenset((card.address, other))
            numbers[pair] = max(numbers[pair], number)

    def grow(
        chosen: tuple[LinkedCard, ...], options: Sequence[LinkedCard]
    ) -> Iterator[tuple[int, int, tuple[LinkedCard, ...]]]:
        links = sum(
            numbers[frozenset((one.address, other.address))]
            for index, one in enumerate(chosen)
            for other in chosen[index + 1 :]
        )
        yield len(chosen), links, chosen
        for index, card in enumerate(options):
            yield from grow(
                (*chosen, card),
                [
                    other
                    for other in options[index + 1 :]
                    if numbers[frozenset((card.address, other.address))]
                ],
            )

    return max(grow((), cards), key=lambda found: found[:2])[2]
