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
from nova_gpu.model.inventory import provider_prefix
from nova_gpu.model.profile import token
from nova_gpu.model.request import gpu_classes, resource_groups

_TRAIT = 'CUSTOM_GPU_'
_VENDOR = 'CUSTOM_GPU_VENDOR_'
_MEMORY = 'CUSTOM_GPU_MEMORY_GE_'


def may_be_gpu(resource_class: str) -> bool:
    """Whether a resource class may be one of GPUs: rules can name others."""
    return bool(gpu_classes({f'resources:{resource_class}': ''}))


def model_of(resource_class: str) -> str | None:
    """The model of card that a class of whole cards or of VFs stands for."""
    if not resource_class.startswith(_TRAIT):
        return None
    return resource_class.removeprefix(_TRAIT).removesuffix('_VF')


def classes(extra_specs: Mapping[str, str]) -> dict[str, int]:
    """The units that extra specs ask for; wrong amounts count as none.

    Nova checks what it is given today, not what it was given once.
    """
    usable = {k: v for k, v in extra_specs.items() if str(v).isdecimal()}
    found: dict[str, int] = {}
    for group in resource_groups(usable).values():
        for name, amount in group.items():
            if amount and may_be_gpu(name):
                found[name] = found.get(name, 0) + amount
    return found


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
    def name(self) -> str:
        """The name that Placement has."""
        return f'{provider_prefix(self.node)}{self.key}'

    @property
    def use(self) -> str:
        """Whether servers get whole cards of it, or share one."""
        return 'whole' if self.whole else 'shared'

    @property
    def memory_gib(self) -> int | None:
        """The largest step of memory that the card reaches."""
        steps = [
            int(name.removeprefix(_MEMORY).removesuffix('GIB'))
            for name in self.traits
            if name.startswith(_MEMORY)
            and name.removeprefix(_MEMORY).removesuffix('GIB').isdecimal()
        ]
        return max(steps, default=None)

    @property
    def profile(self) -> str | None:
        """What the card gives now; None if that is still open."""
        if len(self.stocks) == 1:
            return next(iter(self.stocks))
        taken = [name for name, stock in self.stocks.items() if stock.used]
        return taken[0] if len(taken) == 1 else None

    @property
    def state(self) -> str:
        """``empty``, ``in use``, ``full``; ``closed`` if nobody has it."""
        if self.full == self.cards:
            return 'full' if self.held else 'closed'
        return 'empty' if self.empty == self.cards else 'in use'

    def only(self, resource_class: str) -> Provider:
        """The provider as if it had no other class."""
        return dataclasses.replace(
            self, stocks={resource_class: self.stocks[resource_class]}
        )

    @property
    def whole(self) -> bool:
        """Whether these are whole cards, and not one that servers share."""
        return f'{_TRAIT}{token(self.key)}' in self.traits

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
        return next(iter(names), 'unknown')

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


def called(provider: Provider, name: str) -> bool:
    """Whether somebody may mean this provider with ``name``."""
    if name in (provider.uuid, provider.name, provider.key, provider.model):
        return True
    try:
        return str(PciAddress.parse(name)) == provider.address
    except exception.InvalidAddress:
        return False


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileStock:
    """What cards of a model give of one class, in the whole cloud."""

    resource_class: str
    model: str
    cards: int
    total: int
    used: int
    free: int


def by_profile(providers: Iterable[Provider]) -> list[ProfileStock]:
    """Sum the providers up by resource class and model."""
    groups: dict[tuple[str, str], list[Provider]] = {}
    for provider in providers:
        for name in provider.stocks:
            groups.setdefault((name, provider.model), []).append(provider)
    found = []
    for (name, model), group in sorted(groups.items()):
        stocks = [provider.stocks[name] for provider in group]
        found.append(
            ProfileStock(
                name,
                model,
                cards=sum(provider.cards for provider in group),
                total=sum(stock.total for stock in stocks),
                used=sum(stock.used for stock in stocks),
                free=sum(stock.free for stock in stocks),
            )
        )
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Holding:
    """What one consumer has of one class of cards of a model on a host."""

    consumer: str
    project: str
    node: str
    model: str
    resource_class: str
    used: int


def holdings(
    providers: Iterable[Provider], projects: Mapping[str, str]
) -> list[Holding]:
    """Who holds what, by project.

    :param projects: the project of each consumer; who isn't there has just
        been deleted
    """
    found: dict[tuple[str, str, str, str, str], int] = {}
    for provider in providers:
        for consumer, resources in provider.held.items():
            if consumer not in projects:
                continue
            for name, count in resources.items():
                key = (
                    projects[consumer],
                    provider.model,
                    name,
                    provider.node,
                    consumer,
                )
                found[key] = found.get(key, 0) + count
    return [
        Holding(consumer, project, node, model, name, used)
        for (project, model, name, node, consumer), used in sorted(
            found.items()
        )
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class ProjectUsage:
    """What a project has of one class of cards of a model."""

    project: str
    model: str
    resource_class: str
    used: int
    consumers: int


def by_project(found: Iterable[Holding]) -> list[ProjectUsage]:
    """Sum up what consumers hold by project, model and class."""
    groups: dict[tuple[str, str, str], list[Holding]] = {}
    for held in found:
        key = held.project, held.model, held.resource_class
        groups.setdefault(key, []).append(held)
    return [
        ProjectUsage(
            *key,
            used=sum(held.used for held in group),
            consumers=len({held.consumer for held in group}),
        )
        for key, group in sorted(groups.items())
    ]
