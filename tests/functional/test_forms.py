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

"""The life of each form that a GPU comes in, on real Nova and Placement.

Boot, fill, refuse, delete, reuse with other profiles; at the end everything
is as it was. What libvirt is given is compared whole, with ``xml/*.xml``;
``NOVA_GPU_WRITE_GOLDEN=1`` writes those anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs
from tests.functional import base

#: Units of one class for one guest.
Ask = tuple[str, int]

#: With all that guests of ours are given.
LIBVIRT = 8007000

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
A6000 = 'CUSTOM_GPU_NVIDIA_RTX_A6000'
K2 = 'CUSTOM_GPU_NVIDIA_GRID_K2'
MI300X_VF = 'CUSTOM_GPU_AMD_INSTINCT_MI300X_VF'
A10 = 'CUSTOM_VGPU_NVIDIA_A10'
T4 = 'CUSTOM_VGPU_NVIDIA_T4'
RTX = 'CUSTOM_VGPU_NVIDIA_RTX_PRO_6000_BLACKWELL_DC'
MIG = 'CUSTOM_VGPU_NVIDIA_A100'
GVT = 'CUSTOM_VGPU_INTEL_I915_GVTG_V5'


class FormTest(base.GpuServersTest):
    """One host with one form, through everything."""

    def tell(
        self,
        form: str,
        make: Callable[[FakeSysfs], FakeSysfs],
        cards: Sequence[str],
        fill: Sequence[Ask],
        refused: Ask,
        then: Sequence[Ask] = (),
        **specs: str,
    ) -> None:
        """Tell the whole story.

        :param form: the document that the first guest is compared with
        :param cards: those that vGPUs are made on
        :param fill: what servers ask for until all is full
        :param refused: what then goes no more, but would on an empty host
        :param then: what fills the host the next time
        :param specs: extra specs of all flavors
        """
        self.fake = make(self.new_host('gpu1'))
        self.start_gpu_compute('gpu1', libvirt_version=LIBVIRT)
        before = self.providers_of('gpu1')
        servers = self.fill(cards, fill, specs)
        self.assert_golden(form, servers[0], cards)
        self.refuse(refused)
        # What the first gives back, another takes.
        freed = servers.pop(0)
        given = self.guest_devices(freed).functions
        self._delete_server(freed)
        again = self.boot(self.flavor(fill[0], specs))
        self.assertEqual(given, self.guest_devices(again).functions)
        self.assert_no_device_twice()
        self.empty([again, *servers], cards, before)
        if then:
            servers = self.fill(cards, then, specs)
            self.refuse(fill[0])
            self.empty(servers, cards, before)

    def flavor(self, ask: Ask, specs: dict[str, str]) -> str:
        name, count = ask
        return self.gpu_flavor(**{f'resources__{name}': str(count)}, **specs)

    def fill(
        self, cards: Sequence[str], asks: Sequence[Ask], specs: dict[str, str]
    ) -> list[Any]:
        flavors = {ask: self.flavor(ask, specs) for ask in asks}
        servers = [self.boot(flavors[ask]) for ask in asks]
        self.assert_no_device_twice()
        wanted: dict[str, int] = {}
        for name, count in asks:
            wanted[name] = wanted.get(name, 0) + count
        self.assertEqual(wanted, self.nonzero_usages('gpu1'))
        if cards:
            made = [vgpu for card in cards for vgpu in self.fake.made(card)]
            self.assertEqual(sum(wanted.values()), len(made))
        return servers

    def refuse(self, ask: Ask) -> None:
        made = self.fake.mdevs
        server = self.boot(self.flavor(ask, {}), state='ERROR')
        self.assertIn('No valid host', server['fault']['message'])
        self.assertEqual(made, self.fake.mdevs)
        self._delete_server(server)

    def empty(
        self, servers: Sequence[Any], cards: Sequence[str], before: object
    ) -> None:
        """Delete all servers: nothing is left of them."""
        for server in servers:
            self._delete_server(server)
        self.assertEqual({}, self.nonzero_usages('gpu1'))
        self.assertEqual(before, self.providers_of('gpu1'))
        self.assertEqual([], self.fake.mdevs)
        for card in cards:
            self.assertEqual([], self.fake.made(card))


class WholeTest(FormTest):
    """Cards that a guest gets as they are."""

    def test_a100_board(self) -> None:
        self.tell('a100_board', hosts.a100_board, [], [(A100, 4)] * 2,
                  (A100, 1), [(A100, 8)])  # fmt: skip

    def test_workstation(self) -> None:
        self.flags(hw_machine_type=['x86_64=q35'], group='libvirt')
        self.tell('workstation', hosts.workstation, [], [(A6000, 1)],
                  (A6000, 1))  # fmt: skip

    def test_grid_k2(self) -> None:
        self.tell('grid_k2', hosts.grid_k2, [], [(K2, 1)] * 2, (K2, 2),
                  [(K2, 2)])  # fmt: skip


class MdevTest(FormTest):
    """vGPUs that are mediated devices: on cards, on VFs, on neither."""

    def test_four_t4(self) -> None:
        self.tell(
            'four_t4', hosts.four_t4,
            ['0000:3b:00.0', '0000:5e:00.0', '0000:af:00.0', '0000:d8:00.0'],
            [(f'{T4}_8Q', 2)] * 4, (f'{T4}_4Q', 1),
            [(f'{T4}_16Q', 1), (f'{T4}_4Q', 4)] * 2,
            gpu__display='on', gpu__vgpu_params='frame_rate_limiter=0',
        )  # fmt: skip

    def test_two_a10(self) -> None:
        self.tell(
            'two_a10', hosts.two_a10, ['0000:41:00.0', '0000:81:00.0'],
            [(f'{A10}_12Q', 2)] * 2, (f'{A10}_24Q', 1),
            [(f'{A10}_24Q', 1), (f'{A10}_8Q', 3)],
        )  # fmt: skip

    def test_a100_mig(self) -> None:
        self.tell(
            # GPU instances of two sizes: one after the other, for nothing
            # tells how many there are of each.
            'a100_mig', hosts.a100_mig, ['0000:c1:00.0'],
            [(f'{MIG}_2_10C', 1)] * 2 + [(f'{MIG}_1_5C', 1)] * 3,
            (f'{MIG}_1_5CME', 1),
            [(f'{MIG}_1_5CME', 1), *[(f'{MIG}_1_5C', 1)] * 2,
             *[(f'{MIG}_2_10C', 1)] * 2],
        )  # fmt: skip

    def test_gvt_g(self) -> None:
        self.tell(
            'gvt_g', hosts.gvt_g, ['0000:00:02.0'],
            [(f'{GVT}_1', 1), (f'{GVT}_4', 1)], (f'{GVT}_8', 1),
            [(f'{GVT}_8', 7)],
        )  # fmt: skip

    def test_grid_k2_with_vgpus(self) -> None:
        self.tell(
            'grid_k2_with_vgpus', lambda fake: hosts.grid_k2(fake, vgpu=True),
            ['0000:06:00.0', '0000:07:00.0'],
            [('CUSTOM_VGPU_NVIDIA_K260Q', 2)] * 2,
            ('CUSTOM_VGPU_NVIDIA_K280Q', 1),
            [('CUSTOM_VGPU_NVIDIA_K280Q', 1),
             ('CUSTOM_VGPU_NVIDIA_K240Q', 4)],
        )  # fmt: skip

    def test_mtty(self) -> None:
        self.tell(
            'mtty', hosts.mtty, ['mtty'],
            [('CUSTOM_VGPU_MTTY_SINGLE_PORT_SERIAL', 2),
             ('CUSTOM_VGPU_MTTY_DUAL_PORT_SERIAL', 11)],
            ('CUSTOM_VGPU_MTTY_DUAL_PORT_SERIAL', 1),
            [('CUSTOM_VGPU_MTTY_SINGLE_PORT_SERIAL', 24)],
        )  # fmt: skip


class VirtualFunctionTest(FormTest):
    """vGPUs that are virtual functions."""

    def test_a10_vendor_vfio(self) -> None:
        self.tell(
            'a10_vendor_vfio', hosts.a10_vendor_vfio,
            ['0000:41:00.0', '0000:81:00.0'],
            [(f'{A10}_12Q', 2)] * 2, (f'{A10}_24Q', 1),
            [(f'{A10}_24Q', 1), (f'{A10}_8Q', 3)],
            gpu__vgpu_params='frame_rate_limiter=0',
        )  # fmt: skip

    def test_a10_vendor_vfio_with_the_other_list(self) -> None:
        self.tell(
            'a10_vendor_vfio',
            lambda fake: hosts.a10_vendor_vfio(fake, draft=True),
            ['0000:41:00.0', '0000:81:00.0'],
            [(f'{A10}_12Q', 2)] * 2, (f'{A10}_24Q', 1),
            gpu__vgpu_params='frame_rate_limiter=0',
        )  # fmt: skip

    def test_rtx_pro_6000(self) -> None:
        self.tell(
            'rtx_pro_6000', hosts.rtx_pro_6000, ['0001:04:00.0'],
            [(f'{RTX}_48Q', 1), (f'{RTX}_24Q', 2)], (f'{RTX}_2Q', 1),
            [(f'{RTX}_96Q', 1)],
        )  # fmt: skip

    def test_a100_mig_vendor_vfio(self) -> None:
        self.tell(
            'a100_mig_vendor_vfio', hosts.a100_mig_vendor_vfio,
            ['0000:c1:00.0'],
            [(f'{MIG}_2_10C', 1), (f'{MIG}_2_10C', 1), (f'{MIG}_1_5C', 1),
             (f'{MIG}_1_5C', 1), (f'{MIG}_1_5C', 1)],
            (f'{MIG}_1_5CME', 1),
            [(f'{MIG}_1_5CME', 1), (f'{MIG}_1_5C', 1), (f'{MIG}_1_5C', 1),
             (f'{MIG}_2_10C', 1), (f'{MIG}_2_10C', 1)],
        )  # fmt: skip

    def test_mi300x(self) -> None:
        self.tell(
            'mi300x', hosts.mi300x, [], [(MI300X_VF, 4)] * 2,
            (MI300X_VF, 1), [(MI300X_VF, 8)],
        )  # fmt: skip
