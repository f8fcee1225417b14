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

"""The ``gpu:`` extra specs, as Nova's API validates them.

Loaded by Nova through the entry point ``nova.api.extra_spec_validators``: a
typing error is HTTP 400 when the flavor is made, not a server without a
screen.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from nova import exception as nova_exception
from nova.api.validation.extra_specs import base

from nova_gpu import exception
from nova_gpu.model import request


@dataclasses.dataclass
class GpuExtraSpecValidator(base.ExtraSpecValidator):
    """Leaves the decision, and the message, to the model."""

    def validate(self, name: str, value: str) -> None:
        try:
            request.check_extra_spec(name, value)
        except exception.InvalidExtraSpec as exc:
            raise nova_exception.ValidationError(
                f'Validation failed; {exc}'
            ) from exc


_DESCRIPTIONS = {
    'gpu:display': 'Whether one vGPU of the server shows its screen.',
    'gpu:isolation': (
        'Whom the cards of the server are shared with: anybody, its project '
        'or nobody.'
    ),
    'gpu:numa_affinity': (
        "Whether the server's CPUs and memory must, should or need not be "
        'on the NUMA node of its GPUs.'
    ),
    'gpu:topology': (
        'What whole cards of the server must share at least, or should: '
        'NVLink, a PCIe switch, a NUMA node.'
    ),
    'gpu:vgpu_params': 'Plugin parameters of the vGPUs: key=value,key=value.',
}


def register() -> list[base.ExtraSpecValidator]:
    """All validators; the last catches the keys that don't exist."""
    string: dict[str, Any] = {'type': str}
    known = [
        GpuExtraSpecValidator(
            name=key, description=_DESCRIPTIONS[key], value=string
        )
        for key in request.KEYS
    ]
    unknown = GpuExtraSpecValidator(
        name='gpu:{key}',
        description='Any other key of this namespace is refused.',
        value=string,
        parameters=[{'name': 'key', 'pattern': '.*'}],
    )
    return [*known, unknown]
