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


"""``openstack gpu flavor translate``."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from osc_lib.command import command
from oslo_config import cfg

from nova_gpu import exception
from nova_gpu.model import catalog
from nova_gpu.model.catalog import CARD, VF, VGPU, GpuClass
from nova_gpu.model.flavor import Flavor
from nova_gpu.model.profile import token
from nova_gpu.model.translate import Known, Translation, translate
from nova_gpu.osc import error
from nova_gpu.osc.cloud import Cloud
from nova_gpu.osc.progress import shown
from nova_gpu.sysfs.names import card_names
from nova_gpu.sysfs.tree import Tree

COLUMNS = ('Flavor', 'Command', 'Applied', 'Note')


class TranslateGpuFlavor(command.Lister):
    """Let flavors that ask for GPUs in older ways ask for those of nova-gpu.

    These are PCI aliases (pci_passthrough:alias), Nova's own vGPUs
    (resources:VGPU, alone or with a trait that names the profile) and the
    first clouds with Intel GVT-g (vgt_low_gm_sz and its like). There is a row
    for each command that changes a flavor, and for what has to be looked at.
    Servers keep what they have: a flavor is copied when a server gets it.
    Exits with 1 if a flavor could not be translated.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            'flavor', metavar='<flavor>', nargs='*',
            help='name or ID of a flavor (default: all)',
        )  # fmt: skip
        parser.add_argument(
            '--nova-conf', metavar='<file>', action='append', default=[],
            help='a nova.conf with the [pci] alias; can be repeated',
        )  # fmt: skip
        parser.add_argument(
            '--map', metavar='<old>=<card or profile>', action='append',
            default=[], type=_pair,
            help=(
                'what an alias, a vGPU type (nvidia-63), a trait or VGPU '
                'stands for; can be repeated'
            ),
        )  # fmt: skip
        parser.add_argument(
            '--apply', action='store_true',
            help='change the flavors, and do not only print the commands',
        )  # fmt: skip
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        self._failed = False
        return super().run(parsed_args) or int(self._failed)

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        cloud = Cloud.of(self.app)
        self._flavors = cloud.flavors
        if parsed_args.flavor:
            flavors = self._flavors.find(parsed_args.flavor)
        else:
            flavors = self._flavors.all()
        with shown('Reading GPUs') as progress:
            providers = cloud.placement.providers(progress=progress)
        classes = catalog.of_providers(providers)
        known = Known(
            classes,
            {
                **_aliases(parsed_args.nova_conf, classes),
                **_mapped(parsed_args.map, classes),
            },
            frozenset().union(*(p.traits for p in providers)),
        )
        rows: list[Sequence[Any]] = []
        with shown('Translating flavors') as progress:
            for number, flavor in enumerate(flavors, 1):
                rows += self._translate(flavor, known, parsed_args.apply)
                if progress is not None:
                    progress(number, len(flavors))
        return COLUMNS, rows

    def _translate(
        self, flavor: Flavor, known: Known, apply: bool
    ) -> Iterator[Sequence[Any]]:
        try:
            found = translate(flavor.extra_specs, known)
        except exception.Untranslatable as exc:
            self._failed = True
            yield flavor.name, None, False, str(exc)
            return
        if not found.changes:
            return
        if apply:
            # A server that is made in between asks for both, and waits.
            self._flavors.add(flavor.id, flavor.name, found.added)
            self._flavors.remove(flavor.id, flavor.name, found.removed)
        notes = '; '.join(found.notes) or None
        for text in _commands(flavor, found):
            yield flavor.name, text, apply, notes
            notes = None


def _commands(flavor: Flavor, found: Translation) -> Iterator[str]:
    """What does the same by the client's own commands."""
    for verb, words in (
        ('set', [f'{key}={value}' for key, value in found.added.items()]),
        ('unset', list(found.removed)),
    ):
        if words:
            options = ' '.join(f'--property {shlex.quote(w)}' for w in words)
            name = shlex.quote(flavor.name)
            yield f'openstack flavor {verb} {options} {name}'


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition('=')
    if not (old and equals and new):
        raise argparse.ArgumentTypeError(f'{text!r} is not OLD=NEW')
    return old, new


def _mapped(
    pairs: Iterable[tuple[str, str]], classes: Sequence[GpuClass]
) -> dict[str, GpuClass | None]:
    return {
        old: catalog.find('card or profile', new, classes, (CARD, VF, VGPU))
        for old, new in pairs
    }


def _aliases(
    paths: Iterable[str], classes: Sequence[GpuClass]
) -> dict[str, GpuClass | None]:
    """What the aliases in files stand for; None is no GPU of the cloud."""
    known = {gpu.name: gpu for gpu in classes}
    found: dict[str, GpuClass | None] = {}
    for path in paths:
        sections: dict[str, dict[str, list[str]]] = {}
        try:
            cfg.ConfigParser(path, sections).parse()
        except (OSError, cfg.ParseError) as exc:
            reason = getattr(exc, 'strerror', None) or str(exc)
            raise error.UnusableInput(path, reason) from exc
        for text in sections.get('pci', {}).get('alias', []):
            name, wanted = _alias(path, text)
            found[name] = known.get(wanted) or found.get(name)
    return found


def _alias(path: str, text: str) -> tuple[str, str]:
    """The name of an alias, and the class that its device would give."""
    try:
        alias: Mapping[str, str] = json.loads(text)
        name = alias['name']
        vendor, product = (
            int(alias.get(key, '0'), 16) for key in ('vendor_id', 'product_id')
        )
        kind = alias.get('device_type', 'type-PCI')
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise error.UnusableInput(
            path, f'[pci] alias = {text}: is no alias ({exc!r})'
        ) from exc
    model = card_names(Tree(), vendor, product).model
    suffix = '_VF' if kind == 'type-VF' else ''
    wanted = f'CUSTOM_GPU_{token(model)}'
    return name, wanted.removesuffix(suffix) + suffix
