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


"""Which hosts can serve a flavor, and what the others lack."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import testtools

from nova_gpu import exception
from nova_gpu.model.flavor import Flavor
from nova_gpu.model.serving import (
    DISABLED,
    Amount,
    Ask,
    Member,
    Tree,
    asked,
    count,
    lacks,
)

A100 = 'CUSTOM_GPU_A100'
T4_8Q, T4_4Q = 'CUSTOM_VGPU_T4_8Q', 'CUSTOM_VGPU_T4_4Q'


def member(name: str, *traits: str, **amounts: tuple[int, int]) -> Member:
    """A provider with (capacity, free) of each class."""
    found = {c: Amount(n, free, n) for c, (n, free) in amounts.items()}
    return Member(name, name, found, frozenset(traits))


ROOT = member(
    'h', 'SSD', VCPU=(16, 16), MEMORY_MB=(4096, 4096), DISK_GB=(100, 100)
)
TREE = Tree(
    ROOT,
    (
        member('a100', 'NVLINK', **{A100: (8, 3)}),
        member('t4-1', 'LEFT', **{T4_8Q: (2, 1), T4_4Q: (4, 0)}),
        member('t4-2', **{T4_8Q: (2, 2), T4_4Q: (4, 4)}),
    ),
)


def ask(vcpus: int = 1, **specs: str) -> Ask:
    found = {k.replace('__', ':'): v for k, v in specs.items()}
    return asked(Flavor('f', vcpus, 512, 10, extra_specs=found))


class AskedTest(testtools.TestCase):
    """The query that Nova would make."""

    def test_sizes(self) -> None:
        flavor = Flavor('f', 4, 512, 10, 5, 1025, {f'resources:{A100}': '2'})
        self.assertEqual(
            [
                ('root_required', f'!{DISABLED}'),
                ('resources', f'{A100}:2,DISK_GB:17,MEMORY_MB:512,VCPU:4'),
            ],
            asked(flavor).query(),
        )

    def test_what_extra_specs_say(self) -> None:
        self.assertEqual(
            [
                ('root_required', f'!{DISABLED}'),
                ('resources', f'{A100}:1,MEMORY_MB:9,PCPU:3'),
                ('required', 'COMPUTE_ADDRESS_SPACE_EMULATED,SSD,!SLOW'),
                ('resources_V', f'{T4_8Q}:1'),
                ('required_V', 'LEFT'),
                ('resources_W', f'{T4_8Q}:2'),
                ('group_policy', 'isolate'),
            ],
            ask(
                2,
                **{
                    f'resources__{A100}': '1', 'resources__MEMORY_MB': '9',
                    'resources__DISK_GB': '0', 'resources__VGPU': '0',
                    'hw__cpu_policy': 'dedicated',
                    'hw__emulator_threads_policy': 'isolate',
                    'hw__maxphysaddr_mode': 'emulate',
                    'trait__SSD': 'required', 'trait__SLOW': 'forbidden',
                    f'resources_V__{T4_8Q}': '1', 'trait_V__LEFT': 'required',
                    f'resources_W__{T4_8Q}': '2', 'group_policy': 'isolate',
                },
            ).query(),
        )  # fmt: skip

    def test_pinned_by_resource(self) -> None:
        self.assertIn(
            ('resources', 'DISK_GB:10,MEMORY_MB:512,PCPU:2'),
            ask(resources__PCPU='2').query(),
        )

    def test_no_number(self) -> None:
        self.assertRaises(exception.InvalidExtraSpec, ask, resources__VGPU='x')


class LacksTest(testtools.TestCase):
    """One host, when it is empty and as it is now."""

    def told(self, request: Ask, ever: str | None, now: str | None) -> None:
        self.assertEqual(ever, lacks(TREE, request, now=False))
        self.assertEqual(now, lacks(TREE, request, now=True))

    def test_counts(self) -> None:
        self.told(ask(**{f'resources__{A100}': '3'}), None, None)
        self.told(
            ask(**{f'resources__{A100}': '4'}),
            None,
            f'wants 4 {A100}, and has 3 free at most',
        )
        self.told(
            ask(**{f'resources__{A100}': '9'}),
            f'wants 9 {A100}, and has 8 at most',
            f'wants 9 {A100}, and has 3 free at most',
        )
        self.told(
            ask(**{f'resources__{T4_8Q}': '3'}),
            f'wants 3 {T4_8Q}, and one provider has 2 at most',
            f'wants 3 {T4_8Q}, and one provider has 2 free at most',
        )
        self.told(ask(resources__VGPU='1'), 'has no VGPU', 'has no VGPU')

    def test_sizes(self) -> None:
        request = ask(17, **{f'resources__{A100}': '1'})
        self.assertEqual(
            'wants 17 VCPU, and has 16 at most',
            lacks(TREE, request, now=False),
        )

    def test_most_of_one_server(self) -> None:
        root = dataclasses.replace(
            ROOT, amounts={**ROOT.amounts, 'VCPU': Amount(256, 256, 16)}
        )
        self.assertEqual(
            'wants 17 VCPU, and has 16 at most',
            lacks(Tree(root), ask(17), now=False),
        )

    def test_disk_that_is_elsewhere(self) -> None:
        amounts = {k: v for k, v in ROOT.amounts.items() if k != 'DISK_GB'}
        tree = Tree(dataclasses.replace(ROOT, amounts=amounts))
        self.assertIsNone(lacks(tree, ask(), now=True))

    def test_groups_together(self) -> None:
        def groups(policy: str, *counts: int) -> Ask:
            return ask(
                group_policy=policy,
                **{
                    f'resources{i}__{T4_8Q}': str(count)
                    for i, count in enumerate(counts)
                },
            )

        together = 'has not all that the flavor wants together'
        self.told(groups('none', 2, 2), None, together)
        self.told(groups('none', 1, 1, 1), None, None)
        self.told(groups('isolate', 2, 1), None, None)
        self.told(groups('isolate', 1, 1, 1), together, together)

    def test_traits(self) -> None:
        for specs, reason in (
            ({'trait__SSD': 'required'}, None),
            ({'trait__NVLINK': 'required'}, None),
            ({'trait__LEFT': 'required'},
             'has not all that the flavor wants together'),
            ({'trait__RACK_7': 'required'}, 'has no trait RACK_7'),
            ({'trait__NVLINK': 'forbidden'},
             'has traits that are forbidden: NVLINK'),
            ({'trait__LEFT': 'forbidden'}, None),
        ):  # fmt: skip
            request = ask(**{f'resources__{A100}': '1', **specs})
            self.assertEqual(reason, lacks(TREE, request, now=False), specs)

    def test_traits_of_a_group(self) -> None:
        for trait, value, reason in (
            ('LEFT', 'required', 'has not all that the flavor wants together'),
            ('LEFT', 'forbidden', None),
            ('SSD', 'required', 'no provider of it has the traits of group 1'),
        ):
            request = ask(
                **{f'resources1__{T4_8Q}': '2', f'trait1__{trait}': value}
            )
            self.assertEqual(reason, lacks(TREE, request, now=True))

    def test_disabled(self) -> None:
        root = dataclasses.replace(ROOT, traits=frozenset({DISABLED}))
        tree = dataclasses.replace(TREE, root=root)
        self.assertIsNone(lacks(tree, ask(), now=False))
        self.assertIn('disabled', str(lacks(tree, ask(), now=True)))

    def test_does_not_take_for_ever(self) -> None:
        below = tuple(member(f't4-{i}', **{T4_8Q: (2, 2)}) for i in range(16))
        request = ask(
            **{f'resources{i}__{T4_8Q}': '2' for i in range(16)},
            resources99__VCPU='17',
        )
        tree = dataclasses.replace(TREE, below=below)
        self.assertIn('17 VCPU', str(lacks(tree, request, now=True)))
        more = {f'resources{i}__{T4_8Q}': '2' for i in range(17)}
        self.assertIsNone(lacks(tree, ask(**more), now=True))


def candidates(
    free: Mapping[str, Mapping[str, int]], *requests: Mapping[str, int]
) -> dict[str, Any]:
    """What Placement answers; a request is amounts by provider and class."""
    return {
        'provider_summaries': {
            provider: {
                'resources': {
                    name: {'capacity': amount + 1, 'used': 1}
                    for name, amount in resources.items()
                }
            }
            for provider, resources in free.items()
        },
        'allocation_requests': [
            {
                'allocations': {
                    provider: {
                        'resources': {
                            place.partition('/')[2]: amount
                            for place, amount in request.items()
                            if place.startswith(f'{provider}/')
                        }
                    }
                    for provider in {p.partition('/')[0] for p in request}
                }
            }
            for request in requests
        ],
    }


class CountTest(testtools.TestCase):
    def test_the_scarcest_decides(self) -> None:
        free = {'host': {'VCPU': 9, 'MEMORY_MB': 4096}, 'gpus': {A100: 7}}
        request = {'host/VCPU': 2, 'host/MEMORY_MB': 512, f'gpus/{A100}': 1}
        self.assertEqual(4, count(candidates(free, request)))
        request[f'gpus/{A100}'] = 3
        self.assertEqual(2, count(candidates(free, request)))

    def test_what_one_takes_others_can_not_have(self) -> None:
        cards = {'card1': {T4_8Q: 2}, 'card2': {T4_8Q: 2}}
        free: dict[str, dict[str, int]] = {'host': {'VCPU': 5}, **cards}
        requests = [
            {'host/VCPU': 1, f'{card}/{T4_8Q}': 1}
            for card in ('card1', 'card2')
        ]
        self.assertEqual(4, count(candidates(free, *requests)))
        free['host']['VCPU'] = 3
        self.assertEqual(3, count(candidates(free, *requests)))

    def test_nowhere(self) -> None:
        self.assertEqual(0, count(candidates({})))
