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


"""``nova-gpu xml preview``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from cliff import command

from nova_gpu.cli import error, survey
from nova_gpu.mechanism.vf import PlainVf
from nova_gpu.mechanism.vgpu import Vgpu
from nova_gpu.mechanism.whole import WholeCard
from nova_gpu.model.address import PciAddress
from nova_gpu.model.inventory import Offer, Unit, Use
from nova_gpu.model.request import GpuRequest


class XmlPreview(command.Command):
    """Print the libvirt XML of the devices that a guest would get.

    Free or not doesn't matter. The UUID of a vGPU, or its virtual function,
    is an example: which a guest gets is decided when it is made.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument(
            '--card',
            metavar='ADDRESS',
            nargs='+',
            action='extend',
            help=(
                'whole cards, or virtual functions that are passed through, '
                'by PCI address, like 0000:84:00.0'
            ),
        )
        what.add_argument(
            '--profile',
            metavar='NAME',
            help='vGPU type, by name (with or without the vendor) or id',
        )
        parser.add_argument(
            '--count',
            type=int,
            metavar='N',
            help='how many vGPUs of the profile (default: 1)',
        )
        parser.add_argument(
            '--display',
            action='store_true',
            help="let the first vGPU show the guest's screen",
        )
        parser.add_argument(
            '--machine',
            choices=('q35', 'pc'),
            default='q35',
            help='machine type of the guest (default: q35)',
        )
        survey.add_arguments(parser)
        return parser

    def get_epilog(self) -> str:
        # Cliff's reads the file list of every installed distribution.
        return ''

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        if parsed_args.card and (parsed_args.count or parsed_args.display):
            raise error.NothingToPreview(
                '--card', '--count and --display go with --profile'
            )
        found = survey.survey(parsed_args)
        if parsed_args.card:
            # A card twice is one card.
            units = [
                _whole(found, address)
                for address in dict.fromkeys(
                    map(PciAddress.parse, parsed_args.card)
                )
            ]
        else:
            count = 1 if parsed_args.count is None else parsed_args.count
            units = _vgpus(found, parsed_args.profile, count)
        self._print(found, units, parsed_args)

    def _print(
        self,
        found: survey.Survey,
        units: Sequence[Unit],
        args: argparse.Namespace,
    ) -> None:
        # Not above: cliff imports this file for all commands alike.
        from lxml import etree

        from nova_gpu import xml

        request = GpuRequest(resources={}, display=args.display)
        hostdevs = [
            hostdev
            for name, mechanism in found.mechanisms.items()
            for hostdev in mechanism.hostdevs(
                [unit for unit in units if unit.mechanism == name], request
            )
        ]
        for device in xml.build(hostdevs, args.machine):
            self.app.stdout.write(
                etree.tostring(
                    device.element, pretty_print=True, encoding='unicode'
                )
            )


def _whole(found: survey.Survey, address: PciAddress) -> Unit:
    what = f'card {address}'
    for cut in found.uses:
        function = cut.card.vf(address)
        plain = found.mechanisms.get(cut.mechanism or '')
        if function is not None and isinstance(plain, PlainVf):
            name = cut.offers[0].resource_class
            return plain.new_unit(cut.card, function, name)
    use = next((u for u in found.uses if u.card.address == address), None)
    if use is None:
        raise error.NothingToPreview(
            what,
            f'this host has no such card; it has '
            f'{_listed(str(u.card.address) for u in found.uses)}',
        )
    if use.reason is not None:
        raise error.NothingToPreview(what, f'not handed out: {use.reason}')
    if use.mechanism != WholeCard.name:
        raise error.NothingToPreview(
            what,
            f'handed out as {use.mechanism}, not whole; '
            + (
                'give --card with one of its virtual functions'
                if use.mechanism == PlainVf.name
                else f'for a vGPU give --profile with one of '
                f'{_listed(_name(offer) for offer in use.offers)}'
            ),
        )
    return Unit(
        mechanism=WholeCard.name,
        pool=str(use.pool),
        resource_class=use.offers[0].resource_class,
        card=address,
        device=str(address),
        functions=use.card.functions,
    )


def _vgpus(found: survey.Survey, profile: str, count: int) -> list[Unit]:
    what = f'profile {profile!r}'
    offers = [
        (use, offer)
        for use in found.uses
        if use.reason is None
        and isinstance(found.mechanisms.get(use.mechanism or ''), Vgpu)
        for offer in use.offers
    ]
    chosen = [o for o in offers if _is_named(profile, o[1].type_id, o[1].name)]
    if not chosen:
        raise error.NothingToPreview(
            what, _why_not(found.uses, profile, offers)
        )
    total = sum(offer.total for _, offer in chosen)
    if not 1 <= count <= total:
        raise error.NothingToPreview(
            what, f'{count} of it: this host takes 1 to {total}'
        )
    # Cards are taken as if they were empty.
    places = [
        (use, offer, parent)
        for use, offer in chosen
        for parent in (
            use.card.parents if use.card.vfs else use.card.parents * count
        )[: offer.total]
    ]
    units = []
    for use, offer, parent in places[:count]:
        mechanism = found.mechanisms[str(use.mechanism)]
        assert isinstance(mechanism, Vgpu)
        units.append(mechanism.new_unit(use, offer, parent))
    return units


def _why_not(
    uses: Iterable[Use], profile: str, offers: Sequence[tuple[Use, Offer]]
) -> str:
    for use in uses:
        if any(_is_named(profile, t.id, t.name) for t in use.card.types):
            reason = use.reason or 'no rule allows it'
            return f'not handed out: card {use.card.address}: {reason}'
    known = _listed(_name(offer) for _, offer in offers)
    return f'no card of this host takes it; the profiles here are {known}'


def _is_named(wanted: str, type_id: str | None, name: str | None) -> bool:
    """Whether ``wanted`` is the type's id, or its name, vendor or not."""
    names = {type_id, name, (name or '').partition(' ')[2] or None}
    return wanted.lower() in {n.lower() for n in names if n}


def _name(offer: Offer) -> str:
    return offer.name or offer.resource_class


def _listed(names: Iterable[str]) -> str:
    return ', '.join(dict.fromkeys(names)) or '(none)'
