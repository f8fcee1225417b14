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

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from nova.pci import whitelist

from nova_gpu import exception
from nova_gpu.model.address import Address, PciAddress, VirtualParent
from nova_gpu.model.device import Card, Snapshot
from nova_gpu.model.inventory import Use


class NovaOwned:
    """The cards that belong to Nova, each with the option that says so.

    :param device_spec: ``[pci] device_spec``
    :param mdev_parents: the ``device_addresses`` of the types in
        ``[devices] enabled_mdev_types``
    :param every_mdev: whether that option has a type for all others
    """

    def __init__(
        self,
        device_spec: Iterable[str],
        mdev_parents: Iterable[str],
        every_mdev: bool,
    ) -> None:
        self._specs = tuple(
            (spec, whitelist.Whitelist([spec])) for spec in device_spec
        )
        self._parents = {_address(name) for name in mdev_parents}
        self._every_mdev = every_mdev
        # The options don't change while nova-compute runs.
        self._listed = functools.lru_cache(maxsize=8192)(self._find_spec)

    def __call__(self, snapshot: Snapshot) -> Mapping[Address, str]:
        """The cards of a host, and where each is given to Nova."""
        owned = ((c.address, self._owner(c)) for c in snapshot.cards)
        return {address: owner for address, owner in owned if owner}

    def _owner(self, card: Card) -> str | None:
        if self._specs:
            vf_product_id = card.vf_product_id or card.product_id
            functions = (
                (card.address, None, card.product_id),
                *((f.address, card.address, vf_product_id) for f in card.vfs),
            )
            for address, parent, product_id in functions:
                spec = self._listed(
                    address, parent, card.vendor_id, product_id
                )
                if spec is not None:
                    return f"Nova's [pci] device_spec {spec}"
        listed = {card.address, *card.parents} & self._parents
        mediated = card.types and not card.vendor_vfio
        if mediated and (listed or self._every_mdev):
            return "Nova's [devices] enabled_mdev_types"
        return None

    def _find_spec(
        self,
        address: Address,
        parent: Address | None,
        vendor_id: int,
        product_id: int,
    ) -> str | None:
        if not isinstance(address, PciAddress):
            return None
        device: dict[str, Any] = {
            'address': str(address),
            'vendor_id': f'{vendor_id:04x}',
            'product_id': f'{product_id:04x}',
            'parent_addr': None if parent is None else str(parent),
            'dev_type': 'type-PF' if parent is None else 'type-VF',
        }
        return next(
            (
                spec
                for spec, listed in self._specs
                if listed.device_assignable(device)
            ),
            None,
        )


def conflicts(uses: Iterable[Use]) -> list[str]:
    """What of the rules and of Nova's options claims the same card."""
    found = []
    for use in uses:
        said = [f for f in ('use', 'profiles') if f in use.ruling.decided]
        if use.owner is None or not said or use.ruling.use == 'ignore':
            continue
        rule = use.ruling.decided[said[0]]
        found.append(
            f'card {use.card.address} has two owners: {use.owner} and [gpu] '
            f'rule {rule} (field {said[0]!r}); take it out of one of them'
        )
    return found


def left_by_nova(uses: Iterable[Use], node: str) -> set[str]:
    """What Nova calls the providers of cards that aren't its own.

    It makes one for each parent of mediated devices that it hands out, and
    doesn't look at it again once it isn't told to hand that out.
    """
    return {
        f'{node}_{_nodedev(address)}'
        for use in uses
        if use.owner is None
        for address in (use.card.address, *use.card.parents)
    }


def _nodedev(address: Address) -> str:
    """libvirt's name of a parent of mediated devices."""
    if isinstance(address, PciAddress):
        return 'pci_' + str(address).replace(':', '_').replace('.', '_')
    return f'{address}_{address}'


def _address(device: str) -> Address | None:
    """A device as ``device_addresses`` has it.

    A virtual parent is ``mtty_mtty`` there, for the directory
    ``/sys/devices/virtual/mtty/mtty``.
    """
    try:
        if ':' in device:
            return PciAddress.parse(device)
        return VirtualParent.parse(device.rpartition('_')[2])
    except exception.InvalidAddress:
        return None
