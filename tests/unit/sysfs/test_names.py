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


"""Names of cards: pci.ids for people, the table for resource classes."""

from __future__ import annotations

import re

from nova_gpu.model.device import VENDORS
from nova_gpu.model.profile import token
from nova_gpu.sysfs.names import PCI_IDS, TABLE, CardNames, Model, card_names
from nova_gpu.sysfs.tree import Tree
from tests.unit import base

IDS = """\
# A cut of the PCI ID repository.
1002  Advanced Micro Devices, Inc. [AMD/ATI]
\t74a1  Aqua Vanjaram [Instinct MI300X]
10de  NVIDIA Corporation
\t20b0  GA100 [A100 SXM4 40GB of hwdata]
\t\t10de 134f  A subsystem
\t20b2  GA100 [A100 SXM4 80GB]
\t2bff  GB299 [RTX 9999]
\t2c00  no brackets here
10df  Emulex Corporation
\t20b1  not NVIDIA's
C 03  Display controller
"""


class CardNamesTest(base.HostTest):
    """One card's names."""

    def names(self, product: int, vendor: int = 0x10DE) -> CardNames:
        return card_names(Tree(self.fake.root), vendor, product)

    def test_table_alone(self) -> None:
        self.assertEqual(
            CardNames(
                'NVIDIA A100 SXM4 40GB', 'NVIDIA A100 SXM4 40GB', 40 * 1024, 8
            ),
            self.names(0x20B0),
        )

    def test_ids_alone(self) -> None:
        self.assertEqual(
            CardNames('NVIDIA 2bff', 'NVIDIA 2bff', None), self.names(0x2BFF)
        )
        self.assertEqual(
            CardNames('1a03 2000', '1a03 2000', None),
            self.names(0x2000, 0x1A03),
        )

    def test_pci_ids_names_and_the_table_classifies(self) -> None:
        for path in PCI_IDS:
            self.fake.write(path, IDS)
            names = self.names(0x20B0)
            self.assertEqual('NVIDIA A100 SXM4 40GB of hwdata', names.name)
            self.assertEqual('NVIDIA A100 SXM4 40GB', names.model)
            (self.fake.root / path).unlink()

    def test_only_in_pci_ids(self) -> None:
        self.fake.write(PCI_IDS[0], IDS)
        self.assertEqual(
            CardNames('NVIDIA RTX 9999', 'NVIDIA RTX 9999', None),
            self.names(0x2BFF),
        )
        self.assertEqual('NVIDIA no brackets here', self.names(0x2C00).name)
        self.assertEqual(
            'AMD Instinct MI300X', self.names(0x74A1, 0x1002).name
        )

    def test_not_in_pci_ids(self) -> None:
        self.fake.write(PCI_IDS[0], IDS)
        # 20b1 is another vendor's, 134f a subsystem.
        for product in (0x20B1, 0x134F, 0x9999):
            self.assertEqual(f'NVIDIA {product:04x}', self.names(product).name)
        # A vendor that the file doesn't list at all.
        self.assertEqual('8087 1234', self.names(0x1234, 0x8087).name)

    def test_update_of_the_file_is_seen(self) -> None:
        self.fake.write(PCI_IDS[0], IDS)
        self.assertEqual('NVIDIA RTX 9999', self.names(0x2BFF).name)
        self.fake.write(PCI_IDS[0], IDS.replace('RTX 9999', 'RTX 10000'))
        self.assertEqual('NVIDIA RTX 10000', self.names(0x2BFF).name)

    def test_file_that_is_no_list(self) -> None:
        for content in (b'', b'\xff\xfe10de', b'10de', b'10de \n\tzzzz x\n',
                        IDS[:40].encode()):  # fmt: skip
            self.fake.write(PCI_IDS[0], content)
            self.assertEqual('NVIDIA A100 SXM4 40GB', self.names(0x20B0).name)

    def test_directory_in_its_place_means_the_other_file(self) -> None:
        (self.fake.root / PCI_IDS[0]).mkdir(parents=True)
        self.fake.write(PCI_IDS[1], IDS)
        self.assertEqual('NVIDIA RTX 9999', self.names(0x2BFF).name)


class TableTest(base.HostTest):
    """The table agrees with itself."""

    def test_vendors(self) -> None:
        self.assertEqual(set(VENDORS), {vendor for vendor, _ in TABLE})

    def test_one_class_a_model(self) -> None:
        classes: dict[str, Model] = {}
        for (vendor, _), model in TABLE.items():
            name = token(f'{VENDORS[vendor]} {model.name}')
            self.assertRegex(name, r'\A[A-Z0-9_]{1,240}\Z')
            self.assertNotIn(name, classes)
            classes[name] = model

    def test_names_leave_the_vendor_out(self) -> None:
        for (vendor, _), model in TABLE.items():
            self.assertNotIn(VENDORS[vendor], model.name)
            self.assertEqual(model.name.strip(), model.name)

    def test_memory_is_what_the_name_says(self) -> None:
        said = {
            model.name: (int(size[1]), model.memory_gib)
            for model in TABLE.values()
            if (size := re.search(r'([0-9]+)GB\b', model.name))
        }
        self.assertIn('A100 SXM4 80GB', said)
        for name, (in_name, in_table) in said.items():
            self.assertEqual(in_name, in_table, name)

    def test_memory_is_plausible(self) -> None:
        for model in TABLE.values():
            self.assertTrue(
                model.memory_gib is None or 4 <= model.memory_gib <= 288, model
            )
