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


"""``openstack gpu flavor check``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from osc_lib.command import command

from nova_gpu import exception
from nova_gpu.model import serving
from nova_gpu.model.catalog import CARD, VF, describe
from nova_gpu.model.flavor import Flavor
from nova_gpu.model.request import GpuRequest
from nova_gpu.osc import error
from nova_gpu.osc.cloud import Cloud
from nova_gpu.osc.placement import each
from nova_gpu.osc.progress import shown
from nova_gpu.osc.trees import gpu_classes

if TYPE_CHECKING:
    from nova_gpu.scheduler.explain import Decision

COLUMNS = ('Host', 'Now', 'Ever', 'Reason')


class CheckGpuFlavor(command.Lister):
    """Show which hosts can serve a flavor: now, and when they are empty.

    Whether a host can now is Placement's own answer for it; the reason is
    that part of the flavor which the host has not enough of. With --maps the
    answer of GpuFilter counts too. Images, networks, aggregates and Nova's
    other filters are not looked at. Exits with 1 if no host can now.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            'flavor', metavar='<flavor>', help='name or ID of the flavor'
        )
        parser.add_argument(
            '--maps',
            metavar='<file>',
            action='append',
            default=[],
            help=(
                'the maps of hosts, as "nova-gpu host map -f json" prints '
                'them; can be repeated'
            ),
        )
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        self._none = False
        return super().run(parsed_args) or int(self._none)

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        cloud = Cloud.of(self.app)
        (flavor,) = cloud.flavors.find([parsed_args.flavor])
        with shown('Reading hosts') as progress:
            hosts = cloud.placement.trees(progress)
        try:
            never = _never(flavor, gpu_classes(hosts))
            ask = serving.asked(flavor)
        except exception.InvalidExtraSpec as exc:
            raise error.UnusableInput(
                f'flavor {flavor.name}', str(exc)
            ) from exc
        told = _decisions(parsed_args.maps, flavor)

        def row(tree: serving.Tree) -> tuple[str, bool, bool, str | None]:
            reason = never or serving.lacks(tree, ask, now=False)
            ever, now = reason is None, False
            if ever:
                now = cloud.placement.can_now(tree, ask)
            if ever and not now:
                reason = serving.lacks(tree, ask, now=True) or (
                    'Placement has no candidate there'
                )
            decision = told.get(tree.root.name)
            return tree.root.name, *_with(decision, now, ever, reason)

        with shown('Asking for candidates') as progress:
            rows = each(row, hosts, progress)
        self._none = not any(now for _, now, _, _ in rows)
        return COLUMNS, sorted(rows, key=lambda r: (not r[1], not r[2], r[0]))


def _never(flavor: Flavor, known: frozenset[str]) -> str | None:
    """Why no host at all can serve the flavor, by its own words.

    :raises UnusableInput: it asks for no GPU
    """
    gpus = flavor.gpus(known)
    if not gpus:
        raise error.UnusableInput(
            f'flavor {flavor.name}',
            'no resources: property of it asks for a GPU; "openstack gpu '
            'flavor translate" knows older ways to ask for one',
        )
    request = GpuRequest.parse(flavor.extra_specs)
    if all(describe(name).form in (CARD, VF) for name in gpus):
        for key, given in (
            ('gpu:display=on', request.display),
            ('gpu:vgpu_params', request.vgpu_params),
        ):
            if given:
                return f'{key} needs a vGPU, and the flavor has none'
    return None


def _decisions(paths: Sequence[str], flavor: Flavor) -> Mapping[str, Decision]:
    """What GpuFilter says, of the hosts whose maps are in the files."""
    if not paths:
        return {}
    from nova_gpu.cli.dump import read_hosts
    from nova_gpu.scheduler.explain import explain

    hosts = [host for path in paths for host in read_hosts(path)]
    return {d.host: d for d in explain(hosts, flavor.extra_specs)}


def _with(
    decision: Decision | None, now: bool, ever: bool, reason: str | None
) -> tuple[bool, bool, str | None]:
    """What Placement says together with what the host's map says."""
    if decision is None or not now:
        return now, ever, reason
    if decision.refused_by == 'GpuFilter':
        # It refuses on what doesn't change only.
        return False, False, f'GpuFilter: {decision.reason}'
    if decision.reason:
        return False, ever, decision.reason
    return now, ever, reason
