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

"""``fmpm``, run for real against a Fabric Manager in a file."""

from __future__ import annotations

import errno
import json
import pathlib
from collections.abc import Callable
from typing import Any

import fixtures
import testtools

from nova_gpu.effects import checks
from nova_gpu.effects import fmpm as effects
from nova_gpu.model.partition import parse
from tests.fixtures import fmpm


class FmpmTest(testtools.TestCase):
    """A board whose partitions are 0 to 14."""

    def setUp(self) -> None:
        super().setUp()
        # Machines that run tests may be busy.
        for name in ('LIST_SECONDS', 'CHANGE_SECONDS'):
            self.useFixture(
                fixtures.MonkeyPatch(f'nova_gpu.effects.fmpm.{name}', 300)
            )
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.state = folder / 'fabric.json'
        self.program = folder / 'bin/fmpm'
        fmpm.Fabric(dict(fmpm.HGX_H100), {}).save(self.state)
        fmpm.install(self.state, self.program)
        self.fmpm = effects.Fmpm(str(self.program), '127.0.0.1')

    def active(self) -> list[int]:
        return [p.number for p in parse(self.fmpm.read()) if p.active]

    def change(self, **values: Any) -> None:
        with fmpm.changing(self.state) as fabric:
            for name, value in values.items():
                setattr(fabric, name, value)

    def refusal(self, call: Callable[..., Any], *args: object) -> OSError:
        error: OSError = self.assertRaises(OSError, call, *args)
        return error

    def test_a_life(self) -> None:
        self.assertEqual(15, len(parse(self.fmpm.read())))
        for number in (3, 0 + 14):
            self.fmpm.activate(number)
        self.assertEqual([3, 14], self.active())
        self.fmpm.deactivate(3)
        self.fmpm.deactivate(3)  # it is no error
        self.assertEqual([14], self.active())

    def test_what_is_in_use(self) -> None:
        self.fmpm.activate(3)
        for number in (3, 1, 0, 7):
            error = self.refusal(self.fmpm.activate, number)
            self.assertEqual(errno.EBUSY, error.errno)
            self.assertIn('FM_ST_IN_USE', str(error))
            self.assertIn(f'{self.program} -a {number} exited', str(error))

    def test_each_answer_has_its_errno(self) -> None:
        codes: list[int] = []
        asking = effects.Fmpm(
            '/usr/bin/fmpm',
            '127.0.0.1',
            lambda *_: (codes.pop(), 'Failed.\n'),
        )
        for answer, (name, number) in effects.ANSWERS.items():
            codes.append(answer & 0xFF)
            error = self.refusal(asking.activate, 3)
            self.assertEqual(number, error.errno, name)
            self.assertIn(f'({name}, Failed.)', str(error))
        for code in (1, 119, 157):
            codes.append(code)
            error = self.refusal(asking.activate, 3)
            self.assertEqual(errno.EIO, error.errno)

    def test_restart(self) -> None:
        for number in (3, 10):
            self.fmpm.activate(number)
        self.change(resilient=True, waits=True)
        for call, *args in ((self.fmpm.read,), (self.fmpm.deactivate, 3)):
            self.assertEqual(errno.EAGAIN, self.refusal(call, *args).errno)
        self.fmpm.set_active([10, 10])
        self.assertEqual([10], self.active())
        self.change(waits=True)
        self.fmpm.set_active([])
        self.assertEqual([], self.active())
        error = self.refusal(self.fmpm.set_active, [3])
        self.assertEqual(errno.EOPNOTSUPP, error.errno)

    def test_where_it_asks(self) -> None:
        said: list[list[str]] = []

        def run(command: Any, timeout: int) -> tuple[int, str]:
            said.append([*command])
            return 0, ''

        for address in ('10.0.0.1:6666', '/run/fm/socket'):
            effects.Fmpm('/usr/bin/fmpm', address, run).activate(3)
        self.assertEqual(
            [
                ['/usr/bin/fmpm', '--hostname', '10.0.0.1:6666', '-a', '3'],
                [
                    '/usr/bin/fmpm',
                    '--unix-domain-socket',
                    '/run/fm/socket',
                    '-a',
                    '3',
                ],
            ],
            said,
        )

    def test_what_it_does_not_believe(self) -> None:
        for address in ('', '-h', 'a b', '/run/../;x', '/', 'host:x', '--x'):
            self.assertRaises(
                ValueError, effects.Fmpm, '/usr/bin/fmpm', address
            )
        self.assertRaises(ValueError, effects.Fmpm, 'fmpm', '127.0.0.1')
        for number in (-1, 64, '3', True, None):
            self.assertRaises(ValueError, checks.partition, number)
            self.assertRaises(ValueError, self.fmpm.set_active, [number])

    def test_program_that_is_not_there(self) -> None:
        self.program.unlink()
        for call, *args in ((self.fmpm.read,), (self.fmpm.deactivate, 3)):
            error = self.refusal(call, *args)
            self.assertEqual(errno.ENOPKG, error.errno)
            self.assertIn(str(self.program), str(error))

    def test_program_that_hangs_is_killed(self) -> None:
        self.change(hangs=['-l'])

        def impatient(command: Any, timeout: int) -> tuple[int, str]:
            return effects.execute(command, 0.2)  # type: ignore[arg-type]

        asking = effects.Fmpm(str(self.program), '127.0.0.1', impatient)
        error = self.refusal(asking.read)
        self.assertEqual(errno.ETIMEDOUT, error.errno)

    def test_what_it_prints_is_what_is_read(self) -> None:
        self.assertEqual(
            {'version', 'numPartitions', 'maxNumPartitions', 'partitionInfo'},
            set(json.loads(self.fmpm.read())),
        )
