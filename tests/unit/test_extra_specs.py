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

"""The gpu: extra specs as Nova's API validates them."""

from __future__ import annotations

import testtools
from nova import exception
from nova.api.validation.extra_specs import validators


class ExtraSpecsTest(testtools.TestCase):
    """Nova has loaded ours through the entry point."""

    def refused(self, name: str, value: str) -> str:
        error = self.assertRaises(
            exception.ValidationError, validators.validate, name, value
        )
        self.assertEqual(400, error.code)
        return str(error)

    def test_what_is_right_is_accepted(self) -> None:
        for name, value in (
            ('gpu:display', 'on'),
            ('gpu:display', 'off'),
            ('gpu:isolation', 'shared'),
            ('gpu:isolation', 'project'),
            ('gpu:isolation', 'exclusive'),
            ('gpu:numa_affinity', 'required'),
            ('gpu:numa_affinity', 'preferred'),
            ('gpu:numa_affinity', 'none'),
            ('gpu:topology', 'nvlink'),
            ('gpu:topology', 'switch:required'),
            ('gpu:topology', 'numa:preferred'),
            ('gpu:topology', 'any'),
            ('gpu:vgpu_params', 'frame_rate_limiter=0'),
            ('gpu:vgpu_params', 'a.b=1,c_d=x:y-z'),
        ):
            validators.validate(name, value)

    def test_a_wrong_key_names_the_keys_that_are_allowed(self) -> None:
        message = self.refused('gpu:dispaly', 'on')
        self.assertIn('gpu:dispaly', message)
        for key in ('gpu:display', 'gpu:numa_affinity', 'gpu:vgpu_params'):
            self.assertIn(key, message)

    def test_keys_have_no_more_parts(self) -> None:
        for name in ('gpu:', 'gpu:display:on', 'gpu:display.0', 'gpu:DISPLAY'):
            self.assertIn('allowed: gpu:display', self.refused(name, 'on'))

    def test_a_wrong_value_names_the_values_that_are_allowed(self) -> None:
        self.assertIn('allowed: on, off', self.refused('gpu:display', 'true'))
        self.assertIn(
            'allowed: shared, project, exclusive',
            self.refused('gpu:isolation', 'tenant'),
        )
        self.assertIn(
            'allowed: required, preferred, none',
            self.refused('gpu:numa_affinity', 'Required'),
        )

    def test_wrong_parameters_name_the_form(self) -> None:
        for value in (
            '', 'frame_rate_limiter', 'a=1,', 'a=1 b=2', 'a=1;b=2', 'a=1\n',
        ):  # fmt: skip
            self.assertIn('key=value', self.refused('gpu:vgpu_params', value))

    def test_other_namespaces_are_not_ours(self) -> None:
        validators.validate('gpus:anything', 'goes')
        validators.validate('hw:cpu_policy', 'dedicated')

    def test_each_key_is_described(self) -> None:
        ours = {
            name: validator
            for name, validator in validators.VALIDATORS.items()
            if name.startswith('gpu:')
        }
        self.assertEqual(6, len(ours))
        for validator in ours.values():
            self.assertTrue(validator.description)
