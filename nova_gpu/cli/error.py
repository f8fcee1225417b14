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
    ├── NothingToPreview   a card or profile that no guest would get
    ├── NotReleased        a device that stays as it is
    ├── NotPlotted         pictures that could not be made
    └── NoPlacement        Placement, which can't be asked
"""

from __future__ import annotations

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


class NothingToPreview(exception.GpuError):
    """``what`` can't be in a guest's XML on this host."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f'{what}: {reason}')


class NotReleased(exception.GpuError):
    """``device`` stays as it is, for the ``reason``."""

    def __init__(self, device: str, reason: str) -> None:
        self.device = device
        self.reason = reason
        super().__init__(f'{device}: {reason}')


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
