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

"""``openstack gpu quota``: unified limits, which Keystone keeps for Nova."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from osc_lib.command import command

from nova_gpu.model import catalog
from nova_gpu.osc import error
from nova_gpu.osc.cloud import Cloud

#: The largest limit that Keystone takes.
MOST = 0x7FFFFFFF


def _add_region(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        '--region',
        metavar='<region>',
        help='region of the quota (default: that of the client)',
    )
    group.add_argument(
        '--no-region',
        action='store_true',
        help='a quota that belongs to no region',
    )


def _region(app: Any, parsed_args: argparse.Namespace) -> str | None:
    if parsed_args.no_region:
        return None
    found: str | None = parsed_args.region or app.client_manager.region_name
    return found or None


def _amount(text: str) -> int:
    """A quota: a number, or -1.

    :raises InvalidLimit: it is something else
    """
    number = int(text) if text.removeprefix('-').isdecimal() else -2
    if number < -1 or number > MOST:
        raise error.InvalidLimit(text)
    return number


class ShowGpuQuota(command.Lister):
    """List a project's quotas of GPUs, and what it uses of them.

    A limit of -1 is none. Nova goes by them if [quota] driver in nova.conf is
    nova.quota.UnifiedLimitsDriver.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            'project',
            metavar='<project>',
            nargs='?',
            help='project (name or ID; default: your own)',
        )
        _add_region(parser)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        cloud = Cloud.of(self.app)
        project = cloud.identity.project
        if parsed_args.project is not None:
            project = cloud.identity.find_project(parsed_args.project)
        quotas = cloud.identity.quotas(project, _region(self.app, parsed_args))
        used = cloud.placement.usages(project)
        rows: list[tuple[str, int | None, int | None, int]] = [
            (
                quota.resource_class,
                quota.default if quota.limit is None else quota.limit,
                quota.default,
                used.pop(quota.resource_class, 0),
            )
            for quota in quotas
        ]
        rows += [(name, None, None, count) for name, count in used.items()]
        return ('Profile', 'Limit', 'Default', 'Used'), sorted(
            rows, key=lambda row: row[0]
        )


class SetGpuQuota(command.ShowOne):
    """Set how many units of a profile or card a project may have.

    It takes effect on new servers and resizes; nothing is taken away.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            'profile',
            metavar='<profile>',
            help='profile, card model, or resource class',
        )
        parser.add_argument(
            'limit',
            metavar='<limit>',
            help='how many units; -1 for no limit',
        )
        group = parser.add_mutually_exclusive_group(required=True)
        group.add_argument(
            '--project',
            metavar='<project>',
            help='the project (name or ID)',
        )
        group.add_argument(
            '--default',
            action='store_true',
            help='all projects that have no quota of their own',
        )
        _add_region(parser)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Any]]:
        cloud = Cloud.of(self.app)
        limit = _amount(parsed_args.limit)
        region = _region(self.app, parsed_args)
        known = cloud.placement.classes()
        name = catalog.find_name(parsed_args.profile, known)
        project = None
        if parsed_args.default:
            cloud.identity.set_default(name, limit, region)
        else:
            project = cloud.identity.find_project(parsed_args.project)
            cloud.identity.set_limit(project, name, limit, region)
        return ('profile', 'project', 'region', 'limit'), (
            name,
            project,
            region,
            limit,
        )
