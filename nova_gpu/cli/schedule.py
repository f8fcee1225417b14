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

"""``nova-gpu schedule explain``."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cliff import lister

from nova_gpu.cli import error
from nova_gpu.model.expected import mix
from nova_gpu.model.request import gpu_classes

# Not when it runs: whichever command is called, all are loaded, and oslo.log
# takes longer to import than the others run.
if TYPE_CHECKING:
    from nova_gpu.scheduler.explain import Decision, Host

LOG = logging.getLogger('nova_gpu.cli')

COLUMNS = ('Host', 'Decision', 'Weight', 'Pools', 'Cards', 'Reason')
#: What holds servers on NUMA nodes of the host, and traits.
_NOT_LOOKED_AT = re.compile('trait|hw:(numa_|cpu_policy|mem_page_size)')
#: Formats that carry lists; the others get text.
STRUCTURED = ('json', 'yaml')


class ScheduleExplain(lister.Lister):
    """Show what the scheduler would do with a flavor, host by host.

    Decides as GpuFilter and GpuWeigher do, on maps from a file. One row a
    host: those that pass come first, the best before all, with the pools and
    the cards that the server would get; the others with who refuses them and
    the reason. What Placement would find is taken from the maps. CPUs, memory,
    NUMA nodes of servers, traits, aggregates and Nova's other filters and
    weighers are not looked at. Nothing is asked and nothing is changed.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            '--maps',
            metavar='FILE',
            action='append',
            required=True,
            help=(
                'hosts as "nova-gpu host map -f json" prints them, one after '
                'the other, or as JSON from Nova\'s table compute_nodes with '
                'host, uuid and stats; can be repeated'
            ),
        )
        parser.add_argument(
            '--flavor',
            metavar='FILE',
            help='a flavor as "openstack flavor show -f json" prints it',
        )
        parser.add_argument(
            '--property',
            metavar='KEY=VALUE',
            action='append',
            default=[],
            help=(
                'an extra spec, beside those of the flavor or in their '
                'place; can be repeated'
            ),
        )
        parser.add_argument(
            '--expected-request',
            metavar='JSON',
            action='append',
            default=[],
            help=(
                'as in [gpu] expected_request of the schedulers; can be '
                'repeated (default: what is expected if nothing is there)'
            ),
        )
        return parser

    def get_epilog(self) -> str:
        # Cliff's reads the file list of every installed distribution.
        return ''

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        from nova_gpu.scheduler.explain import explain

        hosts = _hosts(parsed_args.maps)
        extra_specs = _extra_specs(parsed_args.flavor, parsed_args.property)
        _check(hosts, extra_specs)
        structured = parsed_args.formatter in STRUCTURED
        expected = mix(tuple(parsed_args.expected_request))
        return COLUMNS, [
            _row(decision, structured)
            for decision in explain(hosts, extra_specs, expected)
        ]


def _hosts(paths: Sequence[str]) -> list[Host]:
    from nova_gpu.cli.dump import read_hosts

    found: dict[str, Host] = {}
    for path in paths:
        for host in read_hosts(path):
            if host.name in found:
                LOG.warning(
                    '%s: host %s is there again; only the last one counts',
                    path,
                    host.name,
                )
            found[host.name] = host
    return list(found.values())


def _extra_specs(
    path: str | None, properties: Sequence[str]
) -> dict[str, str]:
    from nova_gpu.cli.dump import read_flavor

    found = read_flavor(path) if path is not None else {}
    for text in properties:
        key, equals, value = text.partition('=')
        if not key or not equals:
            raise error.UnusableInput(
                '--property', f'{text!r} is not KEY=VALUE'
            )
        found[key] = value
    return found


def _check(hosts: Sequence[Host], extra_specs: dict[str, str]) -> None:
    """Refuse what asks for no GPU, and say what isn't looked at."""
    from nova_gpu.scheduler.explain import looked_at
    from nova_gpu.scheduler.likely import parts

    wanted = looked_at(hosts, extra_specs)
    if not parts(extra_specs, wanted):
        raise error.UnusableInput(
            'the flavor',
            'no resources: property of it asks for a GPU',
        )
    left_out = sorted(gpu_classes(extra_specs) - wanted)
    left_out += sorted(filter(_NOT_LOOKED_AT.match, extra_specs))
    if left_out:
        LOG.info('not looked at: %s', ', '.join(left_out))


def _row(decision: Decision, structured: bool) -> list[Any]:
    refused = decision.refused_by
    weight = decision.weight
    row = [
        decision.host,
        f'refused by {refused}' if refused else 'passes',
        None if weight is None else round(weight, 6),
        list(decision.pools),
        list(decision.cards),
        decision.reason,
    ]
    if structured:
        return row
    return [
        ', '.join(v) if isinstance(v, list) else '' if v is None else v
        for v in row
    ]
