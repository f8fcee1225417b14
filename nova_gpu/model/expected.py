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

"""Expected requests as the configuration has them, and back."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from typing import Any

from nova_gpu import exception
from nova_gpu.model.fragmentation import DEFAULT, Kind, Mix

FIELDS = {field.name: field.default for field in dataclasses.fields(Kind)}


@functools.lru_cache(maxsize=8)
def mix(texts: tuple[str, ...]) -> Mix:
    """The mix that the configuration gives; the default if it says nothing.

    :raises InvalidExpected: naming the number of the kind and the field
    """
    if not texts:
        return DEFAULT
    return Mix(_parse(number, text) for number, text in enumerate(texts, 1))


def dump(kind: Kind) -> str:
    """A kind as :func:`mix` reads it; what is the default isn't named."""
    return json.dumps(
        {
            name: value
            for name, value in dataclasses.asdict(kind).items()
            if value != FIELDS[name]
        }
    )


def _parse(number: int, text: str) -> Kind:
    def wrong(field: str, reason: str) -> exception.InvalidExpected:
        return exception.InvalidExpected(number, field, reason)

    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise wrong('', f'{text!r} is not JSON: {exc}') from exc
    if not isinstance(data, dict):
        raise wrong('', f'{text!r} is not a JSON object')
    for name, value in data.items():
        if name not in FIELDS:
            raise wrong(name, f'unknown; there are {", ".join(FIELDS)}')
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            raise wrong(name, f'{value!r} is not a number')
    kind = Kind(**data)
    if not isinstance(kind.gpus, int) or kind.gpus < 1:
        raise wrong('gpus', f'{kind.gpus!r} is not a number of GPUs')
    if not 0 < kind.share <= 1:
        raise wrong('share', f'{kind.share!r} is not above 0 and at most 1')
    if kind.weight <= 0:
        raise wrong('weight', f'{kind.weight!r} is not above 0')
    for name in ('vcpus', 'memory_mib'):
        if getattr(kind, name) < 0:
            raise wrong(name, f'{getattr(kind, name)!r} is below 0')
    return kind
