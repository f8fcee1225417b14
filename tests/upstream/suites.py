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

"""Which of Nova's tests run, in which mode, and how a worker is told."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

#: Nova's class, and the one that takes its place.
NOVAS, OURS = 'LibvirtDriver', 'GpuLibvirtDriver'

# The environment of a worker.
CLASS = 'NOVA_GPU_UPSTREAM_CLASS'
RELEASE = 'NOVA_GPU_UPSTREAM_RELEASE'
SUITE = 'NOVA_GPU_UPSTREAM_SUITE'
#: The folder where each process says how many of our drivers it has made.
MADE = 'NOVA_GPU_UPSTREAM_MADE'

_FUNCTIONAL = 'nova.tests.functional.libvirt'


@dataclasses.dataclass(frozen=True)
class Suite:
    """Some modules of one of Nova's test packages.

    ``package`` decides the mode when it is imported: native threads, or
    eventlet. ``modules`` may name a package: all test modules in it.
    """

    package: str
    modules: tuple[str, ...]
    threading: bool

    def expanded(self) -> list[str]:
        """The modules, those of packages by name."""
        names = []
        for name in self.modules:
            module = importlib.import_module(name)
            names += [
                f'{name}.{found.name}'
                for found in pkgutil.iter_modules(
                    getattr(module, '__path__', ())
                )
                if found.name.startswith('test_')
            ] or [name]
        return names


def _functional(*names: str, threading: bool = False) -> Suite:
    return Suite(
        'nova.tests.functional',
        tuple(f'{_FUNCTIONAL}.test_{name}' for name in names),
        threading,
    )


#: What is about mediated devices, PCI devices, and moves of servers.
_VGPU_PCI_MIGRATION = (
    'device_bus_migration',
    'evacuate',
    'live_migration',
    'migration_addr',
    'numa_live_migration',
    'pci_in_placement',
    'pci_sriov_servers',
    'reshape',
    'vgpu',
)

#: By the first number of Nova's version, and the suite's name.
SUITES = {
    34: {
        # Some of these are skipped on threads.
        'unit': Suite(
            'nova.tests.unit',
            ('nova.tests.unit.virt.libvirt.test_driver',),
            threading=False,
        ),
        'functional': Suite(
            'nova.tests.functional', (_FUNCTIONAL,), threading=True
        ),
    },
    33: {'functional': _functional(*_VGPU_PCI_MIGRATION, threading=True)},
    31: {'functional': _functional(*_VGPU_PCI_MIGRATION)},
    29: {'functional': _functional(*_VGPU_PCI_MIGRATION)},
}
