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

"""What ``nova-gpu host record`` has written of the links between cards."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import tempfile
from collections.abc import Iterable
from typing import Any

from nova_gpu.model.address import PciAddress
from nova_gpu.model.links import LinkedCard

PATH = '/var/lib/nova/gpu/links.json'
VERSION = 1

_ADDRESS = r'^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]\Z'
_ID = {'type': 'string', 'pattern': r'^[0-9a-f]{4}\Z'}
SCHEMA: dict[str, Any] = {
    'type': 'object',
    'required': ['version', 'cards'],
    'properties': {
        'version': {'const': VERSION},
        'cards': {
            'type': 'array',
            'items': {
                'type': 'object',
                'required': [
                    'address', 'vendor_id', 'product_id', 'subsystem',
                    'links', 'switched', 'switches', 'down',
                ],
                'properties': {
                    'address': {'type': 'string', 'pattern': _ADDRESS},
                    'vendor_id': _ID,
                    'product_id': _ID,
                    'subsystem': {
                        'type': 'array',
                        'items': _ID,
                        'minItems': 2,
                        'maxItems': 2,
                    },
                    'links': {
                        'type': 'object',
                        'propertyNames': {'pattern': _ADDRESS},
                        'additionalProperties': {
                            'type': 'integer',
                            'minimum': 1,
                        },
                    },
                    'switched': {'type': 'boolean'},
                    'switches': {
                        'type': 'array',
                        'items': {'type': 'string', 'pattern': _ADDRESS},
                    },
                    'down': {'type': 'integer', 'minimum': 0},
                },
            },
        },
    },
}  # fmt: skip


class LinksFile:
    """The file, which is replaced as a whole."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._last: tuple[object, tuple[LinkedCard, ...]] | None = None

    def read(self) -> tuple[LinkedCard, ...]:
        """The cards that were recorded; none without the file.

        It is parsed when it has changed, and not at each look at the host.

        :raises OSError: it can't be read
        :raises ValueError: it isn't such a file; names the place in it
        """
        try:
            with open(self.path, encoding='utf-8') as stream:
                stat = os.fstat(stream.fileno())
                stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                if self._last is None or self._last[0] != stamp:
                    self._last = stamp, _parse(stream.read())
        except FileNotFoundError:
            return ()
        return self._last[1]

    def write(self, cards: Iterable[LinkedCard], driver: str) -> None:
        """Replace what was recorded; ``driver`` is the version that told.

        :raises OSError: it can't be written
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
        content = {
            'version': VERSION,
            'recorded': now,
            'driver': driver,
            'cards': [_record(card) for card in cards],
        }
        folder = os.path.dirname(self.path)
        _make(folder)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix='.links')
        try:
            with open(descriptor, 'w', encoding='utf-8') as stream:
                json.dump(content, stream, indent=1)
                os.fchmod(stream.fileno(), 0o644)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def _make(folder: str) -> None:
    """Make the folder; it belongs to whom the one above it belongs.

    Root runs the command, and nova-compute keeps its own files there.
    """
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    _make(above)
    os.mkdir(folder, mode=0o755)
    owner = os.stat(above)
    os.chown(folder, owner.st_uid, owner.st_gid)


def _record(card: LinkedCard) -> dict[str, Any]:
    return {
        'address': str(card.address),
        'vendor_id': f'{card.vendor_id:04x}',
        'product_id': f'{card.product_id:04x}',
        'subsystem': [f'{number:04x}' for number in card.subsystem],
        'links': {str(other): n for other, n in sorted(card.links.items())},
        'switched': card.switched,
        'switches': [str(switch) for switch in card.switches],
        'down': card.down,
    }


def _parse(text: str) -> tuple[LinkedCard, ...]:
    # Not above: most hosts have no such file, and this is slow to import.
    import jsonschema

    try:
        content = json.loads(text)
    except RecursionError as exc:
        raise ValueError(str(exc)) from exc
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for error in sorted(validator.iter_errors(content), key=str):
        raise ValueError(f'{error.json_path}: {error.message}')
    return tuple(map(_card, content['cards']))


def _card(record: dict[str, Any]) -> LinkedCard:
    vendor, device = record['subsystem']
    return LinkedCard(
        address=PciAddress.parse(record['address']),
        vendor_id=int(record['vendor_id'], 16),
        product_id=int(record['product_id'], 16),
        subsystem=(int(vendor, 16), int(device, 16)),
        links={
            PciAddress.parse(other): number
            for other, number in record['links'].items()
        },
        switched=record['switched'],
        switches=tuple(map(PciAddress.parse, record['switches'])),
        down=record['down'],
    )
