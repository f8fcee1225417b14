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


"""``openstack gpu flavor create``."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from osc_lib.cli import format_columns, parseractions
from osc_lib.command import command

from nova_gpu.model import catalog, request
from nova_gpu.model.catalog import CARD, VF, VGPU, GpuClass
from nova_gpu.model.flavor import Flavor, Policy, extra_specs
from nova_gpu.osc.cloud import Cloud
from nova_gpu.osc.progress import shown

COLUMNS = (
    'id', 'name', 'vcpus', 'ram', 'disk', 'resource_class', 'count',
    'properties',
)  # fmt: skip
_UNITS = {'': 1024, 'g': 1024, 'm': 1}


class CreateGpuFlavor(command.ShowOne):
    """Make a flavor with GPUs.

    Cards and profiles are those of the cloud: "openstack gpu profile list"
    shows them. A name needs no vendor, and a part of it is enough if only one
    has it. Nothing is made if the policy of GPUs contradicts itself.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            'name', metavar='<name>', help='name of the flavor'
        )
        add_gpu_options(parser)
        add_policy_options(parser)
        sizes = parser.add_argument_group('sizes')
        for option, metavar, default, text in (
            ('--vcpus', '<count>', None, 'number of vCPUs'),
            ('--ram', '<MiB>', None, 'memory'),
            ('--disk', '<GiB>', 0, 'size of the root disk (default: 0)'),
            ('--ephemeral', '<GiB>', 0, 'size of the ephemeral disk'),
            ('--swap', '<MiB>', 0, 'size of the swap disk'),
        ):
            sizes.add_argument(
                option, metavar=metavar, type=_natural, default=default,
                required=default is None, help=text,
            )  # fmt: skip
        parser.add_argument(
            '--property', metavar='<key=value>', dest='properties', default={},
            action=parseractions.KeyValueAction,
            help='another extra spec; can be repeated',
        )  # fmt: skip
        parser.add_argument(
            '--private', action='store_true',
            help='for projects only that "openstack flavor set" names',
        )  # fmt: skip
        parser.add_argument('--description', metavar='<text>')
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        cloud = Cloud.of(self.app)
        with shown('Reading GPUs') as progress:
            classes = catalog.of_providers(
                cloud.placement.providers(progress=progress)
            )
        gpu = meant(parsed_args, classes)
        count = parsed_args.count
        specs = extra_specs(gpu, count, policy(parsed_args))
        if count > gpu.largest:
            self.log.warning(
                'No host gives more than %d %s at once: no server with %d '
                'will start until one does',
                gpu.largest, gpu.name, count,
            )  # fmt: skip
        flavor = Flavor(
            parsed_args.name,
            parsed_args.vcpus,
            parsed_args.ram,
            parsed_args.disk,
            parsed_args.ephemeral,
            parsed_args.swap,
            {**parsed_args.properties, **specs},
        )
        made = cloud.flavors.create(
            flavor, not parsed_args.private, parsed_args.description
        )
        return COLUMNS, (
            made.id, made.name, made.vcpus, made.ram, made.disk, gpu.name,
            count, format_columns.DictColumn(dict(flavor.extra_specs)),
        )  # fmt: skip


def add_gpu_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which GPUs, and how many."""
    group = parser.add_argument_group('GPUs')
    which = group.add_mutually_exclusive_group(required=True)
    which.add_argument(
        '--card', metavar='<model>', help='whole cards of a model: A100-SXM4'
    )
    which.add_argument(
        '--profile', metavar='<profile>',
        help='vGPUs of a profile, or virtual functions: A40-8Q, MI300X',
    )  # fmt: skip
    which.add_argument(
        '--memory', metavar='<size>', type=memory_mib,
        help=(
            'what has so much memory of its own, in GiB, or in MiB with an '
            'M: the smallest profile of the cloud that has it, or a card if '
            'no profile has'
        ),
    )  # fmt: skip
    group.add_argument(
        '--series', choices=tuple('ABCQ'),
        help="with --memory: the last letter of the profile's name",
    )  # fmt: skip
    group.add_argument(
        '--count', metavar='<count>', type=int, default=1,
        help='how many (default: 1)',
    )  # fmt: skip


def add_policy_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how a server is to have them."""
    group = parser.add_argument_group('policy')
    for option, values in (
        ('--topology', request.KEYS['gpu:topology']),
        ('--numa-affinity', request.NUMA_AFFINITY),
        ('--isolation', request.ISOLATION),
    ):
        key = f'gpu:{option[2:].replace("-", "_")}'
        group.add_argument(
            option, choices=values, help=f'the extra spec {key}'
        )
    group.add_argument(
        '--display', action='store_true',
        help='one vGPU shows the screen of the server',
    )  # fmt: skip
    group.add_argument(
        '--vgpu-params', metavar='<key=value,...>', help='plugin parameters'
    )
    group.add_argument(
        '--hide-hypervisor', action='store_true',
        help='for drivers in the guest that refuse to run in one',
    )  # fmt: skip
    group.add_argument(
        '--address-bits', metavar='<bits>', type=_bits,
        help=(
            'width of physical addresses, for large cards and much memory, '
            'or "host" for that of the host; nova-compute works it out if '
            'nothing is said'
        ),
    )  # fmt: skip


def policy(args: argparse.Namespace) -> Policy:
    """The policy that the options say."""
    names = (field.name for field in dataclasses.fields(Policy))
    return Policy(**{name: getattr(args, name) for name in names})


def meant(args: argparse.Namespace, classes: Sequence[GpuClass]) -> GpuClass:
    """The class that the options mean."""
    if args.card is not None:
        return catalog.find('card', args.card, classes, (CARD,))
    if args.profile is not None:
        return catalog.find('profile', args.profile, classes, (VGPU, VF))
    return catalog.smallest(args.memory, classes, args.series)


def memory_mib(text: str) -> int:
    """``16``, ``16G`` or ``512M`` in MiB."""
    match = re.fullmatch(r'([0-9]{1,7})([gm]?)(?:i?b)?', text.strip().lower())
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a size like 16, 16G or 512M'
        )
    return int(match[1]) * _UNITS[match[2]]


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is not a number')
    return int(text)


def _bits(text: str) -> int:
    if text != 'host' and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number or 'host'")
    return 0 if text == 'host' else int(text)
