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


"""``openstack gpu server``: GPUs of a server that exists."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from osc_lib.cli import format_columns
from osc_lib.command import command

from nova_gpu import exception
from nova_gpu.model import catalog
from nova_gpu.model.catalog import CARD, VF, VGPU, GpuClass, is_ours
from nova_gpu.model.flavor import Flavor, create_command, matching, told
from nova_gpu.osc import error
from nova_gpu.osc.cloud import Cloud
from nova_gpu.osc.moves import Moves, Tell

COLUMNS = ('id', 'name', 'status', 'flavor', 'gpus')


class _MoveServer(command.ShowOne):
    """What both commands have in common."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            'server', metavar='<server>', help='name or ID of the server'
        )
        parser.add_argument(
            '--patience', metavar='<seconds>', type=int, default=3600,
            help=(
                'how long the resize may take before it is left alone '
                '(default: 3600)'
            ),
        )  # fmt: skip
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        cloud = Cloud.of(self.app)
        flavors = cloud.flavors.all()
        classes = self._classes(cloud, flavors)
        names = {gpu.name for gpu in classes}
        with _telling() as tell:
            moves = Moves(
                self.app.client_manager.sdk_connection,
                tell,
                parsed_args.patience,
            )
            server = moves.find(parsed_args.server)
            current = moves.flavor_of(server)
            wanted = self._wanted(parsed_args, server.name, current, classes)
            flavor = matching(current, wanted, flavors, names)
            if flavor is None:
                hint = create_command(current, wanted, classes)
                raise exception.NoMatchingFlavor(
                    told(wanted),
                    f'{current.vcpus} vCPUs, {current.ram} MiB of memory, '
                    f'{current.disk} GiB of disk and the same properties',
                    f'an administrator makes it with: {hint}',
                )
            moved = moves.to(server, flavor)
        return COLUMNS, (
            moved.id, moved.name, moved.status, flavor.name,
            format_columns.DictColumn(flavor.gpus(names)),
        )  # fmt: skip

    def _wanted(
        self,
        args: argparse.Namespace,
        server: str,
        current: Flavor,
        classes: Sequence[GpuClass],
    ) -> Mapping[str, int]:
        """What the server is to have then, by class."""
        raise NotImplementedError

    def _classes(
        self, cloud: Cloud, flavors: Iterable[Flavor]
    ) -> list[GpuClass]:
        """The classes of GPUs that there are flavors for, and the cloud's.

        Only administrators see the latter: a member knows by their names
        which classes are of GPUs.
        """
        names = {
            name for flavor in flavors for name in flavor.gpus()
            if is_ours(name)
        }  # fmt: skip
        found: list[GpuClass] = []
        with contextlib.suppress(error.NotAllowed):
            found = catalog.of_providers(cloud.placement.providers())
        names -= {gpu.name for gpu in found}
        return [*found, *(catalog.describe(name) for name in sorted(names))]


class AttachGpuServer(_MoveServer):
    """Give a server GPUs, by a resize that is confirmed.

    The server gets the flavor that has these GPUs and else is like its own:
    the same sizes and the same properties. It is stopped and started on the
    way, perhaps on another host, and keeps its disks and its addresses.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument(
            '--card', metavar='<model>', help='whole cards of a model'
        )
        which.add_argument(
            '--profile', metavar='<profile>',
            help='vGPUs of a profile, or virtual functions',
        )  # fmt: skip
        parser.add_argument(
            '--count', metavar='<count>', type=int, default=1,
            help='how many (default: 1)',
        )  # fmt: skip
        return parser

    def _wanted(
        self,
        args: argparse.Namespace,
        server: str,
        current: Flavor,
        classes: Sequence[GpuClass],
    ) -> Mapping[str, int]:
        has = current.gpus({gpu.name for gpu in classes})
        if has:
            raise error.NotMoved(
                server,
                f'has {told(has)} already; take that away first, with '
                f'"openstack gpu server detach {args.server}"',
            )
        if args.count < 1:
            raise exception.ContradictoryFlavor(
                '--count', f'is {args.count}; a server gets 1 or more GPUs'
            )
        if args.card is not None:
            gpu = catalog.find('card', args.card, classes, (CARD,))
        else:
            gpu = catalog.find('profile', args.profile, classes, (VGPU, VF))
        return {gpu.name: args.count}


class DetachGpuServer(_MoveServer):
    """Take all GPUs from a server, by a resize that is confirmed.

    The server gets the flavor that has no GPU and else is like its own. It is
    stopped and started on the way, perhaps on another host.
    """

    def _wanted(
        self,
        args: argparse.Namespace,
        server: str,
        current: Flavor,
        classes: Sequence[GpuClass],
    ) -> Mapping[str, int]:
        if not current.gpus({gpu.name for gpu in classes}):
            raise error.NotMoved(
                server, f'has no GPU: its flavor {current.name} asks for none'
            )
        return {}


@contextlib.contextmanager
def _telling() -> Iterator[Tell]:
    """A line of a terminal that says how far it is; nothing elsewhere."""
    stream = sys.stderr
    if not stream.isatty():
        yield lambda text: None
        return

    def tell(text: str) -> None:
        stream.write(f'\r\x1b[K{text}')
        stream.flush()

    try:
        yield tell
    finally:
        stream.write('\r\x1b[K')
        stream.flush()
