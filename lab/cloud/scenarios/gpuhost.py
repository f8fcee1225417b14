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

"""The guest that is the GPU host, looked at from outside."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Callable
from xml.etree import ElementTree as ET

from lab.guest import agent
from lab.scenarios.devices import source

#: Starting QEMU takes 20 s there, and more on a machine that is busy.
PATIENCE = 400
PCI = '/sys/bus/pci/devices'
MEDIATED = '/sys/bus/mdev/devices'


@dataclasses.dataclass(frozen=True)
class Domain:
    """A guest of libvirt's: its definition, and what QEMU has open."""

    xml: ET.Element
    running: bool
    open_files: tuple[str, ...]

    @property
    def sources(self) -> list[str]:
        """Its host devices: addresses and UUIDs."""
        addresses = self.xml.findall('devices/hostdev/source/address')
        return sorted(map(source, addresses))

    @property
    def groups(self) -> set[str]:
        """The IOMMU groups that QEMU has open."""
        return {
            name.removeprefix('/dev/vfio/')
            for name in self.open_files
            if name.startswith('/dev/vfio/') and name != '/dev/vfio/vfio'
        }

    @property
    def devices(self) -> int:
        """How many devices QEMU has open."""
        return sum('vfio-device' in name for name in self.open_files)


def run(script: str) -> str:
    """What a script says in the guest, whose exit code is to be 0."""
    code, said = agent.execute(script)
    if code:
        raise AssertionError(f'{script} exited {code}: {said}')
    return said


def domain(server: str) -> Domain | None:
    """The domain of a server; None if there is none."""
    uuid = shlex.quote(server)
    said = run(f"""
        virsh dumpxml {uuid} 2>/dev/null || exit 0
        name=$(virsh -q domname {uuid})
        pid=$(cat "/run/libvirt/qemu/${{name%%[[:space:]]*}}.pid") || exit 0
        echo running
        for fd in /proc/$pid/fd/*; do readlink $fd; done | grep vfio
        true
    """)
    text, closed, rest = said.partition('</domain>')
    if not closed:
        return None
    lines = rest.split()
    names = tuple(line for line in lines if 'vfio' in line)
    return Domain(ET.fromstring(text + closed), 'running' in lines, names)


def read(device: str, name: str) -> str:
    """An attribute of a PCI function."""
    return run(f'cat {PCI}/{device}/{name}').strip()


def driver(device: str) -> str:
    return run(f'basename $(readlink -f {PCI}/{device}/driver)').strip()


def groups(*devices: str) -> set[str]:
    """The IOMMU groups of PCI functions and mediated devices."""
    paths = (
        f'{PCI if ":" in device else MEDIATED}/{device}/iommu_group'
        for device in devices
    )
    return set(run(f'readlink {" ".join(paths)} | sed s,.*/,,').split())


def functions(card: str) -> list[str]:
    """The virtual functions of a card."""
    return run(
        f'for f in {PCI}/{card}/virtfn*; do basename $(readlink $f); done'
    ).split()


def mdevs() -> dict[str, str]:
    """All mediated devices, with their types."""
    said = run(
        f'for d in {MEDIATED}/*; do [ ! -e $d ] || echo '
        '$(basename $d) $(basename $(readlink $d/mdev_type)); done'
    )
    return dict(line.split() for line in said.splitlines())


def remains(card: str) -> str:
    """What is there of guests: domains, vGPUs, types of functions."""
    return run(f"""
        virsh -q list --all | grep . || true
        ls {MEDIATED}
        cat {PCI}/{card}/virtfn*/nvidia/current_vgpu_type | grep -vx 0
        true
    """).strip()


def bind(device: str, name: str) -> None:
    """Give a function another driver, as an operator does."""
    run(f"""
        set -e
        [ ! -e {PCI}/{device}/driver ] ||
            echo {device} >{PCI}/{device}/driver/unbind
        echo {name} >{PCI}/{device}/driver_override
        echo {device} >/sys/bus/pci/drivers_probe
    """)


def audit() -> None:
    """The audit finds nothing: with Placement, of nova-compute's own file."""
    run('nova-gpu audit')


def wait(what: str, is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f'not within {PATIENCE} s: {what}')
        time.sleep(1)
