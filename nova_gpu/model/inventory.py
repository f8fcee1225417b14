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

"""From cards to what Placement is told of them.

Whole cards of one model share a pool, since one is as good as another and
one provider makes eight as cheap to ask for as one. A card that is cut into
vGPUs is a pool of its own, with one resource class for each of its types.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from nova_gpu.model import rule as rule_model
from nova_gpu.model.address import Address, PciAddress
from nova_gpu.model.device import Card
from nova_gpu.model.partition import Board
from nova_gpu.model.profile import token, vendor_token
from nova_gpu.model.request import SHARED

#: Sizes of card memory that a flavor can require by trait, in GiB.
MEMORY_STEPS_GIB = (8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256)


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """What one guest device consumes.

    ``device`` is the PCI address of a whole card or of a virtual function,
    or the UUID of a mediated device; ``functions`` are the PCI functions
    handed to the guest (none for an mdev), ``parent`` the device that a vGPU
    lives on. ``type_id`` and ``name`` are those of the vGPU type, ``params``
    its plugin parameters.

    ``allocated`` says whether an allocation in Placement stands for it. None
    does for what is put aside, and for what somebody else gave to a guest:
    that is reserved as long as it is there.

    ``partition`` is that of the host's NVSwitches which is active for it.
    ``project`` is that of the server which has it, if it is known, and
    ``isolation`` what the server's flavor says.
    """

    mechanism: str
    pool: str
    resource_class: str
    card: Address
    device: str
    functions: tuple[PciAddress, ...] = ()
    type_id: str | None = None
    name: str | None = None
    parent: Address | None = None
    params: str | None = None
    allocated: bool = True
    partition: int | None = None
    project: str | None = None
    isolation: str = SHARED

    @property
    def on_function(self) -> bool:
        """Whether it is a mediated device on a virtual function."""
        return not self.functions and self.parent not in (None, self.card)


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """One resource class that a card gives.

    ``total`` is what the empty card holds of it, ``used`` what instances
    hold, ``free`` what the card could give now, also if a rule reserves it;
    the rest is closed, as a card's other profiles are once it has taken one.
    ``type_id`` and ``name`` are those of the vGPU type, if it is one.
    """

    resource_class: str
    total: int
    used: int
    free: int
    type_id: str | None = None
    name: str | None = None


class Mechanism(Protocol):
    """The deciding half of a mechanism; see :mod:`nova_gpu.mechanism`."""

    name: str
    use: str
    display: bool
    params: bool
    topology: bool

    def recognizes(self, card: Card) -> bool:
        """Whether the card's state, as it is, asks for this mechanism."""

    def refusal(self, card: Card) -> str | None:
        """Why the card can't be handed out in this way, or None."""

    def pool_key(self, card: Card) -> str:
        """Which pool the card belongs to."""

    def offers(
        self, card: Card, ruling: rule_model.Ruling, held: Sequence[Unit]
    ) -> tuple[Offer, ...]:
        """What the card gives while ``held`` of it is in use.

        Units among them that aren't ``allocated`` can't be had, and don't
        count as used.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """What one card is used for, or the ``reason`` that it isn't.

    ``aside`` are the devices of the card that are put aside, each with the
    reason; ``owner`` is who else hands the card out, if somebody does.
    ``board`` has the partitions that the card is handed out in. ``closed``
    says why what is left of it isn't to be had, if somebody has it for
    himself: see :mod:`nova_gpu.model.isolation`.
    """

    card: Card
    mechanism: str | None = None
    pool: str | None = None
    offers: tuple[Offer, ...] = ()
    ruling: rule_model.Ruling = dataclasses.field(
        default_factory=rule_model.Ruling
    )
    reason: str | None = None
    aside: tuple[tuple[str, str], ...] = ()
    owner: str | None = None
    board: Board | None = None
    closed: str | None = None

    def available(self, offer: Offer) -> int:
        """How many of an offer can be had now: rules may reserve some."""
        return max(0, offer.free - self.ruling.reserved)


@dataclasses.dataclass(frozen=True, slots=True)
class Inventory:
    """An inventory record of Placement."""

    total: int
    reserved: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """Units that are interchangeable: one resource provider."""

    key: str
    mechanism: str
    cards: tuple[Address, ...]
    inventories: Mapping[str, Inventory]
    traits: frozenset[str] = frozenset()

    def provider_name(self, node: str) -> str:
        """The provider's name on the compute node ``node``."""
        return f'{provider_prefix(node)}{self.key}'


