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

"""The GPU map of a host, as compute nodes report it to schedulers.

It travels in ``compute_nodes.stats``, which every scheduler loads for every
host and MySQL cuts at 64 KiB: names are written once and referred to by
position, keys are single letters, and runs of positions become ranges.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import string
from collections.abc import Iterable, Mapping
from typing import Any

from nova_gpu import exception
from nova_gpu.model.inventory import Mechanism, Pool, Unit, Use, provider_uuid
from nova_gpu.model.isolation import Tenant, objection, summary
from nova_gpu.model.request import ISOLATION, SHARED
from nova_gpu.model.topology import HOST, TIES, places

#: The key in ``stats``.
STATS_KEY = 'nova_gpu'
VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class PoolState:
    """One pool as a scheduler sees it.

    ``totals`` are the units by resource class. ``active`` is the class that
    a vGPU card has been fixed to, if it has; ``used`` counts units of that
    class, or cards; ``reserved`` are those that nobody gets. ``numa_nodes``
    has one entry a card. So have, of cards that are chosen by what they share,
    ``switches`` and ``cliques``, which are numbered and -1 where there is
    none, and ``free``. ``project`` and ``isolation`` are whose a card is of
    which parts are in use: see :func:`nova_gpu.model.isolation.summary`.

    ``sizes`` are how many of the cards a server can have, where they are
    divided into partitions, and ``free_sizes`` how many of those now.
    """

    key: str
    mechanism: str
    totals: Mapping[str, int]
    used: int
    reserved: int = 0
    numa_nodes: tuple[int, ...] = ()
    active: str | None = None
    display: bool = False
    params: bool = False
    switches: tuple[int, ...] = ()
    cliques: tuple[int, ...] = ()
    free: tuple[bool, ...] = ()
    sizes: tuple[int, ...] = ()
    free_sizes: tuple[int, ...] = ()
    project: str | None = None
    isolation: str = SHARED

    def has_set(self, count: int, level: str) -> bool:
        """Whether ``count`` cards are free that share ``level``."""
        if self.sizes:
            return count in self.free_sizes
        return self.largest_set(level, free=True) >= count

    def admits(self, asking: Tenant) -> bool:
        """Whether who asks could share the card with who is on it.

        :param asking: with the digest of its project
        """
        if self.project is None:
            return True
        there = Tenant('', self.project or None, self.isolation)
        return objection(there, asking) is None

    def largest_set(self, level: str, *, free: bool = False) -> int:
        """How many of the cards share ``level``, or what is closer, at most.

        :param free: count those only that are free
        """
        if self.sizes:
            return max(self.free_sizes if free else self.sizes, default=0)
        if not self.free:
            return sum(self.totals.values())  # it isn't known
        most = int(any(self.free) or not free)
        levels = (self.cliques, self.switches, self.numa_nodes)
        for index, values in enumerate(levels[: TIES.index(level) + 1]):
            counts = collections.Counter(
                value
                for value, is_free in zip(values, self.free, strict=True)
                if is_free or not free
            )
            if index < 2:
                del counts[-1]
            most = max(most, *counts.values(), 0)
        if level != HOST:
            return most
        return sum(self.free) if free else len(self.free)

    def room(self, resource_class: str) -> int:
        """How many units of a class can still be had, if no other is had."""
        total = self.totals.get(resource_class, 0)
        return total - self.reserved - self.used

    @property
    def fullness(self) -> float:
        """From 0.0, nothing in use, to 1.0."""
        total = self.totals.get(self.active or '') or max(
            self.totals.values(), default=0
        )
        return min(1.0, self.used / max(1, total))


@dataclasses.dataclass(frozen=True, slots=True)
class HostMap:
    """All pools of a host; ``fullness`` is the share of its GPUs in use.

    ``instances`` are all instances that the host had when the map was made:
    a scheduler that sees another number knows that the map is old.
    """

    pools: tuple[PoolState, ...] = ()
    instances: int | None = None

    @property
    def classes(self) -> frozenset[str]:
        """Every resource class that the host's GPUs give."""
        return frozenset().union(*(pool.totals for pool in self.pools))

    @property
    def fullness(self) -> float:
        """From 0.0, nothing in use, to 1.0; each card weighs the same."""
        cards = sum(max(1, len(pool.numa_nodes)) for pool in self.pools)
        if not cards:
            return 0.0
        used = sum(
            max(1, len(pool.numa_nodes)) * pool.fullness for pool in self.pools
        )
        return round(used / cards, 6)

    def by_provider(self, node_uuid: str) -> dict[str, PoolState]:
        """The pools by the UUID of their resource provider."""
        return {provider_uuid(node_uuid, p.key): p for p in self.pools}

    def dump(self) -> str:
        """The map as compact JSON."""
        names = sorted(self.classes)
        position = {name: i for i, name in enumerate(names)}
        records = []
        for pool in self.pools:
            record: dict[str, Any] = {
                'k': pool.key,
                'm': pool.mechanism,
                'c': _to_ranges(position[name] for name in pool.totals),
                't': [pool.totals[name] for name in sorted(pool.totals)],
                'u': pool.used,
                'n': list(pool.numa_nodes),
            }
            if pool.active is not None:
                record['a'] = position[pool.active]
            if pool.reserved:
                record['r'] = pool.reserved
            if pool.display:
                record['d'] = 1
            if pool.params:
                record['p'] = 1
            if pool.free:
                record['s'] = _to_digits(pool.switches)
                record['q'] = _to_digits(pool.cliques)
                record['f'] = _to_digits(pool.free)
            if pool.sizes:
                record['z'] = _to_digits(pool.sizes)
                record['w'] = _to_digits(pool.free_sizes)
            if pool.project is not None:
                record['o'] = pool.project
            if pool.isolation != SHARED:
                record['x'] = ISOLATION.index(pool.isolation)
            records.append(record)
        data = {'v': VERSION, 'c': names, 'p': records}
        if self.instances is not None:
            data['i'] = self.instances
        return json.dumps(data, separators=(',', ':'))

    @classmethod
    def load(cls, text: str) -> HostMap:
        """Read what :meth:`dump` wrote.

        :raises InvalidHostMap: another version, or not a map at all
        """
        try:
            data = json.loads(text)
            version = data['v']
            if version != VERSION:
                raise exception.InvalidHostMap(
                    f'it has version {version!r}, this release reads {VERSION}'
                )
            names = tuple(data['c'])
            return cls(
                tuple(_pool(record, names) for record in data['p']),
                data.get('i'),
            )
        except KeyError as exc:
            raise exception.InvalidHostMap(f'{exc} is missing') from exc
        except (
            ArithmeticError, AttributeError, LookupError, RecursionError,
            TypeError, ValueError,
        ) as exc:  # fmt: skip
            raise exception.InvalidHostMap(repr(exc)) from exc


