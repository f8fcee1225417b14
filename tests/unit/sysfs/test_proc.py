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

"""What proc tells."""

from __future__ import annotations

import os
import pathlib

from nova_gpu.model.profile import VgpuType
from nova_gpu.sysfs.proc import (
    CAPABILITIES,
    CPUINFO,
    GPUS,
    UNIX,
    read_listening,
)
from nova_gpu.sysfs.tree import Tree
from tests.fixtures import machine
from tests.fixtures.sysfs import FakeType
from tests.unit import base

CARD = '0000:17:00.0'
INFORMATION = f'{GPUS}/{CARD}/information'
MIG = FakeType('nvidia-474', 'NVIDIA A100-1-5C', 1, 4864, 7, slices=1)
SLICED = FakeType('nvidia-468', 'NVIDIA A100-4C', 4, 4096, 10)

CPU = """\
processor	: 0
flags		: fpu vme
bogomips	: 5200.00
address sizes	: {} bits physical, 48 bits virtual
power management:

processor	: 1
address sizes	: 9 bits physical, 9 bits virtual
"""


class GpuInstancesTest(base.HostTest):
    """How many GPU instances a card has, where its types live on them."""

    def setUp(self) -> None:
        super().setUp()
        self.add((MIG,))

    def add(self, types: tuple[FakeType, ...]) -> None:
        self.fake.add_gpu(
            CARD, 0x20F1, driver='nvidia', iommu_group=1, types=types,
            units=40, virtual_functions=4, gpu_instances=(1, 1, 1),
        )  # fmt: skip

    def instances(self) -> int | None:
        return self.cards()[CARD].gpu_instances

    def test_as_many_as_there_are(self) -> None:
        self.assertEqual(3, self.instances())
        self.fake.set_gpu_instances(CARD, ())
        self.assertEqual(0, self.instances())
        self.assertEqual((), self.snapshot().warnings)

    def test_other_entries_are_none(self) -> None:
        for name in ('gi', 'gix', 'monitor', 'gi1x', 'xgi1'):
            (self.fake.root / CAPABILITIES / 'gpu0/mig' / name).mkdir()
        self.assertEqual(3, self.instances())

    def test_mig_off(self) -> None:
        self.fake.set_gpu_instances(CARD, None)
        self.assertIsNone(self.instances())
        self.assertEqual((), self.snapshot().warnings)

    def test_card_is_found_by_its_minor(self) -> None:
        self.fake.add_gpu(
            '0000:16:00.0', 0x20F1, driver='nvidia', types=(MIG,), units=40,
            virtual_functions=4, gpu_instances=(1,),
        )  # fmt: skip
        self.assertEqual(
            [1, 3], [c.gpu_instances for c in self.snapshot().cards]
        )

    def test_types_that_need_none_are_not_asked_for(self) -> None:
        self.fake.remove(CARD)
        self.add((SLICED,))
        self.fake.write(INFORMATION, 'wrong')
        self.assertIsNone(self.instances())
        self.assertEqual((), self.snapshot().warnings)

    def test_no_such_file(self) -> None:
        (self.fake.root / INFORMATION).unlink()
        self.assertIsNone(self.instances())
        self.assertEqual((), self.snapshot().warnings)

    def test_wrong_content(self) -> None:
        for content in ('', 'Device Minor: \t many', 'Device Minor: -1',
                        'xDevice Minor: 0'):  # fmt: skip
            self.fake.write(INFORMATION, content)
            self.assertIsNone(self.instances())
            self.assertEqual(
                (f"{self.path(INFORMATION)}: no 'Device Minor: N' in "
                 f'{content!r}',),
                self.snapshot().warnings,
            )  # fmt: skip

    def test_type_is_read_like_any(self) -> None:
        self.assertEqual(
            (VgpuType('nvidia-474', MIG.name or '', 1, 7, 4864),),
            self.cards()[CARD].types,
        )


class AddressBitsTest(base.HostTest):
    """The first processor's width of physical addresses."""

    def bits(self, content: str | None = None) -> int | None:
        if content is not None:
            self.fake.write(CPUINFO, content)
        return self.snapshot().address_bits

    def test_first_processor(self) -> None:
        self.assertEqual(46, self.bits(CPU.format(46)))
        self.assertEqual((), self.snapshot().warnings)

    def test_change_is_seen(self) -> None:
        self.fake.set_address_bits(46)
        self.assertEqual(46, self.bits())
        self.fake.set_address_bits(39)
        self.assertEqual(39, self.bits())

    def test_processor_that_does_not_tell(self) -> None:
        for content in ('', 'processor : 0\n', CPU.format('many')[:120],
                        'x' + CPU[CPU.index('address'):CPU.index('power')]
                        .format(46)):  # fmt: skip
            self.assertIsNone(self.bits(content))
            self.assertEqual((), self.snapshot().warnings)

    def test_no_file(self) -> None:
        (self.fake.root / CPUINFO).unlink(missing_ok=True)
        self.assertIsNone(self.bits())
        self.assertEqual((), self.snapshot().warnings)

    def test_unreadable(self) -> None:
        path = pathlib.Path(self.fake.root, CPUINFO)
        path.unlink(missing_ok=True)
        path.mkdir()
        self.assertIsNone(self.bits())
        self.assertEqual(
            (f'{self.path(CPUINFO)}: Is a directory',),
            self.snapshot().warnings,
        )

    def test_opened_once(self) -> None:
        # To open it takes some kernels long; a change can't happen there.
        self.fake.set_address_bits(46)
        path = pathlib.Path(self.fake.root, CPUINFO)
        stat = path.stat()
        self.assertEqual(46, self.bits())
        path.write_text(path.read_text().replace('46', '39'))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        self.assertEqual(46, self.bits())


class ListeningTest(base.HostTest):
    """The sockets that somebody listens on."""

    def test_sockets(self) -> None:
        machine.libvirt(self.fake)
        self.assertEqual(
            {'@/tmp/dbus-x', '/run/libvirt/virtqemud-sock'},
            read_listening(Tree(self.fake.root)),
        )
        machine.libvirt(self.fake, running=False)
        self.assertEqual(
            {'@/tmp/dbus-x'}, read_listening(Tree(self.fake.root))
        )

    def test_no_file_and_an_unreadable_one(self) -> None:
        tree = Tree(self.fake.root)
        self.assertEqual(set(), read_listening(tree))
        self.assertEqual([], tree.warnings)
        pathlib.Path(self.fake.root, UNIX).mkdir(parents=True)
        self.assertEqual(set(), read_listening(tree))
        self.assertEqual([f'{tree.path(UNIX)}: Is a directory'], tree.warnings)
