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

"""Where a flavor fits, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import testtools

from nova_gpu.model.fit import Flavor, classes, count, query

A100 = 'CUSTOM_GPU_NVIDIA_A100'
Q8 = 'CUSTOM_VGPU_NVIDIA_T4_8Q'


def flavor(**specs: str) -> Flavor:
    return Flavor(
        'f', 4, 512, 10, 5, 1025,
        {k.replace('__', ':'): v for k, v in specs.items()},
    )  # fmt: skip


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


class QueryTest(testtools.TestCase):
    def test_of_a_plain_flavor(self) -> None:
        self.assertEqual(
            {
                # swap rounds up
                'resources': 'DISK_GB:17,MEMORY_MB:512,VCPU:4',
                'root_required': '!COMPUTE_STATUS_DISABLED',
            },
            query(flavor()),
        )

    def test_gpus_traits_and_dedicated_cpus(self) -> None:
        asked = query(
            flavor(
                **{
                    f'resources__{A100}': '2', 'resources__DISK_GB': '0',
                    'trait__CUSTOM_B': 'required', 'hw__cpu_policy':
                    'dedicated', 'trait__CUSTOM_A': 'forbidden',
                    'trait__CUSTOM_C': 'rubbish', 'gpu__topology': 'numa',
                }
            )
        )  # fmt: skip
        self.assertEqual(
            {
                'resources': f'{A100}:2,MEMORY_MB:512,PCPU:4',
                'required': '!CUSTOM_A,CUSTOM_B',
                'root_required': '!COMPUTE_STATUS_DISABLED',
            },
            asked,
        )

    def test_groups(self) -> None:
        groups = {f'resources1__{A100}': '1', 'trait1__CUSTOM_A': 'required'}
        asked = query(flavor(**groups))
        self.assertEqual(f'{A100}:1', asked['resources1'])
        self.assertEqual('CUSTOM_A', asked['required1'])
        self.assertNotIn('group_policy', asked)
        groups[f'resources2__{Q8}'] = '1'
        self.assertEqual('none', query(flavor(**groups))['group_policy'])
        groups['group_policy'] = 'isolate'
        self.assertEqual('isolate', query(flavor(**groups))['group_policy'])

    def test_classes(self) -> None:
        specs = {
            f'resources:{A100}': '1', f'resources1:{A100}': '2',
            'resources:VGPU': '0', 'resources:VCPU': '3', f'resources:{Q8}':
            'many', 'gpu:display': 'on',
        }  # fmt: skip
        self.assertEqual({A100: 3}, classes(specs))


class CountTest(testtools.TestCase):
    def test_the_scarcest_decides(self) -> None:
        free = {'host': {'VCPU': 9, 'MEMORY_MB': 4096}, 'gpus': {A100: 7}}
        request = {'host/VCPU': 2, 'host/MEMORY_MB': 512, f'gpus/{A100}': 1}
        self.assertEqual(4, count(candidates(free, request)))
        request[f'gpus/{A100}'] = 3
        self.assertEqual(2, count(candidates(free, request)))

    def test_what_one_takes_others_can_not_have(self) -> None:
        free = {'host': {'VCPU': 5}, 'card1': {Q8: 2}, 'card2': {Q8: 2}}
        requests = [
            {'host/VCPU': 1, f'{card}/{Q8}': 1} for card in ('card1', 'card2')
        ]
        self.assertEqual(4, count(candidates(free, *requests)))
        free['host']['VCPU'] = 3
        self.assertEqual(3, count(candidates(free, *requests)))

    def test_nowhere(self) -> None:
        self.assertEqual(0, count(candidates({})))
