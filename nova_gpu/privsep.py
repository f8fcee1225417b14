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

"""Every privileged write.

Arguments are typed and checked again here, on the privileged side, so that
what a caller passes can't leave sysfs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import uuid as uuid_module
from collections.abc import Iterator

from oslo_privsep import capabilities, priv_context

from nova_gpu import exception
from nova_gpu.model.address import PciAddress
from nova_gpu.model.request import PARAMS_PATTERN

# Attributes of sysfs belong to root: writing them as root needs no capability
# at all. DAC_OVERRIDE is for a privsep daemon that runs as another user.
sysfs_pctxt = priv_context.PrivContext(
    'nova_gpu',
    cfg_section='nova_gpu_privileged',
    pypath=__name__ + '.sysfs_pctxt',
    capabilities=[capabilities.CAP_DAC_OVERRIDE],
)

_SYS = pathlib.Path('/sys')
_TYPE_ID = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]{0,63}')


def create_mdev(parent: str, type_id: str, uuid: str) -> None:
    """Make a mediated device of a type on the PCI function ``parent``."""
    with _explained('creating a vGPU', f'{parent} {type_id} {uuid}'):
        _create_mdev(parent, type_id, uuid)


def remove_mdev(uuid: str) -> None:
    """Remove a mediated device; one that isn't there is no error."""
    with _explained('removing a vGPU', uuid):
        _remove_mdev(uuid)


def set_vgpu_params(uuid: str, params: str) -> None:
    """Give a mediated device its plugin parameters."""
    with _explained('setting vGPU parameters', f'{uuid} {params}'):
        _set_vgpu_params(uuid, params)


@contextlib.contextmanager
def _explained(action: str, what: str) -> Iterator[None]:
    """Say what was tried: only plain errors cross the privilege line.

    All of them, since what a daemon raises that can't start is no OSError.
    """
    try:
        yield
    except Exception as exc:
        number = exc.errno if isinstance(exc, OSError) else None
        raise exception.EffectFailed(
            action, what, str(exc) or repr(exc), number
        ) from exc


@sysfs_pctxt.entrypoint
def _create_mdev(parent: str, type_id: str, uuid: str) -> None:
    write(_SYS / create_path(parent, type_id), checked_uuid(uuid))


@sysfs_pctxt.entrypoint
def _remove_mdev(uuid: str) -> None:
    device = _SYS / 'bus/mdev/devices' / checked_uuid(uuid)
    write(device / 'remove', '1', missing_ok=True)


@sysfs_pctxt.entrypoint
def _set_vgpu_params(uuid: str, params: str) -> None:
    if not re.fullmatch(PARAMS_PATTERN, params):
        raise ValueError(f'{params!r} is not key=value[,key=value]')
    device = _SYS / 'bus/mdev/devices' / checked_uuid(uuid)
    write(device / 'nvidia/vgpu_params', params)


def create_path(parent: str, type_id: str) -> str:
    """The file below sysfs that makes an mdev of a type.

    :raises ValueError: not an address, or not the name of a type
    """
    try:
        address = PciAddress.parse(parent)
    except exception.InvalidAddress as exc:
        raise ValueError(str(exc)) from exc
    if not _TYPE_ID.fullmatch(type_id):
        raise ValueError(f'{type_id!r} is not the name of a vGPU type')
    return f'class/mdev_bus/{address}/mdev_supported_types/{type_id}/create'


def checked_uuid(text: str) -> str:
    """``text`` in the one form that the kernel prints.

    :raises ValueError: not a UUID
    """
    try:
        return str(uuid_module.UUID(text))
    except ValueError as exc:
        raise ValueError(f'{text!r} is not a UUID') from exc


def write(path: pathlib.Path, value: str, *, missing_ok: bool = False) -> None:
    """Write an attribute in one call, never through a link at its end."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as exc:
        # ENODEV: it went between the opening and the writing.
        gone = exc.errno in (errno.ENOENT, errno.ENODEV)
        if not (gone and missing_ok):
            raise
