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

"""``nova-gpu schedule explain`` and ``nova-gpu host map``."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import yaml

from nova_gpu.claimsfile import ClaimsFile
from nova_gpu.model.hostmap import STATS_KEY, HostMap
from tests.fixtures import hosts
from tests.fixtures.scheduler import host_tracker, map_text, node_uuid, take
from tests.fixtures.sysfs import FakeSysfs
from tests.unit.cli import base

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q'
NAME = os.uname().nodename


class DumpTest(base.CliTest):
    """Base: writes the files, runs the command."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = pathlib.Path(self.root, 'dump')
        self.folder.mkdir()

    def write(self, name: str, content: Any) -> str:
        path = self.folder / name
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text)
        return str(path)

    def explain(self, maps: str, *args: str) -> base.Result:
        return self.nova_gpu('schedule', 'explain', '--maps', maps, *args)

    def record(self, host: str, fake: FakeSysfs, used: int = 0) -> Any:
        """A row of Nova's table, of a host with eight A100."""
        tracker = host_tracker(hosts.a100_board(fake))
        if used:
            take(tracker, 'nvidia_a100_sxm4_40gb', A100, used)
        stats = {STATS_KEY: map_text(tracker, 1), 'num_instances': '1'}
        uuid = node_uuid(host)
        return {'host': host, 'uuid': uuid, 'stats': json.dumps(stats)}

    def two(self) -> str:
        """A dump: a row a line, as the client of the database prints them."""
        rows = [
            self.record('gpu1', FakeSysfs(self.folder / 'one')),
            self.record('gpu2', FakeSysfs(self.folder / 'two'), used=3),
            {'host': 'cpu1', 'stats': '{"num_instances": "4"}'},
        ]
        return self.write('maps', '\n'.join(map(json.dumps, rows)))


