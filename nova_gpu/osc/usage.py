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

"""``openstack gpu usage``: who has how much."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from osc_lib.command import command

from nova_gpu.model.capacity import Holding, by_project, holdings, model_of
from nova_gpu.osc import error
from nova_gpu.osc.cloud import Cloud
from nova_gpu.osc.progress import shown

LOG = logging.getLogger(__name__)

Table = tuple[Sequence[str], Iterable[Sequence[Any]]]


class ShowGpuUsage(command.Lister):
    """List what projects have of each card model and profile.

    With the role admin these are all projects, without it is your own.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            '--project',
            metavar='<project>',
            help='only this project (name or ID)',
        )
        parser.add_argument(
            '--servers',
            action='store_true',
            help='one line for each server, instead of one a project',
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Table:
        cloud = Cloud.of(self.app)
        project = None
        if parsed_args.project is not None:
            project = cloud.identity.find_project(parsed_args.project)
        try:
            found = _all(cloud)
        except error.NotAllowed as exc:
            own = cloud.identity.project
            if project not in (None, own):
                raise
            LOG.warning('Of your own project only: %s', exc.refusal)
            return (_own_servers if parsed_args.servers else _own)(cloud, own)
        if project is not None:
            found = [held for held in found if held.project == project]
        if parsed_args.servers:
            return _servers(cloud, found)
        return _projects(cloud, found)


def _all(cloud: Cloud) -> list[Holding]:
    with shown('Reading GPUs') as progress:
        providers = cloud.placement.providers(progress)
    consumers = {c for provider in providers for c in provider.held}
    with shown('Reading allocations') as progress:
        projects = cloud.placement.projects(consumers, progress)
    return holdings(providers, projects)


PROJECTS = (
    'Project ID', 'Project', 'Model', 'Profile', 'Used', 'Servers',
)  # fmt: skip
SERVERS = (
    'Server ID', 'Server', 'Project ID', 'Flavor', 'Host', 'Model', 'Profile',
    'Used',
)  # fmt: skip


def _projects(cloud: Cloud, found: Iterable[Holding]) -> Table:
    names = cloud.identity.project_names()
    return PROJECTS, [
        (
            row.project,
            names.get(row.project),
            row.model,
            row.resource_class,
            row.used,
            row.consumers,
        )
        for row in by_project(found)
    ]


def _servers(cloud: Cloud, found: Iterable[Holding]) -> Table:
    servers = {s.id: s for s in cloud.compute.servers(all_projects=True)}
    rows = []
    for held in found:
        server = servers.get(held.consumer)
        rows.append(
            (
                held.consumer,
                server and server.name,
                held.project,
                server and server.flavor,
                held.node,
                held.model,
                held.resource_class,
                held.used,
            )
        )
    return SERVERS, rows


def _own(cloud: Cloud, project: str) -> Table:
    """What anybody may ask of Placement and Nova of his own project."""
    servers = cloud.compute.servers()
    return PROJECTS, [
        (
            project,
            cloud.identity.project_names().get(project),
            model_of(name),
            name,
            used,
            sum(name in server.classes for server in servers),
        )
        for name, used in cloud.placement.usages(project).items()
    ]


def _own_servers(cloud: Cloud, project: str) -> Table:
    return SERVERS, [
        (
            server.id,
            server.name,
            server.project,
            server.flavor,
            None,
            model_of(name),
            name,
            count,
        )
        for server in cloud.compute.servers()
        for name, count in server.classes.items()
    ]
