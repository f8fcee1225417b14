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


"""What GPUs are called, and which of them somebody means."""

from __future__ import annotations

import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu import exception
from nova_gpu.model.capacity import Provider, Stock
from nova_gpu.model.catalog import (
    CARD,
    OTHER,
    VF,
    VGPU,
    GpuClass,
    describe,
    find,
    find_name,
    is_ours,
    of_providers,
    smallest,
)
from tests.unit import base  # noqa: F401  (loads hypothesis' profile)

A100_40 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
A100_80 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_80GB'
T4 = 'CUSTOM_GPU_NVIDIA_TESLA_T4'
MI300X_VF = 'CUSTOM_GPU_AMD_INSTINCT_MI300X_VF'
A40_8Q = 'CUSTOM_VGPU_NVIDIA_A40_8Q'
A40_48Q = 'CUSTOM_VGPU_NVIDIA_A40_48Q'
A40_8C = 'CUSTOM_VGPU_NVIDIA_A40_8C'
MIG = 'CUSTOM_VGPU_NVIDIA_A100_1_5CME'
GVT_G = 'CUSTOM_VGPU_INTEL_I915_GVTG_V5_4'
CLOUD = [
    describe(name)
    for name in (
        A100_40, A100_80, T4, MI300X_VF, A40_8Q, A40_48Q, A40_8C, MIG, GVT_G,
        'CUSTOM_RENDER',
    )
]  # fmt: skip


class DescribeTest(testtools.TestCase):
    """What the name of a class tells."""

    def test_forms(self) -> None:
        forms = {gpu.name: gpu.form for gpu in CLOUD}
        self.assertEqual(
            {
                A100_40: CARD, A100_80: CARD, T4: CARD, MI300X_VF: VF,
                A40_8Q: VGPU, A40_48Q: VGPU, A40_8C: VGPU, MIG: VGPU,
                GVT_G: VGPU, 'CUSTOM_RENDER': OTHER,
            },
            forms,
        )  # fmt: skip

    def test_memory_of_profiles(self) -> None:
        for name, memory, series in (
            (A40_8Q, 8192, 'Q'),
            (MIG, 5120, 'C'),
            ('CUSTOM_VGPU_NVIDIA_M60_0B', 512, 'B'),
            ('CUSTOM_VGPU_NVIDIA_RTX_PRO_6000_BLACKWELL_DC_2_48Q', 49152, 'Q'),
            (GVT_G, 512, None),
            ('CUSTOM_VGPU_MTTY_1', None, None),
        ):
            gpu = describe(name)
            self.assertEqual((memory, series), (gpu.memory_mib, gpu.series))

    def test_memory_of_cards(self) -> None:
        traits = {f'CUSTOM_GPU_MEMORY_GE_{n}GIB' for n in (8, 16, 24)}
        self.assertEqual(24576, describe(T4, traits).memory_mib)
        self.assertIsNone(describe(T4, {'CUSTOM_GPU_NVIDIA'}).memory_mib)
        # A part of a card has a part of its memory.
        self.assertIsNone(describe(MI300X_VF, traits).memory_mib)

    def test_names_of_ours(self) -> None:
        for name in ('VGPU', 'PGPU', A40_8Q, T4):
            self.assertTrue(is_ours(name))
        for name in ('VCPU', 'CUSTOM_RENDER', 'CUSTOM_GPUS'):
            self.assertFalse(is_ours(name))

    def test_sums(self) -> None:
        def provider(key: str, *traits: str, **totals: int) -> Provider:
            stocks = {name: Stock(total) for name, total in totals.items()}
            return Provider(key, 'h', key, frozenset(traits), stocks, {})

        large, small = (f'CUSTOM_GPU_MEMORY_GE_{n}GIB' for n in (16, 8))
        found = of_providers(
            [
                provider('a', large, small, PGPU=8, **{A40_8Q: 6}),
                provider('b', small, PGPU=2),
            ]
        )
        self.assertEqual(
            [
                GpuClass(A40_8Q, VGPU, 8192, 'Q', total=6, largest=6),
                GpuClass('PGPU', OTHER, None, None, total=10, largest=8),
            ],
            found,
        )


