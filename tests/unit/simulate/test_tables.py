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
"""Requests and hosts from files."""

from __future__ import annotations

import pathlib

import fixtures
import testtools

from nova_gpu import exception
from nova_gpu.simulate.tables import Host, Request, read_hosts, read_requests

REQUESTS = """\
name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec
a,12000,16384,1,460,
b,96000,786432,8,1000,V100M32|V100M16
c,2000,4096,0,0,
"""
HOSTS = """\
sn,cpu_milli,memory_mib,gpu,model
x,64000,262144,2,P100
y,64000,262144,0,
"""


class TablesTest(testtools.TestCase):
    def file(self, content: str | bytes) -> str:
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        path = folder / 'table.csv'
        if isinstance(content, str):
            content = content.encode()
        path.write_bytes(content)
        return str(path)

    def test_requests(self) -> None:
        self.assertEqual(
            (
                Request(1, 460, 12000, 16384),
                Request(8, 1000, 96000, 786432, ('V100M16', 'V100M32')),
                Request(0, 0, 2000, 4096),
            ),
            read_requests(self.file(REQUESTS)),
        )

    def test_models_may_be_missing(self) -> None:
        text = 'num_gpu,gpu_milli,cpu_milli,memory_mib\n1,1000,1,2\n'
        self.assertEqual(
            (Request(1, 1000, 1, 2),), read_requests(self.file(text))
        )

    def test_byte_order_mark(self) -> None:
        path = self.file(HOSTS.encode('utf-8-sig'))
        self.assertEqual((Host(2, 64000, 262144, 'P100'),), read_hosts(path))

    def test_hosts_without_gpus_are_left_out(self) -> None:
        self.assertEqual(
            (Host(2, 64000, 262144, 'P100'),), read_hosts(self.file(HOSTS))
        )

    def test_what_is_wrong_is_named(self) -> None:
        for old, new, line, column, value in (
            ('12000', '12k', 2, 'cpu_milli', '12k'),
            ('16384', '-1', 2, 'memory_mib', '-1'),
            ('460', '1001', 2, 'gpu_milli', '1001'),
            ('460', '0', 2, 'gpu_milli', '0'),
            ('8,1000', '8,500', 3, 'gpu_milli', '500'),
            ('c,2000', 'c,', 4, 'cpu_milli', ''),
            ('num_gpu', 'gpus', 1, 'num_gpu', ''),
        ):
            path = self.file(REQUESTS.replace(old, new))
            error = self.assertRaises(
                exception.InvalidTable, read_requests, path
            )
            self.assertEqual(
                (path, line, column, value),
                (error.path, error.line, error.column, error.value),
            )
            self.assertIn(f'line {line}, column {column!r}', str(error))

    def test_a_short_row(self) -> None:
        path = self.file('cpu_milli,memory_mib,gpu\n1,2\n')
        error = self.assertRaises(exception.InvalidTable, read_hosts, path)
        self.assertEqual((2, 'gpu'), (error.line, error.column))

    def test_nothing_to_do(self) -> None:
        for read, text, column in (
            (read_requests, REQUESTS.splitlines()[0], 'num_gpu'),
            (read_hosts, HOSTS.splitlines()[0], 'gpu'),
        ):
            error = self.assertRaises(
                exception.InvalidTable, read, self.file(text)
            )
            self.assertEqual(column, error.column)

    def test_files_that_are_none(self) -> None:
        for path in (
            '/nowhere/table.csv',
            self.file(b'\xff\xfe'),
            self.file(REQUESTS + '"'),
        ):
            error = self.assertRaises(
                exception.InvalidTable, read_requests, path
            )
            self.assertTrue(str(error).startswith(f'{path}: '), error)
