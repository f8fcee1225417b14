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

"""Guests that see their cards: wide addresses, and one display."""

from __future__ import annotations

from typing import Any

import fixtures
from lxml import etree

from tests.fixtures import hosts
from tests.functional import base

MI300X_VF = 'CUSTOM_GPU_AMD_INSTINCT_MI300X_VF'
GVT_4 = 'CUSTOM_VGPU_INTEL_I915_GVTG_V5_4'
T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q'


class AddressWidthTest(base.GpuServersTest):
    """A host with 46 bits and cards with big BARs."""

    def setUp(self) -> None:
        super().setUp()
        self.logs = self.useFixture(fixtures.FakeLogger())
        self.fake = hosts.mi300x(self.new_host('gpu1'))
        self.start_gpu_compute(
            'gpu1',
            # The first that can set a guest's width.
            libvirt_version=8007000,
        )

    def flavor(self, count: int, memory_gib: int = 1, **specs: str) -> str:
        extra = {k.replace('__', ':'): v for k, v in specs.items()}
        return self._create_flavor(
            vcpu=1, memory_mb=memory_gib * 1024, disk=1,
            extra_spec={f'resources:{MI300X_VF}': str(count), **extra},
        )  # fmt: skip

    def width(self, server: Any) -> dict[str, str] | None:
        found = self.document(server).find('cpu/maxphysaddr')
        return None if found is None else dict(found.attrib)

    def test_width_follows_from_bars_and_memory(self) -> None:
        # Firmware puts BARs into an eighth of the addresses: 128 GiB of
        # the 1 TiB that QEMU gives by itself.
        small = self.boot(self.flavor(1))
        self.assertIsNone(self.width(small))
        many = self.boot(self.flavor(5))
        self.assertEqual({'mode': 'emulate', 'bits': '41'}, self.width(many))
        self.assertIn(
            'Set 41 bits of physical addresses, for 1024 MiB of memory',
            self.logs.output,
        )
        much = self.boot(self.flavor(1, memory_gib=1024))
        self.assertEqual({'mode': 'emulate', 'bits': '41'}, self.width(much))
        self._delete_server(many)
        # What the flavor says stands. The API takes it up to 2.85 only.
        with fixtures.MockPatchObject(
            self.api_fixture.admin_api, 'microversion', '2.85'
        ):
            flavor = self.flavor(5, hw__maxphysaddr_mode='passthrough')
        own = self.boot(flavor)
        self.assertEqual({'mode': 'passthrough'}, self.width(own))

    def test_too_much_for_the_host(self) -> None:
        self.fake.set_address_bits(40)
        server = self.boot(self.flavor(5), state='ERROR')
        self.assertIn(
            '1024 MiB of memory and 163850 MiB of GPU BARs need 41 bits of '
            'physical addresses, and the CPU of this host has 40',
            self.logs.output,
        )
        self._delete_server(server)
        self.assertEqual({}, self.nonzero_usages('gpu1'))
        # The card is as free as before.
        self.boot(self.flavor(3))


class DisplayTest(base.GpuServersTest):
    """A guest has one screen, whatever its vGPUs are."""

    def test_one_of_two_vgpus_shows_it(self) -> None:
        fake = hosts.four_t4(self.new_host('gpu1'))
        hosts.gvt_g(fake)
        self.start_gpu_compute('gpu1')
        server = self.boot(
            self.gpu_flavor(
                **{
                    f'resources_A__{T4_8Q}': '1',
                    f'resources_B__{GVT_4}': '1',
                    'group_policy': 'none',
                    'gpu__display': 'on',
                }
            )
        )
        found = [etree.fromstring(text) for text in self.hostdevs(server)]
        self.assertEqual(
            [('on', 'on'), (None, None)],
            [(h.get('display'), h.get('ramfb')) for h in found],
        )
