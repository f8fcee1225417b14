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


"""Which hosts can serve a flavor, by what Placement says of them.

Whether a host can *now* is Placement's own answer; it has none to whether one
ever could, nor to what it lacks. Those are found here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nova_gpu.model.flavor import ADDRESS_MODE, Flavor
from nova_gpu.model.request import resource_groups

#: What a host that takes no servers has.
DISABLED = 'COMPUTE_STATUS_DISABLED'
#: More than that many ways to take what is asked for aren't tried.
_MOST_TRIES = 10_000

_TRAIT = re.compile(r'trait(?P<group>[A-Za-z0-9_-]*):(?P<name>\w+)')
_ADDRESS_TRAITS = {
    'passthrough': 'COMPUTE_ADDRESS_SPACE_PASSTHROUGH',
    'emulate': 'COMPUTE_ADDRESS_SPACE_EMULATED',
}


@dataclasses.dataclass(frozen=True, slots=True)
class Amount:
    """What a provider has of a class.

    ``capacity`` is what it has when it is empty and nothing is reserved,
    ``free`` what can be had now, ``most`` what one server can have.
    """

    capacity: int
    free: int
    most: int


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A resource provider."""

    uuid: str
    name: str
    amounts: Mapping[str, Amount]
    traits: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class Tree:
    """A host: its own provider, and those below."""

    root: Member
    below: tuple[Member, ...] = ()

    @property
    def members(self) -> tuple[Member, ...]:
        return self.root, *self.below

    @property
    def traits(self) -> frozenset[str]:
        return frozenset().union(*(p.traits for p in self.members))


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """What a flavor asks one group for; that with no name is spread."""

    name: str
    resources: Mapping[str, int]
    required: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """What Nova asks Placement for, for a flavor."""

    groups: tuple[Group, ...]
    policy: str | None = None

    def query(self) -> list[tuple[str, str]]:
        """The parameters of Placement's allocation candidates."""
        found = [('root_required', f'!{DISABLED}')]
        for group in self.groups:
            if group.resources:
                amounts = sorted(group.resources.items())
                text = ','.join(f'{name}:{n}' for name, n in amounts)
                found.append((f'resources{group.name}', text))
            traits = [
                *sorted(group.required),
                *(f'!{name}' for name in sorted(group.forbidden)),
            ]
            if traits:
                found.append((f'required{group.name}', ','.join(traits)))
        if sum(bool(group.name) for group in self.groups) > 1:
            found.append(('group_policy', self.policy or 'none'))
        return found


def asked(flavor: Flavor) -> Ask:
    """What Nova would ask for; images and networks can add to it.

    :raises InvalidExtraSpec: an amount isn't a number
    """
    specs = flavor.extra_specs
    amounts = resource_groups(specs)
    required: dict[str, set[str]] = {}
    forbidden: dict[str, set[str]] = {}
    for key, value in specs.items():
        if match := _TRAIT.fullmatch(key):
            into = required if value == 'required' else forbidden
            into.setdefault(match['group'], set()).add(match['name'])
    if trait := _ADDRESS_TRAITS.get(specs.get(ADDRESS_MODE, '')):
        required.setdefault('', set()).add(trait)
    said = {name for group in amounts.values() for name in group}
    plain = amounts.setdefault('', {})
    for name, count in _sizes(flavor).items():
        if name not in said and not (name == 'VCPU' and 'PCPU' in said):
            plain[name] = count
    return Ask(
        tuple(
            Group(
                name,
                {c: n for c, n in amounts[name].items() if n},
                frozenset(required.get(name, ())),
                frozenset(forbidden.get(name, ())),
            )
            for name in sorted(amounts)
        ),
        specs.get('group_policy'),
    )


