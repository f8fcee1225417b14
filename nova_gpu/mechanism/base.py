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

"""What every mechanism is.

A mechanism is one way of handing GPUs out. Its deciding half
(:class:`nova_gpu.model.inventory.Mechanism`) looks at a card and says what it
gives; its doing half, here, makes a unit ready for a guest and takes it back.
Others add theirs through the entry point ``nova_gpu.mechanism``.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Protocol

from nova_gpu.model.device import Card, Snapshot
from nova_gpu.model.guest import GuestDevices, Hostdev
from nova_gpu.model.inventory import Offer, Pool, Unit, Use
from nova_gpu.model.request import GpuRequest
from nova_gpu.model.rule import Ruling


class Effects(Protocol):
    """Every change of the host; :mod:`nova_gpu.privsep` makes them real.

    Each raises :class:`nova_gpu.exception.EffectFailed`.
    """

    def create_mdev(self, parent: str, type_id: str, uuid: str) -> None:
        """Make a mediated device on a PCI function or a virtual parent."""

    def remove_mdev(self, uuid: str) -> None:
        """Remove a mediated device; one that isn't there is no error.

        EBUSY: a guest uses it.
        """

    def set_vgpu_params(self, device: str, params: str) -> None:
        """Give plugin parameters to an mdev, or to a virtual function."""

    def set_vgpu_type(self, function: str, type_id: str) -> None:
        """Give a virtual function a vGPU type.

        ``0`` frees it: no error if it is empty, EBUSY if a guest uses it.
        """

    def reset_function(self, address: str) -> None:
        """Reset a PCI function of a GPU. EBUSY: a guest uses it."""

    def enable_vfs(self, address: str, count: int) -> None:
        """Enable virtual functions of a card. EBUSY: some are enabled.

        NVIDIA's own program enables all, whatever ``count`` says.
        """

    def read_partitions(self) -> str:
        """What Fabric Manager says of its partitions, as JSON.

        Not a change, but it may take the same rights. ECONNREFUSED: it isn't
        there; EAGAIN: it waits for :meth:`set_active_partitions`.
        """

    def activate_partition(self, number: int) -> None:
        """Link the cards of a partition. EBUSY: one of them is linked."""

    def deactivate_partition(self, number: int, cards: Sequence[str]) -> None:
        """Separate the cards of a partition; no error if they are.

        EBUSY: a guest has one of them.
        """

    def set_active_partitions(self, numbers: Sequence[int]) -> None:
        """Tell a Fabric Manager that has been restarted what is active."""


class Mechanism(abc.ABC):
    """Base of all mechanisms.

    ``use`` is what rules call it, ``display`` and ``params`` whether its
    units can show a screen and take plugin parameters. ``topology`` says
    whether it chooses cards by what they share.
    """

    name: str
    use: str
    display = False
    params = False
    topology = False

    @abc.abstractmethod
    def recognizes(self, card: Card) -> bool:
        """Whether the card's state, as it is, asks for this mechanism."""

    @abc.abstractmethod
    def refusal(self, card: Card) -> str | None:
        """Why the card can't be handed out in this way, or None."""

    @abc.abstractmethod
    def pool_key(self, card: Card) -> str:
        """Which pool the card belongs to."""

    @abc.abstractmethod
    def offers(
        self, card: Card, ruling: Ruling, held: Sequence[Unit]
    ) -> tuple[Offer, ...]:
        """What the card gives while ``held`` of it is in use."""

    @abc.abstractmethod
    def choose(
        self,
        pool: Pool,
        uses: Sequence[Use],
        resource_class: str,
        count: int,
        held: Sequence[Unit],
        request: GpuRequest,
    ) -> tuple[Unit, ...]:
        """Choose ``count`` units of a pool; changes nothing.

        :param uses: the cards of the pool, as the request may have them: of
            one that isolation closes nothing is free
        :param held: all units of the pool in use
        :param request: the flavor's, for its policy
        :raises nova_gpu.exception.NotEnoughUnits: with the reason
        """

    @abc.abstractmethod
    def prepare(
        self, unit: Unit, request: GpuRequest, effects: Effects
    ) -> Unit:
        """Make a chosen unit, and return it as it was made.

        One effect at most: a call that fails has left nothing behind.

        :raises nova_gpu.exception.EffectFailed: the card can't do it
        :raises nova_gpu.exception.UnitTaken: somebody was faster
        :raises nova_gpu.exception.UnitUnusable: its device is broken
        """

    @abc.abstractmethod
    def configure(
        self, unit: Unit, request: GpuRequest, effects: Effects
    ) -> Unit:
        """Set what the flavor asks of a unit that is made.

        If it fails, :meth:`clean` follows.
        """

    @abc.abstractmethod
    def clean(self, unit: Unit, effects: Effects) -> None:
        """Take a unit back; the undo of :meth:`prepare`, at any time.

        :raises nova_gpu.exception.EffectFailed: it is tried again later
        :raises nova_gpu.exception.UnitUnusable: its device is broken
        """

    @abc.abstractmethod
    def held_by(self, guest: GuestDevices, uses: Sequence[Use]) -> list[Unit]:
        """The units of this mechanism that a guest's XML holds.

        Those that others gave to the guest are not ``allocated``.
        """

    @abc.abstractmethod
    def leaked(
        self, snapshot: Snapshot, uses: Sequence[Use], held: Sequence[Unit]
    ) -> list[Unit]:
        """Units that we once made and that no guest holds."""

    def restore(
        self, unit: Unit, snapshot: Snapshot, effects: Effects
    ) -> bool:
        """Make a guest's unit again after a boot of the host.

        Whether it is there now; False if the host can't have it yet, as its
        driver isn't loaded.

        :raises nova_gpu.exception.GpuError: it can't be had any more
        """
        return True

    @abc.abstractmethod
    def hostdevs(
        self, units: Sequence[Unit], request: GpuRequest
    ) -> list[Hostdev]:
        """The guest devices of ``units``, which are all of one guest."""
