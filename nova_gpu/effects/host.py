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

"""Every change of a host.

This runs on the privileged side (:mod:`nova_gpu.privsep`), so it believes
nothing that it is told: an argument is an address, a UUID, a type or a
number, and only functions of GPUs are touched. No path leads out of sysfs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posix
import re

from oslo_concurrency import processutils

from nova_gpu.effects import checks
from nova_gpu.effects.files import Attributes

#: What NVIDIA's driver wants in place of a write to ``sriov_numvfs``.
SRIOV_MANAGE = 'usr/lib/nvidia/sriov-manage'
#: A script of some seconds; one that hangs must not hold a start for ever.
SRIOV_MANAGE_SECONDS = 300
#: For what the script runs; what nova-compute's own has is not trusted.
SAFE_PATH = '/usr/sbin:/usr/bin:/sbin:/bin'


class HostEffects:
    """The changes of the host whose ``sys`` and ``dev`` are below ``root``.

    Each raises ValueError for an argument that it refuses, OSError for what
    the kernel says, and RuntimeError for a program that fails.
    """

    def __init__(self, root: str | os.PathLike[str] = '/') -> None:
        self._sys = Attributes(os.path.join(root, 'sys'))
        self._dev = os.path.join(root, 'dev')
        self._sriov_manage = os.path.join(root, SRIOV_MANAGE)

    def create_mdev(self, parent: str, type_id: str, uuid: str) -> None:
        """Make a mediated device."""
        folder = (
            f'class/mdev_bus/{checks.parent(parent)}/'
            f'mdev_supported_types/{checks.mdev_type(type_id)}'
        )
        self._sys.write(folder, 'create', checks.uuid(uuid))

    def remove_mdev(self, uuid: str) -> None:
        """Remove a mediated device that nobody uses; gone is no error."""
        device = f'bus/mdev/devices/{checks.uuid(uuid)}'
        try:
            # The kernel would not refuse: the write never returns.
            self._refuse_in_use(device)
            self._sys.write(device, 'remove', '1')
        except OSError as exc:
            # ENODEV: it went between the opening and the writing.
            if exc.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    def set_vgpu_params(self, device: str, params: str) -> None:
        """Give a vGPU, an mdev or a virtual function, its parameters."""
        value = checks.params(params)
        if checks.is_address(device):
            folder = self._gpu_function(device)
        else:
            folder = f'bus/mdev/devices/{checks.uuid(device)}'
        self._sys.write(f'{folder}/nvidia', 'vgpu_params', value)

    def set_vgpu_type(self, function: str, type_id: str) -> None:
        """Give a virtual function a vGPU type, or free it with ``0``."""
        value = checks.type_number(type_id)
        device = self._gpu_function(function)
        folder = f'{device}/nvidia'
        if value == '0':
            # Freeing an empty one is EPERM.
            if self._sys.read(folder, 'current_vgpu_type') == '0':
                return
            self._refuse_in_use(device)
        self._sys.write(folder, 'current_vgpu_type', value)

    def reset_function(self, address: str) -> None:
        """Reset a GPU that nobody uses; this can take seconds."""
        device = self._gpu_function(address)
        self._refuse_in_use(device)
        self._sys.write(device, 'reset', '1')

    def enable_vfs(self, address: str, count: int) -> None:
        """Enable virtual functions of a GPU that has none enabled."""
        value = checks.count(count)
        device = self._gpu_function(address)
        enabled = self._sys.read(device, 'sriov_numvfs')
        if enabled != '0':
            # The script would wipe the GPU instances of a card in use.
            raise OSError(errno.EBUSY, f'{enabled} functions are enabled')
        if self._sys.link(device, 'driver') == 'nvidia':
            self._run_sriov_manage(checks.address(address))
        else:
            self._sys.write(device, 'sriov_numvfs', value)

    def refuse_in_use(self, address: str) -> None:
        """Raise EBUSY if a guest holds the GPU; one that has gone isn't."""
        try:
            self._refuse_in_use(self._gpu_function(address))
        except FileNotFoundError:
            return

    def _run_sriov_manage(self, address: str) -> None:
        try:
            processutils.execute(
                self._sriov_manage,
                '-e',
                address,
                env_variables={'PATH': SAFE_PATH},
                timeout=SRIOV_MANAGE_SECONDS,
            )
        except processutils.ProcessExecutionError as exc:
            said = (exc.stderr or exc.stdout or '').strip()
            raise RuntimeError(
                f'{self._sriov_manage} -e {address} exited with '
                f'{exc.exit_code}: {said or "no output"}'
            ) from exc

    def _gpu_function(self, address: str) -> str:
        """The folder of a GPU's function, or of one of its virtual ones."""
        folder = f'bus/pci/devices/{checks.address(address)}'
        found = self._sys.read(folder, 'class')
        if not checks.is_card(found):
            # Some vendors' virtual functions have another class.
            with contextlib.suppress(FileNotFoundError):
                found = self._sys.read(f'{folder}/physfn', 'class')
        if not checks.is_card(found):
            raise ValueError(f'{address} is no GPU but of class {found}')
        return folder

    def _refuse_in_use(self, device: str) -> None:
        """Raise EBUSY if a guest holds the device, or part of its group.

        A group of VFIO opens once only, and not while one of its devices is
        open in the newer way. What is in no group can't be in use.
        """
        try:
            group = self._sys.link(device, 'iommu_group')
        except FileNotFoundError:
            return
        if not re.fullmatch('[0-9]+', group):
            raise ValueError(f'{device} is in the IOMMU group {group!r}')
        node = os.path.join(self._dev, 'vfio', group)
        try:
            posix.close(posix.open(node, os.O_RDWR | os.O_CLOEXEC))
        except OSError as exc:
            if exc.errno == errno.EBUSY:
                raise OSError(errno.EBUSY, 'in use by a guest', node) from exc
            # ENODEV: the last device has just left the group.
            if exc.errno not in (errno.ENOENT, errno.ENODEV):
                raise