def _sizes(flavor: Flavor) -> dict[str, int]:
    """Sizes as Nova makes amounts of them."""
    specs = flavor.extra_specs
    cpus = 'VCPU'
    count = flavor.vcpus
    if specs.get('hw:cpu_policy') == 'dedicated':
        cpus = 'PCPU'
        count += specs.get('hw:emulator_threads_policy') == 'isolate'
    swap = -(-flavor.swap // 1024)
    return {
        cpus: count,
        'MEMORY_MB': flavor.ram,
        'DISK_GB': flavor.disk + flavor.ephemeral + swap,
    }


def lacks(tree: Tree, ask: Ask, *, now: bool) -> str | None:
    """What a host lacks for what is asked, or None.

    :param now: whether what is in use counts
    """
    if now and DISABLED in tree.root.traits:
        return 'nova-compute is disabled or down'
    left = {
        (member.uuid, name): min(amount.free, amount.most)
        if now
        else min(amount.capacity, amount.most)
        for member in tree.members
        for name, amount in member.amounts.items()
    }
    parts = list(_parts(ask))
    for part in parts:
        if reason := _short(tree, part, left, now):
            return reason
    tries = iter(range(_MOST_TRIES))
    if not _fits(tree, parts, left, ask.policy == 'isolate', (), tries):
        return 'has not all that the flavor wants together'
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """What has to come from one provider; ``own`` if it is a whole group."""

    name: str
    resources: Mapping[str, int]
    required: frozenset[str]
    forbidden: frozenset[str]

    @property
    def own(self) -> bool:
        return bool(self.name)


def _parts(ask: Ask) -> Iterator[_Part]:
    for group in ask.groups:
        traits = group.required, group.forbidden
        if group.name:
            yield _Part(group.name, group.resources, *traits)
            continue
        # GPUs are scarce: what they lack is what people want to know first.
        names = sorted(group.resources, key=lambda n: (n in _COMMON, n))
        for name in names:
            yield _Part('', {name: group.resources[name]}, *traits)


_COMMON = ('VCPU', 'PCPU', 'MEMORY_MB', 'DISK_GB')


def _short(
    tree: Tree, part: _Part, left: Mapping[tuple[str, str], int], now: bool
) -> str | None:
    """Which part alone the host can't give, in words."""
    for name, count in sorted(part.resources.items()):
        having = [p for p in tree.members if name in p.amounts]
        if not having:
            if name == 'DISK_GB':  # it may be shared: Placement decides
                continue
            return f'has no {name}'
        most = max(left[p.uuid, name] for p in having)
        if most < count:
            total = sum(left[p.uuid, name] for p in having)
            have = 'has' if most == total else 'one provider has'
            word = ' free' if now else ''
            return f'wants {count} {name}, and {have} {most}{word} at most'
    givers = [
        p for p in tree.members if part.resources.keys() <= p.amounts.keys()
    ]
    if not givers or any(_carries(p, part) for p in givers):
        missing = sorted(part.required - tree.traits)
        return f'has no trait {", ".join(missing)}' if missing else None
    if part.own:
        return f'no provider of it has the traits of group {part.name}'
    return f'has traits that are forbidden: {", ".join(part.forbidden)}'


def _carries(member: Member, part: _Part) -> bool:
    """Whether traits let a provider give the part.

    What the group without a name requires any of its providers may have.
    """
    if part.own and not part.required <= member.traits:
        return False
    return part.forbidden.isdisjoint(member.traits)


def _fits(
    tree: Tree,
    parts: Sequence[_Part],
    left: Mapping[tuple[str, str], int],
    isolate: bool,
    taken: tuple[tuple[_Part, Member], ...],
    tries: Iterator[int],
) -> bool:
    """Whether all parts can be had at once."""
    if not parts:
        return _has_traits(taken)
    part, *others = parts
    if not any(part.resources.keys() & p.amounts.keys() for p in tree.members):
        return _fits(tree, others, left, isolate, taken, tries)
    for member in tree.members:
        if next(tries, None) is None:
            return True  # not found out: Placement decides
        apart = isolate and part.own
        if apart and any(p == member for other, p in taken if other.own):
            continue
        if not _carries(member, part) or any(
            left.get((member.uuid, name), 0) < count
            for name, count in part.resources.items()
        ):
            continue
        after = dict(left)
        for name, count in part.resources.items():
            after[member.uuid, name] -= count
        more = (*taken, (part, member))
        if _fits(tree, others, after, isolate, more, tries):
            return True
    return False


def _has_traits(taken: Sequence[tuple[_Part, Member]]) -> bool:
    plain = [(part, p) for part, p in taken if not part.own]
    there = frozenset().union(*(p.traits for _, p in plain))
    return all(part.required <= there for part, _ in plain)


def count(candidates: Mapping[str, Any]) -> int:
    """How many servers fit, if each is put where the first candidate is.

    Too few are counted if a server's units are on several cards, and too
    many if they are of several profiles, of which a card has one at a time.

    :param candidates: what Placement answers
    """
    free = {
        (provider, name): record['capacity'] - record['used']
        for provider, summary in candidates['provider_summaries'].items()
        for name, record in summary['resources'].items()
    }
    servers = 0
    for request in candidates['allocation_requests']:
        amounts = {
            (provider, name): amount
            for provider, given in request['allocations'].items()
            for name, amount in given['resources'].items()
        }
        times = min(free[key] // amount for key, amount in amounts.items())
        if times > 0:
            servers += times
            for key, amount in amounts.items():
                free[key] -= times * amount
    return servers
