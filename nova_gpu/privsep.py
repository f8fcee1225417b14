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

"""Every privileged act; the driver's effects.

What a caller passes is checked on the privileged side
(:mod:`nova_gpu.effects.host`). Where sysfs is, that side reads from its own
configuration.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec

from oslo_config import cfg
from oslo_privsep import capabilities, priv_context

from nova_gpu import conf as gpu_conf
from nova_gpu import exception
from nova_gpu.effects.host import HostEffects

# Attributes of sysfs belong to root, and no kernel asks for more than that
# to write them. CAP_DAC_OVERRIDE is for a daemon that runs as another user,
# and for opening a group below /dev/vfio, which libvirt may have given to
# QEMU's user: without it root itself could not.
sysfs_pctxt = priv_context.PrivContext(
    'nova_gpu',
    cfg_section='nova_gpu_privileged',
    pypath=__name__ + '.sysfs_pctxt',
    capabilities=[capabilities.CAP_DAC_OVERRIDE],
)
# For NVIDIA's script alone, which loads modules and rebinds drivers. It has
# no capability of ours: a program that root runs gets root's from the kernel.
# So this daemon must run as root, but only where VFs are to be enabled, and
# the other one need not.
sriov_pctxt = priv_context.PrivContext(
    'nova_gpu',
    cfg_section='nova_gpu_sriov',
    pypath=__name__ + '.sriov_pctxt',
    capabilities=[],
)

_P = ParamSpec('_P')


def create_mdev(parent: str, type_id: str, uuid: str) -> None:
    """Make a mediated device of a type on ``parent``."""
    with _explained('creating a vGPU', f'{parent} {type_id} {uuid}'):
        _create_mdev(parent, type_id, uuid)


def remove_mdev(uuid: str) -> None:
    """Remove a mediated device; one that isn't there is no error."""
    with _explained('removing a vGPU', uuid):
        _remove_mdev(uuid)


def set_vgpu_params(device: str, params: str) -> None:
    """Give a vGPU, an mdev or a virtual function, plugin parameters."""
    with _explained('setting vGPU parameters', f'{device} {params}'):
        _set_vgpu_params(device, params)


def set_vgpu_type(function: str, type_id: str) -> None:
    """Give a virtual function a vGPU type; ``0`` frees it."""
    with _explained('setting the vGPU type', f'{function} {type_id}'):
        _set_vgpu_type(function, type_id)


def reset_function(address: str) -> None:
    """Reset a PCI function."""
    with _explained('resetting a GPU', address):
        _reset_function(address)


def enable_vfs(address: str, count: int) -> None:
    """Enable virtual functions on a card that has none enabled."""
    with _explained('enabling virtual functions', f'{address} {count}'):
        _enable_vfs(address, count)


@contextlib.contextmanager
def in_process(host_root: str) -> Iterator[None]:
    """Act in this process, without a daemon, on the host at ``host_root``.

    For a program that the operator runs as root already.
    """
    contexts = (sysfs_pctxt, sriov_pctxt)
    before = [context.client_mode for context in contexts]
    gpu_conf.register_opts(cfg.CONF)
    cfg.CONF.set_override('host_root', host_root, 'gpu')
    for context in contexts:
        context.set_client_mode(False)
    try:
        yield
    finally:
        for context, mode in zip(contexts, before, strict=True):
            context.set_client_mode(mode)
        cfg.CONF.clear_override('host_root', 'gpu')


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


def _privileged(
    context: priv_context.PrivContext,
) -> Callable[[Callable[_P, None]], Callable[_P, None]]:
    """Let a function run in the daemon of ``context``."""

    def wrap(function: Callable[_P, None]) -> Callable[_P, None]:
        @functools.wraps(function)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
            try:
                function(*args, **kwargs)
            except OSError as exc:
                if exc.filename is None:
                    raise
                # Only the arguments of an error cross, not its file.
                raise OSError(
                    exc.errno, f'{exc.strerror}: {exc.filename}'
                ) from exc

        entrypoint: Callable[_P, None] = context.entrypoint(run)
        return entrypoint

    return wrap


def _host() -> HostEffects:
    """The host as the daemon's own configuration has it."""
    gpu_conf.register_opts(cfg.CONF)
    return HostEffects(cfg.CONF.gpu.host_root)


@_privileged(sysfs_pctxt)
def _create_mdev(parent: str, type_id: str, uuid: str) -> None:
    _host().create_mdev(parent, type_id, uuid)


@_privileged(sysfs_pctxt)
def _remove_mdev(uuid: str) -> None:
    _host().remove_mdev(uuid)


@_privileged(sysfs_pctxt)
def _set_vgpu_params(device: str, params: str) -> None:
    _host().set_vgpu_params(device, params)


@_privileged(sysfs_pctxt)
def _set_vgpu_type(function: str, type_id: str) -> None:
    _host().set_vgpu_type(function, type_id)


@_privileged(sysfs_pctxt)
def _reset_function(address: str) -> None:
    _host().reset_function(address)


@_privileged(sriov_pctxt)
def _enable_vfs(address: str, count: int) -> None:
    _host().enable_vfs(address, count)
