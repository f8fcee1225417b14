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

"""Which devices serve a claim: pure functions, no effects."""

from __future__ import annotations

from collections.abc import Iterable

from nova_gpu.model.device import Card


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
