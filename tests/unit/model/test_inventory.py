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


"""From cards to uses, pools and traits."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu.model import inventory
from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import Card, Mdev
from nova_gpu.model.inventory import Inventory, Unit, Use
from nova_gpu.model.profile import VgpuType
from nova_gpu.model.rule import Rule
from tests.unit import base

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
WHOLE_POOL = 'nvidia_a100_sxm4_40gb'
VGPU_POOL = '0000_3b_00_0'
T4_4Q, T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q', 'CUSTOM_VGPU_NVIDIA_T4_8Q'


def t4(**kwargs: Any) -> Card:
    """A T4 that takes four 4Q or two 8Q."""
    fields: dict[str, Any] = {
        'product_id': 0x1EB8,
        'model': 'NVIDIA Tesla T4',
        'memory_mib': 16384,
        'driver': 'nvidia',
        'types': (
            VgpuType('nvidia-232', 'GRID T4-4Q', available=4, capacity=4),
            VgpuType('nvidia-233', 'GRID T4-8Q', available=2, capacity=2),
        ),
        'parents': (PciAddress.parse('0000:3b:00.0'),),
    }
    return base.card('0000:3b:00.0', **{**fields, **kwargs})


def whole_unit(card: Card) -> Unit:
    return Unit('whole', WHOLE_POOL, A100, card.address, str(card.address))


def classify(card: Card, *rules: Rule, **kwargs: Any) -> Use:
    return inventory.classify(card, base.mechanisms(), rules, **kwargs)


class ClassifyTest(testtools.TestCase):
    """A card's use follows from its state; rules narrow it."""

    def assert_closed(self, use: Use, reason: str) -> None:
        self.assertIsNone(use.pool)
        self.assertEqual((), use.offers)
        self.assertIn(reason, str(use.reason))

    def test_vfio_or_no_driver_is_a_whole_card(self) -> None:
        for driver in ('vfio-pci', None):
            use = classify(base.card(driver=driver))
            self.assertEqual(('whole', WHOLE_POOL), (use.mechanism, use.pool))
            self.assertIsNone(use.reason)

    def test_types_make_vgpus(self) -> None:
        use = classify(t4())
        self.assertEqual(('mdev', VGPU_POOL), (use.mechanism, use.pool))
        self.assertEqual(
            [T4_4Q, T4_8Q], [offer.resource_class for offer in use.offers]
        )

    def test_other_driver(self) -> None:
        self.assert_closed(
            classify(base.card(driver='nouveau')), 'bound to nouveau'
        )

    def test_owned_by_somebody_else(self) -> None:
        card = base.card()
        owned = {card.address: "Nova's [pci] device_spec"}
        self.assert_closed(
            classify(card, owned=owned), "belongs to Nova's [pci] device_spec"
        )

    def test_ignored_names_the_rule_that_says_so(self) -> None:
        rules = (Rule(1, reserved=1), Rule(2, use='ignore'))
        for card in (base.card(), t4(), base.card(driver='nouveau')):
            self.assert_closed(
                classify(card, *rules), 'rule 2 says to ignore it'
            )

    def test_rule_that_says_what_the_card_is_not(self) -> None:
        self.assert_closed(
            classify(t4(), Rule(1, use='passthrough')), 'bound to nvidia'
        )
        self.assert_closed(
            classify(base.card(), Rule(1, use='vgpu')),
            'its driver (vfio-pci) offers no vGPU types',
        )
        self.assert_closed(
            classify(base.card(driver=None), Rule(1, use='vgpu')),
            'its driver (none) offers no vGPU types',
        )

    def test_rule_for_a_use_that_nothing_serves(self) -> None:
        card = base.card()
        use = inventory.classify(
            card, base.mechanisms()[-1:], [Rule(1, use='vgpu')]
        )
        self.assert_closed(use, 'bound to vfio-pci')

    def test_card_with_types_that_is_bound_to_vfio(self) -> None:
        use = classify(t4(driver='vfio-pci'), Rule(1, use='passthrough'))
        self.assertEqual('whole', use.mechanism)

    def test_profiles_that_the_card_has_not(self) -> None:
        self.assert_closed(
            classify(t4(), Rule(1, profiles=('T4-9Q', 'T4-7Q'))),
            'no rule allows any of its vGPU types; allowed: T4-9Q, T4-7Q',
        )

    def test_resource_class_of_a_rule(self) -> None:
        use = classify(base.card(), Rule(1, resource_class='PGPU'))
        self.assertEqual('PGPU', use.offers[0].resource_class)

    def test_what_is_held_stays_whatever_the_card_has_become(self) -> None:
        card = base.card()
        held = [whole_unit(card)]
        for changed, rules, owned in (
            (dataclasses.replace(card, driver='nouveau'), (), {}),
            (dataclasses.replace(card, boot_vga=True), (), {}),
            (dataclasses.replace(card, iommu_group=None), (), {}),
            (card, (Rule(1, use='ignore'),), {}),
            (card, (Rule(1, use='vgpu'),), {}),
            (card, (), {card.address: 'somebody'}),
        ):
            use = classify(changed, *rules, owned=owned, held=held)
            self.assertEqual(('whole', WHOLE_POOL), (use.mechanism, use.pool))
            (offer,) = use.offers
            self.assertEqual((1, 1, 0), (offer.total, offer.used, offer.free))

    def test_nothing_new_on_a_closed_card_with_vgpus(self) -> None:
        card = t4()
        unit = Unit('mdev', VGPU_POOL, T4_8Q, card.address, 'u', (),
                    'nvidia-233')  # fmt: skip
        use = classify(card, Rule(1, use='ignore'), held=[unit])
        self.assertEqual('rule 1 says to ignore it', use.reason)
        self.assertEqual(
            {T4_4Q: (0, 0), T4_8Q: (1, 0)},
            {o.resource_class: (o.used, o.free) for o in use.offers},
        )
        (pool,) = inventory.pools([use])
        self.assertEqual(
            {T4_4Q: Inventory(4, 4), T4_8Q: Inventory(2, 1)}, pool.inventories
        )

    def test_what_went_with_its_card_is_kept_for_its_guest(self) -> None:
        # The driver has room for two, and an allocation stands for one.
        card = t4()
        unit = Unit('mdev', VGPU_POOL, T4_8Q, card.address, 'u', (),
                    'nvidia-233')  # fmt: skip
        (pool,) = inventory.pools([classify(card, held=[unit])])
        self.assertEqual(Inventory(2, 0), pool.inventories[T4_8Q])

    def test_held_whole_while_it_shows_types(self) -> None:
        # A guest that is shut off: libvirt gave the card back to nvidia.
        card = t4()
        unit = Unit('whole', 'x', 'CUSTOM_X', card.address, str(card.address))
        use = classify(card, held=[unit])
        self.assertEqual('whole', use.mechanism)
        self.assertIn('bound to nvidia', str(use.reason))

    def test_mechanism_that_is_gone(self) -> None:
        card = base.card()
        unit = Unit('acme', 'x', 'CUSTOM_X', card.address, 'x')
        self.assertEqual('whole', classify(card, held=[unit]).mechanism)


