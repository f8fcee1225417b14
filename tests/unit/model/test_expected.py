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
"""Expected requests in nova.conf."""

from __future__ import annotations

import json

import testtools
from hypothesis import given, settings
from hypothesis import strategies as st

from nova_gpu import exception
from nova_gpu.model.expected import dump, mix
from nova_gpu.model.fragmentation import DEFAULT, Kind
from tests.unit.model.test_fragmentation import kinds

things = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.dictionaries(
            st.sampled_from(['gpus', 'share', 'vcpus', 'weight', 'x']), inner
        )
        | st.lists(inner, max_size=2)
    ),
    max_leaves=6,
)


class ExpectedTest(testtools.TestCase):
    def test_without_any_the_default(self) -> None:
        self.assertIs(DEFAULT, mix(()))

    @settings(deadline=None)
    @given(kinds)
    def test_what_is_written_is_read(self, kind: Kind) -> None:
        self.assertEqual((kind,), mix((dump(kind),)).kinds)

    def test_defaults_are_left_out(self) -> None:
        self.assertEqual('{}', dump(Kind()))
        self.assertEqual((Kind(),), mix(('{}',)).kinds)

    def refusal(self, text: str) -> str:
        error = self.assertRaises(exception.InvalidExpected, mix, ('{}', text))
        self.assertEqual(2, error.number)
        return str(error)

    def test_what_is_wrong_is_named(self) -> None:
        for text, field, value in (
            ('{"gpus": 0}', 'gpus', '0'),
            ('{"gpus": 1.5}', 'gpus', '1.5'),
            ('{"gpus": "8"}', 'gpus', "'8'"),
            ('{"gpus": true}', 'gpus', 'True'),
            ('{"share": 1.1}', 'share', '1.1'),
            ('{"share": 0}', 'share', '0'),
            ('{"weight": -1}', 'weight', '-1'),
            ('{"weight": NaN}', 'weight', 'nan'),
            ('{"vcpus": -1}', 'vcpus', '-1'),
            ('{"memory_mib": -1}', 'memory_mib', '-1'),
            ('{"cards": 1}', 'cards', 'gpus, share'),
        ):
            message = self.refusal(text)
            self.assertIn(f'field {field!r}', message)
            self.assertIn(value, message)
        for text in ('[]', '{'):
            self.assertIn(
                f'[gpu] expected_request 2: {text!r} is not ',
                self.refusal(text),
            )

    @settings(deadline=None)
    @given(things)
    def test_anything_is_read_or_refused(self, thing: object) -> None:
        try:
            found = mix((json.dumps(thing),))
        except exception.InvalidExpected:
            return
        self.assertEqual(1, len(found.kinds))