class ExplainTest(DumpTest):
    def test_hosts(self) -> None:
        result = self.explain(
            self.two(), '--property', f'resources:{A100}=4', '-f', 'json'
        )
        self.assertEqual((0, []), (result.code, result.errors))
        self.assertEqual(
            [
                {
                    'Host': 'gpu2',
                    'Decision': 'passes',
                    'Weight': 1023.1875,
                    'Pools': ['nvidia_a100_sxm4_40gb'],
                    'Cards': [f'nvidia_a100_sxm4_40gb[{n}]'
                              for n in range(4, 8)],
                    'Reason': None,
                },
                {
                    'Host': 'gpu1',
                    'Decision': 'passes',
                    'Weight': 969.0,
                    'Pools': ['nvidia_a100_sxm4_40gb'],
                    'Cards': [f'nvidia_a100_sxm4_40gb[{n}]'
                              for n in range(4)],
                    'Reason': None,
                },
                {
                    'Host': 'cpu1',
                    'Decision': 'refused by Placement',
                    'Weight': None,
                    'Pools': [],
                    'Cards': [],
                    'Reason': f'none of its GPUs gives {A100}',
                },
            ],
            result.json,
        )  # fmt: skip

    def test_expected_requests(self) -> None:
        maps = self.two()
        flavor = ('--property', f'resources:{A100}=3', '-f', 'json')
        for kind, first in (('{"gpus": 2}', 'gpu2'), ('{"gpus": 5}', 'gpu1')):
            result = self.explain(maps, *flavor, '--expected-request', kind)
            self.assertEqual(first, result.json[0]['Host'], kind)
        result = self.explain(
            maps, *flavor, '--expected-request', '{"gpus": 0}'
        )
        self.assertEqual((1, ''), (result.code, result.out))
        (line,) = result.errors
        self.assertIn("expected_request 1, field 'gpus': 0 is", line)

    def test_every_format(self) -> None:
        flavor = ('--property', f'resources:{A100}=8')
        maps = self.two()
        for form, expected in (
            ('csv', f'"gpu2","refused by Placement","","","","asks for 8 '
                    f'{A100}, and has 5 free"'),
            ('value', f'gpu2 refused by Placement    asks for 8 {A100}, and '
                      f'has 5 free'),
            ('table', '| gpu2 | refused by Placement |'),
        ):  # fmt: skip
            result = self.explain(maps, *flavor, '-f', form)
            self.assertEqual((0, []), (result.code, result.errors))
            self.assertIn(expected, result.out)
        result = self.explain(maps, *flavor, '-f', 'yaml')
        self.assertEqual(8, len(yaml.safe_load(result.out)[0]['Cards']))

    def test_flavor_file(self) -> None:
        maps = self.two()
        shown = {'name': 'gpu.x', 'properties': {f'resources:{A100}': '8'}}
        old = {'properties': f"gpu:topology='any', resources:{A100}='8'"}
        for content in (shown, old):
            flavor = self.write('flavor', content)
            result = self.explain(maps, '--flavor', flavor, '-f', 'json')
            self.assertEqual('gpu1', result.json[0]['Host'])
            # What is given beside counts.
            result = self.explain(
                *(maps, '--flavor', flavor, '-f', 'json'),
                *('--property', 'gpu:display=on'),
            )
            self.assertEqual(
                {'refused by GpuFilter', 'refused by Placement'},
                {row['Decision'] for row in result.json},
            )

    def test_what_is_not_looked_at(self) -> None:
        result = self.explain(
            self.two(),
            *('--property', f'resources:{A100}=1'),
            *('--property', 'resources1:CUSTOM_FPGA=1'),
            *('--property', 'trait:CUSTOM_GPU_VENDOR_NVIDIA=required'),
            *('--property', 'hw:numa_nodes=2', '--property', 'hw:x=1'),
        )
        self.assertEqual(0, result.code)
        self.assertEqual(
            [
                'note: not looked at: CUSTOM_FPGA, hw:numa_nodes, '
                'trait:CUSTOM_GPU_VENDOR_NVIDIA'
            ],
            result.errors,
        )

    def test_several_files_and_a_host_again(self) -> None:
        maps = self.two()
        again = self.write(
            'again', [self.record('gpu1', FakeSysfs(self.folder / 'x'), 8)]
        )
        result = self.explain(
            *(maps, '--maps', again, '-f', 'json'),
            *('--property', f'resources:{A100}=1'),
        )
        self.assertEqual(
            [
                f'warning: {again}: host gpu1 is there again; only the last '
                f'one counts'
            ],
            result.errors,
        )
        self.assertEqual(
            [f'asks for 1 {A100}, and has 0 free'],
            [r['Reason'] for r in result.json if r['Host'] == 'gpu1'],
        )

    def test_bad_input_is_one_line(self) -> None:
        good = self.two()
        gpu = ('--property', f'resources:{A100}=1')
        flavor = self.write('flavor', {'name': 'x'})
        number = self.write('number', {'properties': {'resources:X': 1}})
        for content, args, expected in (
            ('', gpu, 'bad: holds no host'),
            ([], gpu, 'bad: holds no host'),
            ('{"host": ', gpu, 'is not JSON: '),
            ('3', gpu, ", record 1: 3 is not of type 'object'"),
            ({'map': {}}, gpu, "record 1: 'host' is a required property"),
            ({'host': 'x'}, gpu, "host x: has neither 'map' nor 'stats'"),
            ([{'host': ''}], gpu, "record 1: key 'host': "),
            ({'host': 'x', 'node': 'y', 'map': {}}, gpu, "key 'node': 'y' is"),
            ({'host': 'x', 'stats': '{'}, gpu,
             "host x: key 'stats': is not JSON: "),
            ({'host': 'x', 'stats': '[]'}, gpu, "key 'stats': is no object"),
            ({'host': 'x', 'map': {'v': 9}}, gpu,
             'host x: the GPU map of the host is not usable: it has version '
             '9, '),
            ({'host': 'x', 'map': {'v': 1, 'c': [], 'p': [{'k': 'a'}]}}, gpu,
             "host x: the GPU map of the host is not usable: 'm' is missing"),
            (None, (*gpu, '--expected-request', 'x'),
             "error: [gpu] expected_request 1: 'x' is not JSON: "),
            (None, ('--property', 'resources'),
             "--property: 'resources' is not KEY=VALUE"),
            (None, (*gpu, '--property', 'gpu:display=yes'),
             "gpu:display='yes' is not valid; allowed: on, off"),
            (None, ('--property', f'resources:{A100}=two'),
             f"resources:{A100}='two' is not valid; allowed: a whole "
             'number from 0 on'),
            (None, (), 'no resources: property of it asks for a GPU'),
            (None, ('--property', f'resources:{A100}=0'),
             'no resources: property of it asks for a GPU'),
            (None, ('--flavor', '/nowhere'),
             'error: /nowhere: No such file or directory'),
            (None, ('--flavor', good), 'holds 3 objects'),
            (None, ('--flavor', flavor), "'properties' is a required"),
            (None, ('--flavor', number),
             "key 'properties': 1 is not of type 'string'"),
        ):  # fmt: skip
            maps = good if content is None else self.write('bad', content)
            result = self.explain(maps, *args)
            self.assertEqual(1, result.code, expected)
            self.assertEqual('', result.out)
            (line,) = result.errors
            self.assertIn(expected, line)
            if content is not None:
                self.assertIn(maps, line)

    def test_byte_order_mark(self) -> None:
        maps = pathlib.Path(self.two())
        maps.write_text(maps.read_text(), encoding='utf-8-sig')
        result = self.explain(str(maps), '--property', f'resources:{A100}=1')
        self.assertEqual((0, []), (result.code, result.errors))

    def test_no_maps(self) -> None:
        self.assertEqual(2, self.nova_gpu('schedule', 'explain').code)

    def test_needs_no_nova(self) -> None:
        done = self.in_process_of_its_own(
            'schedule', 'explain', '--maps', self.two(),
            '--property', f'resources:{A100}=1',
        )  # fmt: skip
        self.assertEqual(0, done.code, done.err)
        self.assertIn('gpu2', done.out)
        self.assertNotIn('nova', done.imported)
        self.assertNotIn('RECORD', done.opened)


