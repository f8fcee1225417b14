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

"""``nova-gpu exporter``."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import logging
import signal
import socket
import socketserver
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn
from wsgiref import simple_server

from cliff import command

from nova_gpu.cli import error, survey
from nova_gpu.cli.guests import AS_ROOT, Unread
from nova_gpu.cli.main import version
from nova_gpu.cli.nvmlwatch import Watch
from nova_gpu.model import metric
from nova_gpu.model.metric import Samples

LOG = logging.getLogger('nova_gpu.cli')

ADDRESS, PORT = '127.0.0.1', 9976
#: A client that sends nothing for so many seconds is left.
PATIENCE = 10
#: What must be there at the start beside the guests, and what to do if not.
NEEDED = {
    'libvirt': (
        'libvirt does not run on this host',
        'start it (systemctl start libvirtd, or virtqemud.socket)',
    ),
    'put_aside': (
        'what is put aside can not be read',
        AS_ROOT,
    ),
}
REMEDIES = {
    errno.EADDRINUSE: 'choose another --port, or end what listens there',
    errno.EACCES: 'choose a --port above 1023',
    errno.EADDRNOTAVAIL: (
        'choose a --listen-address that this host has; 0.0.0.0 is all'
    ),
}


class Exporter(command.Command):
    """Serve this host's GPUs as metrics for Prometheus.

    The host is read anew at each scrape; nothing is written. Cards, units,
    profiles, claims, what is put aside, differences, and which instance holds
    what; with the Python package nvidia-ml-py also what cards and vGPUs under
    NVIDIA's driver do. Run it as root, or with CAP_DAC_READ_SEARCH: what
    guests hold has to be read.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            '--listen-address',
            metavar='ADDRESS',
            default=ADDRESS,
            help='address to serve at (default: %(default)s, this host alone)',
        )
        parser.add_argument(
            '--port',
            type=int,
            default=PORT,
            help='TCP port to serve at; 0 is any free one '
            '(default: %(default)s)',
        )
        parser.add_argument(
            '--once',
            action='store_true',
            help='print the metrics instead of serving them',
        )
        parser.add_argument(
            '--partial',
            action='store_true',
            help=(
                'also start while libvirt is away or guests can not be read: '
                'nova_gpu_source_up says what is missing'
            ),
        )
        parser.add_argument(
            '--no-nvml',
            action='store_true',
            help="do not ask NVIDIA's driver what cards do",
        )
        survey.add_arguments(parser)
        return parser

    def get_epilog(self) -> str:
        # Cliff's reads the file list of every installed distribution.
        return ''

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        # Not above: they are for this command alone, and may not be there.
        try:
            import prometheus_client

            from nova_gpu.cli.collector import Collector
        except ImportError as exc:
            raise error.NotServed(
                'the Python package prometheus-client is not installed',
                "pip install 'nova-gpu[exporter]'",
            ) from exc
        if not 0 <= parsed_args.port <= 65535:
            raise error.UnusableInput(
                f'--port {parsed_args.port}', 'a port is from 0 to 65535'
            )
        watch = None if parsed_args.no_nvml else _watch()
        collector = Collector(
            # Fabric Manager is asked by a program that each scrape would run.
            survey.Surveyor(parsed_args, ask_fabric=False),
            version(),
            watch,
            nvml=not parsed_args.no_nvml,
        )
        with _told_once() as told:
            try:
                first = collector.look(strict=True)
                if not parsed_args.partial:
                    _check(first, collector.unread)
                told.silent = False
                registry = prometheus_client.CollectorRegistry()
                registry.register(collector)
                if parsed_args.once:
                    page = prometheus_client.generate_latest(registry)
                    sys.stdout.write(page.decode())
                else:
                    _serve(
                        parsed_args.listen_address,
                        parsed_args.port,
                        prometheus_client.make_wsgi_app(registry),
                    )
            finally:
                if watch is not None:
                    watch.stop()


def _watch() -> Watch | None:
    try:
        return Watch(importlib.import_module('pynvml'))
    except ImportError:
        return None


def _check(samples: Samples, unread: Unread | None) -> None:
    """Refuse to start without what nearly everything stands on.

    :raises NotServed: it can't be read
    """
    if unread is not None:
        raise error.NotServed(
            f'not all guests of this host can be read: {unread.reason}',
            f'{unread.remedy}; or start with --partial',
        )
    up = samples.of(metric.SOURCE_UP)
    for source, (what, remedy) in NEEDED.items():
        if not up[source,]:
            raise error.NotServed(what, f'{remedy}; or start with --partial')


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


class _Handler(simple_server.WSGIRequestHandler):
    timeout = PATIENCE

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are no news."""


def _serve(address: str, port: int, application: Any) -> None:
    """Serve until the process is told to end."""
    where = f'[{address}]:{port}' if ':' in address else f'{address}:{port}'
    try:
        family, *_ = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        kind = type('Server', (_Server,), {'address_family': family})
        server: simple_server.WSGIServer = simple_server.make_server(
            address, port, application, kind, _Handler
        )
    except OSError as exc:
        raise error.NotServed(
            f'{where}: {exc.strerror or exc}',
            REMEDIES.get(exc.errno or 0, 'choose another --listen-address'),
        ) from exc

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    with server, contextlib.suppress(KeyboardInterrupt):
        where = where.rpartition(':')[0] + f':{server.server_port}'
        LOG.info('serving http://%s/metrics', where)
        server.serve_forever()


class _Once(logging.Filter):
    """Lets a message pass when it is new, not at each scrape.

    None while it is ``silent``: what keeps the program from a start is told
    in one line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()
        self.silent = True

    def filter(self, record: logging.LogRecord) -> bool:
        if self.silent:
            return False
        text = record.getMessage()
        if text in self._told:
            return False
        self._told.add(text)
        return True


@contextlib.contextmanager
def _told_once() -> Iterator[_Once]:
    told = _Once()
    LOG.addFilter(told)
    try:
        yield told
    finally:
        LOG.removeFilter(told)
