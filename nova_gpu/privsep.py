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
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, TypeVar

from oslo_config import cfg
from oslo_privsep import capabilities, priv_context

from nova_gpu import conf as gpu_conf
from nova_gpu import exception
from nova_gpu.effects.fmpm import Fmpm
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
# For NVIDIA's program that talks to Fabric Manager, whose socket may be root's
# alone; and to see that no guest has a card open, as above.
fabric_pctxt = priv_context.PrivContext(
    'nova_gpu',
    cfg_section='nova_gpu_fabric',
    pypath=__name__ + '.fabric_pctxt',
    capabilities=[capabilities.CAP_DAC_OVERRIDE],
)
_CONTEXTS = (sysfs_pctxt, sriov_pctxt, fabric_pctxt)

#: What :func:`in_process` was told, of options of ``[gpu]``.
_in_process: dict[str, str] = {}

_P = ParamSpec('_P')
_R = TypeVar('_R')


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


def read_partitions() -> str:
    """What Fabric Manager says of its partitions, as JSON."""
    with _explained('reading the partitions of NVSwitches', 'fmpm'):
        return _read_partitions()


def activate_partition(number: int) -> None:
    """Link the cards of a partition. EBUSY: one of them is linked."""
    with _explained('activating a partition', str(number)):
        _activate_partition(number)


def deactivate_partition(number: int, cards: Sequence[str]) -> None:
    """Separate the cards of a partition. EBUSY: a guest has one of them."""
    with _explained('deactivating a partition', str(number)):
        _deactivate_partition(number, list(cards))


def set_active_partitions(numbers: Sequence[int]) -> None:
    """Tell a Fabric Manager that has been restarted what is active."""
    what = ' '.join(map(str, numbers)) or '(none)'
    with _explained('telling the active partitions', what):
        _set_active_partitions(list(numbers))


@contextlib.contextmanager
def in_process(host_root: str, **options: str) -> Iterator[None]:
    """Act in this process, without a daemon, on the host at ``host_root``.

    For a program that the operator runs as root already.

    :param options: others of ``[gpu]``
    """
    before = [context.client_mode for context in _CONTEXTS]
    gpu_conf.register_opts(cfg.CONF)
    # Not as overrides of the configuration: others' could not be brought back.
    _in_process.update(options, host_root=host_root)
    for context in _CONTEXTS:
        context.set_client_mode(False)
    try:
        yield
    finally:
        for context, mode in zip(_CONTEXTS, before, strict=True):
            context.set_client_mode(mode)
        _in_process.clear()


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
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Let a function run in the daemon of ``context``."""

    def wrap(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            try:
                return function(*args, **kwargs)
            except OSError as exc:
                if exc.filename is None:
                    raise
                # Only the arguments of an error cross, not its file.
                raise OSError(
                    exc.errno, f'{exc.strerror}: {exc.filename}'
                ) from exc

        entrypoint: Callable[_P, _R] = context.entrypoint(run)
        return entrypoint

    return wrap


def _option(name: str) -> str:
    """What this side's own configuration says, not the caller's."""
    gpu_conf.register_opts(cfg.CONF)
    value: str = _in_process.get(name, cfg.CONF.gpu[name])
    return value


def _host() -> HostEffects:
    return HostEffects(_option('host_root'))


def _fmpm() -> Fmpm:
    return Fmpm(_option('fmpm'), _option('fabric_manager'))


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


@_privileged(fabric_pctxt)
def _read_partitions() -> str:
    return _fmpm().read()


@_privileged(fabric_pctxt)
def _activate_partition(number: int) -> None:
    _fmpm().activate(number)


@_privileged(fabric_pctxt)
def _deactivate_partition(number: int, cards: list[str]) -> None:
    host = _host()
    for card in cards:
        host.refuse_in_use(card)
    _fmpm().deactivate(number)


@_privileged(fabric_pctxt)
def _set_active_partitions(numbers: list[int]) -> None:
    _fmpm().set_active(numbers)
