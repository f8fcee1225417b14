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

"""The guest's own devices and domains, read by other means than ours."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable
from xml.etree import ElementTree as ET

import libvirt

from lab.scenarios.devices import (
    BEHIND_BRIDGE,
    GPU_WITH_AUDIO,
    H100S,
    MDEV,
    SRIOV,
    VENDOR_VFIO,
    Devices,
    source,
)

__all__ = [
    'BEHIND_BRIDGE', 'GPU_WITH_AUDIO', 'H100S', 'MDEV', 'SRIOV', 'VENDOR_VFIO',
]  # fmt: skip

HERE = Devices()
read, group, driver, bind = HERE.read, HERE.group, HERE.driver, HERE.bind
functions, available = HERE.functions, HERE.available
mdevs, creatable = HERE.mdevs, HERE.creatable

#: Starting QEMU takes 20 s here, and more on a machine that is busy.
PATIENCE = 240


def pid(domain: libvirt.virDomain) -> int:
    """QEMU's process."""
    return int(
        pathlib.Path(f'/run/libvirt/qemu/{domain.name()}.pid').read_text()
    )


def open_files(domain: libvirt.virDomain) -> list[str]:
    """What QEMU has open of VFIO."""
    found = []
    for path in pathlib.Path(f'/proc/{pid(domain)}/fd').iterdir():
        try:
            target = os.readlink(path)
        except FileNotFoundError:
            continue
        if 'vfio' in target:
            found.append(target)
    return sorted(found)


def vfio_devices(domain: libvirt.virDomain) -> int:
    """How many devices QEMU has open."""
    return sum('vfio-device' in name for name in open_files(domain))


def hostdevs(domain: libvirt.virDomain) -> list[ET.Element]:
    """The host devices in libvirt's XML of a domain."""
    return ET.fromstring(domain.XMLDesc()).findall('devices/hostdev')


def sources(domain: libvirt.virDomain) -> list[str]:
    """What they are on the host: addresses and UUIDs."""
    found = []
    for element in hostdevs(domain):
        address = element.find('source/address')
        assert address is not None
        found.append(source(address))
    return found


def connect() -> libvirt.virConnect:
    libvirt.registerErrorHandler(lambda context, error: None, None)
    return libvirt.open('qemu:///system')


def kill_qemu(domain: libvirt.virDomain) -> None:
    """End QEMU as a crash does, and wait until libvirt knows."""
    os.kill(pid(domain), signal.SIGKILL)
    wait('the domain is off', lambda: not domain.isActive())


def restart_libvirtd() -> libvirt.virConnect:
    (old,) = subprocess.check_output(['pidof', 'libvirtd']).split()
    os.kill(int(old), signal.SIGTERM)
    wait('libvirtd ends', lambda: not os.path.exists(f'/proc/{int(old)}'))
    subprocess.run(['libvirtd', '-d'], check=True)
    found: list[libvirt.virConnect] = []

    def answers() -> bool:
        try:
            found.append(connect())
        except libvirt.libvirtError:
            return False
        return True

    wait('libvirtd answers', answers)
    return found[0]


def run(*command: str) -> tuple[int, str]:
    """A program's exit code, and all that it said."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def wait(what: str, is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f'not within {PATIENCE} s: {what}')
        time.sleep(0.2)