def provider_prefix(node: str) -> str:
    """What the names of all our providers on ``node`` begin with."""
    return f'{node}_gpu_'


def provider_uuid(node_uuid: str, pool_key: str) -> str:
    """The provider's UUID: the same on compute and scheduler, unasked."""
    return str(uuid.uuid5(uuid.UUID(node_uuid), f'nova-gpu:{pool_key}'))


def classify(
    card: Card,
    mechanisms: Iterable[Mechanism],
    rules: Iterable[rule_model.Rule] = (),
    owned: Mapping[Address, str] | None = None,
    held: Sequence[Unit] = (),
    aside: Mapping[str, str] | None = None,
) -> Use:
    """Decide what ``card`` is used for.

    :param owned: the cards that somebody else hands out, with the place
        where that is written
    :param held: the units in use on this card
    :param aside: the devices that are put aside, with the reasons
    """
    known = {m.name: m for m in mechanisms}
    found = next((m for m in known.values() if m.recognizes(card)), None)
    if held:
        found = known.get(held[0].mechanism, found)
    ruling = rule_model.rule_on(card, found.name if found else None, rules)
    if not held and ruling.use and (not found or found.use != ruling.use):
        found = _other(card, known.values(), ruling.use)
    owner = (owned or {}).get(card.address)
    reason = _closed(card, found, ruling, owner)
    if found is None or (reason is not None and not held):
        return Use(card, ruling=ruling, reason=reason, owner=owner)
    put_aside = _put_aside(card, aside or {})
    blocked = [
        Unit(found.name, '', '', card.address, device, allocated=False)
        for device, _ in put_aside
    ]
    offers = found.offers(card, ruling, (*held, *blocked))
    if not offers:
        return Use(
            card,
            ruling=ruling,
            reason=(
                f'no rule allows any of its vGPU types; allowed: '
                f'{", ".join(ruling.profiles)}'
                if ruling.profiles
                else 'its driver lists no vGPU type that it can make now'
            ),
            aside=put_aside,
            owner=owner,
        )
    if reason is not None or str(card.address) in dict(put_aside):
        # What a guest holds stays in the pool whatever became of the card:
        # only its release takes it out. Nothing new is given meanwhile.
        offers = tuple(dataclasses.replace(o, free=0) for o in offers)
    return Use(
        card,
        found.name,
        found.pool_key(card),
        offers,
        ruling,
        reason,
        put_aside,
        owner,
    )


def _other(
    card: Card, mechanisms: Iterable[Mechanism], use: str
) -> Mechanism | None:
    """The mechanism that a rule's ``use`` means for this card.

    Preferably one that could serve the card; otherwise the last, which is
    the simplest, to say what the card lacks.
    """
    fitting = [m for m in mechanisms if m.use == use]
    able = [m for m in fitting if m.refusal(card) is None]
    return next(iter((*able, *reversed(fitting))), None)


