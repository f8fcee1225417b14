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

"""Reading small files below a root, without surprises.

A file of sysfs can be missing, empty, unreadable, cut or filled with
something else at any moment. A reader returns what it can, and remembers a
warning with the path and the value for what it can't.
"""

from __future__ import annotations

import errno
import os
import pathlib
import posix
import re

#: No attribute of sysfs is larger than a page; some architectures have 64 KiB.
ATTRIBUTE = 65536
_NUMBER = re.compile(r'-?[0-9]{1,18}')


class Tree:
    """The files below one root; ``reads`` counts what was opened."""

    def __init__(self, root: str | os.PathLike[str] = '/') -> None:
        self.root = pathlib.Path(root)
        self._prefix = os.fspath(self.root).rstrip('/')
        self.reads = 0
        self.warnings: list[str] = []

    def path(self, name: str) -> str:
        """The full path of ``name``, which is relative to the root."""
        return f'{self._prefix}/{name}'

    def warn(self, name: str, reason: str) -> None:
        """Remember that ``name`` could not be used."""
        self.warnings.append(f'{self.path(name)}: {reason}')

    def text(
        self, name: str, *, optional: bool = False, limit: int = ATTRIBUTE
    ) -> str | None:
        """The stripped content of a file, or None.

        A file that isn't there is worth a warning unless ``optional``; one
        that is there and can't be read always is.
        """
        self.reads += 1
        try:
            # Half the time of open(), and a host has thousands of files.
            # Not os: on eventlet that asks the hub about what is no regular
            # file, and a directory here would break another green thread.
            descriptor = posix.open(self.path(name), os.O_RDONLY)
            try:
                content = posix.read(descriptor, limit)
            finally:
                posix.close(descriptor)
            return content.decode('utf-8', 'replace').strip()
        except OSError as exc:
            missing = exc.errno in (errno.ENOENT, errno.ENOTDIR)
            if not (optional and missing):
                self.warn(name, os.strerror(exc.errno or errno.EIO))
            return None

    def number(self, name: str, *, optional: bool = False) -> int | None:
        """The file's content as a number, or None with a warning."""
        text = self.text(name, optional=optional)
        if text is None:
            return None
        if not _NUMBER.fullmatch(text):
            self.warn(name, f'{text[:40]!r} is not a number')
            return None
        return int(text)

    def hex_number(self, name: str, digits: int) -> int | None:
        """The file's content as ``0x`` and so many digits, or None.

        A cut number is a number as well: only its length tells.
        """
        text = self.text(name)
        if text is None:
            return None
        if not re.fullmatch(f'0x[0-9a-f]{{{digits}}}', text):
            self.warn(
                name,
                f'{text[:40]!r} is not a number of {digits} hexadecimal '
                f'digits',
            )
            return None
        return int(text, 16)

    def link(self, name: str) -> str | None:
        """The last part of a symbolic link's target, or None."""
        target = self.target(name)
        return None if target is None else target.rpartition('/')[2]

    def target(self, name: str) -> str | None:
        """The target of a symbolic link as it is written, or None."""
        self.reads += 1
        try:
            return os.readlink(self.path(name))
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR):
                self.warn(name, os.strerror(exc.errno or errno.EIO))
            return None

    def names(self, name: str, *, optional: bool = True) -> list[str]:
        """The sorted entries of a directory; none if it isn't there."""
        self.reads += 1
        try:
            return sorted(os.listdir(self.path(name)))
        except OSError as exc:
            missing = exc.errno in (errno.ENOENT, errno.ENOTDIR)
            if not (optional and missing):
                self.warn(name, os.strerror(exc.errno or errno.EIO))
            return []
