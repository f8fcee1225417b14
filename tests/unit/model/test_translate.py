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


"""Flavors that ask in older ways, in ours."""

from __future__ import annotations

from collections.abc import Mapping

import testtools

from nova_gpu import exception
from nova_gpu.model.catalog import GpuClass, describe
from nova_gpu.model.request import check_extra_spec
from nova_gpu.model.translate import Known, Translation, translate

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q'
T4_16Q = 'CUSTOM_VGPU_NVIDIA_T4_16Q'
GVT_G = {n: f'CUSTOM_VGPU_INTEL_I915_GVTG_V5_{n}' for n in (2, 4, 8)}
ALIAS = 'pci_passthrough:alias'


def known(*names: str, **meanings: str | None) -> Known:
    """A cloud with these classes; ``_`` in meanings stands for ``-``."""
    told: dict[str, GpuClass | None] = {
        old.replace('_', '-'): describe(new) if new else None
        for old, new in meanings.items()
    }
    names = names or (A100, T4_8Q, T4_16Q)
    classes = [describe(name) for name in names]
    return Known(classes, told, frozenset({'CUSTOM_GPU_VENDOR_NVIDIA'}))


class TranslateTest(testtools.TestCase):
    """One way each, and what makes it unclear."""

    def done(
        self, extra_specs: Mapping[str, str], cloud: Known
    ) -> Translation:
        """Translate; what comes of it needs no translation any more."""
        found = translate(extra_specs, cloud)
        left = {**extra_specs, **found.added}
        for key in found.removed:
            del left[key]
        for key, value in left.items():
            if key.startswith('gpu:'):
                check_extra_spec(key, value)
        self.assertFalse(translate(left, cloud).changes)
        return found

    def refusal(self, extra_specs: Mapping[str, str], cloud: Known) -> str:
        error = self.assertRaises(
            exception.Untranslatable, translate, extra_specs, cloud
        )
        return str(error)

    def test_nothing_to_do(self) -> None:
        for specs in (
            {},
            {'hw:cpu_policy': 'dedicated', 'trait:X': 'required'},
            {f'resources:{A100}': '1'},
        ):
            found = self.done(specs, known())
            self.assertEqual(Translation({}, (), ()), found)

    def test_alias(self) -> None:
        found = self.done({ALIAS: 'a100:2'}, known(a100=A100))
        self.assertEqual(
            ({f'resources:{A100}': '2'}, (ALIAS,)),
            (found.added, found.removed),
        )

    def test_several_aliases(self) -> None:
        found = self.done(
            {ALIAS: 'big:1,a100:2', f'resources:{A100}': '1'},
            known(a100=A100, big=A100),
        )
        self.assertEqual({f'resources:{A100}': '4'}, found.added)

    def test_alias_of_no_gpu(self) -> None:
        cloud = known(a100=A100, nic=None)
        found = self.done({ALIAS: 'a100:1 , nic:3'}, cloud)
        self.assertEqual(
            {f'resources:{A100}': '1', ALIAS: 'nic:3'}, found.added
        )
        self.assertEqual((), found.removed)
        self.assertFalse(translate({ALIAS: 'nic:1'}, cloud).changes)

    def test_numa_policy(self) -> None:
        for policy, affinity, notes in (
            ('required', 'required', 0), ('preferred', 'preferred', 0),
            ('legacy', None, 1), ('socket', None, 1),
        ):  # fmt: skip
            found = self.done(
                {ALIAS: 'a100:1', 'hw:pci_numa_affinity_policy': policy},
                known(a100=A100),
            )
            self.assertEqual(affinity, found.added.get('gpu:numa_affinity'))
            self.assertEqual(notes, len(found.notes))

    def test_unknown_alias(self) -> None:
        told = self.refusal({ALIAS: 'gpu:1'}, known(a100=A100))
        self.assertIn('--map gpu=CARD', told)

    def test_no_number(self) -> None:
        for specs in ({ALIAS: 'a100:many'}, {'resources:VGPU': 'x'}):
            told = self.refusal(specs, known(a100=A100, VGPU=T4_8Q))
            self.assertIn('is not a number', told)

    def test_trait_that_was_told(self) -> None:
        found = self.done(
            {
                'resources:VGPU': '1',
                'trait:CUSTOM_NVIDIA_233': 'required',
                'trait:CUSTOM_GPU_VENDOR_NVIDIA': 'required',
                'trait:CUSTOM_RACK_7': 'required',
            },
            known(nvidia_233=T4_8Q),
        )
        self.assertEqual({f'resources:{T4_8Q}': '1'}, found.added)
        self.assertEqual(
            ('resources:VGPU', 'trait:CUSTOM_NVIDIA_233'), found.removed
        )
        (note,) = found.notes
        self.assertIn('trait:CUSTOM_RACK_7 stays', note)

    def test_trait_that_is_the_name(self) -> None:
        for trait in ('CUSTOM_NVIDIA_T4_8Q', 'CUSTOM_T4_8Q'):
            found = self.done(
                {'resources:VGPU': '1', f'trait:{trait}': 'required'}, known()
            )
            self.assertEqual({f'resources:{T4_8Q}': '1'}, found.added)

    def test_groups_stay_apart(self) -> None:
        found = self.done(
            {
                'resources1:VGPU': '1', 'trait1:CUSTOM_T4_8Q': 'required',
                'resources2:VGPU': '2', 'trait2:CUSTOM_T4_16Q': 'required',
                'group_policy': 'isolate',
            },
            known(),
        )  # fmt: skip
        self.assertEqual(
            {f'resources1:{T4_8Q}': '1', f'resources2:{T4_16Q}': '2'},
            found.added,
        )

    def test_class_that_nova_gave(self) -> None:
        found = self.done(
            {'resources:CUSTOM_NVIDIA_233': '2'}, known(nvidia_233=T4_8Q)
        )
        self.assertEqual({f'resources:{T4_8Q}': '2'}, found.added)

    def test_the_only_profile(self) -> None:
        found = self.done({'resources:VGPU': '1'}, known(A100, T4_8Q))
        self.assertEqual({f'resources:{T4_8Q}': '1'}, found.added)

    def test_class_that_a_rule_gives(self) -> None:
        cloud = known('VGPU', T4_8Q)
        self.assertFalse(translate({'resources:VGPU': '1'}, cloud).changes)

    def test_unclear_profiles(self) -> None:
        self.assertIn(
            '--map VGPU=PROFILE',
            self.refusal({'resources:VGPU': '1'}, known()),
        )
        # A forbidden trait and a card's model say nothing of the profile.
        for trait, value in (
            ('CUSTOM_T4_8Q', 'forbidden'), ('CUSTOM_T4', 'required'),
        ):  # fmt: skip
            specs = {'resources:VGPU': '1', f'trait:{trait}': value}
            self.assertIn('--map', self.refusal(specs, known()))
        self.assertIn(
            f'more than one profile: {T4_16Q}, {T4_8Q}',
            self.refusal(
                {
                    'resources:VGPU': '1', 'trait:CUSTOM_T4_8Q': 'required',
                    'trait:CUSTOM_T4_16Q': 'required',
                },
                known(),
            ),
        )  # fmt: skip

    def test_gvt_g(self) -> None:
        cloud = known(*GVT_G.values())
        for sizes, n in (
            ({'vgt_low_gm_sz': '64'}, 8),
            ({'vgt_low_gm_sz': '64', 'vgt_high_gm_sz': '385'}, 4),
            ({'x:vgt_low_gm_sz': '129', 'vgt_fence_sz': '4'}, 2),
        ):
            found = self.done(sizes, cloud)
            self.assertEqual({f'resources:{GVT_G[n]}': '1'}, found.added)
            self.assertEqual(tuple(sorted(sizes)), found.removed)
        for sizes in ({'vgt_low_gm_sz': '512'}, {'vgt_fence_sz': '5'}):
            self.assertIn('has as much', self.refusal(sizes, cloud))
