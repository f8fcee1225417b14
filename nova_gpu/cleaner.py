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

"""Taking units back, and what becomes of those that can't be."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

from oslo_log import log as logging

from nova_gpu import exception
from nova_gpu.fabric import FabricManager
from nova_gpu.mechanism.base import Effects, Mechanism
from nova_gpu.model.fabric import partitions_of
from nova_gpu.model.inventory import Unit
from nova_gpu.putaside import PutAside

LOG = logging.getLogger(__name__)


class Cleaner:
    """Cleans units, and remembers the devices that are put aside.

    :param folder: keeps those over restarts
    """

    def __init__(
        self,
        mechanisms: Mapping[str, Mechanism],
        effects: Effects,
        folder: PutAside,
        fabric: FabricManager,
    ) -> None:
        self._mechanisms = mechanisms
        self._effects = effects
        self._fabric = fabric
        self._folder = folder
        # Put aside, with a reason that no file could take.
        self._unsaved: dict[str, str] = {}
        self._known: dict[str, str] = {}

    def clean(
        self,
        units: Iterable[Unit],
        consumer: str,
        *,
        again: bool = False,
        active: Collection[int] = (),
    ) -> tuple[Unit, ...]:
        """Clean units; returns those that could not be.

        :param active: partitions that others still hold units of
        """
        units = tuple(units)
        stuck = []
        failed = LOG.debug if again else LOG.error
        # First of all: cards are reset when they are linked no longer.
        errors = self._separate(units, active)
        for unit in units:
            try:
                if error := errors.get(unit.partition):
                    raise error
                self._mechanisms[unit.mechanism].clean(unit, self._effects)
            except exception.UnitUnusable as exc:
                self.put_aside(exc)
            except Exception as exc:
                # Whatever it was: nobody else may get the unit.
                failed(
                    'Could not give back %s of instance %s, it stays '
                    'reserved: %s',
                    unit.device,
                    consumer,
                    exc,
                )
                # Its allocation goes; what it takes is reserved from now on.
                stuck.append(dataclasses.replace(unit, allocated=False))
            else:
                LOG.info(
                    'Released %s (%s) of card %s, instance %s',
                    unit.device,
                    unit.resource_class,
                    unit.card,
                    consumer,
                )
        return tuple(stuck)

    def _separate(
        self, units: Collection[Unit], active: Collection[int]
    ) -> dict[int | None, exception.GpuError]:
        """Deactivate the partitions of units; what failed, and why."""
        errors: dict[int | None, exception.GpuError] = {}
        for number in sorted(partitions_of(units).difference(active)):
            cards = {str(u.card) for u in units if u.partition == number}
            try:
                self._fabric.deactivate(number, cards)
            except exception.GpuError as exc:
                errors[number] = exc
        return errors

    def put_aside(self, error: exception.UnitUnusable) -> None:
        """Give the device to nobody until somebody has looked after it."""
        LOG.error(
            'Putting device %s aside until "nova-gpu host release" brings '
            'it back: %s',
            error.device,
            error.reason,
        )
        try:
            self._folder.add(error.device, error.reason)
        except OSError as exc:
            LOG.error(
                'Device %s is put aside only until nova-compute stops: %s',
                error.device,
                exc,
            )
            self._unsaved[error.device] = error.reason

    def aside(self) -> dict[str, str]:
        """What is put aside; what was, if the folder can't be read now."""
        try:
            self._known = self._folder.read()
        except OSError as exc:
            LOG.error('Could not read what is put aside: %s', exc)
        return {**self._unsaved, **self._known}
