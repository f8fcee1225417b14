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

"""How long ``nova-gpu host show`` takes from nothing to its table.

The peer is Python with the framework that the command is built on, and
nothing else: what is above it is ours.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from tests.bench import measure
from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs

ROUNDS = 9
MDEVS = 4
MAIN = 'import sys; from nova_gpu.cli.main import main; sys.exit(main())'
PEERS = {
    'import cliff.app': 'import cliff.app, cliff.commandmanager',
    'python -c pass': 'pass',
}


def run() -> Iterator[measure.Row]:
    """A recorded host with 16 cards, half of them cut into vGPUs."""
    with tempfile.TemporaryDirectory(dir=measure.ram_folder()) as root:
        _record(root)
        ours = [*_program(), 'host', 'show', '--root', root]
        shown = subprocess.run(
            ours, check=True, capture_output=True, text=True
        ).stdout
        assert shown.count('0000:') >= 16, shown
        for name, code in PEERS.items():
            peer = [sys.executable, '-c', code]
            yield measure.Row(
                'cli_start',
                {'cards': 16, 'mdevs': 8 * MDEVS},
                *measure.in_turn(
                    lambda: _seconds(ours),
                    lambda: _seconds(peer),  # noqa: B023
                    ROUNDS,
                ),
                name,
                's',
            )


def _program() -> list[str]:
    """The installed script, if it is there."""
    script = pathlib.Path(sys.executable).with_name('nova-gpu')
    if script.exists():
        return [str(script)]
    return [sys.executable, '-c', MAIN]


def _seconds(command: list[str]) -> float:
    return measure.seconds(
        lambda: subprocess.run(command, check=True, capture_output=True)
    )


def _record(root: str) -> None:
    fake = hosts.a100_board(FakeSysfs(root))
    for index in range(8):
        address = f'0000:{0x31 + index:02x}:00.0'
        fake.add_gpu(
            address, 0x2235, numa_node=index // 4, iommu_group=100 + index,
            driver='nvidia', types=hosts.A40_TYPES, units=48,
        )  # fmt: skip
        for number in range(MDEVS):
            fake.create_mdev(
                address, hosts.A40_TYPES[3].id,
                f'6e6f7661-6770-8000-8000-{index:04x}{number:08x}',
            )  # fmt: skip


if __name__ == '__main__':
    measure.emit(run())
