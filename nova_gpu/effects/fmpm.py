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

"""NVIDIA's ``fmpm``, the program that talks to Fabric Manager.

It exits with what Fabric Manager answers, as a byte: -7 is 249.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Sequence

from nova_gpu.effects import checks

#: A program of a moment; what sets up links takes longer.
LIST_SECONDS = 10
CHANGE_SECONDS = 60
#: fmpm needs no more, and what nova-compute's own has is not trusted.
ENVIRONMENT = {'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'LC_ALL': 'C'}

#: Fabric Manager's answers ("Partition Life Cycle Errors" in its user guide,
#: and the types of its SDK), each as the errno that says the same.
ANSWERS = {
    -1: ('FM_ST_BADPARAM', errno.EINVAL),
    -2: ('FM_ST_GENERIC_ERROR', errno.EIO),
    -3: ('FM_ST_NOT_SUPPORTED', errno.EOPNOTSUPP),
    -4: ('FM_ST_UNINITIALIZED', errno.ENOENT),
    -5: ('FM_ST_TIMEOUT', errno.ETIMEDOUT),
    -6: ('FM_ST_VERSION_MISMATCH', errno.EPROTO),
    -7: ('FM_ST_IN_USE', errno.EBUSY),
    -8: ('FM_ST_NOT_CONFIGURED', errno.EAGAIN),
    -9: ('FM_ST_CONNECTION_NOT_VALID', errno.ECONNREFUSED),
    -10: ('FM_ST_NVLINK_ERROR', errno.EIO),
    -12: ('FM_ST_RESOURCE_IN_USE', errno.EBUSY),
    -13: ('FM_ST_RESOURCE_NOT_IN_USE', errno.ENOENT),
    -15: ('FM_ST_RESOURCE_NOT_READY', errno.EAGAIN),
    -17: ('FM_ST_PARTITION_ID_IN_USE', errno.EBUSY),
    -18: ('FM_ST_PARTITION_ID_NOT_IN_USE', errno.ENOENT),
    -22: ('FM_ST_NOT_READY', errno.EAGAIN),
    -24: ('FM_ST_RESOURCE_USED_IN_ANOTHER_PARTITION', errno.EBUSY),
}

#: Runs a program: its exit code, and what it printed.
Run = Callable[[Sequence[str], int], tuple[int, str]]


def execute(command: Sequence[str], timeout: int) -> tuple[int, str]:
    """Run a program, and kill it if it takes too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            timeout=timeout,
            check=False,
        )
    except Exception as exc:
        # On eventlet it may be the error of a copy of the module.
        if type(exc).__name__ != subprocess.TimeoutExpired.__name__:
            raise
        raise OSError(
            errno.ETIMEDOUT,
            f'{" ".join(command)} took longer than {timeout} s',
        ) from exc
    return done.returncode, done.stdout.decode('utf-8', 'replace')


class Fmpm:
    """The partitions of the Fabric Manager at ``address``.

    Each method raises ValueError for an argument that it refuses, and OSError
    for what the program or Fabric Manager says.

    :param address: a host's, or the path of a Unix domain socket
    """

    def __init__(self, path: str, address: str, run: Run = execute) -> None:
        if not os.path.isabs(path):
            raise ValueError(f'[gpu] fmpm {path!r} is no absolute path')
        option = '--hostname'
        if os.path.isabs(address):
            option = '--unix-domain-socket'
        self._command = [path, option, checks.fabric_manager(address)]
        self._run = run

    def read(self) -> str:
        """The partitions, as the program prints them."""
        return self._do(LIST_SECONDS, '-l')

    def activate(self, number: int) -> None:
        """Activate a partition. EBUSY: it is, or one of its cards is."""
        self._do(CHANGE_SECONDS, '-a', checks.partition(number))

    def deactivate(self, number: int) -> None:
        """Deactivate a partition; it is no error if it isn't active."""
        try:
            self._do(CHANGE_SECONDS, '-d', checks.partition(number))
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                raise

    def set_active(self, numbers: Sequence[int]) -> None:
        """Tell which partitions are active; the others no longer are."""
        # A number twice makes some releases of the program run for ever.
        listed = ','.join(map(checks.partition, sorted(set(numbers))))
        self._do(CHANGE_SECONDS, '--set-activated-list', listed)

    def _do(self, timeout: int, *args: str) -> str:
        try:
            code, said = self._run([*self._command, *args], timeout)
        except FileNotFoundError as exc:
            # Not ENOENT, which is an answer of Fabric Manager.
            raise OSError(
                errno.ENOPKG, f'[gpu] fmpm {self._command[0]} is not there'
            ) from exc
        if code == 0:
            return said
        answer = code - 256 if code > 127 else code
        name, number = ANSWERS.get(answer, ('', errno.EIO))
        text = f'{self._command[0]} {" ".join(args)} exited with {code}'
        detail = ', '.join(filter(None, (name, ' '.join(said.split())[:300])))
        raise OSError(number, f'{text} ({detail or "it said nothing"})')