class PoolsTest(testtools.TestCase):
    """Uses summed up."""

    def test_whole_cards_of_a_model_share_a_pool(self) -> None:
        cards = [base.card(f'0000:2{i}:00.0') for i in range(4)]
        other = base.card('0000:90:00.0', model='NVIDIA A40')
        uses = [classify(card) for card in (*cards, other)]
        found = inventory.pools(uses)
        self.assertEqual(
            {WHOLE_POOL: 4, 'nvidia_a40': 1},
            {
                pool.key: sum(i.total for i in pool.inventories.values())
                for pool in found
            },
        )
        self.assertEqual(
            tuple(c.address for c in cards),
            next(p.cards for p in found if p.key == WHOLE_POOL),
        )

    def test_card_that_is_closed_is_in_no_pool(self) -> None:
        uses = [classify(base.card(boot_vga=True)), classify(base.card())]
        (pool,) = inventory.pools(uses)
        self.assertEqual({A100: Inventory(1)}, pool.inventories)

    def test_held_on_a_closed_card_is_not_free_and_not_reserved(self) -> None:
        card = base.card(boot_vga=True)
        (pool,) = inventory.pools([classify(card, held=[whole_unit(card)])])
        self.assertEqual({A100: Inventory(1, 0)}, pool.inventories)

    def test_gone_stays_in_the_total(self) -> None:
        cards = [base.card(f'0000:2{i}:00.0') for i in range(3)]
        uses = [classify(card) for card in cards[:2]]
        (pool,) = inventory.pools(uses, [whole_unit(cards[2])])
        self.assertEqual({A100: Inventory(3, 0)}, pool.inventories)
        (pool,) = inventory.pools([], [whole_unit(cards[2])])
        self.assertEqual({A100: Inventory(1, 0)}, pool.inventories)
        self.assertEqual('whole', pool.mechanism)
        self.assertEqual((), pool.cards)

    def test_reserved_by_rule(self) -> None:
        (pool,) = inventory.pools([classify(t4(), Rule(1, reserved=1))])
        self.assertEqual(
            {T4_4Q: Inventory(4, 1), T4_8Q: Inventory(2, 1)}, pool.inventories
        )
        (pool,) = inventory.pools([classify(t4(), Rule(1, reserved=3))])
        self.assertEqual(Inventory(2, 2), pool.inventories[T4_8Q])

    def test_taken_profile_closes_the_others(self) -> None:
        kinds = (
            VgpuType('nvidia-232', 'GRID T4-4Q', available=0, capacity=4),
            VgpuType('nvidia-233', 'GRID T4-8Q', available=1, capacity=2),
        )
        parent = PciAddress.parse('0000:3b:00.0')
        card = t4(types=kinds, mdevs=(Mdev('u', parent, 'nvidia-233'),))
        unit = Unit('mdev', VGPU_POOL, T4_8Q, card.address, 'u', (),
                    'nvidia-233', parent)  # fmt: skip
        (pool,) = inventory.pools([classify(card, held=[unit])])
        self.assertEqual(
            {T4_4Q: Inventory(4, 4), T4_8Q: Inventory(2, 0)}, pool.inventories
        )
        # Of another owner: its room isn't promised either.
        (pool,) = inventory.pools([classify(card)])
        self.assertEqual(
            {T4_4Q: Inventory(4, 4), T4_8Q: Inventory(2, 1)}, pool.inventories
        )

    @given(
        st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans())),
        st.integers(0, 2),
    )
    def test_never_more_than_there_is(
        self, states: list[tuple[bool, bool, bool]], reserved: int
    ) -> None:
        rules = (Rule(1, reserved=reserved),) if reserved else ()
        uses, gone, free, held = [], [], 0, 0
        for index, (is_held, is_closed, is_gone) in enumerate(states):
            card = base.card(f'{index:04x}:00:00.0', boot_vga=is_closed)
            unit = whole_unit(card)
            held += is_held
            if is_gone:
                gone += [unit] if is_held else []
                continue
            free += not is_held and not is_closed and not reserved
            uses.append(classify(card, *rules, held=[unit] * is_held))
        for pool in inventory.pools(uses, gone):
            record = pool.inventories[A100]
            self.assertLessEqual(record.reserved, record.total)
            self.assertLessEqual(record.total - record.reserved, free + held)
        if free + held and not inventory.pools(uses, gone):
            self.fail('the units are in no pool')


