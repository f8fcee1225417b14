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

"""How much of a cloud's GPUs is used and free, by what Placement says.

The units themselves are known on the hosts only. What the whole cloud knows
of a card is its resource provider: the name, traits, inventories, and who has
been allocated what of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from nova_gpu import exception
from nova_gpu.model.address import PciAddress
from nova_gpu.model.profile import token

_TRAIT = 'CUSTOM_GPU_'
_VENDOR = 'CUSTOM_GPU_VENDOR_'
_MEMORY = 'CUSTOM_GPU_MEMORY_GE_'


@dataclasses.dataclass(frozen=True, slots=True)
class Stock:
    """An inventory of Placement, and what of it is in use."""

    total: int
    reserved: int = 0
    used: int = 0

    @property
    def free(self) -> int:
        """What can be had now."""
        return max(0, self.total - self.reserved - self.used)


@dataclasses.dataclass(frozen=True, slots=True)
class Provider:
    """A resource provider of GPUs: all whole cards of a model, or one card.

    ``node`` is the name of its compute node and ``key`` the rest of its own
    name. ``stocks`` are by resource class, ``held`` has what each consumer,
    which is a server or a migration, holds of each.
    """

    uuid: str
    node: str
    key: str
    traits: frozenset[str]
    stocks: Mapping[str, Stock]
    held: Mapping[str, Mapping[str, int]]

    @property
    def address(self) -> str | None:
        """Where the card is, if the provider is one card on a PCI bus."""
        domain, _, rest = self.key.partition('_')
        parts = rest.split('_')
        if len(parts) != 3:
            return None
        try:
            return str(PciAddress.parse('{}:{}:{}.{}'.format(domain, *parts)))
        except exception.InvalidAddress:
            return None

    @property
    def whole(self) -> bool:
        """Whether these are whole cards, and not one that servers share."""
        return self.key.upper() == self.model

    @property
    def vendor(self) -> str:
        """The vendor of the cards, as traits have it; empty if unknown."""
        found = (
            name.removeprefix(_VENDOR)
            for name in sorted(self.traits)
            if name.startswith(_VENDOR)
        )
        return next(found, '')

    @property
    def model(self) -> str:
        """The model of the cards, as traits have it.

        A rule can add traits of the same form: that which is the name of the
        pool, or opens with the vendor, is the model's.
        """
        names = [
            name.removeprefix(_TRAIT)
            for name in sorted(self.traits)
            if name.startswith(_TRAIT)
            and not name.startswith((_VENDOR, _MEMORY))
        ]
        for name in names:
            if name == token(self.key):
                return name
        for name in names:
            if name.startswith(f'{self.vendor}_'):
                return name
        return next(iter(names), token(self.key))

    @property
    def cards(self) -> int:
        """How many cards these are."""
        if not self.whole:
            return 1
        return sum(stock.total for stock in self.stocks.values())

    @property
    def empty(self) -> int:
        """Of how many cards all can be had that the card gives."""
        if self.whole:
            return sum(stock.free for stock in self.stocks.values())
        taken = any(stock.used for stock in self.stocks.values())
        return int(not taken and not self.full)

    @property
    def full(self) -> int:
        """Of how many cards nothing more can be had."""
        if self.whole:
            return self.cards - self.empty
        return int(not any(stock.free for stock in self.stocks.values()))


@dataclasses.dataclass(frozen=True, slots=True)
class HostCards:
    """The cards of one model on one host that are used in the same way."""

    node: str
    model: str
    use: str
    cards: int
    empty: int
    full: int
    consumers: int


def by_host(providers: Iterable[Provider]) -> list[HostCards]:
    """Sum the providers up by host, model and use."""
    groups: dict[tuple[str, str, str], list[Provider]] = {}
    for provider in providers:
        use = 'whole' if provider.whole else 'shared'
        key = provider.node, provider.model, use
        groups.setdefault(key, []).append(provider)
    return [
        HostCards(
            *key,
            cards=sum(provider.cards for provider in group),
            empty=sum(provider.empty for provider in group),
            full=sum(provider.full for provider in group),
            consumers=len({c for p in group for c in p.held}),
        )
        for key, group in sorted(groups.items())
    ]
