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

"""Rules: what an operator says of cards that sysfs alone doesn't."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from nova_gpu.model.device import Card
from nova_gpu.model.profile import VgpuType

USES = ('passthrough', 'vgpu', 'ignore')
#: Stands for the number of all virtual functions that a card can have.
ALL = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One ``[gpu] rule``: fields to match, then what to say of the card.

    A field that is None isn't looked at, or says nothing.
    ``virtual_functions`` is how many to enable, :data:`ALL` for as many as
    the card can have. Cards with the same ``clique`` are all linked.
    ``module`` is the number of the card on its NVSwitch board.
    """

    number: int
    address: str | None = None
    vendor_id: int | None = None
    product_id: int | None = None
    numa_node: int | None = None
    mechanism: str | None = None
    use: str | None = None
    profiles: tuple[str, ...] | None = None
    reserved: int | None = None
    resource_class: str | None = None
    traits: tuple[str, ...] | None = None
    virtual_functions: int | None = None
    clique: str | None = None
    module: int | None = None

    def matches(self, card: Card, mechanism: str | None) -> bool:
        """Whether the rule speaks of ``card``, which serves ``mechanism``."""
        wanted = (self.vendor_id, self.product_id, self.numa_node)
        actual = (card.vendor_id, card.product_id, card.numa_node)
        return (
            all(w in (None, a) for w, a in zip(wanted, actual, strict=True))
            and self.mechanism in (None, mechanism)
            and (
                self.address is None
                or fnmatch.fnmatchcase(str(card.address), self.address)
            )
        )


#: What a rule can say; each is decided by the first rule that says it.
DECISIONS = (
    'use', 'profiles', 'reserved', 'resource_class', 'traits',
    'virtual_functions', 'clique', 'module',
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Ruling:
    """What all rules together say of one card.

    ``rules`` are the numbers of those that match it, ``decided`` has for
    each thing that was said the number of the rule that said it.
    """

    use: str | None = None
    profiles: tuple[str, ...] | None = None
    reserved: int = 0
    resource_class: str | None = None
    traits: tuple[str, ...] = ()
    virtual_functions: int = 0
    clique: str | None = None
    module: int | None = None
    rules: tuple[int, ...] = ()
    decided: Mapping[str, int] = dataclasses.field(default_factory=dict)
    conflicts: tuple[str, ...] = ()

    def allows(self, kind: VgpuType) -> bool:
        """Whether a vGPU type is to be had, by id or name, vendor or not."""
        names = {kind.id, kind.name, kind.name.partition(' ')[2]}
        return self.profiles is None or not names.isdisjoint(self.profiles)


def rule_on(
    card: Card, mechanism: str | None, rules: Iterable[Rule]
) -> Ruling:
    """Merge the rules that match ``card``: the first to say a thing wins."""
    said: dict[str, tuple[object, int]] = {}
    numbers: list[int] = []
    conflicts: list[str] = []
    for rule in rules:
        if not rule.matches(card, mechanism):
            continue
        numbers.append(rule.number)
        for field in DECISIONS:
            value = getattr(rule, field)
            if value is None:
                continue
            before, by = said.setdefault(field, (value, rule.number))
            if before != value:
                conflicts.append(
                    f'card {card.address}: rule {rule.number} says {field} '
                    f'{value!r}, but rule {by} already said {before!r}'
                )
    values = {field: value for field, (value, _) in said.items()}
    return Ruling(
        decided={field: number for field, (_, number) in said.items()},
        rules=tuple(numbers),
        conflicts=tuple(conflicts),
        **values,  # type: ignore[arg-type]
    )


def unmatched(
    rules: Sequence[Rule], cards: Iterable[tuple[Card, str | None]]
) -> tuple[Rule, ...]:
    """The rules that match none of the (card, mechanism) pairs."""
    pairs = tuple(cards)
    return tuple(r for r in rules if not any(r.matches(*p) for p in pairs))