class HostMapTest(DumpTest):
    def host_map(self, *args: str) -> base.Result:
        return self.nova_gpu('host', 'map', '--root', self.root, *args)

    def test_as_the_tracker_reports_it(self) -> None:
        tracker = host_tracker(hosts.four_t4(hosts.a100_board(self.fake)))
        consumers = [
            take(tracker, 'nvidia_a100_sxm4_40gb', A100, 2),
            take(tracker, '0000_3b_00_0', T4_8Q, 1),
        ]
        for number, consumer in enumerate(consumers):
            units = tracker.units_of(consumer)
            self.add_guest(
                f'instance-{number}',
                consumer,
                functions=[str(f) for u in units for f in u.functions],
                mdevs=[u.device for u in units if not u.functions],
                units=units,
            )
        claims = ClaimsFile(f'{self.root}/var/lib/nova/gpu/claims.json')
        claims.write(node_uuid('gpu1'), ())
        result = self.host_map('-f', 'json')
        self.assertEqual((0, []), (result.code, result.errors))
        found = result.json
        self.assertEqual(
            HostMap.load(map_text(tracker, 2)),
            HostMap.load(json.dumps(found['Map'])),
        )
        self.assertEqual(
            (NAME, node_uuid('gpu1')), (found['Host'], found['Node'])
        )
        self.assertEqual(
            list(hosts.A100_ADDRESSES),
            found['Cards']['nvidia_a100_sxm4_40gb'],
        )

    def test_is_what_explain_reads(self) -> None:
        hosts.a100_board(self.fake)
        text = self.host_map('-f', 'json').out
        result = self.explain(
            *(self.write('maps', text + text), '-f', 'json'),
            *('--property', f'resources:{A100}=2'),
        )
        (row,) = result.json
        self.assertEqual(
            (NAME, 'passes', list(hosts.A100_ADDRESSES[:2])),
            (row['Host'], row['Decision'], row['Cards']),
        )

    def test_other_formats(self) -> None:
        hosts.a100_board(self.fake)
        result = self.host_map('-f', 'value', '-c', 'Map')
        (pool,) = HostMap.load(result.out).pools
        self.assertEqual('nvidia_a100_sxm4_40gb', pool.key)
        self.assertIn(hosts.A100_ADDRESSES[0], self.host_map().out)

    def test_claims_file_that_can_not_be_read(self) -> None:
        hosts.a100_board(self.fake)
        self.fake.write('var/lib/nova/gpu/claims.json', '[]')
        result = self.host_map('-f', 'json')
        self.assertIsNone(result.json['Node'])
        self.assertIn(
            'the UUID of the compute node is not known', result.errors[0]
        )
