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


"""vGPU types: their names and their descriptions."""

from __future__ import annotations

import re

import testtools
from hypothesis import example, given
from hypothesis import strategies as st

from nova_gpu.model.profile import parse_description, token, vendor_token
from tests.unit import base  # noqa: F401  (loads hypothesis' profile)

#: As a driver prints it (NVIDIA vGPU software user guide).
NVIDIA = (
    'num_heads=4, frl_config=45, framebuffer=1024M, '
    'max_resolution=5120x2880, max_instance=16'
)
#: As i915 prints it, for V5_4.
GVTG = (
    'low_gm_size: 128MB\nhigh_gm_size: 512MB\nfence: 4\n'
    'resolution: 1920x1200\nweight: 4\n'
)


class TokenTest(testtools.TestCase):
    """Names that Placement allows."""

    @given(st.text())
    def test_characters(self, text: str) -> None:
        self.assertRegex(token(text), r'\A([A-Z0-9]+(_[A-Z0-9]+)*)?\Z')

    def test_examples(self) -> None:
        self.assertEqual('A100_SXM4_80GB', token('A100-SXM4 80GB'))
        self.assertEqual('I915_GVTG_V5_4', token(' i915-GVTg_V5_4/'))

    def test_one_class_for_old_and_new_drivers(self) -> None:
        for name in ('GRID T4-1B', 'NVIDIA T4-1B', 'T4-1B', 'nvidia t4-1b'):
            self.assertEqual('NVIDIA_T4_1B', vendor_token('NVIDIA', name))

    def test_every_series(self) -> None:
        for name, expected in (
            ('NVIDIA A40-8Q', 'NVIDIA_A40_8Q'),
            ('NVIDIA A100-1-5CME', 'NVIDIA_A100_1_5CME'),
            ('GRID K120Q', 'NVIDIA_K120Q'),
            ('GRID A100DX-1-10C', 'NVIDIA_A100DX_1_10C'),
        ):
            self.assertEqual(expected, vendor_token('NVIDIA', name))

    def test_other_vendors(self) -> None:
        self.assertEqual(
            'INTEL_I915_GVTG_V5_4', vendor_token('Intel', 'i915-GVTg_V5_4')
        )

    @given(st.from_regex(r'\A(GRID |NVIDIA )?[A-Z][0-9]+-[0-9]+[ABCQ]\Z'))
    def test_vendor_comes_once(self, name: str) -> None:
        found = vendor_token('NVIDIA', name)
        self.assertEqual(1, found.count('NVIDIA'))
        self.assertNotIn('GRID', found)
        # Naming is stable: a name made of a name is the same.
        self.assertEqual(found, vendor_token('NVIDIA', found))


class DescriptionTest(testtools.TestCase):
    """Framebuffer and instances, where the driver tells."""

    def test_nvidia(self) -> None:
        self.assertEqual((1024, 16), parse_description(NVIDIA))

    def test_nvidia_every_part_alone(self) -> None:
        for part in NVIDIA.split(', '):
            memory = 1024 if 'framebuffer' in part else None
            count = 16 if 'max_instance' in part else None
            self.assertEqual((memory, count), parse_description(part))

    def test_gvtg(self) -> None:
        self.assertEqual((512, None), parse_description(GVTG))
        large = GVTG.replace('512MB', '2048MB')
        self.assertEqual((2048, None), parse_description(large))

    def test_units(self) -> None:
        for text, expected in (
            ('framebuffer=2G', 2048),
            ('framebuffer=2GiB', 2048),
            ('framebuffer = 512 MB', 512),
            ('framebuffer=512', None),
            ('framebuffer=2T', None),
        ):
            self.assertEqual((expected, None), parse_description(text))

    def test_garbage(self) -> None:
        for text in (
            '', '\0', '=', ',,,', 'max_instance', 'max_instance=',
            'max_instance=-1', 'max_instance=²', 'max_instance=' + '9' * 5000,
            'framebuffer=' + '9' * 5000 + 'M', 'framebuffer=xM',
        ):  # fmt: skip
            self.assertEqual((None, None), parse_description(text))

    def test_every_cut(self) -> None:
        for text in (NVIDIA, GVTG):
            for cut in range(len(text)):
                memory, count = parse_description(text[:cut])
                self.assertIn(memory, (None, 1024, 512))
                # A number that is cut is a smaller one.
                self.assertIn(count, (None, 1))

    @given(st.text() | st.from_regex(re.compile('framebuffer=.*')))
    @example('max_instance=\u0661')
    def test_anything_is_read(self, text: str) -> None:
        memory, count = parse_description(text)
        self.assertTrue(memory is None or memory >= 0)
        self.assertTrue(count is None or count >= 0)
