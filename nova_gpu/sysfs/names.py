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

"""Names of cards: from the system's pci.ids, and from our own table.

What people see comes from pci.ids where the host has one. Resource classes
are made of the table's name where the card is in it: an update of the
hwdata package must not rename a class under a running cloud.
"""

from __future__ import annotations

import functools
import os
import re
from typing import NamedTuple

from nova_gpu.model.device import VENDORS
from nova_gpu.sysfs.tree import Tree

PCI_IDS = ('usr/share/hwdata/pci.ids', 'usr/share/misc/pci.ids')


class Model(NamedTuple):
    """A card's product name without the vendor, and its memory in GiB.

    ``linked`` cards are on a board that links each with each other.
    """

    name: str
    memory_gib: int | None
    linked: int = 0


# Names as in the PCI ID repository (pci-ids.ucw.cz), memory and boards as in
# the vendors' data sheets. The boards of P100 and V100 link some pairs only.
_NVIDIA = {
    0x0FF2: Model('GRID K1', 4),
    0x1023: Model('Tesla K40m', 12),
    0x102D: Model('Tesla K80', 12),
    0x11BF: Model('GRID K2', 4),
    0x13BD: Model('Tesla M10', 8),
    0x13F2: Model('Tesla M60', 8),
    0x15F7: Model('Tesla P100 PCIe 12GB', 12),
    0x15F8: Model('Tesla P100 PCIe 16GB', 16),
    0x15F9: Model('Tesla P100 SXM2 16GB', 16),
    0x1B38: Model('Tesla P40', 24),
    0x1BB3: Model('Tesla P4', 8),
    0x1DB1: Model('Tesla V100 SXM2 16GB', 16),
    0x1DB4: Model('Tesla V100 PCIe 16GB', 16),
    0x1DB5: Model('Tesla V100 SXM2 32GB', 32),
    0x1DB6: Model('Tesla V100 PCIe 32GB', 32),
    0x1EB8: Model('Tesla T4', 16),
    0x20B0: Model('A100 SXM4 40GB', 40, linked=8),
    0x20B2: Model('A100 SXM4 80GB', 80, linked=8),
    0x20B5: Model('A100 PCIe 80GB', 80),
    0x20B7: Model('A30 PCIe', 24),
    0x20F1: Model('A100 PCIe 40GB', 40),
    0x2230: Model('RTX A6000', 48),
    0x2231: Model('RTX A5000', 24),
    0x2235: Model('A40', 48),
    0x2236: Model('A10', 24),
    0x2237: Model('A10G', 24),
    0x2321: Model('H100 NVL', 94),
    0x2330: Model('H100 SXM5 80GB', 80, linked=8),
    0x2331: Model('H100 PCIe', 80),
    0x2335: Model('H200 SXM 141GB', 141, linked=8),
    0x233B: Model('H200 NVL', 141),
    0x25B6: Model('A2 / A16', 16),
    0x26B1: Model('RTX 6000 Ada Generation', 48),
    0x26B5: Model('L40', 48),
    0x26B9: Model('L40S', 48),
    0x27B8: Model('L4', 24),
    0x2901: Model('B200', 180, linked=8),
    0x2BB1: Model('RTX PRO 6000 Blackwell Workstation Edition', 96),
    0x2BB4: Model('RTX PRO 6000 Blackwell Max-Q Workstation Edition', 96),
    0x2BB5: Model('RTX PRO 6000 Blackwell Server Edition', 96),
}
_AMD = {
    0x66A1: Model('Radeon Instinct MI50 32GB', 32),
    0x6860: Model('Radeon Instinct MI25', 16),
    0x6929: Model('FirePro S7150', 8),
    0x738C: Model('Instinct MI100', 32),
    0x73A1: Model('Radeon PRO V620', 32),
    0x7408: Model('Instinct MI250X', 64),
    0x740F: Model('Instinct MI210', 64),
    0x7460: Model('Radeon PRO V710', 28),
    0x74A0: Model('Instinct MI300A', 128),
    0x74A1: Model('Instinct MI300X', 192, linked=8),
    0x74A5: Model('Instinct MI325X', 256, linked=8),
}
_INTEL = {
    0x0BD5: Model('Data Center GPU Max 1550', 128),
    0x0BDA: Model('Data Center GPU Max 1100', 48),
    0x56C0: Model('Data Center GPU Flex 170', 16),
    0x56C1: Model('Data Center GPU Flex 140', 12),
}
TABLE: dict[tuple[int, int], Model] = {
    (vendor, product): model
    for vendor, models in ((0x10DE, _NVIDIA), (0x1002, _AMD), (0x8086, _INTEL))
    for product, model in models.items()
}


class CardNames(NamedTuple):
    """``name`` for people, ``model`` for resource classes."""

    name: str
    model: str
    memory_mib: int | None
    linked: int = 0


def card_names(tree: Tree, vendor_id: int, product_id: int) -> CardNames:
    """The names of a card, falling back to its PCI ids."""
    vendor = VENDORS.get(vendor_id, f'{vendor_id:04x}')
    known = TABLE.get((vendor_id, product_id))
    listed = _from_pci_ids(tree, vendor_id, product_id)
    product = listed or (known.name if known else f'{product_id:04x}')
    model = known.name if known else product
    memory = known.memory_gib if known else None
    return CardNames(
        f'{vendor} {product}',
        f'{vendor} {model}',
        None if memory is None else memory * 1024,
        known.linked if known else 0,
    )


def _from_pci_ids(tree: Tree, vendor_id: int, product_id: int) -> str | None:
    for name in PCI_IDS:
        path = tree.path(name)
        try:
            stat = os.stat(path)
            stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            return _products(path, stamp, vendor_id).get(product_id)
        except OSError:
            continue
    return None


@functools.lru_cache(maxsize=8)
def _products(
    path: str, stamp: tuple[int, ...], vendor_id: int
) -> dict[int, str]:
    """One vendor's products; ``stamp`` makes a changed file a new entry."""
    with open(path, encoding='utf-8', errors='replace') as stream:
        text = '\n' + stream.read()
    start = text.find(f'\n{vendor_id:04x} ')
    if start < 0:
        return {}
    end = re.compile(r'\n[^\t#\n]').search(text, start + 1)
    section = text[start : end.start() if end else len(text)]
    products = {}
    for match in re.finditer(r'\n\t([0-9a-f]{4})\s+(.+)', section):
        bracket = re.search(r'\[(.+)\]', match[2])
        name = bracket[1] if bracket else match[2]
        products[int(match[1], 16)] = name.strip()
    return products
