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

"""Attributes of sysfs, none of them outside of it."""

from __future__ import annotations

import os
import posix
import re

_VALUE = re.compile(r'[!-~]+')


class Attributes:
    """The attributes below ``top``; folders are relative to it."""

    # posix, not os: eventlet's os asks its hub about what is no regular file,
    # which answers in the place of the kernel.

    def __init__(self, top: str | os.PathLike[str]) -> None:
        self._top = os.path.realpath(top)

    def _folder(self, name: str) -> str:
        """The real path of a folder, which is below ``top``."""
        path = os.path.join(self._top, name)
        try:
            real = os.path.realpath(path, strict=True)
        except OSError as exc:
            exc.filename = path  # it would be only the part that is missing
            raise
        if not real.startswith(os.path.join(self._top, '')):
            raise ValueError(f'{path} leads to {real}, out of {self._top}')
        return real

    def link(self, folder: str, name: str) -> str:
        """The last part of a link's target; ``''`` for no such driver."""
        path = os.path.join(self._folder(folder), name)
        return os.path.basename(os.readlink(path))

    def read(self, folder: str, name: str) -> str:
        """An attribute's text, without what surrounds it."""
        path = os.path.join(self._folder(folder), name)
        fd = posix.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return posix.read(fd, 4096).decode('ascii', 'replace').strip()
        finally:
            posix.close(fd)

    def write(self, folder: str, name: str, value: str) -> None:
        """Write an attribute in one call, never through a link at its end."""
        if not _VALUE.fullmatch(value):
            raise ValueError(f'{value!r} is not one word of plain text')
        path = os.path.join(self._folder(folder), name)
        fd = posix.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            posix.write(fd, value.encode('ascii'))
        except OSError as exc:
            exc.filename = path
            raise
        finally:
            posix.close(fd)
