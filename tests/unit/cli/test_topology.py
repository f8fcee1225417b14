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

"""``nova-gpu host topology``."""

from __future__ import annotations

from tests.fixtures import hosts
from tests.unit.cli import base

ONE, TWO, THREE = '0000:41:00.0', '0000:43:00.0', '0000:81:00.0'


class TopologyTest(base.CliTest):
    def test_switch_and_node(self) -> None:
        for number, (address, way) in enumerate(
            (
                (ONE, '0000:40:01.0/0000:41:10.0/0000:42:00.0'),
                (TWO, '0000:40:01.0/0000:41:10.0/0000:42:01.0'),
                (THREE, '0000:40:02.0'),
            )
        ):
            self.fake.add_gpu(address, 0x2235, iommu_group=number, bridge=way)
        result = self.topology('-f', 'json')
        self.assertEqual((0, []), (result.code, result.errors))
        self.assertEqual(
            [
                {'Address': ONE, ONE: '-', TWO: 'switch', THREE: 'numa'},
                {'Address': TWO, ONE: 'switch', TWO: '-', THREE: 'numa'},
                {'Address': THREE, ONE: 'numa', TWO: 'numa', THREE: '-'},
            ],
            result.json,
        )
        rule = '{"address": "%s", "clique": "bridge 1"}'
        rules = (a for n in (ONE, THREE) for a in ('--rule', rule % n))
        first, *_ = self.topology('-f', 'json', *rules).json
        self.assertEqual(('switch', 'nvlink'), (first[TWO], first[THREE]))

    def test_board(self) -> None:
        hosts.a100_board(self.fake)
        rows = self.topology('-f', 'json').json
        self.assertEqual(8, len(rows))
        for row in rows:
            self.assertEqual(
                ['-', *['nvlink'] * 7],
                sorted(v for k, v in row.items() if k != 'Address'),
            )
        off = '{"product_id": "20b0", "clique": "none"}'
        first = self.topology('-f', 'json', '--rule', off).json[0]
        self.assertEqual(
            [*['host'] * 4, *['numa'] * 3],
            sorted(v for v in first.values() if v in ('host', 'numa')),
        )

    def test_no_card(self) -> None:
        result = self.topology('-f', 'json')
        self.assertEqual((0, []), (result.code, result.json))
