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

"""``nova-gpu host release``."""

from __future__ import annotations

import argparse
import errno
import logging
import uuid
from collections.abc import Iterator

from cliff import command

from nova_gpu import exception
from nova_gpu.cli import error, survey
from nova_gpu.mechanism.base import Effects
from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import Card
from nova_gpu.putaside import device_name

LOG = logging.getLogger('nova_gpu.cli')


class HostRelease(command.Command):
    """Clean a device that is put aside, or that no guest holds any more.

    A card is reset where the kernel offers it, a vGPU is destroyed. If that
    succeeds the device is no longer put aside, and nova-compute hands it out
    again within a minute. What an instance holds is left alone. Run it as
    root.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'device',
            metavar='DEVICE',
            help=(
                'PCI address of a card or virtual function, or UUID of a '
                'mediated device'
            ),
        )
        parser.add_argument(
            '--force',
            action='store_true',
            help=(
                'stop putting the device aside even if it can not be '
                'cleaned: you have seen to it yourself'
            ),
        )
        survey.add_arguments(parser)
        return parser

    def get_epilog(self) -> str:
        # Cliff's reads the file list of every installed distribution.
        return ''

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        try:
            device = device_name(parsed_args.device)
        except ValueError as exc:
            raise error.NotReleased(parsed_args.device, str(exc)) from exc
        found = survey.survey(parsed_args)
        card = card_of(found, device)
        aside = device in found.put_aside
        holders = list(_holders(found, card, device))
        if holders:
            raise error.NotReleased(
                device, f'instance {", ".join(holders)} holds it'
            )
        if not aside and device not in _left_over(found):
            raise error.NotReleased(device, _nothing_to_do(found))
        if card is not None:
            self._clean(found, card, device, parsed_args.force)
        if aside:
            try:
                found.folder.remove(device)
            except OSError as exc:
                raise error.NotReleased(
                    device, f'it stays put aside: {exc}'
                ) from exc
        self.app.stdout.write(f'{device} is released\n')

    @staticmethod
    def _clean(
        found: survey.Survey, card: Card, device: str, force: bool
    ) -> None:
        # Not above: the other commands must not wait for it.
        from nova_gpu import privsep

        aside = device in found.put_aside
        try:
            with privsep.in_process(found.root):
                clean(card, device, privsep)
        except exception.EffectFailed as exc:
            if not aside:
                raise
            if not force:
                raise error.NotReleased(
                    device,
                    f'it stays put aside: {exc} (--force brings it back '
                    f'as it is)',
                ) from exc
            LOG.warning('%s comes back as it is: %s', device, exc)


def clean(card: Card, device: str, effects: Effects) -> None:
    """Take from a device what a guest may have left in it.

    By what the device is, not by what rules say of its card now: they may
    have changed since it was handed out.
    """
    if _is_uuid(device):
        effects.remove_mdev(device)
        return
    if card.vf(PciAddress.parse(device)) is None:
        if card.resettable:
            effects.reset_function(device)
    elif card.vendor_vfio:
        effects.set_vgpu_type(device, '0')
    elif not card.types:
        try:
            effects.reset_function(device)
        except exception.EffectFailed as exc:
            if exc.errno != errno.ENOENT:  # the kernel offers no reset
                raise


def card_of(found: survey.Survey, device: str) -> Card | None:
    """The card that has the device, if any has."""
    address = None if _is_uuid(device) else PciAddress.parse(device)
    for card in found.snapshot.cards:
        if address and (address == card.address or card.vf(address)):
            return card
        if any(mdev.uuid == device for mdev in card.mdevs):
            return card
    return None


def _holders(
    found: survey.Survey, card: Card | None, device: str
) -> Iterator[str]:
    """The guests that have the device, or a part of it."""
    whole = card is not None and device == str(card.address)
    devices = {device}
    if card is not None and whole:
        devices |= {
            *map(str, card.functions),
            *(str(vf.address) for vf in card.vfs),
            *(mdev.uuid for mdev in card.mdevs),
        }
    for guest in found.guests:
        if guest.devices & devices:
            yield guest.uuid or guest.name


def _left_over(found: survey.Survey) -> list[str]:
    """The vGPUs that exist and that no guest holds."""
    held = {device for guest in found.guests for device in guest.devices}
    return [
        device
        for card in found.snapshot.cards
        for device in (
            *(mdev.uuid for mdev in card.mdevs),
            *(str(vf.address) for vf in card.vfs if vf.type_id is not None),
        )
        if device not in held
    ]


def _nothing_to_do(found: survey.Survey) -> str:
    parts = (
        ('put aside', list(found.put_aside)),
        ('vGPUs without an instance', _left_over(found)),
    )
    listed = '; '.join(
        f'{what} here: {", ".join(devices) or "none"}'
        for what, devices in parts
    )
    return f'nothing to release; {listed}'


def _is_uuid(device: str) -> bool:
    try:
        uuid.UUID(device)
    except ValueError:
        return False
    return True
