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

"""vGPU types and the names made of them."""

from __future__ import annotations

import dataclasses
import functools
import re


def token(text: str) -> str:
    """``text`` as Placement allows it in a name: ``A100_SXM4_80GB``."""
    return re.sub(r'[^A-Z0-9]+', '_', text.upper()).strip('_')


@functools.lru_cache(maxsize=1024)
def vendor_token(vendor: str, text: str) -> str:
    """``token(text)``, opened by the vendor's name exactly once.

    Older NVIDIA drivers name the same type ``GRID T4-1B`` that newer ones
    name ``NVIDIA T4-1B``: a driver's upgrade must not rename a resource
    class under a running cloud.
    """
    vendor = token(vendor)
    name = token(text)
    for prefix in (vendor + '_', 'GRID_'):
        name = name.removeprefix(prefix)
    return f'{vendor}_{name}'


@dataclasses.dataclass(frozen=True, slots=True)
class VgpuType:
    """One vGPU type of a card.

    ``id`` is the name in sysfs (``nvidia-558``), ``name`` what people call
    it (``NVIDIA A40-8Q``; the id where the driver gives no name),
    ``capacity`` how many an empty card holds (None where the driver doesn't
    say), ``available`` how many can be made now.
    """

    id: str
    name: str
    available: int
    capacity: int | None = None
    framebuffer_mib: int | None = None
    device_api: str = 'vfio-pci'


#: ``A40-8Q``, ``A100-1-5C``, ``A100-1-5CME``, with the vendor's name or not.
_NAME = re.compile(
    r'(?:(?:NVIDIA|GRID)\s+)?'
    r'(?P<card>\S.*?)'
    r'(?:-(?P<slices>[1-9]))?'
    r'-(?P<gib>[0-9]{1,4})(?P<series>[ABCQ])'
    r'(?P<variant>ME|NOME|MEALL|GFX)?'
)


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileName:
    """What the name of a vGPU type tells.

    ``slices`` are those of its MIG GPU instance, None for a type that isn't
    MIG-backed.
    """

    card: str
    slices: int | None
    framebuffer_mib: int
    series: str
    variant: str | None


@functools.lru_cache(maxsize=1024)
def parse_name(name: str) -> ProfileName | None:
    """Read the name of a vGPU type; None for one that tells nothing.

    Source of the format: NVIDIA's vGPU user guide, "Virtual GPU Types". A
    framebuffer of 0 GB stands for 512 MB.
    """
    match = _NAME.fullmatch(name.strip())
    if match is None:
        return None
    slices = match['slices']
    return ProfileName(
        card=match['card'],
        slices=None if slices is None else int(slices),
        framebuffer_mib=int(match['gib']) * 1024 or 512,
        series=match['series'],
        variant=match['variant'],
    )


def parse_description(text: str) -> tuple[int | None, int | None]:
    """Framebuffer in MiB and instances a card from a type's description.

    NVIDIA writes ``num_heads=4, …, framebuffer=1024M, …, max_instance=16``
    (NVIDIA vGPU user guide), Intel GVT-g one ``key: value`` a line with
    ``high_gm_size: 512MB`` (kernel documentation). What isn't there is None.
    """
    fields = {
        key.strip(): value.strip()
        for key, _, value in (
            re.sub(r'\s*[:=]\s*', '=', part).partition('=')
            for part in re.split(r'[,\n]', text)
        )
    }
    memory = fields.get('framebuffer', fields.get('high_gm_size', ''))
    size = re.fullmatch(r'([0-9]{1,9})\s*([MG])i?B?', memory)
    framebuffer = None
    if size:
        framebuffer = int(size[1]) * (1024 if size[2] == 'G' else 1)
    instances = re.fullmatch(r'[0-9]{1,9}', fields.get('max_instance', ''))
    return framebuffer, int(instances[0]) if instances else None
