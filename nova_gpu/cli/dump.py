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

"""Files that ``nova-gpu schedule explain`` reads: maps and flavors."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import jsonschema

from nova_gpu import exception
from nova_gpu.cli import error
from nova_gpu.model.hostmap import STATS_KEY
from nova_gpu.scheduler.explain import Host
from nova_gpu.scheduler.maps import NONE, read_map

_TEXT = {'type': 'string', 'minLength': 1}
#: A host as ``nova-gpu host map`` prints it, or a row of Nova's table
#: ``compute_nodes``; keys in lower case.
RECORD: dict[str, Any] = {
    'type': 'object',
    'required': ['host'],
    'properties': {
        'host': _TEXT,
        'node': {'type': ['string', 'null'], 'format': 'uuid'},
        'uuid': {'type': 'string', 'format': 'uuid'},
        'map': {'type': ['object', 'string']},
        'stats': {'type': ['object', 'string', 'null']},
        'cards': {
            'type': 'object',
            'additionalProperties': {'type': 'array', 'items': _TEXT},
        },
    },
}
FLAVOR: dict[str, Any] = {
    'type': 'object',
    'required': ['properties'],
    'properties': {
        'properties': {
            'type': ['object', 'string'],
            'additionalProperties': {'type': 'string'},
        }
    },
}
#: Properties as text: older clients print them so in JSON too.
_PROPERTY = re.compile(r"(?:^|, )([^=\s]+)='(.*?)'(?=, |$)")


def read_hosts(path: str) -> Iterator[Host]:
    """The hosts of a dump: objects, or lists of them, one after the other.

    :raises UnusableInput: naming the file, the host and the key
    """
    records = list(_records(path))
    if not records:
        raise error.UnusableInput(path, 'holds no host')
    for number, record in enumerate(records, start=1):
        where = f'{path}, record {number}'
        if isinstance(record, dict):
            record = {key.lower(): value for key, value in record.items()}
        _check(record, RECORD, where)
        yield _host(record, f'{path}, host {record["host"]}')


def read_flavor(path: str) -> dict[str, str]:
    """The extra specs of a flavor, as ``openstack flavor show -f json`` says.

    :raises UnusableInput: naming the file and the key
    """
    records = list(_records(path))
    if len(records) != 1:
        raise error.UnusableInput(
            path, f'holds {len(records)} objects, and should hold one flavor'
        )
    _check(records[0], FLAVOR, path)
    found = records[0]['properties']
    return dict(_PROPERTY.findall(found) if isinstance(found, str) else found)


def _records(path: str) -> Iterator[Any]:
    try:
        # Some programs begin a file with a byte-order mark.
        with open(path, encoding='utf-8-sig') as stream:
            text = stream.read()
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, 'strerror', None) or str(exc)
        raise error.UnusableInput(path, reason) from exc
    decoder = json.JSONDecoder()
    position = 0
    while match := re.compile(r'\S').search(text, position):
        try:
            found, position = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError) as exc:
            raise error.UnusableInput(path, f'is not JSON: {exc}') from exc
        yield from found if isinstance(found, list) else [found]


def _check(record: Any, schema: dict[str, Any], where: str) -> None:
    validator = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.FormatChecker(['uuid'])
    )
    for found in sorted(validator.iter_errors(record), key=str):
        key = ''.join(f"key '{part}': " for part in list(found.path)[:1])
        raise error.UnusableInput(where, f'{key}{found.message}')


def _host(record: dict[str, Any], where: str) -> Host:
    name = record['host']
    # Without it equal cards may be told apart in another way than Nova does.
    node = record.get('uuid') or record.get('node')
    node = node or str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
    reported = None
    if 'map' in record:
        found = record['map']
    elif 'stats' in record:
        stats = _object(record['stats'] or {}, 'stats', where)
        found = stats.get(STATS_KEY)
        count = str(stats.get('num_instances', ''))
        reported = int(count) if count.isdecimal() else None
    else:
        raise error.UnusableInput(where, "has neither 'map' nor 'stats'")
    if not found:
        return Host(name, NONE, reported)
    text = found if isinstance(found, str) else json.dumps(found)
    try:
        gpus = read_map(node, text)
    except exception.InvalidHostMap as exc:
        raise error.UnusableInput(where, str(exc)) from exc
    return Host(name, gpus, reported, record.get('cards', {}))


def _object(value: Any, key: str, where: str) -> dict[str, Any]:
    """An object, or the JSON text of one, as the database has it."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError as exc:
        raise error.UnusableInput(
            where, f"key '{key}': is not JSON: {exc}"
        ) from exc
    if not isinstance(found, dict):
        raise error.UnusableInput(where, f"key '{key}': is no object")
    return found
