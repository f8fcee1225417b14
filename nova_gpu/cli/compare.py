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

"""What guests, sysfs, nova-compute and Placement say, compared.

For ``nova-gpu audit``, which also mends, and ``nova-gpu exporter``.
"""

from __future__ import annotations

from collections.abc import Iterable

from nova_gpu.claimsfile import Told
from nova_gpu.cli.survey import Survey
from nova_gpu.mechanism.mdev import is_ours
from nova_gpu.model import fabric
from nova_gpu.model.audit import Allocated, Difference, differences
from nova_gpu.model.claim import ALLOCATED, Claim
from nova_gpu.model.guest import GuestDevices
from nova_gpu.model.inventory import Unit


def compare(
    found: Survey, told: Told | None, counted: Allocated | None = None
) -> list[Difference]:
    """All differences, in a fixed order.

    :param told: what nova-compute has told, if it could be read
    :param counted: what Placement says, if it was asked
    """
    # Without its settings nobody knows which cards Nova hands out.
    settings = found.settings
    sure = settings.compute_driver is not None and not settings.nova_owns
    claims = _claims(found, sure)
    held = told.claims if told and told.running else None
    seen = differences(
        found.guests,
        claims,
        dict(_ours(found, sure)),
        _devices(found),
        counted,
        held,
    )
    board = fabric.board_of(found.uses)
    if board is None:
        return seen
    return sorted([*seen, *fabric.differences(board, claims, held)])


def _claims(found: Survey, sure: bool) -> list[Claim]:
    """What guests hold, as nova-compute would read it when it starts.

    :param sure: whether also what nova-gpu has not recorded is on cards that
        are no others'
    """
    claims = []
    taken: set[str] = set()
    for guest in found.guests:
        units = tuple(u for u in _units(found, guest) if sure or u.allocated)
        if units:
            claims.append(Claim(guest.uuid or guest.name, units, ALLOCATED))
            taken.update(unit.device for unit in units)
    for guest in found.guests:
        for keeper in guest.keepers():
            units = tuple(
                u for u in _units(found, keeper) if u.device not in taken
            )
            if units:
                claims.append(
                    Claim(str(keeper.uuid), units, ALLOCATED, guest=guest.uuid)
                )
    return claims


def _units(found: Survey, guest: GuestDevices) -> tuple[Unit, ...]:
    """What a guest names, be it there or not."""
    there = tuple(
        unit
        for mechanism in found.mechanisms.values()
        for unit in mechanism.held_by(guest, found.uses)
    )
    known = {unit.device for unit in there}
    return (*there, *(u for u in guest.units if u.device not in known))


def _ours(found: Survey, sure: bool) -> Iterable[tuple[str, str]]:
    """The vGPUs that nova-gpu has made, each with its card.

    Who has set a virtual function's type doesn't show.

    :param sure: whether it can't have been others
    """
    for use in found.uses:
        if use.ruling.use == 'ignore':
            continue
        devices = [m.uuid for m in use.card.mdevs if is_ours(m.uuid)]
        if sure:
            devices += [
                str(vf.address)
                for vf in use.card.vfs
                if vf.type_id is not None
            ]
        for device in devices:
            if device not in found.put_aside:
                yield device, str(use.card.address)


def _devices(found: Survey) -> Iterable[str]:
    """Everything that a guest could have."""
    for card in found.snapshot.cards:
        yield str(card.address)
        yield from (mdev.uuid for mdev in card.mdevs)
        for vf in card.vfs:
            if vf.type_id is not None or not card.vendor_vfio:
                yield str(vf.address)
