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


"""What a boot of the host has taken away is made again, before guests start.

Virtual functions are enabled where a rule asks for them, and vGPUs come back
with their UUIDs, types and parameters for every guest that is defined: its
metadata has them. The order is that of the vendors' documentation: functions
first, then the types on them. Enabling functions would wipe GPU instances, so
it's only done where there are none at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence

from oslo_log import log as logging

from nova_gpu import exception
from nova_gpu.fabric import FabricManager
from nova_gpu.mechanism.base import Effects, Mechanism
from nova_gpu.model.address import Address
from nova_gpu.model.device import Card, Snapshot
from nova_gpu.model.fabric import wanted
from nova_gpu.model.guest import GuestDevices
from nova_gpu.model.inventory import Unit
from nova_gpu.model.rule import ALL, Rule, rule_on

LOG = logging.getLogger(__name__)

#: How long the host is left alone between two looks, in seconds.
PAUSE = 1.0


class Restorer:
    """Brings back what guests and rules ask for.

    :param read: reads the host
    :param owned: tells which cards somebody else hands out
    :param pause: waits for so many seconds
    :param manager: Fabric Manager
    """

    def __init__(
        self,
        read: Callable[[], Snapshot],
        mechanisms: Sequence[Mechanism],
        effects: Effects,
        rules: Sequence[Rule],
        owned: Callable[[Snapshot], Collection[Address]],
        pause: Callable[[float], None] = time.sleep,
        manager: FabricManager | None = None,
    ) -> None:
        self._read = read
        self._mechanisms = {m.name: m for m in mechanisms}
        self._effects = effects
        self._rules = tuple(rules)
        self._owned = owned
        self._pause = pause
        self._fabric = manager or FabricManager(effects, enabled=False)

    def restore(self, guests: Iterable[GuestDevices], timeout: float) -> None:
        """Make again what isn't there.

        A vendor's driver may come later than nova-compute: it is waited for,
        up to ``timeout`` seconds in all. What can't be made is logged, and
        is no reason not to start.
        """
        guests = tuple(guests)
        held = {device for guest in guests for device in guest.devices}
        # What moves have kept comes last: if such is over, another guest may
        # have its place.
        keepers = [keeper for guest in guests for keeper in guest.keepers()]
        left = [
            (guest.uuid or guest.name, unit)
            for guest in (*guests, *keepers)
            for unit in guest.units
            if unit.mechanism in self._mechanisms
        ]
        partitions = wanted((), guests)
        enabled: set[Address] = set()
        waited = 0.0
        while True:
            snapshot = self._read()
            known = len(enabled)
            late = self._enable(snapshot, held, enabled)
            if len(enabled) > known:
                # As a rule they are there at once.
                snapshot = self._read()
                late = self._enable(snapshot, held, enabled)
            waiting, left = left, []
            for guest, unit in waiting:
                if not self._restore_one(guest, unit, snapshot):
                    left.append((guest, unit))
                elif not snapshot.has_mdev(unit.device) and unit.on_function:
                    # The next one may be of the same function.
                    snapshot = self._read()
            late += [
                f'card {unit.card} with {unit.device} of instance {guest}'
                for guest, unit in left
            ]
            problem = self._fabric.restore(partitions, fresh=True)
            if problem and partitions:
                late.append(f"the guests' partitions of NVSwitches: {problem}")
            if not late or waited >= timeout:
                break
            if not waited:
                LOG.warning(
                    'Waiting up to %d s for the drivers of the GPUs: %s',
                    timeout,
                    '; '.join(late),
                )
            self._pause(PAUSE)
            waited += PAUSE
        for missing in late:
            LOG.error(
                'Gave up waiting for %s: see whether its driver is loaded; a '
                'hard reboot of an instance makes its vGPUs anew',
                missing,
            )

    def _enable(
        self,
        snapshot: Snapshot,
        held: Collection[str],
        enabled: set[Address],
    ) -> list[str]:
        """Enable virtual functions; returns what has to be waited for.

        :param held: what guests name: a card among it is a guest's as a
            whole
        """
        owned = self._owned(snapshot)
        late = []
        for card in snapshot.cards:
            if card.address in owned or str(card.address) in held:
                continue
            wanted = self._wanted_vfs(card)
            if not wanted:
                continue
            if card.vfs:
                if card.address in enabled and not self._is_ready(card):
                    late.append(f'the virtual functions of {card.address}')
            elif card.driver is None or not card.total_vfs:
                late.append(
                    f'card {card.address} (driver: {card.driver or "none"}), '
                    f'whose virtual functions a rule asks for'
                )
            elif card.address not in enabled:
                enabled.add(card.address)
                if self._enable_one(card, wanted):
                    late.append(f'the virtual functions of {card.address}')
        return late

    def _wanted_vfs(self, card: Card) -> int:
        found = next(
            (m.name for m in self._mechanisms.values() if m.recognizes(card)),
            None,
        )
        wanted = rule_on(card, found, self._rules).virtual_functions
        if wanted == ALL:
            return card.total_vfs or 1
        return min(wanted, card.total_vfs) if card.total_vfs else wanted

    def _is_ready(self, card: Card) -> bool:
        """Whether a guest could have something of the card now."""
        return any(
            m.recognizes(card) and m.refusal(card) is None
            for m in self._mechanisms.values()
        )

    def _enable_one(self, card: Card, count: int) -> bool:
        try:
            self._effects.enable_vfs(str(card.address), count)
        except exception.EffectFailed as exc:
            LOG.error(
                'Could not enable %d virtual functions of card %s: %s',
                count,
                card.address,
                exc,
            )
            return False
        LOG.info(
            'Enabled %d virtual functions of card %s', count, card.address
        )
        return True

    def _restore_one(self, guest: str, unit: Unit, snapshot: Snapshot) -> bool:
        """Whether nothing is left to do for a unit."""
        mechanism = self._mechanisms[unit.mechanism]
        try:
            made = mechanism.restore(unit, snapshot, self._effects)
        except exception.GpuError as exc:
            LOG.error(
                'Could not make %s (%s) of instance %s again: %s',
                unit.device,
                unit.resource_class,
                guest,
                exc,
            )
            return True
        return made
