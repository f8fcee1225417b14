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

"""Cards that Nova itself hands out: one owner a card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from nova.pci import whitelist

from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import Snapshot

_NODEDEV = re.compile(
    r'pci_([0-9a-f]{4,8})_([0-9a-f]{2})_([0-9a-f]{2})_([0-7])'
)


def nova_owned(
    snapshot: Snapshot,
    device_spec: Iterable[str],
    mdev_parents: Iterable[str],
    every_mdev: bool,
) -> Mapping[PciAddress, str]:
    """The cards that belong to Nova, each with the option that says so.

    :param device_spec: ``[pci] device_spec``
    :param mdev_parents: libvirt's names of the devices that
        ``[devices] enabled_mdev_types`` assigns
    :param every_mdev: whether that option has a type for all others
    """
    listed = whitelist.Whitelist(list(device_spec))
    parents = {_address(name) for name in mdev_parents}
    owned: dict[PciAddress, str] = {}
    for card in snapshot.cards:
        device: dict[str, Any] = {
            'address': str(card.address),
            'vendor_id': f'{card.vendor_id:04x}',
            'product_id': f'{card.product_id:04x}',
            'parent_addr': None,
            'dev_type': 'type-PF',
        }
        if listed.device_assignable(device):
            owned[card.address] = "Nova's [pci] device_spec"
        elif card.types and (
            every_mdev or not parents.isdisjoint((card.address, *card.parents))
        ):
            owned[card.address] = "Nova's [devices] enabled_mdev_types"
    return owned


def _address(nodedev: str) -> PciAddress | None:
    match = _NODEDEV.fullmatch(nodedev)
    return (
        PciAddress.parse('{}:{}:{}.{}'.format(*match.groups()))
        if match
        else None
    )
