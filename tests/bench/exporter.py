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

"""One scrape of a host with 16 cards and 256 guests.

One peer reads the same files and makes nothing of them; the other is the page
of prometheus_client's own collectors, which tells of its process alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import prometheus_client

from nova_gpu.claimsfile import PATH, ClaimsFile
from nova_gpu.cli import survey
from nova_gpu.cli.collector import Collector
from nova_gpu.model.claim import ALLOCATED, Claim
from tests.bench import measure, refresh
from tests.fixtures import machine

ROUNDS = 9
GUEST = """<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid>
<metadata><nova:instance
 xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>
<nova:flavor name='gpu.a16' id='1'/><nova:owner>
<nova:project uuid='{project}'>p</nova:project></nova:owner>
</nova:instance></metadata><devices>{devices}
<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source>
<address uuid='{mdev}'/></source></hostdev></devices></domain>"""
#: As many devices as a guest of Nova has, more or less.
DEVICE = """<controller type='pci' index='{n}' model='pcie-root-port'>
<model name='pcie-root-port'/><target chassis='{n}' port='0x{n:02x}'/>
<address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
</controller>"""


def run() -> Iterator[measure.Row]:
    """The host of the benchmark of a refresh, with a guest for each vGPU."""
    for cards in (4, refresh.CARDS):
        with tempfile.TemporaryDirectory(dir=measure.ram_folder()) as root:
            yield from _measure(root, cards)


def _measure(root: str, cards: int) -> Iterator[measure.Row]:
    guests = _host(root, cards)
    args = argparse.Namespace(root=root, rule=[], config_file=[])
    collector = Collector(
        survey.Surveyor(args, ask_fabric=False), '1', nvml=False
    )
    registry = prometheus_client.CollectorRegistry()
    registry.register(collector)

    def scrape() -> bytes:
        return prometheus_client.generate_latest(registry)

    opened: set[str] = set()
    watching = True

    def watch(event: str, arguments: Any) -> None:
        if watching and event == 'open' and str(arguments[0]).startswith(root):
            opened.add(str(arguments[0]))

    sys.addaudithook(watch)
    page = scrape()
    watching = False
    assert page.count(b'nova_gpu_instance_device_info{') == guests
    # What is optional may not be there.
    files = sorted(f for f in opened if os.path.isfile(f))
    peers: dict[str, Callable[[], object]] = {
        'the same files, only read': lambda: [_read(f) for f in files],
        "prometheus_client's own page": prometheus_client.generate_latest,
    }
    for name, peer in peers.items():
        yield measure.Row(
            'exporter',
            {
                'cards': cards,
                'guests': guests,
                'files': len(files),
                'samples': sum(
                    not line.startswith(b'#') for line in page.splitlines()
                ),
            },
            *measure.in_turn(
                lambda: measure.seconds(scrape) * 1e3,
                lambda peer=peer: measure.seconds(peer) * 1e3,  # type: ignore[misc]
                ROUNDS,
            ),
            name,
            'ms',
        )


def _host(root: str, cards: int) -> int:
    """Write the host; returns how many guests it has."""
    fake = refresh._host(
        root, cards, refresh.FUNCTIONS, refresh.TYPES, refresh.MDEVS
    )
    machine.libvirt(fake)
    devices = ''.join(DEVICE.format(n=n) for n in range(30))
    claims = []
    for number, mdev in enumerate(fake.mdevs):
        uuid = f'11111111-2222-4333-8444-{number:012x}'
        text = GUEST.format(
            name=f'instance-{number:08x}', uuid=uuid, project='p' * 32,
            devices=devices, mdev=mdev,
        )  # fmt: skip
        name = f'libvirt/qemu/instance-{number:08x}.xml'
        fake.write(f'etc/{name}', text)
        fake.write(f'run/{name}', f'<domstatus>{text}</domstatus>')
        claims.append(Claim(uuid, (), ALLOCATED))
    ClaimsFile(root + PATH).write('node', claims)
    return len(claims)


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)


if __name__ == '__main__':
    measure.emit(run())