def _put_aside(
    card: Card, aside: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Those of the put-aside devices that are this card's."""
    if not aside:
        return ()
    devices = (
        str(card.address),
        *(str(vf.address) for vf in card.vfs),
        *(mdev.uuid for mdev in card.mdevs),
    )
    return tuple((d, aside[d]) for d in devices if d in aside)


def _closed(
    card: Card,
    found: Mechanism | None,
    ruling: rule_model.Ruling,
    owner: str | None,
) -> str | None:
    """Why nothing of the card is handed out, or None."""
    if ruling.use == 'ignore':
        return f'rule {ruling.decided["use"]} says to ignore it'
    if owner is not None:
        return f'belongs to {owner}'
    if found is None:
        return _unusable(card)
    return found.refusal(card)


def _unusable(card: Card) -> str:
    return (
        f'bound to {card.driver}, which offers no vGPU types here; bind it '
        f'to vfio-pci to pass it through, or install the vGPU driver'
    )


def pools(uses: Iterable[Use], gone: Iterable[Unit] = ()) -> tuple[Pool, ...]:
    """Sum the uses up to pools.

    ``gone`` are units held on cards that have left the host: they stay in
    the totals until they are released, since allocations count them.
    """
    members: dict[str, list[Use]] = {}
    for use in uses:
        if use.pool is not None:
            members.setdefault(use.pool, []).append(use)
    missing: dict[str, list[Unit]] = {}
    for unit in gone:
        if unit.allocated:
            missing.setdefault(unit.pool, []).append(unit)
    return tuple(
        _pool(key, members.get(key, []), missing.get(key, []))
        for key in sorted(members.keys() | missing.keys())
    )


def _pool(key: str, uses: list[Use], gone: list[Unit]) -> Pool:
    total: dict[str, int] = {}
    closed: dict[str, int] = {}
    for use in uses:
        left = use.ruling.reserved
        for offer in use.offers:
            name = offer.resource_class
            total[name] = total.get(name, 0) + offer.total
            # What a guest holds may have gone with its card, while an
            # allocation stands for it: that is kept for its next start.
            blocked = max(0, offer.total - offer.used - offer.free) + left
            # Who has the card for himself needs no more than he holds.
            most = max(left, offer.total - offer.used)
            closed[name] = closed.get(name, 0) + min(
                offer.total, most, blocked
            )
    for unit in gone:
        total[unit.resource_class] = total.get(unit.resource_class, 0) + 1
    return Pool(
        key=key,
        mechanism=str(uses[0].mechanism if uses else gone[0].mechanism),
        cards=tuple(sorted(use.card.address for use in uses)),
        inventories={
            name: Inventory(total[name], closed.get(name, 0))
            for name in sorted(total)
        },
        traits=frozenset().union(*(traits(use) for use in uses)),
    )


def left_out(uses: Iterable[Use]) -> tuple[str, ...]:
    """What a rule's class leaves out: of a card it is one vGPU type.

    One line for all cards that are alike.
    """
    lines = []
    for use in uses:
        ruling = use.ruling
        if ruling.resource_class is None:
            continue
        offered = [o.name for o in use.offers if o.name is not None]
        others = [
            kind.name
            for kind in use.card.types
            if ruling.allows(kind) and kind.name not in offered
        ]
        if offered and others:
            lines.append(
                f'rule {ruling.decided["resource_class"]} gives one class, '
                f'{ruling.resource_class}, to several profiles of '
                f'{use.card.name}: offered is {", ".join(offered)}, and not '
                f'{", ".join(others)}; name one alone in profiles'
            )
    return tuple(dict.fromkeys(lines))


def traits(use: Use) -> frozenset[str]:
    """The traits of one card: model, vendor, memory steps, the rules'."""
    card = use.card
    names = {
        f'CUSTOM_GPU_{token(card.model)}',
        f'CUSTOM_GPU_VENDOR_{token(card.vendor)}',
        *use.ruling.traits,
    }
    memory_gib = (card.memory_mib or 0) / 1024
    names.update(
        f'CUSTOM_GPU_MEMORY_GE_{step}GIB'
        for step in MEMORY_STEPS_GIB
        if step <= memory_gib
    )
    return frozenset(names)


def card_class(card: Card) -> str:
    """The resource class of a whole card, by its model."""
    return f'CUSTOM_GPU_{token(card.model)}'


def vgpu_class(card: Card, type_name: str) -> str:
    """The resource class of a vGPU type, by the type's name."""
    return f'CUSTOM_VGPU_{vendor_token(card.vendor, type_name)}'
