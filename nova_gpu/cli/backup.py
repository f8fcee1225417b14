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

"""Writing an operator's files, with a way back."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable

from nova_gpu.model.prepare import Command

FOLDER = 'var/lib/nova-gpu/prepare'
#: An operator's files may have bytes that aren't UTF-8, which have to stay.
ANY_BYTES = 'surrogateescape'


class Backup:
    """Files below a root as they were before the first change.

    The folder holds a copy of each file that was there, and ``files.json``:
    for each path whether there was one. It is written before the file is
    changed, so that nothing is lost by a program that is stopped.
    ``commands.json`` has the commands that take back what commands did.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = pathlib.Path(root)
        self._folder = self._root / FOLDER
        self._list = self._folder / 'files.json'
        self._commands = self._folder / 'commands.json'

    def write(self, path: str, content: str) -> None:
        """Write a file, and keep what was there before the first time.

        A script with ``#!`` can be executed.
        """
        target = self._target(path)
        before = self._read()
        if path not in before:
            there = target.exists()
            if there:
                _write(self._copy(path), target.read_bytes(), target)
            before[path] = there
            text = json.dumps(before, indent=1, sort_keys=True)
            _write(self._list, text.encode())
        _write(target, content.encode(errors=ANY_BYTES), target)
        if content.startswith('#!'):
            target.chmod(0o755)

    def remember(self, undo: Iterable[Command]) -> None:
        """Keep commands for :meth:`commands`; the same one only once."""
        there = self.commands()
        there += [command for command in undo if command not in there]
        if there:
            text = json.dumps([dataclasses.asdict(c) for c in there], indent=1)
            _write(self._commands, text.encode())

    def commands(self) -> list[Command]:
        """What takes back what commands did, to be run before the rest."""
        try:
            found = json.loads(self._commands.read_text())
            return [
                Command(tuple(c['words']), c['why'], c['device'])
                for c in found
            ]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as exc:
            raise OSError(f'{self._commands}: {exc!r}') from exc

    def restore(self) -> list[str]:
        """Bring all files back; returns their paths."""
        before = self._read()
        self._commands.unlink(missing_ok=True)
        for path, there in before.items():
            target = self._target(path)
            if there:
                copy = self._copy(path)
                _write(target, copy.read_bytes(), copy)
            else:
                target.unlink(missing_ok=True)
        for path in before:
            self._copy(path).unlink(missing_ok=True)
        self._list.unlink(missing_ok=True)
        return sorted(before)

    def _target(self, path: str) -> pathlib.Path:
        return self._root / path.lstrip('/')

    def _copy(self, path: str) -> pathlib.Path:
        return self._folder / path.lstrip('/').replace('/', '_')

    def _read(self) -> dict[str, bool]:
        try:
            found: dict[str, bool] = json.loads(self._list.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as exc:
            raise OSError(f'{self._list}: {exc}') from exc
        return found


def _write(
    path: pathlib.Path, content: bytes, like: pathlib.Path | None = None
) -> None:
    """Write a file at once, with the mode of another if that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix='.nova-gpu-')
    try:
        with os.fdopen(descriptor, 'wb') as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        mode = 0o644
        if like is not None and like.exists():
            mode = like.stat().st_mode & 0o7777
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
