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

"""Who may share a card with whom: what ``gpu:isolation`` says.

=============  ===========================================================
Isolation      On a card with a server that has it
=============  ===========================================================
``shared``     anybody comes, unless the isolation asked for forbids it
``project``    only servers of the same project come
``exclusive``  no other server comes
=============  ===========================================================

It works both ways: who asks for it gets no card where others are whom it
would keep off. A server is never in its own way, and a card that is handed
out as a whole has one server in any case.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping

from nova_gpu.model.address import Address
from nova_gpu.model.device import Card
from nova_gpu.model.inventory import Unit, Use
from nova_gpu.model.request import EXCLUSIVE, ISOLATION, PROJECT, SHARED


@dataclasses.dataclass(frozen=True, slots=True)
class Tenant:
    """A server that has something of a card, or asks for it.

    ``server`` tells it from others; a ``project`` that isn't known, None, is
    the same as no other.
    """

    server: str
    project: str | None
    isolation: str = SHARED

    def own(self, unit: Unit) -> Unit:
        """``unit`` as that of this server."""
        return dataclasses.replace(
            unit, project=self.project, isolation=self.isolation
        )


#: Who has what somebody made by hand, for whom we can't know.
STRANGER = Tenant('', None)


def objection(there: Tenant, asking: Tenant) -> str | None:
    """Why ``asking`` can't have anything of a card where ``there`` is.

    Without names: users get to read it.
    """
    if there.server == asking.server:
        return None
    if there.isolation == EXCLUSIVE:
        return 'a server has it for itself (gpu:isolation=exclusive)'
    if asking.isolation == EXCLUSIVE:
        return 'others are on it, and gpu:isolation=exclusive is asked for'
    if there.project is not None and there.project == asking.project:
        return None
    if there.isolation == PROJECT:
        return 'a project has it for itself (gpu:isolation=project)'
    if asking.isolation == PROJECT:
        return (
            'others than the project are on it, and gpu:isolation=project is '
            'asked for'
        )
    return None


def tenants(
    cards: Iterable[Card], held: Iterable[tuple[str, Unit]]
) -> Mapping[Address, Collection[Tenant]]:
    """Who is on each card.

    :param held: the units in use, each with the server whose it is
    """
    found: dict[Address, set[Tenant]] = {}
    devices = set()
    for server, unit in held:
        devices.add(unit.device)
        tenant = Tenant(server, unit.project, unit.isolation)
        found.setdefault(unit.card, set()).add(tenant)
    for card in cards:
        if any(mdev.uuid not in devices for mdev in card.mdevs):
            found.setdefault(card.address, set()).add(STRANGER)
    return found


def close(
    uses: Iterable[Use],
    there: Mapping[Address, Collection[Tenant]],
    asking: Tenant | None = None,
) -> tuple[Use, ...]:
    """The cards as ``asking`` may have them; by default, as nobody may.

    A card that isolation closes has nothing free. For nobody in particular
    these are those that a server has for itself: who else a project keeps
    off depends on who it is.
    """
    return tuple(
        use
        if (reason := _closed(there.get(use.card.address, ()), asking)) is None
        else dataclasses.replace(
            use,
            offers=tuple(dataclasses.replace(o, free=0) for o in use.offers),
            closed=reason,
        )
        for use in uses
    )


def _closed(there: Iterable[Tenant], asking: Tenant | None) -> str | None:
    reasons = (
        objection(tenant, asking or STRANGER)
        for tenant in there
        if asking is not None or tenant.isolation == EXCLUSIVE
    )
    return min(filter(None, reasons), default=None)


def digest(project: str | None) -> str:
    """A project as the host's map names it, in fewer characters."""
    if project is None:
        return ''
    return hashlib.blake2b(project.encode(), digest_size=4).hexdigest()


def summary(units: Iterable[Unit]) -> tuple[str | None, str]:
    """Whose the units of one card are, and how far they share it.

    The project by its :func:`digest`, which is empty if there are several
    or it isn't known; None if there are no units. One that is the whole card
    doesn't count: nobody could share it.
    """
    parts = [unit for unit in units if unit.device != str(unit.card)]
    if not parts:
        return None, SHARED
    projects = {digest(unit.project) for unit in parts}
    return (
        projects.pop() if len(projects) == 1 else '',
        max((unit.isolation for unit in parts), key=ISOLATION.index),
    )
