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

"""One refresh of a host with many vGPUs, beside asking libvirt for it.

The peer is what Nova does each minute: list the node devices, and for each
look it up, take its XML and parse that with Nova's own classes. It runs on
libvirt's own test driver with the same hardware; a real libvirtd adds a
message there and back to each question, and reads the same sysfs itself.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from nova.virt.libvirt import config as nova_config

from nova_gpu.host import read_snapshot
from nova_gpu.mechanism.mdev import MdevVgpu
from nova_gpu.mechanism.whole import WholeCard
from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import Card, Snapshot
from nova_gpu.model.guest import GuestDevices
from nova_gpu.putaside import PutAside
from nova_gpu.sysfs.tree import Tree
from nova_gpu.tracker import Tracker
from tests.bench import measure
from tests.fixtures.sysfs import FakeSysfs, FakeType

try:
    import libvirt
except ImportError:
    libvirt = None

CARDS = 16
FUNCTIONS = 32
TYPES = 20
MDEVS = 16
ROUNDS = 9
PEER = 'libvirt test driver, device by device'


def run() -> Iterator[measure.Row]:
    """The curve over the number of cards, then over what a card has."""
    if libvirt is None:
        print(
            'refresh: no peer, libvirt-python is not installed',
            file=sys.stderr,
        )
    for cards in (1, 2, 4, 8, CARDS):
        yield _measure(cards, FUNCTIONS, TYPES, MDEVS)
    # The number of files must not grow with functions times types.
    yield _measure(CARDS, FUNCTIONS, TYPES, 0)
    yield _measure(CARDS, FUNCTIONS // 2, TYPES, MDEVS)
    yield _measure(CARDS, FUNCTIONS, TYPES // 2, MDEVS)


def _measure(
    cards: int, functions: int, types: int, mdevs: int
) -> measure.Row:
    with tempfile.TemporaryDirectory(dir=measure.ram_folder()) as root:
        fake = _host(root, cards, functions, types, mdevs)
        trees: list[Tree] = []

        def read() -> Snapshot:
            trees.append(Tree(fake.root))
            return read_snapshot(trees[-1])

        tracker = Tracker(
            read,
            (MdevVgpu(), WholeCard()),
            fake,
            PutAside(fake.root / 'aside'),
        )
        guest = GuestDevices('all', 'all', mdevs=frozenset(fake.mdevs))
        snapshot = tracker.rebuild([guest]).snapshot
        assert len(snapshot.cards) == cards and not snapshot.warnings

        def ours() -> float:
            return measure.seconds(tracker.view) * 1e3

        peer: float | None = None
        if libvirt is None:
            mine = measure.median(ours, ROUNDS)
        else:
            path = Path(root, 'test.xml')
            path.write_text(_libvirt_xml(snapshot, functions))
            ask = _libvirt(path, cards * (1 + 2 * functions + mdevs))
            mine, peer = measure.in_turn(
                ours, lambda: measure.seconds(ask) * 1e3, ROUNDS
            )
        return measure.Row(
            'refresh',
            {
                'cards': cards,
                'functions': cards * functions,
                'types': types,
                'mdevs': cards * mdevs,
                'files': trees[-1].reads,
            },
            mine,
            peer,
            None if peer is None else PEER,
            'ms',
        )


class _Quick(FakeSysfs):
    """Says what cards still take once at the end, and not at each mdev."""

    hold = True

    def _refresh(self, card: str) -> None:
        if not self.hold:
            super()._refresh(card)

    def available(self, parent: str, type_id: str) -> int:
        return 1 if self.hold else super().available(parent, type_id)


def _host(
    root: str, cards: int, functions: int, types: int, mdevs: int
) -> FakeSysfs:
    fake = _Quick(root)
    kinds = tuple(
        FakeType(
            f'nvidia-{500 + n}', f'NVIDIA A16-{n + 1}Q', size=n + 1,
            max_instance=64 // (n + 1),
        )
        for n in range(types)
    )  # fmt: skip
    for index in range(cards):
        address = PciAddress(0, 0x10 + index, 0, 0)
        fake.add_gpu(
            str(address), 0x2235, numa_node=index * 2 // CARDS,
            iommu_group=index, driver='nvidia', types=kinds, units=64,
            virtual_functions=functions,
        )  # fmt: skip
        parents = sorted(
            path.resolve().name
            for path in fake.device(str(address)).glob('virtfn*')
        )
        for number, parent in enumerate(parents[:mdevs]):
            # Cards alternate between two profiles.
            fake.create_mdev(
                parent, kinds[1 + index % 2].id,
                f'6e6f7661-6770-8000-8000-{index:04x}{number:08x}',
            )  # fmt: skip
    fake.hold = False
    for index in range(cards):
        fake._refresh(str(PciAddress(0, 0x10 + index, 0, 0)))
    return fake


def _libvirt(path: Path, expected: int) -> Callable[[], None]:
    """Ask libvirt for every node device, as Nova does."""
    connection = libvirt.open(f'test://{path}')

    def ask() -> None:
        parsed = 0
        for capability in ('pci', 'mdev_types', 'mdev'):
            for name in connection.listDevices(capability, 0):
                device = connection.nodeDeviceLookupByName(name)
                found = nova_config.LibvirtConfigNodeDevice()
                found.parse_str(device.XMLDesc(0))
                parsed += 1
        assert parsed == expected, (parsed, expected)

    return ask


def _libvirt_xml(snapshot: Snapshot, functions: int) -> str:
    """The same hardware for libvirt's test driver."""
    devices = [
        text for card in snapshot.cards for text in _card_xml(card, functions)
    ]
    return f"""<node>
<cpu><mhz>2000</mhz><model>x86_64</model><active>2</active></cpu>
<memory>8192</memory>
<device><name>computer</name><capability type='system'>
<hardware><vendor>x</vendor><version>1</version><serial>1</serial>
<uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid></hardware>
<firmware><vendor>x</vendor><version>1</version>
<release_date>01/22/2007</release_date></firmware>
</capability></device>
{''.join(devices)}
</node>"""


