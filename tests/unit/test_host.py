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


"""One snapshot of the host, whatever its files are like."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from nova_gpu.host import DOMAIN_LIMIT, GUESTS, read_guests, read_snapshot
from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import Card
from nova_gpu.model.guest import Hostdev
from nova_gpu.sysfs.tree import Tree
from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeSysfs
from tests.unit import base

WHOLE, COMPANION, T4, A40 = (
    '0000:25:00.0', '0000:65:00.0', '0000:3b:00.0', '0000:41:00.0',
)  # fmt: skip
ADDRESSES = (WHOLE, T4, A40, COMPANION)
VENDOR, PLAIN = '0000:71:00.0', '0000:72:00.0'


MIG_TYPES = hosts.A100_TYPES[6:7]


def small_host(fake: FakeSysfs) -> None:
    """A card of each kind, with two types at most and one vGPU each."""
    fake.add_gpu(WHOLE, iommu_group=1)
    for function, code in enumerate((0x0300, 0x0403)):
        fake.add_function(
            f'{COMPANION[:-1]}{function}', 0x10DE, 0x2230, code,
            iommu_group=2, driver='vfio-pci', boot_vga=0,
        )  # fmt: skip
    fake.add_gpu(
        T4, 0x1EB8, driver='nvidia', types=hosts.T4_TYPES[2:4], units=16,
        iommu_group=3,
    )  # fmt: skip
    fake.add_gpu(
        A40, 0x2235, driver='nvidia', types=hosts.A40_TYPES[4:6], units=48,
        virtual_functions=2, iommu_group=4,
    )  # fmt: skip
    fake.create_mdev(T4, 'nvidia-232', base.instance(T4))
    fake.create_mdev('0000:41:00.4', 'nvidia-562', base.instance(A40))


def functions_host(fake: FakeSysfs) -> None:
    """Cards whose functions are no mdevs' parents, and a virtual parent."""
    fake.add_gpu(WHOLE, iommu_group=1)
    fake.add_gpu(
        VENDOR, 0x2235, driver='nvidia', types=MIG_TYPES, units=40,
        virtual_functions=2, iommu_group=2, vendor_vfio=True,
        gpu_instances=(1, 1), bars=(64 * hosts.GIB,), vf_bars=(hosts.GIB,),
        resettable=True,
    )  # fmt: skip
    fake.add_gpu(
        PLAIN, 0x74A1, vendor=0x1002, driver='gim', virtual_functions=2,
        vf_driver='vfio-pci', iommu_group=3, bars=(64 * hosts.GIB,),
        vf_bars=(hosts.GIB,),
    )  # fmt: skip
    for name in ('mbochs', 'mtty'):
        fake.add_virtual_parent(name, hosts.MTTY_TYPES, 24)
    fake.set_vgpu_type('0000:71:00.4', '474')
    fake.create_mdev('mtty', 'mtty-1', base.instance('mtty'))
    fake.create_mdev('mbochs', 'mtty-2', base.instance('mbochs'))


class VanishingTree(Tree):
    """Something happens to the host before the read of that number."""

    def __init__(
        self, root: pathlib.Path, number: int, event: Callable[[], None]
    ) -> None:
        self._number, self._event = number, event
        self._count = 0
        super().__init__(root)

    @property
    def reads(self) -> int:
        return self._count

    @reads.setter
    def reads(self, count: int) -> None:
        self._count = count
        if count == self._number:
            self._event()


