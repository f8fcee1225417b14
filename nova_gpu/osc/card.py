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

"""``openstack gpu list`` and ``show``: the cards of the cloud."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from osc_lib.cli import format_columns
from osc_lib.command import command

from nova_gpu.model import catalog
from nova_gpu.model.capacity import Provider, called
from nova_gpu.osc import error
from nova_gpu.osc.cloud import Cloud
from nova_gpu.osc.placement import each
from nova_gpu.osc.progress import shown


def _read(cloud: Cloud, host: str | None) -> list[Provider]:
    """All cards, or those of one host.

    :raises NotFound: there is no such host with GPUs
    """
    with shown('Reading GPUs') as progress:
        found = cloud.placement.providers(progress)
    nodes = sorted({provider.node for provider in found})
    if host is not None and host not in nodes:
        raise error.NotFound(
            'host with GPUs',
            host,
            nodes,
            'run "nova-gpu host check" on it if it should be one',
        )
    return [p for p in found if host in (None, p.node)]


class ListGpu(command.Lister):
    """List the cards of the cloud, and what servers have of them.

    Whole cards of one model on a host are one line: which of them a server
    has, "nova-gpu host show" on that host tells. The profile of a card that
    servers share is that which it has now; an empty one takes any.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            '--host', metavar='<host>', help='only the cards of this host'
        )
        parser.add_argument(
            '--model',
            metavar='<model>',
            help='only cards of this model, as the column Model has it',
        )
        parser.add_argument(
            '--profile',
            metavar='<profile>',
            help=(
                'only cards that can give this profile or whole card, with '
                'the numbers of it'
            ),
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        found = _read(Cloud.of(self.app), parsed_args.host)
        if parsed_args.model is not None:
            models = sorted({provider.model for provider in found})
            if parsed_args.model not in models:
                raise error.NotFound(
                    'card model',
                    parsed_args.model,
                    models,
                    'see "openstack gpu host list"',
                )
            found = [p for p in found if p.model == parsed_args.model]
        if parsed_args.profile is not None:
            known = {name for provider in found for name in provider.stocks}
            wanted = catalog.find_name(parsed_args.profile, known)
            found = [p.only(wanted) for p in found if wanted in p.stocks]
        return (
            (
                'Host',
                'Card',
                'Model',
                'State',
                'Profile',
                'Total',
                'Used',
                'Free',
                'Servers',
            ),
            [_row(provider) for provider in found],
        )


def _row(provider: Provider) -> Sequence[Any]:
    name = provider.profile
    stock = None if name is None else provider.stocks[name]
    return (
        provider.node,
        provider.address or provider.key,
        provider.model,
        provider.state,
        name,
        stock and stock.total,
        stock and stock.used,
        stock and stock.free,
        len(provider.held),
    )


class ShowGpu(command.ShowOne):
    """Show a card, what it can give, and the servers that have it."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            'card',
            metavar='<card>',
            help=(
                'PCI address, model of whole cards, or name or UUID of the '
                'resource provider'
            ),
        )
        parser.add_argument(
            '--host',
            metavar='<host>',
            help='the host that has it, where several have such a card',
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Any]]:
        cloud = Cloud.of(self.app)
        there = _read(cloud, parsed_args.host)
        found = [p for p in there if called(p, parsed_args.card)]
        if not found:
            raise error.NotFound(
                'card',
                parsed_args.card,
                list(map(_place, there)),
                'see "openstack gpu list"',
            )
        if len(found) > 1:
            raise error.Ambiguous(
                'card',
                parsed_args.card,
                list(map(_place, found)),
                'say which by its address, and with --host',
            )
        (provider,) = found
        return (
            (
                'id',
                'name',
                'host',
                'card',
                'model',
                'vendor',
                'memory_gib_at_least',
                'use',
                'state',
                'profile',
                'profiles',
                'servers',
                'traits',
            ),
            (
                provider.uuid,
                provider.name,
                provider.node,
                provider.address or provider.key,
                provider.model,
                provider.vendor,
                provider.memory_gib,
                provider.use,
                provider.state,
                provider.profile,
                format_columns.ListDictColumn(_profiles(provider)),
                format_columns.ListDictColumn(_servers(cloud, provider)),
                format_columns.ListColumn(sorted(provider.traits)),
            ),
        )


def _place(provider: Provider) -> str:
    return f'{provider.node} {provider.address or provider.key}'


def _profiles(provider: Provider) -> list[dict[str, Any]]:
    return [
        {
            'profile': name,
            'total': stock.total,
            'used': stock.used,
            'free': stock.free,
        }
        for name, stock in provider.stocks.items()
    ]


def _servers(cloud: Cloud, provider: Provider) -> list[dict[str, Any]]:
    """Who holds the card: a migration has an ID, and is no server."""
    consumers = sorted(provider.held)
    servers = each(cloud.compute.server, consumers)
    return [
        {
            'id': consumer,
            'name': server and server.name,
            'project': server and server.project,
            'flavor': server and server.flavor,
            'resources': dict(provider.held[consumer]),
        }
        for consumer, server in zip(consumers, servers, strict=True)
    ]