def _card_xml(card: Card, functions: int) -> Iterator[str]:
    virtual = [parent for parent in card.parents if parent != card.address]
    listed = ''.join(map(_address_xml, virtual))
    yield _pci_xml(
        card, card.address,
        f"<capability type='virt_functions' maxCount='{functions}'>"
        f'{listed}</capability>',
    )  # fmt: skip
    types = ''.join(
        f"<type id='{kind.id}'><name>{kind.name}</name>"
        f'<deviceAPI>{kind.device_api}</deviceAPI>'
        f'<availableInstances>{kind.available}</availableInstances></type>'
        for kind in card.types
    )
    for address in virtual:
        yield _pci_xml(
            card, address,
            f"<capability type='phys_function'>"
            f'{_address_xml(card.address)}</capability>'
            f"<capability type='mdev_types'>{types}</capability>",
        )  # fmt: skip
    for mdev in card.mdevs:
        name = f'mdev_{mdev.uuid.replace("-", "_")}_{mdev.parent.token}'
        yield (
            f'<device><name>{name}</name>'
            f'<parent>pci_{mdev.parent.token}</parent>'
            f"<capability type='mdev'><type id='{mdev.type_id}'/>"
            f'<uuid>{mdev.uuid}</uuid>'
            f"<iommuGroup number='{hash(mdev.parent) % 4096}'/>"
            f'</capability></device>'
        )


def _pci_xml(card: Card, address: PciAddress, more: str) -> str:
    return (
        f'<device><name>pci_{address.token}</name><parent>computer</parent>'
        f"<driver><name>nvidia</name></driver><capability type='pci'>"
        f'<domain>{address.domain}</domain><bus>{address.bus}</bus>'
        f'<slot>{address.slot}</slot><function>{address.function}</function>'
        f"<product id='{card.product_id:#06x}'>GA102GL</product>"
        f"<vendor id='{card.vendor_id:#06x}'>NVIDIA</vendor>{more}"
        f"<iommuGroup number='{card.iommu_group}'>{_address_xml(address)}"
        f"</iommuGroup><numa node='{card.numa_node}'/>"
        f'</capability></device>'
    )


def _address_xml(address: PciAddress) -> str:
    return (
        f"<address domain='{address.domain:#06x}' bus='{address.bus:#04x}' "
        f"slot='{address.slot:#04x}' function='{address.function:#x}'/>"
    )


if __name__ == '__main__':
    measure.emit(run())
