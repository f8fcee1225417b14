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

"""Our driver where Nova's code and Nova's tests look for LibvirtDriver.

Import it when Nova's test package has decided the mode, and before anything
else of Nova's tests.
"""

from __future__ import annotations

import atexit
import inspect
import os
import pathlib
import shutil
import tempfile
from typing import Any

from nova.virt import libvirt
from nova.virt.libvirt import driver
from oslo_config import cfg

from nova_gpu import conf
from nova_gpu.virt.driver import GpuLibvirtDriver
from tests.upstream.suites import MADE


class _NoEffects:
    """No test of Nova's may change the host through our driver."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f'{name} in a test of Nova')


class CountedGpuLibvirtDriver(GpuLibvirtDriver):
    """Ours, on a host where nothing is."""

    made = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        CountedGpuLibvirtDriver.made += 1
        super().__init__(*args, **kwargs)

    def _gpu_effects(self) -> Any:
        return _NoEffects()


def put_in_place() -> None:
    """Let this process have our class under the names of Nova's."""
    _empty_host()
    _own_methods(CountedGpuLibvirtDriver)
    _keep_super(driver.LibvirtDriver)
    for module in (driver, libvirt):
        module.LibvirtDriver = CountedGpuLibvirtDriver
    atexit.register(_tell_made, pathlib.Path(os.environ[MADE]))


def _empty_host() -> None:
    # The options' own defaults: Nova's tests reset what is set.
    folder = tempfile.mkdtemp(prefix='nova-gpu-upstream-')
    atexit.register(shutil.rmtree, folder)
    cfg.set_defaults(
        conf.COMPUTE_OPTS,
        host_root=folder,
        put_aside_dir=os.path.join(folder, 'put-aside'),
        claims_file=os.path.join(folder, 'claims.json'),
    )


def _own_methods(cls: type) -> None:
    """Repeat what isn't bound to an instance in the class itself.

    mock's autospec takes an inherited static method for a plain one.
    """
    for name in dir(cls):
        value = inspect.getattr_static(cls, name)
        if isinstance(value, staticmethod | classmethod):
            setattr(cls, name, value)


def _keep_super(novas: Any) -> None:
    """Let ``super(LibvirtDriver, self)`` be Nova's class, as it was.

    Nova 31 and older say so in the constructor; ours would be called again
    and again.
    """
    driver.NovasLibvirtDriver = novas
    code = novas.__init__.__code__
    novas.__init__.__code__ = code.replace(
        co_names=tuple(
            'NovasLibvirtDriver' if name == 'LibvirtDriver' else name
            for name in code.co_names
        )
    )


def _tell_made(folder: pathlib.Path) -> None:
    made = str(CountedGpuLibvirtDriver.made)
    (folder / str(os.getpid())).write_text(made)
