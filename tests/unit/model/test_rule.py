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


"""Rules: which cards they speak of, and what all of them say together."""

from __future__ import annotations

from typing import Any

import testtools

from nova_gpu.model.rule import Rule, Ruling, rule_on, unmatched
from tests.unit import base

CARD = base.card('0000:3b:00.0', numa_node=1)


class MatchTest(testtools.TestCase):
    """All fields that a rule gives must match."""

    def test_fields(self) -> None:
        for fields, expected in (
            ({}, True),
            ({'address': '0000:3b:00.0'}, True),
            ({'address': '0000:3?:*'}, True),
            ({'address': '0000:3b:00.1'}, False),
            ({'vendor_id': 0x10DE}, True),
            ({'vendor_id': 0x1002}, False),
            ({'product_id': 0x20B0}, True),
            ({'product_id': 0x20B2}, False),
            ({'numa_node': 1}, True),
            ({'numa_node': 0}, False),
            ({'numa_node': -1}, False),
            ({'mechanism': 'whole'}, True),
            ({'mechanism': 'mdev'}, False),
            ({'vendor_id': 0x10DE, 'numa_node': 0}, False),
        ):
            rule = Rule(1, **fields)  # type: ignore[arg-type]
            self.assertIs(expected, rule.matches(CARD, 'whole'), fields)

    def test_card_that_no_mechanism_recognizes(self) -> None:
        self.assertFalse(Rule(1, mechanism='whole').matches(CARD, None))
        self.assertTrue(Rule(1).matches(CARD, None))

    def test_unmatched(self) -> None:
        rules = (Rule(1, numa_node=0), Rule(2, numa_node=1), Rule(3))
        self.assertEqual(rules[:1], unmatched(rules, [(CARD, 'whole')]))
        self.assertEqual(rules, unmatched(rules, []))


class RulingTest(testtools.TestCase):
    """The first rule that says a thing decides it."""

    def ruling(self, *fields: dict[str, Any]) -> Ruling:
        rules = [Rule(number, **f) for number, f in enumerate(fields, 1)]
        return rule_on(CARD, 'whole', rules)

    def test_no_rule(self) -> None:
        self.assertEqual(Ruling(), self.ruling())
        self.assertEqual(Ruling(), self.ruling({'numa_node': 0}))

    def test_rules_add_up(self) -> None:
        self.assertEqual(
            Ruling(
                use='vgpu',
                profiles=('A40-8Q',),
                reserved=2,
                resource_class='VGPU',
                traits=('CUSTOM_A',),
                rules=(1, 3),
                decided={
                    'profiles': 1,
                    'reserved': 1,
                    'use': 3,
                    'resource_class': 3,
                    'traits': 3,
                },
            ),
            self.ruling(
                {'profiles': ('A40-8Q',), 'reserved': 2},
                {'numa_node': 0, 'use': 'ignore'},
                {
                    'use': 'vgpu',
                    'resource_class': 'VGPU',
                    'traits': ('CUSTOM_A',),
                },
            ),
        )

    def test_contradiction_names_both_rules_and_values(self) -> None:
        ruling = self.ruling(
            {'use': 'passthrough'}, {'reserved': 1}, {'use': 'ignore'}
        )
        self.assertEqual('passthrough', ruling.use)
        self.assertEqual(1, ruling.decided['use'])
        self.assertEqual(
            (
                "card 0000:3b:00.0: rule 3 says use 'ignore', but rule 1 "
                "already said 'passthrough'",
            ),
            ruling.conflicts,
        )

    def test_saying_the_same_is_no_contradiction(self) -> None:
        self.assertEqual(
            (), self.ruling({'reserved': 1}, {'reserved': 1}).conflicts
        )
