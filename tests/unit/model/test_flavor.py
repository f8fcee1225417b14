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


"""What a flavor with GPUs consists of, and which one a server needs."""

from __future__ import annotations

import dataclasses

import testtools

from nova_gpu import exception
from nova_gpu.model.catalog import CARD, VF, VGPU, describe
from nova_gpu.model.flavor import (
    Flavor,
    Policy,
    create_command,
    extra_specs,
    form_option,
    matching,
    told,
)

T4 = 'CUSTOM_GPU_NVIDIA_TESLA_T4'
T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q'
RENDER = 'CUSTOM_RENDER'


class ExtraSpecsTest(testtools.TestCase):
    """From options to extra specs."""

    def test_all_of_a_card(self) -> None:
        self.assertEqual(
            {
                f'resources:{T4}': '2',
                'gpu:topology': 'numa:preferred',
                'gpu:numa_affinity': 'required',
                'gpu:isolation': 'exclusive',
                'hw:hide_hypervisor_id': 'true',
                'hw:maxphysaddr_mode': 'emulate',
                'hw:maxphysaddr_bits': '46',
            },
            extra_specs(
                describe(T4),
                2,
                Policy(
                    topology='numa:preferred',
                    numa_affinity='required',
                    isolation='exclusive',
                    hide_hypervisor=True,
                    address_bits=46,
                ),
            ),
        )

    def test_all_of_a_vgpu(self) -> None:
        self.assertEqual(
            {
                f'resources:{T4_8Q}': '1',
                'gpu:display': 'on',
                'gpu:vgpu_params': 'a=b',
                'hw:maxphysaddr_mode': 'passthrough',
            },
            extra_specs(
                describe(T4_8Q),
                1,
                Policy(display=True, vgpu_params='a=b', address_bits=0),
            ),
        )

    def test_contradictions(self) -> None:
        for name, count, option, policy in (
            (T4, 1, '--display', Policy(display=True)),
            (f'{T4}_VF', 1, '--vgpu-params', Policy(vgpu_params='a=b')),
            (T4_8Q, 2, '--topology', Policy(topology='numa')),
            (T4, 1, '--topology', Policy(topology='numa')),
            (T4, 0, '--count', Policy()),
            (T4, 1, '--address-bits', Policy(address_bits=39)),
            (T4, 1, '--address-bits', Policy(address_bits=58)),
        ):
            error = self.assertRaises(
                exception.ContradictoryFlavor,
                extra_specs, describe(name), count, policy,
            )  # fmt: skip
            self.assertEqual(option, error.option)

    def test_wrong_value(self) -> None:
        self.assertRaises(
            exception.InvalidExtraSpec,
            extra_specs, describe(T4), 2, Policy(topology='near'),
        )  # fmt: skip

    def test_options(self) -> None:
        for form, option in (
            (CARD, '--card'), (VGPU, '--profile'), (VF, '--profile')
        ):  # fmt: skip
            gpu = dataclasses.replace(describe(T4), form=form)
            self.assertEqual(option, form_option(gpu))


class MatchingTest(testtools.TestCase):
    """The flavor that differs by its GPUs alone."""

    plain = Flavor('plain', 4, 8192, 20, extra_specs={'hw:cpu_policy': 'x'})

    def like(self, name: str, **specs: str) -> Flavor:
        added = {k.replace('__', ':'): v for k, v in specs.items()}
        return dataclasses.replace(
            self.plain,
            name=name,
            extra_specs={**self.plain.extra_specs, **added},
        )

    def setUp(self) -> None:
        super().setUp()
        self.one = self.like('one', **{f'resources__{T4_8Q}': '1'})
        self.two = self.like('two', **{f'resources__{T4_8Q}': '2'})
        self.flavors = [self.two, self.one, self.plain]

    def test_there_and_back(self) -> None:
        wanted = {T4_8Q: 1}
        self.assertEqual(self.one, matching(self.plain, wanted, self.flavors))
        self.assertEqual(self.plain, matching(self.one, {}, self.flavors))

    def test_none(self) -> None:
        self.assertIsNone(matching(self.plain, {T4: 1}, self.flavors))
        for field in ('vcpus', 'ram', 'disk', 'ephemeral', 'swap'):
            other = dataclasses.replace(self.plain, **{field: 99})
            self.assertIsNone(matching(other, {T4_8Q: 1}, self.flavors))
        other = dataclasses.replace(self.plain, extra_specs={})
        self.assertIsNone(matching(other, {T4_8Q: 1}, self.flavors))

    def test_least_beside(self) -> None:
        specs = {f'resources__{T4_8Q}': '1', 'gpu__display': 'on'}
        screen = self.like('a', **specs)
        same = self.like('same', **{f'resources__{T4_8Q}': '1'})
        self.assertEqual(
            self.one,
            matching(self.plain, {T4_8Q: 1}, [screen, same, self.one]),
        )
        self.assertEqual(screen, matching(self.plain, {T4_8Q: 1}, [screen]))

    def test_what_is_of_gpus(self) -> None:
        flavor = self.like(
            'x',
            **{
                f'resources1__{RENDER}': '1', f'resources2__{RENDER}': '2',
                'resources__VGPU': '0', 'resources__CUSTOM_FPGA': '1',
                'trait1__CUSTOM_GPU_VENDOR_NVIDIA': 'required',
                'trait__CUSTOM_SSD': 'required', 'group_policy': 'none',
                'gpu__isolation': 'shared', 'hw__maxphysaddr_bits': '46',
                'hw__maxphysaddr_mode': 'emulate',
                'hide_hypervisor_id': 'true', 'hw__hide_hypervisor_id': 'no',
            },
        )  # fmt: skip
        self.assertEqual({RENDER: 3}, flavor.gpus({RENDER}))
        self.assertEqual({}, flavor.gpus())
        self.assertEqual(
            {
                'hw:cpu_policy': 'x', 'trait:CUSTOM_SSD': 'required',
                'resources:CUSTOM_FPGA': '1',
            },
            flavor.rest({RENDER}),
        )  # fmt: skip

    def test_command_that_makes_it(self) -> None:
        current = dataclasses.replace(
            self.like('x', **{f'resources__{T4}': '1', 'a__b': 'c d'}),
            ephemeral=1,
            swap=2,
        )
        sizes = (
            '--vcpus 4 --ram 8192 --disk 20 --ephemeral 1 --swap 2 '
            "--property 'a:b=c d' --property hw:cpu_policy=x"
        )
        for wanted, command in (
            ({}, f'openstack flavor create NAME {sizes}'),
            (
                {T4: 2},
                f'openstack gpu flavor create NAME --card {T4} --count 2 '
                f'{sizes}',
            ),
            (
                {T4_8Q: 1},
                f'openstack gpu flavor create NAME --profile {T4_8Q} '
                f'--count 1 {sizes}',
            ),
        ):
            known = [describe(T4)]
            self.assertEqual(command, create_command(current, wanted, known))

    def test_told(self) -> None:
        self.assertEqual('no GPU', told({}))
        self.assertEqual(f'1 {T4} and 2 {T4_8Q}', told({T4_8Q: 2, T4: 1}))
