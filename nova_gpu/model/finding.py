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

"""What a check of a host looks at, and what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from nova_gpu.model.device import Card, Snapshot
from nova_gpu.model.inventory import Use
from nova_gpu.model.machine import Machine

OK, WARNING, ERROR = 'ok', 'warning', 'error'
PASSTHROUGH, VGPU = 'passthrough', 'vgpu'
NVIDIA, AMD, INTEL = 0x10DE, 0x1002, 0x8086
#: Drivers under which a card is cut into vGPUs or virtual functions.
SHARING = {NVIDIA: 'nvidia', AMD: 'gim', INTEL: 'i915'}


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What one check has seen; ``mend`` is empty if there is nothing to do.

    ``device`` is the card's address, or empty for the host.
    """

    check: str
    device: str
    level: str
    seen: str
    meaning: str = ''
    mend: str = ''


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """A host as it is checked.

    :param kinds: what rules call each mechanism's use, by its name
    :param driver: Nova's ``compute_driver``; None if no file was read
    :param driver_file: the file that sets it, if one does
    :param nova_owns: Nova's own options that hand out cards
    :param looked_for: files of which none could be read, if they were to be
    :param unknown: what is in ``[gpu]`` and is no option, with its file
    """

    machine: Machine
    snapshot: Snapshot
    uses: tuple[Use, ...]
    kinds: Mapping[str, str]
    driver: str | None = None
    driver_file: str | None = None
    nova_owns: tuple[str, ...] = ()
    looked_for: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def meant(self, use: Use) -> str | None:
        """What a card is there for: a rule's word, else what its state says.

        None if a rule says to leave it alone.
        """
        if use.ruling.use is not None:
            return use.ruling.use if use.ruling.use != 'ignore' else None
        if use.mechanism is not None:
            return self.kinds[use.mechanism]
        card = use.card
        if card.types or card.driver == SHARING.get(card.vendor_id):
            return VGPU
        return PASSTHROUGH

    def cards(self, meant: str, vendor: int | None = None) -> list[Card]:
        """The cards that are there for something, those of one vendor.

        Without the one that shows the console, which is never passed through.
        """
        return [
            use.card
            for use in self.uses
            if self.meant(use) == meant
            and vendor in (None, use.card.vendor_id)
            and not (use.card.boot_vga and meant == PASSTHROUGH)
        ]