class Vanishing(base.HostTest):
    """A card goes between two reads, whichever they are."""

    def setUp(self) -> None:
        super().setUp()
        self.build(self.fake)
        self.before = self.cards()

    def build(self, fake: FakeSysfs) -> None:
        raise NotImplementedError

    def moments(self) -> Iterator[tuple[int, FakeSysfs]]:
        """Each read of a pass, with a copy of the host to spoil."""
        tree = Tree(self.fake.root)
        read_snapshot(tree)
        for number in range(1, tree.reads + 1):
            root = f'{self.fake.root}-{number}'
            shutil.copytree(self.fake.root, root, symlinks=True)
            yield number, FakeSysfs(root)
            shutil.rmtree(root)

    def read(
        self, number: int, fake: FakeSysfs, victim: str
    ) -> tuple[dict[str, Card], list[str]]:
        tree = VanishingTree(fake.root, number, lambda: fake.remove(victim))
        cards = {str(c.address): c for c in read_snapshot(tree).cards}
        self.assertGreaterEqual(tree.reads, number)
        return cards, tree.warnings

    def check(self, victim: str) -> None:
        outcomes = set()
        for number, fake in self.moments():
            cards, warnings = self.read(number, fake, victim)
            found = cards.pop(victim, None)
            # There as it was, or not there: nothing in between.
            self.assertIn(found, (None, self.before[victim]), number)
            for address, card in cards.items():
                self.assertEqual(self.before[address], card)
            self.assertEqual(len(self.before) - 1, len(cards))
            outcomes.add((found is None, bool(warnings)))
            for warning in warnings:
                self.assertTrue(warning.startswith(f'{fake.root}/sys/'))
        # Gone before it was listed, while it was read, afterwards.
        self.assertLessEqual({(True, False), (True, True), (False, False)},
                             outcomes)  # fmt: skip


class VanishTest(Vanishing):
    """Whole cards, and such with mediated devices."""

    def build(self, fake: FakeSysfs) -> None:
        small_host(fake)
        self.assertEqual(sorted(ADDRESSES), sorted(self.cards()))

    def test_whole_card(self) -> None:
        self.check(WHOLE)

    def test_card_with_companion(self) -> None:
        self.check(COMPANION)

    def test_card_with_types(self) -> None:
        self.check(T4)

    def test_card_with_functions(self) -> None:
        self.check(A40)

    def test_companion(self) -> None:
        whole = self.before[COMPANION]
        for number, fake in self.moments():
            cards, _ = self.read(number, fake, f'{COMPANION[:-1]}1')
            for address, card in cards.items():
                if address != COMPANION:
                    self.assertEqual(self.before[address], card)
            self.assertEqual(4, len(cards))
            found = cards[COMPANION]
            self.assertIn(found.functions, (whole.functions, (whole.address,)))
            self.assertEqual(whole.iommu_group, found.iommu_group)

    def test_mdev(self) -> None:
        uuid = base.instance(T4)
        for number, fake in self.moments():
            tree = VanishingTree(
                fake.root, number, lambda fake=fake: fake.remove_mdev(uuid)
            )
            cards = {str(c.address): c for c in read_snapshot(tree).cards}
            self.assertEqual(4, len(cards))
            card = cards.pop(T4)
            self.assertIn(card.mdevs, ((), self.before[T4].mdevs))
            self.assertEqual(2, len(card.types))
            for address, other in cards.items():
                self.assertEqual(self.before[address], other)


class VanishFunctionsTest(Vanishing):
    """Cards whose functions are handed out, and a virtual parent."""

    def build(self, fake: FakeSysfs) -> None:
        functions_host(fake)

    def test_vendor_vfio(self) -> None:
        self.check(VENDOR)

    def test_plain_functions(self) -> None:
        self.check(PLAIN)

    def test_virtual_parent(self) -> None:
        self.check('mbochs')

    def test_functions_alone(self) -> None:
        # As when they are disabled: what is left of the card can be read.
        for victim in (VENDOR, PLAIN):
            before = self.before[victim]
            for number, fake in self.moments():
                tree = VanishingTree(
                    fake.root, number,
                    lambda fake=fake, victim=victim: fake.unload_driver(
                        victim
                    ),
                )  # fmt: skip
                cards = {str(c.address): c for c in read_snapshot(tree).cards}
                self.assertEqual(len(self.before), len(cards))
                card = cards.pop(victim)
                self.assertLessEqual(
                    {vf.address for vf in card.vfs},
                    {vf.address for vf in before.vfs},
                )
                self.assertEqual(before.bars, card.bars)
                for address, other in cards.items():
                    self.assertEqual(self.before[address], other)


def _missing(path: pathlib.Path) -> None:
    path.unlink()


def _directory(path: pathlib.Path) -> None:
    # Root may read any file: EISDIR stands for EACCES.
    path.unlink()
    path.mkdir()


def _dangling(path: pathlib.Path) -> None:
    path.unlink()
    path.symlink_to('../nowhere')


