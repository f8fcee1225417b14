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

"""What is used and free of a cloud's GPUs."""

from __future__ import annotations

import testtools

from nova_gpu.model.capacity import (
    Holding,
    HostCards,
    ProfileStock,
    ProjectUsage,
    Provider,
    Stock,
    by_host,
    by_profile,
    by_project,
    called,
    classes,
    holdings,
    may_be_gpu,
    model_of,
)

A100 = 'CUSTOM_GPU_NVIDIA_A100'
Q4 = 'CUSTOM_VGPU_NVIDIA_T4_4Q'
Q8 = 'CUSTOM_VGPU_NVIDIA_T4_8Q'


def whole(*stock: int, **held: int) -> Provider:
    """Whole cards of one host; ``held`` says who has how many."""
    return Provider(
        uuid='u1',
        node='gpu1',
        key='nvidia_a100',
        traits=frozenset(
            {A100, 'CUSTOM_GPU_VENDOR_NVIDIA', 'CUSTOM_GPU_MEMORY_GE_8GIB',
             'CUSTOM_GPU_MEMORY_GE_40GIB', 'CUSTOM_GPU_ARRAY', 'OWNER_NOVA'}
        ),
        stocks={A100: Stock(*stock)},
        held={consumer: {A100: count} for consumer, count in held.items()},
    )  # fmt: skip


def shared(key: str, *traits: str, **held: int) -> Provider:
    """A card that has some of the profile 8Q, or nothing."""
    used = sum(held.values())
    return Provider(
        uuid=f'u{key}',
        node='gpu2',
        key=key,
        traits=frozenset(
            {'CUSTOM_GPU_NVIDIA_T4', 'CUSTOM_GPU_VENDOR_NVIDIA', *traits}
        ),
        stocks={Q4: Stock(4, 4 if used else 0), Q8: Stock(2, 0, used)},
        held={consumer: {Q8: count} for consumer, count in held.items()},
    )


class ProviderTest(testtools.TestCase):
    def test_whole_cards(self) -> None:
        cards = whole(8, 1, 2, one=2)
        self.assertEqual('gpu1_gpu_nvidia_a100', cards.name)
        self.assertEqual('NVIDIA_A100', cards.model)
        self.assertEqual('NVIDIA', cards.vendor)
        self.assertEqual(40, cards.memory_gib)
        self.assertEqual('whole', cards.use)
        self.assertIsNone(cards.address)
        self.assertEqual(A100, cards.profile)
        self.assertEqual((8, 5, 3), (cards.cards, cards.empty, cards.full))

    def test_a_card_that_servers_share(self) -> None:
        card = shared('0000_3b_00_0', 'CUSTOM_GPU_FAST', one=1)
        self.assertEqual('0000:3b:00.0', card.address)
        self.assertEqual('NVIDIA_T4', card.model)
        self.assertIsNone(card.memory_gib)
        self.assertEqual('shared', card.use)
        self.assertEqual(Q8, card.profile)
        self.assertEqual((1, 0, 0), (card.cards, card.empty, card.full))
        self.assertIsNone(shared('0000_3b_00_0').profile)
        self.assertIsNone(shared('mtty').address)
        self.assertIsNone(shared('a_b_c_d').address)

    def test_a_card_that_tells_nothing(self) -> None:
        card = Provider('u', 'gpu1', '0000_3b_00_0', frozenset(), {}, {})
        self.assertEqual('unknown', card.model)
        self.assertEqual('', card.vendor)
        self.assertEqual('shared', card.use)

    def test_states(self) -> None:
        for state, card in (
            ('empty', whole(8)),
            ('in use', whole(8, 0, 1, one=1)),
            ('in use', whole(8, 1)),
            ('full', whole(2, 0, 2, one=2)),
            ('closed', whole(8, 8)),
            ('empty', shared('0000_3b_00_0')),
            ('in use', shared('0000_3b_00_0', one=1)),
            ('full', shared('0000_3b_00_0', one=1, two=1)),
        ):
            self.assertEqual(state, card.state, card)

    def test_more_used_than_there_is(self) -> None:
        self.assertEqual(0, Stock(2, 1, 2).free)

    def test_names_that_people_call_it(self) -> None:
        card = shared('0000_3b_00_0')
        for name in (
            '0000:3b:00.0', '3b:00.0', '0000:3B:00.0', 'u0000_3b_00_0',
            'gpu2_gpu_0000_3b_00_0', 'NVIDIA_T4',
        ):  # fmt: skip
            self.assertTrue(called(card, name), name)
        for name in ('0000:3b:00.1', 'gpu2', 'NVIDIA_T40', ''):
            self.assertFalse(called(card, name), name)
        self.assertFalse(called(whole(8), '0000:3b:00.0'))


class ClassTest(testtools.TestCase):
    def test_which_may_be_of_gpus(self) -> None:
        for name in ('PGPU', 'VGPU', A100, Q8, 'CUSTOM_OURS'):
            self.assertTrue(may_be_gpu(name), name)
        for name in ('VCPU', 'MEMORY_MB', 'DISK_GB', 'PCPU'):
            self.assertFalse(may_be_gpu(name), name)

    def test_models(self) -> None:
        self.assertEqual('NVIDIA_A100', model_of(A100))
        self.assertEqual('AMD_MI300X', model_of('CUSTOM_GPU_AMD_MI300X_VF'))
        self.assertIsNone(model_of(Q8))
        self.assertIsNone(model_of('PGPU'))

    def test_what_extra_specs_ask_for(self) -> None:
        specs = {
            f'resources:{A100}': '1', f'resources1:{A100}': '2',
            'resources:VGPU': '0', 'resources:VCPU': '3', f'resources:{Q8}':
            'many', 'gpu:display': 'on',
        }  # fmt: skip
        self.assertEqual({A100: 3}, classes(specs))


class SumTest(testtools.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.providers = [
            whole(8, 1, 2, one=2),
            shared('0000_3b_00_0', two=1, three=1),
            shared('0000_5e_00_0', two=1),
            shared('0000_af_00_0'),
        ]

    def test_by_host(self) -> None:
        self.assertEqual(
            [
                HostCards('gpu1', 'NVIDIA_A100', 'whole', 8, 5, 3, 1),
                HostCards('gpu2', 'NVIDIA_T4', 'shared', 3, 1, 1, 2),
            ],
            by_host(self.providers),
        )

    def test_by_profile(self) -> None:
        self.assertEqual(
            [
                ProfileStock(A100, 'NVIDIA_A100', 8, 8, 2, 5),
                ProfileStock(Q4, 'NVIDIA_T4', 3, 12, 0, 4),
                ProfileStock(Q8, 'NVIDIA_T4', 3, 6, 3, 3),
            ],
            by_profile(self.providers),
        )

    def test_by_project(self) -> None:
        projects = {'one': 'b', 'two': 'a'}  # three has just been deleted
        found = holdings(self.providers, projects)
        self.assertEqual(
            [
                Holding('two', 'a', 'gpu2', 'NVIDIA_T4', Q8, 2),
                Holding('one', 'b', 'gpu1', 'NVIDIA_A100', A100, 2),
            ],
            found,
        )
        self.assertEqual(
            [
                ProjectUsage('a', 'NVIDIA_T4', Q8, 2, 1),
                ProjectUsage('b', 'NVIDIA_A100', A100, 2, 1),
            ],
            by_project(found),
        )
