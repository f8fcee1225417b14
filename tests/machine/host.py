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


"""Two cards of each form that GPUs come in, and a kernel that refuses."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from nova_gpu.model.address import parse_address
from nova_gpu.model.profile import vendor_token
from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs, FakeType

ALL_FUNCTIONS = (
    '{"address": "%s", "virtual_functions": "all"}',
    '{"address": "%s", "virtual_functions": "all"}',
)


@dataclasses.dataclass(frozen=True)
class Form:
    """Two cards that are alike.

    ``options`` are those of ``FakeSysfs.add_gpu``. ``exact`` says whether
    the driver tells enough to know what fits; ``params`` whether it takes
    plugin parameters. ``group`` is the first card's IOMMU group.
    """

    name: str
    addresses: tuple[str, str]
    mechanism: str
    group: int
    product: int = 0
    vendor_name: str = 'NVIDIA'
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    exact: bool = True
    params: bool = True
    rules: tuple[str, ...] = ()
    #: Of whole cards, and of plain virtual functions.
    resource_class: str = ''

    @property
    def types(self) -> Sequence[FakeType]:
        """The vGPU types, if there are any."""
        found: Sequence[FakeType] = self.options.get('types', ())
        return found

    def classes(self, address: str) -> tuple[str, ...]:
        """The resource classes of one of the cards."""
        if not self.types:
            return (self.resource_class,)
        return tuple(self.class_of(kind, address) for kind in self.types)

    def class_of(self, kind: FakeType, address: str) -> str:
        """The resource class of a vGPU type; a virtual parent has its own."""
        vendor = self.vendor_name if ':' in address else address
        return f'CUSTOM_VGPU_{vendor_token(vendor, kind.name or kind.id)}'

    def pool(self, address: str) -> str:
        """The pool of one of the cards."""
        if self.mechanism == 'whole':
            return self.resource_class.removeprefix('CUSTOM_GPU_').lower()
        return parse_address(address).token

    def plug(self, fake: FakeSysfs, address: str) -> None:
        """Add one of the cards to a host."""
        index = self.addresses.index(address)
        if ':' not in address:
            fake.add_virtual_parent(address, **self.options)
            return
        fake.add_gpu(
            address,
            self.product,
            numa_node=index,
            iommu_group=self.group + index,
            **self.options,
        )


def _sized(types: Sequence[FakeType], *sizes: int) -> tuple[FakeType, ...]:
    return tuple(kind for kind in types if kind.size in sizes)


def _mig(*names: str) -> tuple[FakeType, ...]:
    return tuple(
        kind
        for kind in hosts.A100_TYPES
        if str(kind.name).removeprefix('GRID A100-') in names
    )


def _vendor(types: Sequence[FakeType], units: int, **more: Any) -> Any:
    return {
        'driver': 'nvidia', 'types': types, 'units': units,
        'virtual_functions': 4, 'vendor_vfio': True, **more,
    }  # fmt: skip


FORMS = (
    Form(
        'whole cards', ('0000:25:00.0', '0000:2b:00.0'), 'whole', 1, 0x20B0,
        resource_class='CUSTOM_GPU_NVIDIA_A100_SXM4_40GB',
    ),
    Form(
        'mdev on the card', ('0000:3b:00.0', '0000:5e:00.0'), 'mdev', 3,
        0x1EB8, options={
            'driver': 'nvidia', 'units': 16,
            'types': _sized(hosts.T4_TYPES, 4, 8, 16),
        },
    ),
    Form(
        'mdev on virtual functions', ('0000:41:00.0', '0000:42:00.0'),
        'mdev', 5, 0x2235, options={
            'driver': 'nvidia', 'units': 48, 'virtual_functions': 4,
            'types': _sized(hosts.A40_TYPES, 6, 16, 24),
        },
    ),
    Form(
        'mixed sizes on the card', ('0000:00:02.0', '0000:01:02.0'), 'mdev',
        7, 0x591D, 'Intel', params=False, options={
            'vendor': 0x8086, 'class_code': 0x0300, 'driver': 'i915',
            'types': hosts.GVT_TYPES, 'units': hosts.GVT_UNITS, 'mixed': True,
        },
    ),
    Form(
        'MIG, mdev, instances of two sizes',
        ('0000:c1:00.0', '0000:c2:00.0'), 'mdev', 9, 0x20F1, exact=False,
        options={
            'driver': 'nvidia', 'units': 40, 'virtual_functions': 4,
            'types': _mig('1-5C', '2-10C', '1-5CME', '10C'),
            'gpu_instances': (1, 1, 2),
        },
    ),
    Form(
        'vendor VFIO, one size', ('0000:81:00.0', '0000:82:00.0'),
        'vendor_vfio', 11, 0x2236,
        options=_vendor(_sized(hosts.A10_TYPES, 6, 8, 24), 24),
    ),
    Form(
        'vendor VFIO, functions enabled by rule',
        ('0000:83:00.0', '0000:84:00.0'), 'vendor_vfio', 13, 0x2237,
        options=_vendor(
            tuple(
                FakeType(f'nvidia-{n}', f'NVIDIA A10G-{size}Q', size=size)
                for n, size in ((700, 4), (701, 12), (702, 24))
            ),
            24, enabled_vfs=0, draft=True,
        ),
        rules=ALL_FUNCTIONS,
    ),
    Form(
        'vendor VFIO, mixed sizes', ('0001:04:00.0', '0001:05:00.0'),
        'vendor_vfio', 15, 0x2BB5,
        options=_vendor(
            _sized(hosts.RTX_PRO_6000_TYPES, 16, 24, 48), 96,
            mixed=True, vf_offset=2, virtual_functions=5,
        ),
    ),
    Form(
        'MIG, vendor VFIO, equal instances',
        ('0000:c3:00.0', '0000:c4:00.0'), 'vendor_vfio', 17, 0x20B5,
        options=_vendor(
            _mig('1-5C', '2-10C', '10C'), 40, gpu_instances=(1, 1, 1)
        ),
    ),
    Form(
        'MIG, vendor VFIO, instances of two sizes',
        ('0000:c5:00.0', '0000:c6:00.0'), 'vendor_vfio', 19, 0x20B7,
        options=_vendor(
            _mig('1-5C', '2-10C', '1-5CME'), 40, gpu_instances=(1, 2, 2)
        ), exact=False,
    ),
    Form(
        'plain virtual functions', ('0000:0c:00.0', '0000:0d:00.0'), 'vf',
        21, 0x74A1, 'AMD',
        options={
            'vendor': 0x1002, 'class_code': 0x1200, 'driver': 'gim',
            'virtual_functions': 3, 'enabled_vfs': 0, 'vf_offset': 2,
            'vf_product': 0x74B5, 'vf_resettable': True,
        },
        rules=ALL_FUNCTIONS,
        resource_class='CUSTOM_GPU_AMD_INSTINCT_MI300X_VF',
    ),
    Form(
        'virtual parents', ('mtty', 'mtty2'), 'mdev', 0, params=False,
        options={'types': hosts.MTTY_TYPES, 'units': 4},
    ),
)  # fmt: skip


class Kernel(FakeSysfs):
    """A host whose kernel refuses the calls that are named, n at most."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        #: Effects that fail, with how many times more, and the errno.
        self.refusals: dict[str, tuple[int, int]] = {}
        #: How often it refused something.
        self.faults = 0

    def _fail(self, action: str, effect: str, path: os.PathLike[str]) -> None:
        left, number = self.refusals.get(effect, (0, 0))
        if left:
            self.refusals[effect] = (left - 1, number)
            self.faults += 1
            raise self._error(action, path, number)

    @property
    def is_sane(self) -> bool:
        """Whether everything asked for in the right way is done."""
        return not self.wedged and not any(
            n for n, _ in self.refusals.values()
        )

    @property
    def wedged(self) -> list[str]:
        """The virtual functions that are wedged."""
        try:
            return sorted(os.listdir(self.root / 'driver/wedged'))
        except FileNotFoundError:
            return []

    def mend(self) -> None:
        """Refuse nothing any more."""
        self.refusals.clear()
        for function in self.wedged:
            self.unwedge(function)

    def has(self, name: str) -> bool:
        """Whether a function or virtual parent is there."""
        return self.device(name).is_dir()

    def is_unreadable(self, function: str) -> bool:
        """Whether a VF doesn't tell its type."""
        path = self.device(function) / 'nvidia/current_vgpu_type'
        return path.is_dir()

    def usable(self, card: str) -> list[str]:
        """The virtual functions that can take a vGPU, as far as known."""
        taken = {parent for parent, _ in self.made(card)}
        return [
            function
            for function in self.functions(card)
            if function not in taken and not self.is_unreadable(function)
        ]

    def exists(self, device: str, type_id: str | None) -> bool:
        """Whether a unit is there as it was made."""
        if type_id is None:
            return self.has(device)
        if ':' not in device:
            return device in self.mdevs and self._mdev(device)[1] == type_id
        return self.has(device) and self._current(device) == type_id

    def params_of(self, device: str) -> str:
        """The plugin parameters of a vGPU."""
        path = self.device(device) / 'nvidia/vgpu_params'
        return path.read_text().strip()
