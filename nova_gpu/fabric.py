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

"""Fabric Manager: what it says, and what it is told.

Which partitions have to be active follows from what is held; nothing is
written down. Everything is called under the tracker's lock.
"""

from __future__ import annotations

import dataclasses
import errno
import time
from collections.abc import Callable, Collection, Iterable

from oslo_log import log as logging

from nova_gpu import exception
from nova_gpu.mechanism.base import Effects
from nova_gpu.model.device import Snapshot
from nova_gpu.model.fabric import partitions_of
from nova_gpu.model.inventory import Unit
from nova_gpu.model.partition import Fabric, parse

LOG = logging.getLogger(__name__)

#: For how many seconds an answer holds: one look at the host is many reads,
#: each of which would start a program.
FRESH = 5.0


class FabricManager:
    """Asks Fabric Manager, and activates and deactivates partitions.

    :param enabled: whether there is one
    :param quiet: the caller tells of problems itself
    """

    def __init__(
        self,
        effects: Effects,
        enabled: bool,
        clock: Callable[[], float] = time.monotonic,
        *,
        quiet: bool = False,
    ) -> None:
        self._effects = effects
        self._enabled = enabled
        self._clock = clock
        self._log = LOG.debug if quiet else LOG.error
        self._known = Fabric()
        self._until = clock()
        # What the log has been told, so that it isn't once a minute.
        self._silent: str | None = None
        self._lost = ''

    def look(self, *, fresh: bool = False) -> Fabric | None:
        """What it says; None if there is none.

        :param fresh: ask, even if it has just been asked
        """
        if not self._enabled:
            return None
        if fresh or self._clock() >= self._until:
            self._known = self._read()
            # From now on: a program that hangs must not be started at once
            # again.
            self._until = self._clock() + FRESH
            self._tell(self._known.problem)
        return self._known

    def complete(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot of the host, with what Fabric Manager says."""
        return dataclasses.replace(snapshot, fabric=self.look())

    def activate(self, units: Iterable[Unit]) -> None:
        """Activate the partition of units that are about to be given.

        :raises UnitTaken: somebody else has one of its cards linked
        :raises EffectFailed: Fabric Manager can't do it
        """
        if not self._enabled:
            return
        for number in sorted(partitions_of(units)):
            self._activate(number)
            LOG.info('Activated partition %d', number)

    def deactivate(self, number: int, cards: Collection[str]) -> None:
        """Deactivate a partition, if it is active.

        :param cards: which no guest must have any more
        :raises EffectFailed: it stays active
        """
        if not self._enabled:
            return
        try:
            self._effects.deactivate_partition(number, sorted(cards))
        finally:
            self._forget()
        LOG.info('Deactivated partition %d', number)

    def restore(self, wanted: Collection[int], *, fresh: bool = False) -> str:
        """Let partitions be active that have been; why they aren't, or ``''``.

        After a restart Fabric Manager either has forgotten all of them, or
        waits to be told which they are, and gives up after a minute.
        """
        found = self.look(fresh=fresh)
        if found is not None and found.waits:
            self._set_active(wanted)
            found = self.look()
        if found is None:
            return ''
        if found.problem is not None:
            return found.problem
        active = {p.number for p in found.partitions if p.active}
        errors = []
        for number in sorted(set(wanted) - active):
            try:
                self._activate(number)
            except exception.GpuError as exc:
                errors.append(str(exc))
            else:
                LOG.warning(
                    'Activated partition %d again: Fabric Manager had lost '
                    'it. Restart what uses the cards in its guest',
                    number,
                )
        found_lost = '; '.join(errors)
        if found_lost not in ('', self._lost):
            LOG.error('NVSwitches: %s', found_lost)
        self._lost = found_lost
        return found_lost

    def _activate(self, number: int) -> None:
        try:
            self._effects.activate_partition(number)
        except exception.EffectFailed as exc:
            if exc.errno == errno.EBUSY:
                raise exception.UnitTaken(
                    f'partition {number}', exc.reason
                ) from exc
            raise
        finally:
            self._forget()

    def _set_active(self, numbers: Collection[int]) -> None:
        listed = sorted(numbers)
        try:
            self._effects.set_active_partitions(listed)
        except exception.EffectFailed as exc:
            # It may just as well be starting, and doesn't want to be told.
            LOG.debug('Fabric Manager takes no list of partitions: %s', exc)
        else:
            LOG.warning(
                'Told Fabric Manager, which has been restarted, that these '
                'partitions are active: %s',
                ', '.join(map(str, listed)) or 'none',
            )
        finally:
            self._forget()

    def _read(self) -> Fabric:
        try:
            partitions = parse(self._effects.read_partitions())
        except exception.EffectFailed as exc:
            return dataclasses.replace(
                self._known, problem=str(exc), waits=exc.errno == errno.EAGAIN
            )
        except ValueError as exc:
            return dataclasses.replace(
                self._known, problem=f'fmpm: {exc}', waits=False
            )
        return Fabric(partitions)

    def _forget(self) -> None:
        self._until = self._clock()

    def _tell(self, problem: str | None) -> None:
        """Log when Fabric Manager falls silent, and when it answers again."""
        if problem not in (None, self._silent):
            self._log('No card of the NVSwitches is handed out: %s', problem)
        elif problem is None and self._silent is not None:
            LOG.info('Fabric Manager answers again')
        self._silent = problem
