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

"""What Fabric Manager's partitions mean for the cards of a host.

Which card a module is follows from rules, or from the addresses that Fabric
Manager tells. Those are of the machine that it runs on: with a rule for one
card of the host none of them is believed, since it may be another machine.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence

from nova_gpu.model.address import Address
from nova_gpu.model.audit import CLEAN, NEXT_TIME, Difference
from nova_gpu.model.claim import Claim
from nova_gpu.model.guest import GuestDevices
from nova_gpu.model.inventory import Unit, Use
from nova_gpu.model.partition import Board, Fabric

NVIDIA = 0x10DE
#: What the audit calls a partition.
DEVICE = 'partition '


def with_partitions(
    uses: Sequence[Use], fabric: Fabric | None
) -> tuple[Use, ...]:
    """The uses, with what Fabric Manager says of the cards.

    A card that it has in no partition isn't handed out; nothing is while it
    doesn't answer, and no card of a partition that somebody has activated.

    :param fabric: None if there is none, or if it isn't in shared mode
    """
    if fabric is None:
        return tuple(uses)
    modules = _modules(uses, fabric)
    board = Board(
        {
            p.number: frozenset(modules[gpu.module] for gpu in p.gpus)
            for p in fabric.partitions
            if p.gpus and all(gpu.module in modules for gpu in p.gpus)
        },
        frozenset(p.number for p in fabric.partitions if p.active),
        fabric.problem,
    )
    cards = board.cards
    taken = board.taken
    return tuple(
        _on_board(use, board, cards, taken) if _is_whole(use) else use
        for use in uses
    )


def board_of(uses: Iterable[Use]) -> Board | None:
    """The board of the host, if Fabric Manager divides it."""
    return next((use.board for use in uses if use.board is not None), None)


def partitions_of(units: Iterable[Unit]) -> frozenset[int]:
    """The partitions that units were given with."""
    return frozenset(u.partition for u in units if u.partition is not None)


def wanted(
    claims: Iterable[Claim], guests: Iterable[GuestDevices] = ()
) -> frozenset[int]:
    """The partitions that have to be active.

    Of what waits to be given back none has.
    """
    kept = (unit for g in guests for _, units in g.kept for unit in units)
    return partitions_of(
        (
            *(u for c in claims for u in c.units if u not in c.stuck),
            *(u for g in guests for u in g.units),
            *kept,
        )
    )


def left_over(board: Board, held: Collection[Address]) -> list[int]:
    """The active partitions of which nobody holds a card."""
    return [
        number
        for number in sorted(board.active & board.partitions.keys())
        if board.partitions[number].isdisjoint(held)
    ]


def differences(
    board: Board, claims: Sequence[Claim], told: Sequence[Claim] | None
) -> Iterator[Difference]:
    """What of the partitions isn't as it should be.

    :param claims: what the guests hold, by their XML
    :param told: what nova-compute says, if it runs
    """
    if board.problem is not None:
        return
    everything = (*claims, *(told or ()))
    held = {unit.card for claim in everything for unit in claim.units}
    # What runs may just be making a guest for it.
    remedy, mend = (
        ('deactivate it', CLEAN)
        if told is None
        else (f'nova-compute deactivates it {NEXT_TIME}', '')
    )
    for number in left_over(board, held):
        names = ', '.join(map(str, sorted(board.partitions[number])))
        yield Difference(
            'partition without a guest',
            f'{DEVICE}{number}',
            '',
            f'it is active, and nobody else gets its cards: {names}',
            remedy,
            mend,
        )
    for claim in claims:
        for number in sorted(partitions_of(claim.units) - board.active):
            yield Difference(
                'partition not active',
                f'{DEVICE}{number}',
                claim.consumer,
                'the cards of the guest are not linked',
                'nova-compute activates it within a minute; then restart '
                'what uses the cards in the guest',
            )


def _is_whole(use: Use) -> bool:
    """Whether a card that could be on a board is handed out as a whole."""
    return use.pool is not None and not any(o.type_id for o in use.offers)


def _modules(uses: Iterable[Use], fabric: Fabric) -> dict[int, Address]:
    """The card of each module; none of a module that two rules give."""
    uses = tuple(uses)
    ruled = [
        (use.ruling.module, use.card.address)
        for use in uses
        if use.ruling.module is not None
    ]
    if ruled:
        counts = collections.Counter(module for module, _ in ruled)
        return {m: address for m, address in ruled if counts[m] == 1}
    present = {use.card.address for use in uses}
    told = {
        gpu.module: gpu.address
        for partition in fabric.partitions
        for gpu in partition.gpus
        if gpu.address in present
    }
    counts_of_cards = collections.Counter(told.values())
    return {m: a for m, a in told.items() if a and counts_of_cards[a] == 1}


def _on_board(
    use: Use,
    board: Board,
    cards: Collection[Address],
    taken: Collection[Address],
) -> Use:
    card = use.card
    linked = card.vendor_id == NVIDIA and card.linked > 0
    if card.address not in cards:
        if not linked and use.ruling.module is None:
            return use  # not on a board
        if board.partitions or board.problem is None:
            return _closed(use)
    closed = board.problem is not None or card.address in taken
    offers = tuple(
        dataclasses.replace(offer, free=0) if closed else offer
        for offer in use.offers
    )
    return dataclasses.replace(use, board=board, offers=offers)


def _closed(use: Use) -> Use:
    """A card of which nothing new is handed out."""
    module = use.ruling.module
    reason = use.reason or (
        'Fabric Manager has no partition with it: say by a rule which '
        'module it is'
        if module is None
        else f'Fabric Manager has no partition with module {module}, which '
        f'rule {use.ruling.decided["module"]} says it is, or another card '
        f'is said to be that'
    )
    if any(offer.used for offer in use.offers):
        offers = tuple(dataclasses.replace(o, free=0) for o in use.offers)
        return dataclasses.replace(use, reason=reason, offers=offers)
    return dataclasses.replace(
        use, reason=reason, mechanism=None, pool=None, offers=()
    )
