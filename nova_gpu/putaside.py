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

"""Units that are put aside until an operator releases them.

One small file for each, since there is no database: what is put aside stays
so over a restart, and the command line, a process of its own, sees it.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import uuid

from nova_gpu import exception
from nova_gpu.model.address import PciAddress

#: Where they are unless ``[gpu] put_aside_dir`` says something else.
FOLDER = '/var/lib/nova/gpu/put-aside'


class PutAside:
    """The units put aside, as the files of one folder."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = os.fspath(folder)

    def read(self) -> dict[str, str]:
        """Each device with the reason; no folder means none.

        A file that can't be read still puts its device aside.

        :raises OSError: the folder can't be listed
        """
        try:
            names = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return {}
        return {name: self._reason(name) for name in names if _is_device(name)}

    def add(self, device: str, reason: str) -> None:
        """Put a device aside; the last reason counts.

        :raises OSError: it could not be written
        :raises ValueError: ``device`` is no PCI address and no UUID
        """
        path = self._path(device)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
        os.makedirs(self._folder, mode=0o755, exist_ok=True)
        # Named as no device is: a reader takes it for none.
        temporary = os.path.join(self._folder, f'.{uuid.uuid4()}.tmp')
        try:
            with open(temporary, 'x') as stream:
                json.dump({'reason': reason, 'since': now}, stream)
                os.fchmod(stream.fileno(), 0o644)
                stream.flush()
                # What is put aside may have hung the host.
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def remove(self, device: str) -> bool:
        """Take a device back; whether it was put aside.

        :raises OSError: it could not be removed
        :raises ValueError: ``device`` is no PCI address and no UUID
        """
        try:
            os.unlink(self._path(device))
        except FileNotFoundError:
            return False
        return True

    def _path(self, device: str) -> str:
        return os.path.join(self._folder, device_name(device))

    def _reason(self, name: str) -> str:
        path = os.path.join(self._folder, name)
        try:
            with open(path, 'rb') as stream:
                reason = json.load(stream)['reason']
        except OSError as exc:
            return f'{path}: {exc.strerror or exc}'
        except (ValueError, TypeError, KeyError) as exc:
            return f'{path}: not readable: {exc!r}'
        return str(reason)


def device_name(device: str) -> str:
    """``device`` in the one form that the kernel prints.

    :raises ValueError: it is no PCI address and no UUID
    """
    try:
        return str(PciAddress.parse(device))
    except exception.InvalidAddress:
        pass
    try:
        return str(uuid.UUID(device))
    except ValueError as exc:
        raise ValueError(
            f'{device!r} is neither a PCI address nor the UUID of a mediated '
            f'device'
        ) from exc


def _is_device(name: str) -> bool:
    try:
        return device_name(name) == name
    except ValueError:
        return False
