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

"""``nova-gpu config generate``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from cliff import command

from nova_gpu import exception
from nova_gpu.cli import error, survey
from nova_gpu.cli.settings import novas_places, read_sections
from nova_gpu.model.inventory import Offer, Use
from nova_gpu.model.novaconf import (
    ROLES,
    Setting,
    missing,
    native,
    ours,
    overridden,
    render,
    render_missing,
)

LOG = logging.getLogger('nova_gpu.cli')


class ConfigGenerate(command.Command):
    """Print what nova.conf has to say, from the hardware of this host.

    With --diff only what a file lacks, with what it has now, and a warning
    for each option that a file sets otherwise which nova-compute reads later.
    The exit code is then 0 if there is neither, 1 if there is, and 2 if that
    isn't known. Options that a file has besides stay as they are.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            '--role',
            choices=tuple(ROLES),
            action='append',
            help='who reads the file; can be repeated (default: all)',
        )
        parser.add_argument(
            '--profile',
            metavar='NAME',
            action='append',
            default=[],
            help=(
                'vGPU type that cards are to be cut into, by name or id; can '
                'be repeated (default: all that a card has)'
            ),
        )
        parser.add_argument(
            '--native',
            action='store_true',
            help="the settings of Nova's own tracker, without nova-gpu",
        )
        parser.add_argument(
            '--diff',
            metavar='FILE',
            help='nova.conf of which to print what is missing',
        )
        survey.add_arguments(parser)
        return parser

    def get_epilog(self) -> str:
        # Cliff's reads the file list of every installed distribution.
        return ''

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        try:
            settings = _settings(parsed_args)
            if parsed_args.diff is None:
                sys.stdout.write(render(settings))
                return 0
            lacking = missing(settings, read_sections(parsed_args.diff))
            later = {path: read_sections(path) for path in _later(parsed_args)}
        except exception.GpuError as exc:
            if parsed_args.diff is None:
                raise
            LOG.error('%s', exc)  # cliff would exit with 1
            return 2
        sys.stdout.write(render_missing(lacking))
        lost = list(overridden(settings, later))
        for line in lost:
            LOG.warning(line)
        if lacking or lost:
            return 1
        LOG.info('%s lacks nothing', parsed_args.diff)
        return 0


def _later(args: argparse.Namespace) -> Iterator[str]:
    """The files that nova-compute reads after that of --diff."""
    paths = args.config_file or novas_places()
    places = [os.path.realpath(path) for path in paths]
    place = os.path.realpath(args.diff)
    if place in places:
        after = places.index(place) + 1
        yield from filter(os.path.exists, paths[after:])


def _settings(args: argparse.Namespace) -> list[Setting]:
    found = survey.survey(args)
    chosen = _chosen(found.uses, args.profile)
    if args.native:
        _warn(found.uses)
        settings = native(_narrowed(found.uses, args.profile))
    else:
        settings = ours(found.uses, found.settings.rule_texts, chosen)
    roles = args.role or ROLES
    return [setting for setting in settings if setting.role in roles]


def _warn(uses: Iterable[Use]) -> None:
    """Nova prepares no virtual function for a guest."""
    for use in uses:
        if use.mechanism == 'vendor_vfio':
            LOG.warning(
                "%s: Nova itself makes no vGPUs with the vendor's own VFIO "
                'interface; left out',
                use.card.address,
            )


def _chosen(uses: Sequence[Use], wanted: Sequence[str]) -> list[str]:
    """A rule for each model that has one of the profiles.

    :raises nova_gpu.cli.error.NoSuchProfile: no card has one of them
    """
    models: dict[tuple[int, int], list[str]] = {}
    for name in wanted:
        having = [use for use in uses if _has(use, name)]
        if not having:
            there = sorted(
                {o.name for use in uses for o in use.offers if o.name}
            )
            raise error.NoSuchProfile(name, there)
        for use in having:
            card = use.card
            names = models.setdefault((card.vendor_id, card.product_id), [])
            if name not in names:
                names.append(name)
    return [
        json.dumps(
            {
                'vendor_id': f'{vendor:04x}',
                'product_id': f'{product:04x}',
                'profiles': names,
            }
        )
        for (vendor, product), names in models.items()
    ]


def _has(use: Use, name: str) -> bool:
    return any(name in _names(offer) for offer in use.offers)


def _names(offer: Offer) -> set[str]:
    """What a type may be called: its id, its name with the vendor or not."""
    name = offer.name or ''
    return {offer.type_id or '', name, name.partition(' ')[2]} - {''}


def _narrowed(uses: Sequence[Use], wanted: Sequence[str]) -> list[Use]:
    """The uses with no offers but those of the profiles."""
    if not wanted:
        return list(uses)
    return [
        dataclasses.replace(
            use,
            offers=tuple(
                o
                for o in use.offers
                if o.type_id is None or _names(o) & {*wanted}
            ),
        )
        for use in uses
    ]
