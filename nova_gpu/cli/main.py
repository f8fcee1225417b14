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


"""The program ``nova-gpu``."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import logging
import os
import signal
import sys
from typing import Any

from cliff import app, commandmanager

NAMESPACE = 'nova_gpu.cli'
NAME = 'nova-gpu'


class OneLine(logging.Formatter):
    """``error: …``, each on a line of its own; a traceback if there is one."""

    WORDS = {
        logging.DEBUG: 'debug',
        logging.INFO: 'note',
        logging.WARNING: 'warning',
    }

    def formatMessage(self, record: logging.LogRecord) -> str:
        word = self.WORDS.get(record.levelno, 'error')
        return f'{word}: {" ".join(record.message.split())}'


class GpuApp(app.App):
    """Commands that read a host and change nothing.

    None of them imports Nova: they also work where it isn't installed, and
    start at once where it is.
    """

    NAME = NAME
    LOG = logging.getLogger(NAMESPACE)

    def __init__(self) -> None:
        super().__init__(
            description="Shows a host's GPUs as Nova hands them out.",
            version=version(),
            command_manager=commandmanager.CommandManager(NAMESPACE),
            # Otherwise --help after a command is that of the program.
            deferred_help=True,
        )

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, Any] | None = None,
    ) -> argparse.ArgumentParser:
        return super().build_option_parser(
            description, version, {'prog': NAME, **(argparse_kwargs or {})}
        )

    def configure_logging(self) -> None:
        root = logging.getLogger()
        before = tuple(root.handlers)
        super().configure_logging()
        for handler in root.handlers:
            # A FileHandler is one too, and keeps its own format.
            if handler not in before and type(handler) is (
                logging.StreamHandler
            ):
                handler.setFormatter(OneLine())

    def interact(self) -> None:
        # Without a command: the help, not cliff's shell, slow to start. Of
        # old releases of cliff the help itself exits, with 0.
        with contextlib.suppress(SystemExit):
            self.run_subcommand(['help'])
        raise SystemExit(1)


def version() -> str:
    """The installed release of nova-gpu."""
    try:
        return importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        return 'unknown'


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0 if it did what it was asked."""
    if sys.stdout is None:
        # To find out when all is done would be late.
        print('error: the standard output is closed', file=sys.stderr)
        return 2
    root = logging.getLogger()
    handlers, level = tuple(root.handlers), root.level
    try:
        code = GpuApp().run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except OSError as exc:
        # What is left would be flushed at Python's end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(exc, BrokenPipeError):
            return 128 + signal.SIGPIPE
        print(f'error: the standard output: {exc.strerror}', file=sys.stderr)
        return 2
    finally:
        # For callers in the same process: cliff leaves its handlers there.
        for handler in root.handlers[:]:
            if handler not in handlers:
                root.removeHandler(handler)
                handler.close()
        root.setLevel(level)


if __name__ == '__main__':
    sys.exit(main())
