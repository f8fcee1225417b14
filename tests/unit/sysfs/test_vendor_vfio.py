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

"""vGPUs by the vendor's own VFIO interface."""

from __future__ import annotations

import errno
import os
import shutil
from typing import Any

from nova_gpu.model.device import Card, VirtualFunction
from nova_gpu.model.profile import VgpuType
from nova_gpu.sysfs.functions import DEVICES
from tests.fixtures import hosts
from tests.unit import base

CARD = '0001:04:00.0'
FIRST, SECOND, THIRD = (f'0001:04:00.{n}' for n in (2, 3, 4))
CURRENT = 'nvidia/current_vgpu_type'
CREATABLE = 'nvidia/creatable_vgpu_types'


class VendorVfioTest(base.HostTest):
    """One card, with a handful of functions."""

    def setUp(self) -> None:
        super().setUp()
        self.add()

    def add(self, address: str = CARD, **kwargs: Any) -> None:
        fields: dict[str, Any] = {
            'product': 0x2235, 'driver': 'nvidia', 'iommu_group': 30,
            'types': hosts.A40_TYPES, 'units': 48, 'vendor_vfio': True,
            'virtual_functions': 4, 'vf_offset': 2,
        }  # fmt: skip
        self.fake.add_gpu(address, **{**fields, **kwargs})

    def card(self) -> Card:
        return self.cards()[CARD]

    def file(self, function: str, name: str) -> str:
        return f'{DEVICES}/{function}/{name}'

    def write(self, function: str, name: str, content: str | bytes) -> None:
        self.fake.write(self.file(function, name), content)

    def types(self, content: str | bytes) -> dict[str, str]:
        """What is understood of a list of types."""
        self.write(FIRST, CREATABLE, content)
        return {kind.id: kind.name for kind in self.card().types}

    def test_empty_card(self) -> None:
        card = self.card()
        self.assertTrue(card.vendor_vfio)
        self.assertEqual(
            [f'0001:04:00.{n}' for n in (2, 3, 4, 5)],
            [str(p) for p in card.parents],
        )
        self.assertEqual(tuple(map(VirtualFunction, card.parents)), card.vfs)
        self.assertEqual(len(hosts.A40_TYPES), len(card.types))
        self.assertEqual(
            VgpuType(
                '558', 'NVIDIA A40-2Q', available=1, framebuffer_mib=2048
            ),
            card.type_by_id('558'),
        )
        self.assertEqual(((), ()), (card.made, card.mdevs))
        self.assertEqual((), self.snapshot().warnings)

    def test_functions_with_a_type(self) -> None:
        self.fake.set_vgpu_type(SECOND, '562')
        card = self.card()
        self.assertEqual(('562',), card.made)
        self.assertEqual(
            [None, '562', None, None], [vf.type_id for vf in card.vfs]
        )
        self.assertEqual(4, len(card.parents))
        # The others see that the card has one of 8 GiB.
        self.assertEqual(['562'], [kind.id for kind in card.types])
        self.fake.set_vgpu_type(SECOND, '0')
        self.assertEqual(10, len(self.card().types))

    def test_list_is_that_of_a_free_function(self) -> None:
        self.fake.set_vgpu_type(FIRST, '562')
        self.write(FIRST, CREATABLE, 'ID    : vGPU Name\n')
        self.assertEqual(['562'], [kind.id for kind in self.card().types])

    def test_none_free(self) -> None:
        for function in self.fake.functions(CARD):
            self.fake.set_vgpu_type(function, '557')
        card = self.card()
        self.assertEqual((), card.types)
        self.assertEqual(('557',) * 4, card.made)
        self.assertEqual(4, len(card.parents))

    def test_function_that_does_not_tell(self) -> None:
        self.fake.wedge(FIRST, unreadable=True)
        os.unlink(self.fake.device(THIRD) / CURRENT)
        card = self.card()
        problem = 'does not tell its vGPU type'
        self.assertEqual(
            [problem, None, problem, None], [vf.problem for vf in card.vfs]
        )
        self.assertEqual(
            [SECOND, '0001:04:00.5'], list(map(str, card.parents))
        )
        self.assertEqual(10, len(card.types))
        self.assertEqual(
            (
                f'{self.path(self.file(FIRST, CURRENT))}: Is a directory',
                f'{self.path(self.file(THIRD, CURRENT))}: No such file or '
                f'directory',
            ),
            self.snapshot().warnings,
        )

    def test_type_that_is_no_number(self) -> None:
        for content in (b'', b'\n', b'many\n', b'-1', b'0x22e', b'5 5',
                        b'9' * 10, b'\xff\x00'):  # fmt: skip
            self.write(SECOND, CURRENT, content)
            shown = content.decode('utf-8', 'replace').strip()
            found = self.snapshot()
            self.assertEqual(
                VirtualFunction(
                    found.cards[0].vfs[1].address,
                    problem=f'has {shown!r} for its vGPU type',
                ),
                found.cards[0].vfs[1],
            )
            self.assertEqual(3, len(found.cards[0].parents))
            self.assertEqual(
                (f'{self.path(self.file(SECOND, CURRENT))}: {shown!r} is not '
                 f'a number',),
                found.warnings,
            )  # fmt: skip

    def test_type_is_written_in_one_way(self) -> None:
        for content, expected in (
            ('562', '562'), ('0562\n', '562'), ('0', None), ('00\n', None),
        ):  # fmt: skip
            self.write(SECOND, CURRENT, content)
            self.assertEqual(expected, self.card().vfs[1].type_id)

    def test_both_formats(self) -> None:
        for content in (
            'ID    : vGPU Name\n558   : NVIDIA A40-2Q\n1145  : NVIDIA L4-1B\n',
            '558   : NVIDIA A40-2Q\n\n1145:NVIDIA L4-1B',
            'NVIDIA A40-2Q 558\nNVIDIA L4-1B 1145\n',
            'id : VGPU NAME\nNVIDIA A40-2Q\t558  \n  1145 : NVIDIA L4-1B\n',
        ):
            self.assertEqual(
                {'558': 'NVIDIA A40-2Q', '1145': 'NVIDIA L4-1B'},
                self.types(content),
            )
            self.assertEqual((), self.snapshot().warnings)

    def test_draft_of_the_fake_driver(self) -> None:
        self.fake.remove(CARD)
        self.add(draft=True)
        self.assertEqual(10, len(self.card().types))
        self.assertEqual('NVIDIA A40-48Q', self.card().types[-1].name)
        self.assertEqual((), self.snapshot().warnings)

    def test_nothing_can_be_made(self) -> None:
        for content in ('', '\n', 'ID    : vGPU Name\n'):
            self.assertEqual({}, self.types(content))
            self.assertEqual((), self.snapshot().warnings)

    def test_name_that_tells_no_size(self) -> None:
        self.types('1 : Odd name\n2 : NVIDIA A40-0Q\n')
        self.assertEqual(
            [None, 512], [kind.framebuffer_mib for kind in self.card().types]
        )

    def test_garbage_between_types(self) -> None:
        good = '558   : NVIDIA A40-2Q'
        for line in (
            'many', '0 : None', '558 : Another', 'Another 558', '559 :',
            ': NVIDIA A40-2Q', '559', '12345678901 : NVIDIA A40-2Q',
            '\x00\x01', '559 : NVIDIA\x1bA40', '-1 : NVIDIA A40-1Q', 'x' * 100,
        ):  # fmt: skip
            for content in (f'{good}\n{line}\n560 : Last\n',):
                self.assertEqual(
                    {'558': 'NVIDIA A40-2Q', '560': 'Last'},
                    self.types(content),
                    line,
                )
                path = self.path(self.file(FIRST, CREATABLE))
                self.assertEqual(
                    (f'{path}: {line[:60]!r} is no vGPU type: ignored',),
                    self.snapshot().warnings,
                )

    def test_list_that_can_not_be_read_is_asked_of_another(self) -> None:
        functions = self.fake.functions(CARD)
        for count, function in enumerate(functions, 1):
            path = self.fake.device(function) / CREATABLE
            path.unlink()
            path.mkdir()
            # Not of each: there can be hundreds.
            self.assertEqual(10 if count < 3 else 0, len(self.card().types))
            self.assertEqual(min(count, 3), len(self.snapshot().warnings))
            self.assertEqual(4, len(self.card().parents))
        self.assertIn(os.strerror(errno.EISDIR), self.snapshot().warnings[0])

    def test_folder_that_is_half_there(self) -> None:
        for function in self.fake.functions(CARD):
            folder = self.fake.device(function) / 'nvidia'
            shutil.rmtree(folder)
            folder.mkdir()
        card = self.card()
        self.assertTrue(card.vendor_vfio)
        self.assertEqual(((), ()), (card.types, card.parents))
        self.assertEqual(4, len(self.snapshot().warnings))

    def test_first_function_on_another_driver(self) -> None:
        # It has no such folder then; that doesn't make the others plain.
        shutil.rmtree(self.fake.device(FIRST) / 'nvidia')
        self.fake.bind(FIRST, 'vfio-pci')
        card = self.card()
        self.assertTrue(card.vendor_vfio)
        self.assertEqual('does not tell its vGPU type', card.vfs[0].problem)
        self.assertEqual(3, len(card.parents))
        self.assertEqual(10, len(card.types))

    def test_no_function_has_it(self) -> None:
        for function in self.fake.functions(CARD):
            shutil.rmtree(self.fake.device(function) / 'nvidia')
        card = self.card()
        self.assertFalse(card.vendor_vfio)
        self.assertEqual(['nvidia'] * 4, [vf.driver for vf in card.vfs])
        self.assertEqual((), self.snapshot().warnings)

    def test_no_iommu(self) -> None:
        self.fake.remove(CARD)
        self.add(iommu_group=None)
        card = self.card()
        self.assertTrue(card.vendor_vfio)
        self.assertEqual(
            {'has no IOMMU group'}, {vf.problem for vf in card.vfs}
        )
        self.assertEqual(((), ()), (card.types, card.parents))

    def test_mediated_devices_go_first(self) -> None:
        # A driver would never show both; the older form is the whole one.
        self.add('0000:41:00.0', vendor_vfio=False)
        for function in self.fake.functions('0000:41:00.0'):
            self.write(function, CURRENT, '0\n')
        card = self.cards()['0000:41:00.0']
        self.assertFalse(card.vendor_vfio)
        self.assertEqual('nvidia-557', card.types[0].id)
