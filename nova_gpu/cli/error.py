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


"""The errors of the command line; cliff prints each as one line.

::

    GpuError
    ├── UnusableRoot       a directory that holds no host
    ├── UnusableSettings   a configuration file that can't be read
    ├── UnusableInput      a file or an argument that isn't what it should be
    ├── NothingToPreview   a card or profile that no guest would get
    ├── NoSuchProfile      a vGPU type that no card of the host has
    ├── NotPrepared        a host that could not be changed
    ├── NvmlFailed         NVIDIA's library, which doesn't tell of the cards
    ├── NotRecorded        links that can't be recorded
    ├── NotReleased        a device that stays as it is
    ├── NotPlotted         pictures that could not be made
    ├── NotServed          metrics that nobody could read, or not all of them
    ├── NoPlacement        Placement, which can't be asked
    └── NotRestored        partitions that Fabric Manager isn't told of
"""

from __future__ import annotations

from collections.abc import Sequence

from nova_gpu import exception


class UnusableRoot(exception.GpuError):
    """``path`` isn't there, or can't be read, below the host's root."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f'{path}: {reason} (the root of a host holds sys/bus/pci/devices)'
        )


class UnusableSettings(exception.GpuError):
    """A configuration file that oslo.config refuses."""


class UnusableInput(exception.GpuError):
    """``where``, a file or an argument, isn't what it should be."""

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f'{where}: {reason}')


class NothingToPreview(exception.GpuError):
    """``what`` can't be in a guest's XML on this host."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f'{what}: {reason}')


class NoSuchProfile(exception.GpuError):
    """``name`` is no vGPU type of this host; ``there`` are those that are."""

    def __init__(self, name: str, there: Sequence[str]) -> None:
        self.name = name
        self.there = tuple(there)
        super().__init__(
            f'no card of this host has the vGPU type {name!r}; there are: '
            f'{", ".join(there) or "none"}'
        )


class NotPrepared(exception.GpuError):
    """A file or a command that does not work."""


class NvmlFailed(exception.GpuError):
    """NVML doesn't answer; ``remedy`` is what to do, if that is known."""

    def __init__(self, what: str, reason: str, remedy: str | None) -> None:
        self.what = what
        self.reason = reason
        self.remedy = remedy
        told = f'{what}: {reason}'
        super().__init__(f'{told}; {remedy}' if remedy else told)


class NotRecorded(exception.GpuError):
    """The links of cards can't be recorded, for the ``reason``."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f'The links are not recorded: {reason}')


class NotReleased(exception.GpuError):
    """``device`` stays as it is, for the ``reason``."""

    def __init__(self, device: str, reason: str) -> None:
        self.device = device
        self.reason = reason
        super().__init__(f'{device}: {reason}')


class NotServed(exception.GpuError):
    """``what`` stands in the way of serving metrics; ``remedy`` ends it."""

    def __init__(self, what: str, remedy: str) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f'{what}: {remedy}')


class NoPlacement(exception.GpuError):
    """Placement can't be asked, for the ``reason``."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f'Placement can not be asked: {reason}')


class NotPlotted(exception.GpuError):
    """Pictures that could not be made in ``folder``."""

    def __init__(self, folder: object, reason: str) -> None:
        self.folder = folder
        self.reason = reason
        super().__init__(
            f'no plots in {folder}: {reason} (they need matplotlib: '
            'pip install nova-gpu[plot])'
        )


class NotRestored(exception.GpuError):
    """Fabric Manager isn't told which partitions are active."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f'Fabric Manager is told nothing: {reason}')
