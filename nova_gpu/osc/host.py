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

"""``openstack gpu host``: the hosts with GPUs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from osc_lib.command import command

from nova_gpu.model.capacity import by_host
from nova_gpu.osc.cloud import Cloud
from nova_gpu.osc.progress import shown


class ListGpuHost(command.Lister):
    """List the hosts with GPUs, and how many cards of each model are empty.

    A card is empty if all of it can be had, and full if no more of it can be
    had: because servers have it, or because it is reserved or put aside.
    """

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        cloud = Cloud.of(self.app)
        with shown('Reading GPUs') as progress:
            providers = cloud.placement.providers(progress)
        states = cloud.compute.states()
        return (
            (
                'Host',
                'State',
                'Model',
                'Use',
                'Cards',
                'Empty',
                'Full',
                'Servers',
            ),
            [
                (
                    row.node,
                    states.get(row.node, 'unknown'),
                    row.model,
                    row.use,
                    row.cards,
                    row.empty,
                    row.full,
                    row.consumers,
                )
                for row in by_host(providers)
            ],
        )
