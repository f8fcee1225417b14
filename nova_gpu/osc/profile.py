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

"""``openstack gpu profile list``: what there is to ask for."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from osc_lib.cli import format_columns
from osc_lib.command import command

from nova_gpu.model import serving
from nova_gpu.model.capacity import (
    ProfileStock,
    by_profile,
    classes,
    model_of,
)
from nova_gpu.osc import error
from nova_gpu.osc.cloud import Cloud
from nova_gpu.osc.progress import shown

LOG = logging.getLogger(__name__)

COLUMNS = ('Profile', 'Model', 'Cards', 'Total', 'Used', 'Free', 'Flavors')


class ListGpuProfile(command.Lister):
    """List the profiles and whole cards of the cloud, and how many are free.

    The total is what there would be if each card that can give the profile
    gave nothing else. With a flavor it is told how many more servers of it
    would fit now, by what Placement knows: GPUs, CPUs, memory, disk, traits
    and disabled hosts. Without the role admin only the profiles that flavors
    ask for are listed, without numbers.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            '--flavor',
            metavar='<flavor>',
            help=(
                'only what this flavor asks for, and how many more servers '
                'of it would fit'
            ),
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        cloud = Cloud.of(self.app)
        flavors = cloud.flavors.all()
        asked: dict[str, list[str]] = {}
        for flavor in flavors:
            for name in classes(flavor.extra_specs):
                asked.setdefault(name, []).append(flavor.name)
        if parsed_args.flavor is not None:
            return self._one(cloud, parsed_args.flavor, asked)
        try:
            rows = self._stocks(cloud)
        except error.NotAllowed as exc:
            LOG.warning('Without numbers: %s', exc.refusal)
            return COLUMNS, [_unknown(name, asked) for name in sorted(asked)]
        return COLUMNS, [_row(stock, asked) for stock in rows]

    def _one(
        self, cloud: Cloud, name: str, asked: dict[str, list[str]]
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        (flavor,) = cloud.flavors.find([name])
        wanted = classes(flavor.extra_specs)
        if not wanted:
            raise error.NotFound(
                'GPU in the flavor',
                flavor.name,
                sorted({f for names in asked.values() for f in names}),
                'name a flavor that asks for one',
            )
        stocks = self._stocks(cloud)
        found = cloud.placement.candidates(serving.asked(flavor).query())
        more = serving.count(found)
        return (*COLUMNS, 'More Servers'), [
            (*_row(stock, asked), more)
            for stock in stocks
            if stock.resource_class in wanted
        ]

    def _stocks(self, cloud: Cloud) -> list[ProfileStock]:
        with shown('Reading GPUs') as progress:
            return by_profile(cloud.placement.providers(progress))


def _row(stock: ProfileStock, asked: dict[str, list[str]]) -> tuple[Any, ...]:
    return (
        stock.resource_class,
        stock.model,
        stock.cards,
        stock.total,
        stock.used,
        stock.free,
        format_columns.ListColumn(asked.get(stock.resource_class, [])),
    )


def _unknown(name: str, asked: dict[str, list[str]]) -> tuple[Any, ...]:
    flavors = format_columns.ListColumn(asked[name])
    return name, model_of(name), None, None, None, None, flavors
