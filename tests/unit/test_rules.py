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


"""Reading the rules of ``[gpu]``; a wrong one is named with its field."""

from __future__ import annotations

import json

import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu import exception
from nova_gpu.model.rule import ALL, Rule
from nova_gpu.rules import SCHEMA, parse_rules
from tests.unit import base


class ParseTest(testtools.TestCase):
    """Rules that are right."""

    def test_none(self) -> None:
        self.assertEqual((), parse_rules([]))

    def test_every_field(self) -> None:
        fields = {
            'address': '0000:3B:*',
            'vendor_id': '10DE',
            'product_id': '0x1eb8',
            'numa_node': -1,
            'mechanism': 'mdev',
            'use': 'vgpu',
            'profiles': ['T4-8Q', 'nvidia-232'],
            'reserved': 1,
            'resource_class': 'VGPU',
            'traits': ['CUSTOM_A', 'CUSTOM_B_2'],
            'virtual_functions': 8,
            'clique': 'bridge 1',
            'module': 5,
        }
        self.assertEqual(set(SCHEMA['properties']), set(fields))
        self.assertEqual(
            (
                Rule(
                    1,
                    address='0000:3b:*',
                    vendor_id=0x10DE,
                    product_id=0x1EB8,
                    numa_node=-1,
                    mechanism='mdev',
                    use='vgpu',
                    profiles=('T4-8Q', 'nvidia-232'),
                    reserved=1,
                    resource_class='VGPU',
                    traits=('CUSTOM_A', 'CUSTOM_B_2'),
                    virtual_functions=8,
                    clique='bridge 1',
                    module=5,
                ),
            ),
            parse_rules([json.dumps(fields)]),
        )

    def test_each_field_alone(self) -> None:
        for field, value in (
            ('numa_node', 0), ('reserved', 0), ('traits', []),
            ('use', 'ignore'), ('use', 'passthrough'),
            ('resource_class', 'PGPU'), ('resource_class', 'CUSTOM_X'),
        ):  # fmt: skip
            (rule,) = parse_rules([json.dumps({field: value})])
            expected = tuple(value) if isinstance(value, list) else value
            self.assertEqual(Rule(1, **{field: expected}), rule)

    def test_all_virtual_functions(self) -> None:
        (rule,) = parse_rules(['{"virtual_functions": "all"}'])
        self.assertEqual(ALL, rule.virtual_functions)

    def test_mechanism_that_is_installed(self) -> None:
        parse_rules(['{"mechanism": "vf"}'], ['mdev', 'vf'])

    def test_short_address_matches_its_card(self) -> None:
        for text in ('3b:00.0', '0000:3B:00.0', '0000:3b:00.?'):
            (rule,) = parse_rules([json.dumps({'address': text})])
            self.assertTrue(rule.matches(base.card('0000:3b:00.0'), None))
            self.assertFalse(rule.matches(base.card('0000:3c:00.0'), None))

    def test_numbers_count_from_one(self) -> None:
        rules = parse_rules(['{"reserved": 1}', '{"reserved": 2}'])
        self.assertEqual([1, 2], [rule.number for rule in rules])


class RefusedTest(testtools.TestCase):
    """Rules that are wrong."""

    def refusal(self, text: str) -> exception.InvalidRule:
        error: exception.InvalidRule = self.assertRaises(
            exception.InvalidRule, parse_rules, ['{"reserved": 1}', text]
        )
        self.assertEqual(2, error.number)
        self.assertIn('rule 2', str(error))
        return error

    def test_not_json(self) -> None:
        for text in ('', 'use=ignore', '{', "{'use': 'ignore'}"):
            error = self.refusal(text)
            self.assertEqual('(all)', error.field)
            self.assertIn(repr(text), str(error))

    def test_not_an_object(self) -> None:
        for text in ('[]', '7', 'null', '"use"'):
            self.assertEqual('(all)', self.refusal(text).field)

    def test_says_nothing(self) -> None:
        self.assertEqual('(all)', self.refusal('{}').field)

    def test_unknown_field(self) -> None:
        error = self.refusal('{"use": "ignore", "where": "3b:00.0"}')
        self.assertEqual('where', error.field)

    def test_field_twice(self) -> None:
        error = self.refusal('{"use": "ignore", "use": "vgpu"}')
        self.assertEqual('use', error.field)
        self.assertIn('given twice', str(error))

    def test_mechanism_that_is_not_installed(self) -> None:
        error = self.assertRaises(
            exception.InvalidRule,
            parse_rules,
            ['{"mechanism": "mdev"}', '{"mechanism": "sriov"}'],
            ['mdev', 'vf'],
        )
        self.assertEqual((2, 'mechanism'), (error.number, error.field))
        self.assertIn("'sriov' is not one of mdev, vf", str(error))

    def test_values(self) -> None:
        for field, values in {
            'address': ['', 'pci_0000', '0000:3b:00.[0]', '3b:00.0\n', 7],
            'vendor_id': ['10d', '10dee', 'nvid', '0x10de\n', 4318],
            'product_id': ['', '0x', 8],
            'numa_node': [-2, '0', 1.5, True],
            'mechanism': [1],
            'use': ['', 'Ignore', 'whole'],
            'profiles': [[], 'A40-8Q', [8]],
            'reserved': [-1, '1'],
            'resource_class': ['GPU', 'custom_x', 'CUSTOM_X\n', 'VGPU2'],
            'traits': [['HW_X'], ['CUSTOM_x'], 'CUSTOM_X'],
            'virtual_functions': [0, 'ALL', '8', 1.5],
        }.items():
            for value in values:
                error = self.refusal(json.dumps({field: value}))
                self.assertEqual(field, error.field)
                shown = (
                    value[0] if isinstance(value, list) and value else value
                )
                self.assertIn(repr(shown), str(error))

    @given(st.text() | st.dictionaries(st.text(), st.text()).map(json.dumps))
    def test_anything_is_read_or_refused(self, text: str) -> None:
        try:
            (rule,) = parse_rules([text])
        except exception.InvalidRule as exc:
            self.assertEqual(1, exc.number)
        else:
            self.assertEqual(1, rule.number)