class NamesTest(testtools.TestCase):
    """Providers, classes, traits."""

    def test_provider(self) -> None:
        (pool,) = inventory.pools([classify(base.card())])
        self.assertEqual(
            f'host1_gpu_{WHOLE_POOL}', pool.provider_name('host1')
        )
        self.assertTrue(
            pool.provider_name('host1').startswith(
                inventory.provider_prefix('host1')
            )
        )

    def test_provider_uuid_is_the_same_everywhere(self) -> None:
        node = base.instance('node')
        found = inventory.provider_uuid(node, WHOLE_POOL)
        self.assertEqual(found, str(uuid.UUID(found)))
        self.assertEqual(found, inventory.provider_uuid(node, WHOLE_POOL))
        self.assertNotEqual(found, inventory.provider_uuid(node, VGPU_POOL))
        other = base.instance('other')
        self.assertNotEqual(found, inventory.provider_uuid(other, WHOLE_POOL))

    def test_traits(self) -> None:
        use = classify(t4(), Rule(1, traits=('CUSTOM_RACK_7',)))
        self.assertEqual(
            {
                'CUSTOM_GPU_NVIDIA_TESLA_T4',
                'CUSTOM_GPU_VENDOR_NVIDIA',
                'CUSTOM_GPU_MEMORY_GE_8GIB',
                'CUSTOM_GPU_MEMORY_GE_16GIB',
                'CUSTOM_RACK_7',
            },
            inventory.traits(use),
        )

    def test_traits_of_an_unknown_model(self) -> None:
        card = base.card(vendor_id=0x1002, model='AMD 744c', memory_mib=None)
        self.assertEqual(
            {'CUSTOM_GPU_AMD_744C', 'CUSTOM_GPU_VENDOR_AMD'},
            inventory.traits(classify(card)),
        )

    def test_traits_of_a_pool_are_those_of_its_cards(self) -> None:
        cards = [base.card(f'0000:2{i}:00.0', numa_node=i) for i in range(2)]
        rule = Rule(1, numa_node=1, traits=('CUSTOM_NODE_1',))
        (pool,) = inventory.pools([classify(card, rule) for card in cards])
        self.assertIn('CUSTOM_NODE_1', pool.traits)
        self.assertIn('CUSTOM_GPU_MEMORY_GE_40GIB', pool.traits)
        self.assertNotIn('CUSTOM_GPU_MEMORY_GE_48GIB', pool.traits)