def _content(content: bytes) -> Callable[[pathlib.Path], None]:
    def spoil(path: pathlib.Path) -> None:
        if path.is_symlink():
            path.unlink()  # not what it points to
        path.write_bytes(content)

    return spoil


def _cut(path: pathlib.Path) -> None:
    if path.is_symlink():
        target = os.readlink(path)
        path.unlink()
        path.symlink_to(target[: len(target) // 2])
    else:
        content = path.read_bytes().rstrip()
        path.write_bytes(content[: len(content) // 2])


SPOILS = {
    'missing': _missing,
    'empty': _content(b''),
    'unreadable': _directory,
    'dangling': _dangling,
    'cut': _cut,
    'not a number': _content(b'many\n'),
    'binary': _content(b'\x00\xff\xfe'),
}
#: What a host may do without.
OPTIONAL = {
    'boot_vga', 'description', 'device_api', 'driver', 'iommu_group',
    'mdev_type', 'name', 'numa_node', 'reset', 'resource', 'sriov_totalvfs',
}  # fmt: skip
TEXTS = {'description', 'device_api', 'name'}
#: Empty where a card takes no more, in the format without a heading; cut
#: it can be a type with another name.
LIST = 'creatable_vgpu_types'


def may_be_silent(path: pathlib.Path, how: str) -> bool:
    """Whether nobody can see that the file has been spoiled."""
    if path.is_symlink() and how in ('dangling', 'cut'):
        return True
    if path.name == LIST and how in ('empty', 'cut'):
        return True
    if path.name == 'current_vgpu_type' and how == 'cut':
        return True
    if how in ('missing', 'dangling'):
        return path.name in OPTIONAL or path.name.startswith('virtfn')
    return path.name in TEXTS and how != 'unreadable'


class Spoiled(base.HostTest):
    """Each file of each card, spoiled in each way."""

    addresses: tuple[str, ...]

    def setUp(self) -> None:
        super().setUp()
        self.build(self.fake)
        self.before = self.cards()

    def build(self, fake: FakeSysfs) -> None:
        raise NotImplementedError

    def files(self) -> Iterator[tuple[str, pathlib.Path]]:
        """Every file and link, with the card that it belongs to."""
        for address in self.addresses:
            bus = PciAddress.parse(address).bus
            folder = self.fake.sys / f'devices/pci0000:{bus:02x}'
            for top, folders, names in os.walk(folder):
                for name in (*folders, *names):
                    path = pathlib.Path(top, name)
                    if path.is_symlink() or not path.is_dir():
                        yield address, path

    def spoil(self, path: pathlib.Path, how: str) -> None:
        """Spoil a file until the test has looked."""
        kept = path.with_name('kept')
        if path.is_symlink():
            kept.symlink_to(os.readlink(path))
        else:
            shutil.copy(path, kept)
        SPOILS[how](path)

    def mend(self, path: pathlib.Path) -> None:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.with_name('kept').rename(path)

    def check(self, how: str) -> None:
        changed = 0
        for address, path in list(self.files()):
            silent = may_be_silent(path, how)
            self.spoil(path, how)
            found = self.snapshot()
            self.mend(path)
            cards = {str(c.address): c for c in found.cards}
            card = cards.pop(address, None)
            where = f'{path} {how}: {found.warnings}'
            # No other card is touched.
            for other, before in self.before.items():
                if other != address:
                    self.assertEqual(before, cards.get(other), where)
            for warning in found.warnings:
                self.assertIn(f'{self.fake.root}/sys/', warning)
            if card == self.before[address]:
                continue
            changed += 1
            named = any(path.name in warning for warning in found.warnings)
            self.assertTrue(named or silent, where)
        self.assertGreater(changed, 10)
        self.assertEqual(self.before, self.cards())


class SpoiledTest(Spoiled):
    """Whole cards, and such with mediated devices."""

    addresses = ADDRESSES

    def build(self, fake: FakeSysfs) -> None:
        small_host(fake)

    def test_missing(self) -> None:
        self.check('missing')

    def test_empty(self) -> None:
        self.check('empty')

    def test_unreadable(self) -> None:
        self.check('unreadable')

    def test_dangling(self) -> None:
        self.check('dangling')

    def test_cut(self) -> None:
        self.check('cut')

    def test_not_a_number(self) -> None:
        self.check('not a number')

    def test_binary(self) -> None:
        self.check('binary')

    def test_identity_is_never_guessed(self) -> None:
        # These decide what a card is: it is left out, and named.
        for name in ('class', 'vendor', 'device'):
            path = self.fake.device(WHOLE) / name
            for how in SPOILS:
                self.spoil(path, how)
                found = self.snapshot()
                self.mend(path)
                self.assertEqual(3, len(found.cards), f'{name} {how}')
                (warning,) = found.warnings
                shown = self.path(f'sys/bus/pci/devices/{WHOLE}/{name}')
                self.assertTrue(warning.startswith(f'{shown}: '), warning)

    @given(st.binary(max_size=12))
    def test_any_content(self, content: bytes) -> None:
        for name in ('class', 'numa_node', 'mdev_supported_types/nvidia-232/'
                     'available_instances', 'mdev_supported_types/nvidia-232/'
                     'description'):  # fmt: skip
            path = self.fake.device(T4) / name
            before = path.read_bytes()
            path.write_bytes(content)
            cards = self.cards()
            path.write_bytes(before)
            self.assertLessEqual(3, len(cards))


class SpoiledFunctionsTest(Spoiled):
    """Cards whose functions are handed out."""

    addresses = (VENDOR, PLAIN)

    def build(self, fake: FakeSysfs) -> None:
        functions_host(fake)

    def test_each_way(self) -> None:
        for how in SPOILS:
            self.check(how)


class GuestsTest(base.HostTest):
    """The guests, from libvirt's own files."""

    def setUp(self) -> None:
        super().setUp()
        self.tree = Tree(self.fake.root)
        self.running, self.defined = GUESTS

    def write(self, folder: str, name: str, mdev: str) -> None:
        text = base.domain_xml(name, base.instance(name), [Hostdev(mdev=mdev)])
        if folder == self.running:
            text = f'<domstatus>{text}</domstatus>'
        self.fake.write(f'{folder}/{name}.xml', text)

    def test_none(self) -> None:
        self.assertEqual((), read_guests(self.tree))
        self.assertEqual([], self.tree.warnings)

    def test_running_and_defined_is_one(self) -> None:
        self.write(self.running, 'a', 'mdev-1')
        self.write(self.defined, 'a', 'mdev-2')
        self.write(self.defined, 'b', 'mdev-3')
        self.fake.write(f'{self.defined}/networks/default.xml', '<network/>')
        self.fake.write(f'{self.running}/a.pid', '7')
        first, second = read_guests(self.tree)
        self.assertEqual(('a', {'mdev-1'}), (first.name, first.mdevs))
        self.assertEqual(('b', {'mdev-3'}), (second.name, second.mdevs))

    def test_file_that_does_not_parse(self) -> None:
        self.write(self.defined, 'a', 'mdev-1')
        path = self.fake.root / self.defined / 'a.xml'
        path.write_text(path.read_text().replace('</domain>', ''))
        self.write(self.defined, 'b', 'mdev-2')
        first, second = read_guests(self.tree)
        self.assertFalse(first.readable)
        self.assertEqual(('a', {'mdev-1'}), (first.name, first.mdevs))
        self.assertEqual(base.instance('a'), first.uuid)
        self.assertTrue(second.readable)

    def test_file_that_can_not_be_read(self) -> None:
        (self.fake.root / self.defined / 'a.xml').mkdir(parents=True)
        self.write(self.defined, 'b', 'mdev-2')
        (guest,) = read_guests(self.tree)
        self.assertEqual('b', guest.name)
        self.assertEqual(
            [f'{self.path(self.defined)}/a.xml: Is a directory'],
            self.tree.warnings,
        )

    def test_file_that_is_too_large_to_be_one(self) -> None:
        self.write(self.defined, 'a', 'mdev-1')
        path = self.fake.root / self.defined / 'a.xml'
        text = path.read_text()
        path.write_text(
            text.replace('</domain>', ' ' * DOMAIN_LIMIT + '</domain>')
        )
        (guest,) = read_guests(self.tree)
        self.assertFalse(guest.readable)
        self.assertEqual({'mdev-1'}, guest.mdevs)