class FindTest(testtools.TestCase):
    """Whom a name means."""

    def test_cards(self) -> None:
        for text in (
            A100_80, 'A100-SXM4-80GB', 'NVIDIA A100 SXM4 80GB', 'a100-80gb',
            'SXM4 80GB',
        ):  # fmt: skip
            if text == 'a100-80gb':  # not one after the other
                self.assertRaises(
                    exception.UnknownGpu, find, 'card', text, CLOUD, (CARD,)
                )
                continue
            self.assertEqual(A100_80, find('card', text, CLOUD, (CARD,)).name)
        self.assertEqual(T4, find('card', 'T4', CLOUD, (CARD,)).name)
        self.assertEqual(
            'CUSTOM_RENDER', find('card', 'CUSTOM_RENDER', CLOUD, (CARD,)).name
        )

    def test_by_names_alone(self) -> None:
        names = [gpu.name for gpu in CLOUD] + ['PGPU']
        for text, name in (
            ('A40-8Q', A40_8Q), ('PGPU', 'PGPU'), (T4, T4),
        ):  # fmt: skip
            self.assertEqual(name, find_name(text, names))
        for text in ('', 'A40-9Q'):
            self.assertRaises(exception.UnknownGpu, find_name, text, names)

    def test_profiles(self) -> None:
        forms = (VGPU, VF)
        for text in ('A40-8Q', 'NVIDIA A40-8Q', 'GRID A40-8Q', 'a40_8q'):
            self.assertEqual(A40_8Q, find('profile', text, CLOUD, forms).name)
        for text in ('MI300X', 'Instinct MI300X VF'):
            self.assertEqual(
                MI300X_VF, find('profile', text, CLOUD, forms).name
            )
        self.assertEqual(
            GVT_G, find('profile', 'i915-GVTg_V5_4', CLOUD, forms).name
        )

    def test_several(self) -> None:
        error = self.assertRaises(
            exception.AmbiguousGpu, find, 'card', 'A100', CLOUD, (CARD,)
        )
        self.assertEqual((A100_40, A100_80), error.found)

    def test_none(self) -> None:
        for text in ('A40', 'H100', '', '-'):
            error = self.assertRaises(
                exception.UnknownGpu, find, 'card', text, CLOUD, (CARD,)
            )
            self.assertEqual(
                (A100_40, A100_80, T4, 'CUSTOM_RENDER'), error.there
            )

    @given(st.text(max_size=30))
    def test_any_text(self, text: str) -> None:
        try:
            self.assertIn(find('card', text, CLOUD, (CARD,)), CLOUD)
        except (exception.UnknownGpu, exception.AmbiguousGpu) as exc:
            self.assertIn(repr(text), str(exc))


class SmallestTest(testtools.TestCase):
    """By memory."""

    def test_least_that_is_enough(self) -> None:
        for wanted, name in (
            (1, GVT_G), (512, GVT_G), (513, MIG), (5121, A40_8C),
            (8193, A40_48Q),
        ):  # fmt: skip
            self.assertEqual(name, smallest(wanted, CLOUD).name)
        self.assertEqual(A40_8Q, smallest(1024, CLOUD, 'Q').name)

    def test_ties(self) -> None:
        traits = {'CUSTOM_GPU_MEMORY_GE_8GIB'}
        few, many = describe(A40_8C, total=1), describe(A40_8Q, total=2)
        card = describe(T4, traits, total=9)
        self.assertEqual(many, smallest(8192, [few, card, many]))
        self.assertEqual(card, smallest(8192, [card, describe(MI300X_VF)]))

    def test_none(self) -> None:
        error = self.assertRaises(
            exception.NoGpuSoLarge, smallest, 49153, CLOUD
        )
        self.assertEqual(49152, error.largest_mib)
        self.assertRaises(exception.NoGpuSoLarge, smallest, 1, CLOUD, 'A')
