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


"""Whole cards."""

from __future__ import annotations

from nova_gpu import exception
from nova_gpu.mechanism.whole import WholeCard
from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import PciFunction
from nova_gpu.model.guest import GuestDevices, Hostdev
from nova_gpu.model.inventory import Pool, Unit, Use, pools
from nova_gpu.model.request import GpuRequest
from nova_gpu.model.rule import Ruling
from tests.fixtures import hosts
from tests.unit import base

NONE = GpuRequest({})
A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'


class WholeCardTest(base.HostTest):
    """What a card gives, and what it becomes in a guest."""

    def setUp(self) -> None:
        super().setUp()
        self.whole = WholeCard()

    def use(self, address: str, **kwargs: object) -> Use:
        card = base.card(address, **kwargs)
        return Use(
            card,
            'whole',
            self.whole.pool_key(card),
            self.whole.offers(card, Ruling(), []),
        )

    def pool(self, uses: list[Use]) -> Pool:
        (pool,) = pools(uses)
        return pool

    def choose(self, uses: list[Use], count: int, *held: Unit,
               name: str = A100) -> list[str]:  # fmt: skip
        units = self.whole.choose(
            self.pool(uses), uses, name, count, held, NONE
        )
        return [unit.device for unit in units]

    def test_recognizes(self) -> None:
        for driver, expected in (
            ('vfio-pci', True), (None, True), ('nvidia', False),
        ):  # fmt: skip
            card = base.card(driver=driver)
            self.assertIs(expected, self.whole.recognizes(card))

    def test_refusals_say_why(self) -> None:
        stranger = PciFunction(
            PciAddress.parse('0000:18:00.0'), 0x8086, 0x1521, 0x0200
        )
        for fields, reason in (
            ({'boot_vga': True}, "serves the host's console (boot VGA)"),
            ({'driver': 'nouveau'}, 'bound to nouveau: bind it to vfio-pci'),
            ({'iommu_group': None}, 'has no IOMMU group'),
            (
                {'strangers': (stranger,)},
                'shares IOMMU group 47 with 0000:18:00.0 [0200] 8086:1521',
            ),
        ):
            refusal = self.whole.refusal(base.card(**fields))
            self.assertIn(reason, str(refusal))
        self.assertIsNone(self.whole.refusal(base.card()))

    def test_offers(self) -> None:
        card = base.card()
        (free,) = self.whole.offers(card, Ruling(), [])
        self.assertEqual((A100, 1, 0, 1), (
            free.resource_class, free.total, free.used, free.free,
        ))  # fmt: skip
        unit = Unit('whole', 'x', A100, card.address, str(card.address))
        (used,) = self.whole.offers(
            card, Ruling(resource_class='PGPU'), [unit]
        )
        self.assertEqual(('PGPU', 1, 1, 0), (
            used.resource_class, used.total, used.used, used.free,
        ))  # fmt: skip

    def test_required_topology_that_is_not_free(self) -> None:
        uses = [
            self.use('0000:21:00.0'),
            self.use('0000:81:00.0', numa_node=1),
        ]
        error = self.assertRaises(
            exception.NotEnoughUnits,
            self.whole.choose, self.pool(uses), uses, A100, 2, [],
            GpuRequest({}, topology='numa', topology_required=True),
        )  # fmt: skip
        self.assertIn(
            '2 of its 2 cards are free, and no 2 of them share numa, which '
            'gpu:topology requires',
            str(error),
        )

    def test_choice_leaves_out_what_is_held(self) -> None:
        uses = [self.use(f'0000:2{i}:00.0') for i in range(3)]
        held = self.whole.choose(self.pool(uses), uses, A100, 1, [], NONE)
        self.assertEqual(['0000:20:00.0'], [u.device for u in held])
        self.assertEqual(
            ['0000:21:00.0', '0000:22:00.0'], self.choose(uses, 2, *held)
        )
        error = self.assertRaises(
            exception.NotEnoughUnits, self.choose, uses, 3, *held
        )
        self.assertEqual(3, error.wanted)
        self.assertIn('2 of its 3 cards are free', str(error))

    def test_held_under_the_name_that_the_pool_once_had(self) -> None:
        # An update of pci.ids has renamed a model that the table lacks.
        card = base.card()
        unit = Unit('whole', 'old', A100, card.address, str(card.address))
        offers = self.whole.offers(card, Ruling(), [unit])
        uses = [Use(card, 'whole', 'new', offers)]
        self.assertRaises(exception.NotEnoughUnits, self.choose, uses, 1)

    def test_choice_keeps_to_the_class(self) -> None:
        uses = [self.use('0000:20:00.0')]
        self.assertRaises(
            exception.NotEnoughUnits, self.choose, uses, 1, name='PGPU'
        )

    def test_unit_has_the_companions(self) -> None:
        hosts.workstation(self.fake)
        card = self.cards()['0000:65:00.0']
        use = Use(card, 'whole', self.whole.pool_key(card),
                  self.whole.offers(card, Ruling(), []))  # fmt: skip
        pool = self.pool([use])
        (unit,) = self.whole.choose(
            pool, [use], *pool.inventories, 1, [], NONE
        )
        self.assertEqual(card.functions, unit.functions)
        self.assertEqual(4, len(unit.functions))
        request = GpuRequest({}, vgpu_params='a=b')
        self.assertEqual(unit, self.whole.prepare(unit, request, self.fake))
        self.whole.configure(unit, request, self.fake)
        self.whole.clean(unit, self.fake)
        self.assertEqual(
            [Hostdev(function=f, slot=0) for f in card.functions],
            self.whole.hostdevs([unit], request),
        )

    def test_cards_with_companions_get_slots_of_their_own(self) -> None:
        def unit(bus: str, functions: int) -> Unit:
            found = tuple(
                PciAddress.parse(f'0000:{bus}:00.{i}')
                for i in range(functions)
            )
            return Unit('whole', 'x', 'X', found[0], str(found[0]), found)

        hostdevs = self.whole.hostdevs(
            [unit('30', 2), unit('20', 1), unit('10', 3)], GpuRequest({})
        )
        self.assertEqual(
            [
                ('0000:10:00.0', 0), ('0000:10:00.1', 0), ('0000:10:00.2', 0),
                ('0000:20:00.0', None),
                ('0000:30:00.0', 1), ('0000:30:00.1', 1),
            ],
            [(str(h.function), h.slot) for h in hostdevs],
        )  # fmt: skip

    def test_held_by_a_guest(self) -> None:
        uses = [self.use('0000:20:00.0'), self.use('0000:21:00.0')]
        guest = GuestDevices('a', None, frozenset([uses[1].card.address]))
        (unit,) = self.whole.held_by(guest, uses)
        self.assertEqual(
            ('0000:21:00.0', A100), (unit.device, unit.resource_class)
        )

    def test_nothing_leaks(self) -> None:
        self.assertEqual([], self.whole.leaked(self.snapshot(), [], []))
