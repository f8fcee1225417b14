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


"""What a flavor asks for."""

from __future__ import annotations

import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu import exception
from nova_gpu.model.request import (
    KEYS,
    GpuRequest,
    check_extra_spec,
    gpu_classes,
)
from tests.unit import base  # noqa: F401  (loads hypothesis' profile)

#: The keys whose values are listed.
POLICIES = [key for key in KEYS if key != 'gpu:vgpu_params']


class CheckTest(testtools.TestCase):
    """One extra spec; the error names what is allowed."""

    def refusal(self, key: str, value: str) -> exception.InvalidExtraSpec:
        error: exception.InvalidExtraSpec = self.assertRaises(
            exception.InvalidExtraSpec, check_extra_spec, key, value
        )
        self.assertEqual((key, value), (error.key, error.value))
        self.assertIn(f'{key}={value!r}', str(error))
        for allowed in error.allowed:
            self.assertIn(allowed, str(error))
        return error

    def test_unknown_key(self) -> None:
        self.assertEqual(
            tuple(KEYS), self.refusal('gpu:dispaly', 'on').allowed
        )

    def test_every_value_that_is_allowed(self) -> None:
        for key in POLICIES:
            for value in KEYS[key]:
                check_extra_spec(key, value)

    def test_values_that_are_not(self) -> None:
        for key in POLICIES:
            for value in ('', 'ON', 'true', 'on ', 'require'):
                self.assertEqual(KEYS[key], self.refusal(key, value).allowed)

    def test_params(self) -> None:
        for value in ('a=b', 'frame_rate_limiter=0', 'a=b,c.d=1:2-3'):
            check_extra_spec('gpu:vgpu_params', value)
        for value in ('', 'a', 'a=', '=b', 'a=b,', 'a=b\n', 'a=b c=d',
                      'a=b;c=d', 'a=../b', 'a=b,,c=d', 'ä=b'):  # fmt: skip
            self.refusal('gpu:vgpu_params', value)

    @given(st.text(max_size=20))
    def test_no_line_reaches_the_file(self, value: str) -> None:
        try:
            check_extra_spec('gpu:vgpu_params', value)
        except exception.InvalidExtraSpec:
            return
        self.assertRegex(value, r'\A[A-Za-z0-9_.:,=-]+\Z')


class ParseTest(testtools.TestCase):
    """A flavor's extra specs."""

    def test_nothing(self) -> None:
        request = GpuRequest.parse({'hw:cpu_policy': 'dedicated'})
        self.assertEqual(GpuRequest({}), request)
        self.assertFalse(request.policy)

    def test_everything(self) -> None:
        self.assertEqual(
            GpuRequest(
                {'CUSTOM_GPU_X': 3, 'VGPU': 1},
                display=True,
                numa_affinity='required',
                vgpu_params='a=b',
                isolation='project',
                policy=True,
            ),
            GpuRequest.parse(
                {
                    'resources:CUSTOM_GPU_X': '2',
                    'resources1:CUSTOM_GPU_X': '1',
                    'resources_GPU-2:VGPU': '1',
                    'gpu:display': 'on',
                    'gpu:isolation': 'project',
                    'gpu:numa_affinity': 'required',
                    'gpu:vgpu_params': 'a=b',
                }
            ),
        )

    def test_topology(self) -> None:
        for value, expected in (
            ('nvlink', ('nvlink', True)),
            ('nvlink:required', ('nvlink', True)),
            ('switch:preferred', ('switch', False)),
            ('numa', ('numa', True)),
            ('any', ('host', False)),
            ('any:required', ('host', False)),
        ):
            request = GpuRequest.parse({'gpu:topology': value})
            self.assertEqual(
                expected, (request.topology, request.topology_required)
            )
            self.assertTrue(request.policy)

    def test_what_is_no_amount_is_left_to_nova(self) -> None:
        request = GpuRequest.parse(
            {
                'resources:VGPU': 'two',
                'resources:PGPU': '²',
                'resources:': '1',
                'resources VGPU': '1',
            }
        )
        self.assertEqual({}, request.resources)

    def test_wrong_policy(self) -> None:
        for specs in ({'gpu:display': 'yes'}, {'gpu:': ''}, {'gpu:x': '1'}):
            self.assertRaises(
                exception.InvalidExtraSpec, GpuRequest.parse, specs
            )

    def test_classes_of_all_groups(self) -> None:
        self.assertEqual(
            {'VGPU', 'PGPU', 'CUSTOM_GPU_X'},
            gpu_classes(
                {
                    'resources:VGPU': 'junk',
                    'resources1:PGPU': '1',
                    'resources_A:CUSTOM_GPU_X': '1',
                    'resources:VCPU': '1',
                    'resources:MEMORY_MB': '1',
                    'trait:CUSTOM_X': 'required',
                    'gpu:display': 'on',
                }
            ),
        )
