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

"""What Fabric Manager's partitions mean for cards, guests and audits."""

from __future__ import annotations

import dataclasses

import testtools

from nova_gpu.model import fabric, hostmap, inventory
from nova_gpu.model.address import PciAddress
from nova_gpu.model.claim import ALLOCATED, CLAIMED, Claim
from nova_gpu.model.guest import GuestDevices
from nova_gpu.model.inventory import Unit, Use
from nova_gpu.model.partition import Board, Fabric, Gpu, Partition
from nova_gpu.rules import parse_rules
from tests.fixtures import fmpm
from tests.unit import base

ADDRESSES = tuple(PciAddress(0, bus, 0, 0) for bus in range(0x10, 0x18))
MODULES = dict(enumerate(ADDRESSES, start=1))


def told(
    *active: int, addresses: bool = True, problem: str | None = None
) -> Fabric:
    """What Fabric Manager says of an H100 board."""
    return Fabric(
        tuple(
            Partition(
                number,
                tuple(
                    Gpu(m, MODULES[m] if addresses else None) for m in modules
                ),
                number in active,
            )
            for number, modules in fmpm.HGX_H100.items()
        ),
        problem,
    )


def unit(module: int, partition: int | None = None) -> Unit:
    address = MODULES[module]
    return Unit(
        'whole', 'pool', 'CUSTOM_X', address, str(address),
        partition=partition,
    )  # fmt: skip


class UsesTest(testtools.TestCase):
    """Eight linked cards of NVIDIA, and one that isn't linked."""

    def uses(self, *rules: str) -> list[Use]:
        cards = [
            base.card(str(address), model='NVIDIA H100', linked=8)
            for address in ADDRESSES
        ]
        cards.append(base.card('0000:20:00.0', model='NVIDIA A40'))
        return [
            inventory.classify(card, base.mechanisms(), parse_rules(rules))
            for card in cards
        ]

    def test_nothing_is_divided(self) -> None:
        uses = self.uses()
        self.assertEqual(tuple(uses), fabric.with_partitions(uses, None))

    def test_addresses_that_are_told(self) -> None:
        found = fabric.with_partitions(self.uses(), told())
        board = fabric.board_of(found)
        assert board is not None
        self.assertEqual(8, len([u for u in found[:8] if u.board is board]))
        self.assertEqual(frozenset(ADDRESSES), board.cards)
        self.assertEqual(self.uses()[8], found[8])
        self.assertTrue(all(u.offers[0].free for u in found))

    def test_addresses_of_another_machine(self) -> None:
        """A service VM's may look like this host's: rules come first."""
        rules = [
            f'{{"address": "{address}", "module": {9 - module}}}'
            for module, address in MODULES.items()
        ]
        board = fabric.board_of(
            fabric.with_partitions(self.uses(*rules), told())
        )
        assert board is not None
        self.assertEqual(
            frozenset({MODULES[8], MODULES[6]}), board.partitions[3]
        )

    def test_what_is_active_is_not_free(self) -> None:
        found = fabric.with_partitions(self.uses(), told(3))
        free = [bool(use.offers[0].free) for use in found]
        self.assertEqual([False, True, False, *[True] * 6], free)

    def test_silence(self) -> None:
        for known in (told(problem='away'), Fabric(problem='away')):
            found = fabric.with_partitions(self.uses(), known)
            self.assertEqual(
                [0] * 8 + [1], [use.offers[0].free for use in found]
            )
            self.assertEqual([None] * 9, [use.reason for use in found])
            (board,) = {id(u.board): u.board for u in found[:8]}.values()
            assert board is not None
            self.assertEqual('away', board.problem)

    def test_map(self) -> None:
        for active, known, sizes, free in (
            ((), {}, (1, 2, 4, 8), (1, 2, 4, 8)),
            ((3,), {}, (1, 2, 4, 8), (1, 2, 4)),
            ((), {'problem': 'away'}, (1, 2, 4, 8), ()),
        ):
            uses = fabric.with_partitions(
                self.uses(),
                told(*active, **known),  # type: ignore[arg-type]
            )
            text = hostmap.build(
                inventory.pools(uses), uses, (), base.mechanisms()
            ).dump()
            pools = {p.key: p for p in hostmap.HostMap.load(text).pools}
            board, other = pools['nvidia_h100'], pools['nvidia_a40']
            self.assertEqual((sizes, free), (board.sizes, board.free_sizes))
            self.assertEqual(((), ()), (other.sizes, other.free_sizes))
            self.assertEqual(max(sizes), board.largest_set('nvlink'))
            self.assertEqual(
                [n in free for n in range(9)],
                [board.has_set(n, 'host') for n in range(9)],
            )

    def test_no_sizes_of_what_nobody_knows(self) -> None:
        uses = fabric.with_partitions(self.uses(), Fabric(problem='away'))
        (pool, _) = sorted(
            hostmap.build(
                inventory.pools(uses), uses, (), base.mechanisms()
            ).pools,
            key=lambda p: -len(p.numa_nodes),
        )
        self.assertEqual((), pool.sizes)


class AuditTest(testtools.TestCase):
    """An active partition of nobody, and one that isn't active."""

    def setUp(self) -> None:
        super().setUp()
        self.board = Board(
            {
                n: frozenset(MODULES[m] for m in modules)
                for n, modules in fmpm.HGX_H100.items()
            },
            frozenset({3, 2}),
        )

    def claim(self, *units: Unit, state: str = ALLOCATED) -> Claim:
        return Claim('instance', units, state)

    def found(
        self, claims: list[Claim], service: list[Claim] | None
    ) -> list[tuple[str, str, str]]:
        return [
            (d.problem, d.device, d.mend)
            for d in fabric.differences(self.board, claims, service)
        ]

    def test_all_is_well(self) -> None:
        claims = [self.claim(unit(1, 3), unit(3, 3)), self.claim(unit(5, 2))]
        self.assertEqual([], self.found(claims, claims))

    def test_nobody_has_it(self) -> None:
        claims = [self.claim(unit(1, 3), unit(3, 3))]
        self.assertEqual(
            [('partition without a guest', 'partition 2', 'clean')],
            self.found(claims, None),
        )
        self.assertEqual(
            [('partition without a guest', 'partition 2', '')],
            self.found(claims, claims),
        )
        # nova-compute is just making the guest.
        making = [*claims, self.claim(unit(5, 2), state=CLAIMED)]
        self.assertEqual([], self.found(claims, making))

    def test_not_active(self) -> None:
        claims = [
            self.claim(unit(1, 3), unit(3, 3)),
            self.claim(unit(5, 2)),
            self.claim(unit(2, 4), unit(4, 4)),
        ]
        self.assertEqual(
            [('partition not active', 'partition 4', '')],
            self.found(claims, claims),
        )

    def test_nobody_knows(self) -> None:
        self.board = dataclasses.replace(self.board, problem='away')
        self.assertEqual([], self.found([], None))

    def test_what_has_to_be_active(self) -> None:
        stuck = unit(8, 14)
        claims = [
            self.claim(unit(1, 3), unit(3, 3), unit(6)),
            Claim('instance', (stuck,), CLAIMED, (stuck,)),
        ]
        guest = GuestDevices(
            'x', None, units=(unit(2, 4),), kept=(('move', (unit(7, 13),)),)
        )
        self.assertEqual({3, 4, 13}, fabric.wanted(claims, [guest]))
