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

"""Reading the rules of ``[gpu]``."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Collection, Iterable
from typing import Any

import jsonschema

from nova_gpu import exception
from nova_gpu.model.address import PciAddress
from nova_gpu.model.rule import ALL, USES, Rule

_HEX = {'type': 'string', 'pattern': r'^(0x)?[0-9a-fA-F]{4}\Z'}
SCHEMA: dict[str, Any] = {
    'type': 'object',
    'additionalProperties': False,
    'minProperties': 1,
    'properties': {
        'address': {'type': 'string', 'pattern': r'^[0-9a-fA-F:.*?]+\Z'},
        'vendor_id': _HEX,
        'product_id': _HEX,
        'numa_node': {'type': 'integer', 'minimum': -1},
        'mechanism': {'type': 'string'},
        'use': {'enum': list(USES)},
        'profiles': {
            'type': 'array',
            'minItems': 1,
            'items': {'type': 'string'},
        },
        'reserved': {'type': 'integer', 'minimum': 0},
        'resource_class': {
            'type': 'string',
            'pattern': r'^(PGPU|VGPU|CUSTOM_[A-Z0-9_]+)\Z',
        },
        'traits': {
            'type': 'array',
            'items': {'type': 'string', 'pattern': r'^CUSTOM_[A-Z0-9_]+\Z'},
        },
        'virtual_functions': {
            'type': ['integer', 'string'],
            'minimum': 1,
            'pattern': r'^all\Z',
        },
        'clique': {'type': 'string', 'pattern': r'^[A-Za-z0-9_.: -]+\Z'},
        'module': {'type': 'integer', 'minimum': 0},
    },
}


def parse_rules(
    texts: Iterable[str], mechanisms: Collection[str] | None = None
) -> tuple[Rule, ...]:
    """The rules in the order in which they are given.

    :param mechanisms: the names of those that are installed; None if it
        isn't known which are
    :raises InvalidRule: naming the rule's number and the field
    """
    rules = tuple(
        _parse(number, text) for number, text in enumerate(texts, start=1)
    )
    for rule in rules:
        if mechanisms is None or rule.mechanism in (None, *mechanisms):
            continue
        raise exception.InvalidRule(
            rule.number,
            'mechanism',
            f'{rule.mechanism!r} is not one of {", ".join(mechanisms)}',
        )
    return rules


def _parse(number: int, text: str) -> Rule:
    def no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for field, count in collections.Counter(k for k, _ in pairs).items():
            if count > 1:
                raise exception.InvalidRule(number, field, 'is given twice')
        return dict(pairs)

    try:
        data = json.loads(text, object_pairs_hook=no_doubles)
    except ValueError as exc:
        raise exception.InvalidRule(
            number, '(all)', f'{text!r} is not JSON: {exc}'
        ) from exc
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for error in sorted(validator.iter_errors(data), key=str):
        field = str(error.path[0]) if error.path else _unknown(data)
        raise exception.InvalidRule(number, field, error.message)
    return Rule(
        number=number,
        address=_address(data.get('address')),
        vendor_id=_hex(data.get('vendor_id')),
        product_id=_hex(data.get('product_id')),
        numa_node=data.get('numa_node'),
        mechanism=data.get('mechanism'),
        use=data.get('use'),
        profiles=_tuple(data.get('profiles')),
        reserved=data.get('reserved'),
        resource_class=data.get('resource_class'),
        traits=_tuple(data.get('traits')),
        virtual_functions=_count(data.get('virtual_functions')),
        clique=data.get('clique'),
        module=data.get('module'),
    )


def _unknown(data: object) -> str:
    names = (
        sorted(set(data) - set(SCHEMA['properties']))
        if isinstance(data, dict)
        else []
    )
    return re.sub(r'\s+', ' ', ', '.join(names)) or '(all)'


def _address(value: str | None) -> str | None:
    """The pattern, in the form in which cards have their addresses."""
    if value is None:
        return None
    try:
        return str(PciAddress.parse(value))
    except exception.InvalidAddress:
        return value.lower()


def _hex(value: str | None) -> int | None:
    return None if value is None else int(value, 16)


def _count(value: int | str | None) -> int | None:
    return ALL if value == 'all' else value  # type: ignore[return-value]


def _tuple(value: list[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)