def _pool(record: Mapping[str, Any], names: tuple[str, ...]) -> PoolState:
    active = record.get('a')
    whose = record.get('o')
    return PoolState(
        key=record['k'],
        mechanism=record['m'],
        totals=_totals(names, record['c'], tuple(record['t'])),
        used=int(record['u']),
        reserved=int(record.get('r', 0)),
        numa_nodes=tuple(int(node) for node in record['n']),
        active=None if active is None else names[active],
        display=bool(record.get('d')),
        params=bool(record.get('p')),
        switches=_per_card(record, 's'),
        cliques=_per_card(record, 'q'),
        free=tuple(map(bool, _per_card(record, 'f'))),
        sizes=_from_digits(record.get('z', '')),
        free_sizes=_from_digits(record.get('w', '')),
        project=None if whose is None else str(whose),
        isolation=ISOLATION[record.get('x', 0)],
    )


def _per_card(record: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """A number a card, if it is known of any."""
    if 'f' not in record:
        return ()
    values = _from_digits(record[key])
    if len(values) != len(record['n']):
        raise ValueError(f'{key} and n are not of the same cards')
    return values


def _from_digits(text: str) -> tuple[int, ...]:
    return tuple(-1 if digit == '-' else int(digit, 36) for digit in text)


def _to_digits(values: Iterable[int]) -> str:
    """A character a number below 36: a host has no more cards."""
    digits = string.digits + string.ascii_lowercase
    return ''.join('-' if value < 0 else digits[value] for value in values)


@functools.lru_cache(maxsize=1024)
def _totals(
    names: tuple[str, ...], ranges: str, totals: tuple[int, ...]
) -> Mapping[str, int]:
    """One object for all the cards of a cloud that are alike."""
    return {
        names[position]: int(total)
        for position, total in zip(_from_ranges(ranges), totals, strict=True)
    }


def build(
    pools: Iterable[Pool],
    uses: Iterable[Use],
    units: Iterable[Unit],
    mechanisms: Iterable[Mechanism],
    instances: int | None = None,
) -> HostMap:
    """The map of a host from its pools, its cards' uses and held units."""
    known = {m.name: m for m in mechanisms}
    cards: dict[str, list[Use]] = {}
    for use in uses:
        if use.pool is not None:
            cards.setdefault(use.pool, []).append(use)
    held: dict[str, dict[str, int]] = {}
    there: dict[str, list[Unit]] = {}
    for unit in units:
        there.setdefault(unit.pool, []).append(unit)
        if not unit.allocated:
            continue
        counts = held.setdefault(unit.pool, {})
        counts[unit.resource_class] = counts.get(unit.resource_class, 0) + 1
    states = []
    for pool in pools:
        counts = held.get(pool.key, {})
        members = cards.get(pool.key, [])
        active = None
        # Whole cards of one pool don't close each other, whatever class a
        # rule has given them.
        cut = any(offer.type_id for use in members for offer in use.offers)
        if cut and len(pool.inventories) > 1:
            active = max(
                sorted(counts.keys() & pool.inventories.keys()),
                key=lambda name: counts[name],
                default=None,
            )
        mechanism = known.get(pool.mechanism)
        project, strictest = summary(there.get(pool.key, ()))
        topology: dict[str, Any] = {}
        if mechanism and mechanism.topology:
            near = places((use.card, use.ruling.clique) for use in members)
            topology = {
                'switches': _numbered(p.switch for p in near.values()),
                'cliques': _numbered(p.clique for p in near.values()),
                'free': tuple(
                    any(map(use.available, use.offers)) for use in members
                ),
                **_sizes(members),
            }
        states.append(
            PoolState(
                key=pool.key,
                mechanism=pool.mechanism,
                totals={
                    name: inventory.total
                    for name, inventory in pool.inventories.items()
                },
                used=sum(counts.values()),
                reserved=min(
                    (
                        inventory.reserved
                        for name, inventory in pool.inventories.items()
                        if active in (None, name)
                    ),
                    default=0,
                ),
                numa_nodes=tuple(use.card.numa_node for use in members),
                active=active,
                display=bool(mechanism and mechanism.display),
                params=bool(mechanism and mechanism.params),
                project=project,
                isolation=strictest,
                **topology,
            )
        )
    return HostMap(tuple(states), instances)


def _sizes(members: Iterable[Use]) -> dict[str, tuple[int, ...]]:
    """What sets a server can have, if all cards are on one board."""
    boards = {use.card.address: use.board for use in members}
    board = next(iter(boards.values()), None)
    if board is None or None in boards.values() or not board.partitions:
        return {}
    free = (
        use.card.address
        for use in members
        if any(map(use.available, use.offers))
    )
    return {
        'sizes': board.sizes_of(boards),
        'free_sizes': board.sizes_of(frozenset(free), free=True),
    }


def _numbered(values: Iterable[object]) -> tuple[int, ...]:
    """Values as numbers in the order in which they come; None is -1."""
    numbers: dict[object, int] = {None: -1}
    return tuple(
        numbers.setdefault(value, len(numbers) - 1) for value in values
    )


def _to_ranges(positions: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for position in sorted(positions):
        if runs and runs[-1][1] == position - 1:
            runs[-1][1] = position
        else:
            runs.append([position, position])
    return ','.join(f'{a}-{b}' if a != b else str(a) for a, b in runs)


def _from_ranges(text: str) -> Iterable[int]:
    for part in filter(None, text.split(',')):
        first, _, last = part.partition('-')
        yield from range(int(first), int(last or first) + 1)
