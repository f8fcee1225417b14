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

"""``nova-gpu host record``, and who reads the record."""

from __future__ import annotations

import json
import os
import pathlib
import sys
from typing import Any

import fixtures

from nova_gpu.linksfile import LinksFile
from tests.fixtures import hosts
from tests.fixtures.nvml import NUMBERS, FakeNvml, card, switch
from tests.unit.cli import base

ONE, TWO, THREE, FOUR = (f'0000:{bus}:00.0' for bus in (41, 42, 81, 82))
SWITCHES = hosts.NVSWITCH_ADDRESSES


class RecordTest(base.CliTest):
    """Four A40; bridges join the first with the third, the others also."""

    def setUp(self) -> None:
        super().setUp()
        self.nvml = self.useFixture(FakeNvml())
        self.path = pathlib.Path(self.root, 'var/lib/nova/gpu/links.json')
        pairs = {ONE: THREE, TWO: FOUR, THREE: ONE, FOUR: TWO}
        for number, (address, other) in enumerate(pairs.items()):
            self.add(address, number, [card(other)] * 4)

    def add(
        self, address: str, group: int, links: Any, product: int = 0x2235
    ) -> None:
        """Add a card that is bound to NVIDIA's driver."""
        self.fake.add_gpu(address, product, iommu_group=group, driver='nvidia')
        self.nvml.add_card(address, product, links)

    def record(self, *args: str) -> base.Result:
        result = self.nova_gpu('host', 'record', '--root', self.root, *args)
        self.assertEqual(0, self.nvml.running)
        return result

    def bind_all(self) -> None:
        """Bind the cards to vfio-pci: the driver has none any more."""
        for found in self.nvml.cards:
            self.fake.bind(found.address, 'vfio-pci')
        self.nvml.cards.clear()

    def ties(self, *args: str) -> dict[str, str]:
        """What the first card shares with the others."""
        result = self.topology('-f', 'json', *args)
        self.assertEqual((0, []), (result.code, result.errors))
        return {k: v for k, v in result.json[0].items() if k[0] == '0'}

    def test_recorded_and_read_once_bound(self) -> None:
        result = self.record('-f', 'json')
        self.assertEqual((0, []), (result.code, result.errors))
        self.assertEqual(
            {
                'Address': FOUR, 'Clique': f'NVLink {TWO}', 'Links': 4,
                'Switches': 0, 'Down': 0,
            },
            result.json[-1],
        )  # fmt: skip
        self.assertEqual(0o644, self.path.stat().st_mode & 0o777)
        content = json.loads(self.path.read_text())
        self.assertEqual('550.54.14', content['driver'])
        self.assertEqual(['links.json'], os.listdir(self.path.parent))
        self.bind_all()
        self.assertEqual(
            {ONE: '-', TWO: 'numa', THREE: 'nvlink', FOUR: 'numa'},
            self.ties(),
        )

    def test_a_rule_comes_before_the_record(self) -> None:
        self.record()
        self.bind_all()
        rule = '{"address": "%s", "clique": "%s"}'
        self.assertEqual(
            'numa', self.ties('--rule', rule % (THREE, 'none'))[THREE]
        )
        rules = (a for n in (ONE, TWO) for a in ('--rule', rule % (n, 'x')))
        self.assertEqual('nvlink', self.ties(*rules)[TWO])

    def test_the_record_comes_before_the_board(self) -> None:
        """A board whose links are off."""
        self.fake = hosts.a100_board(self.fake)
        for address in hosts.A100_ADDRESSES:
            self.fake.bind(address, 'nvidia')
            self.nvml.add_card(address, links=[None] * 12)
        result = self.record()
        self.assertEqual(0, result.code)
        self.assertEqual(8, len(result.errors))
        self.assertIn(
            'warning: all 12 links of card 0000:25:00.0 are down, so it is '
            'recorded as not linked: if it should be, see that the fabric '
            'manager runs, and record again',
            result.errors,
        )
        self.bind_all()
        self.assertNotIn('nvlink', list(self.ties().values())[1:5])

    def test_switches(self) -> None:
        self.fake = hosts.a100_board(self.fake)
        for address in hosts.A100_ADDRESSES:
            self.fake.bind(address, 'nvidia')
            ends = [switch(a) for a in SWITCHES for _ in range(2)]
            self.nvml.add_card(address, links=ends)
        rows = self.record('-f', 'json').json
        by_address = {row.pop('Address'): row for row in rows}
        self.assertEqual(
            {'Clique': f'NVSwitch {SWITCHES[0]}', 'Links': 0, 'Switches': 6,
             'Down': 0},
            by_address[hosts.A100_ADDRESSES[7]],
        )  # fmt: skip

    def test_switches_on_no_bus(self) -> None:
        for group, bus in enumerate(('a1', 'b1'), start=9):
            self.add(f'0000:{bus}:00.0', group, [switch(None)] * 18, 0x2901)
        rows = self.record('-f', 'json').json
        self.assertEqual(
            {'NVSwitch'}, {r['Clique'] for r in rows if r['Switches']}
        )

    def test_driver_that_does_not_know_what_is_at_the_end(self) -> None:
        name = 'nvmlDeviceGetNvLinkRemoteDeviceType'
        self.nvml.failures[name] = NUMBERS['FUNCTION_NOT_FOUND']
        self.assertEqual(
            f'NVLink {ONE}', self.record('-f', 'json').json[2]['Clique']
        )

    def test_card_without_nvlink(self) -> None:
        self.add('0000:3b:00.0', 7, (), 0x1EB8)
        row = self.record('-f', 'json').json[0]
        self.assertEqual(('none', 0), (row['Clique'], row['Down']))

    def test_cards_of_guests_keep_their_record(self) -> None:
        self.record()
        self.fake.bind(ONE, 'vfio-pci')
        del self.nvml.cards[0]
        self.fake.add_gpu('0000:a1:00.0', 0x2236, iommu_group=11)
        result = self.record('-f', 'json')
        self.assertEqual(
            [
                f'warning: card {ONE} is bound to vfio-pci, and NVML does not '
                f'tell of it: what was recorded before is kept',
                'warning: card 0000:a1:00.0 is bound to vfio-pci, and NVML '
                'does not tell of it: its links are not known',
            ],
            result.errors,
        )
        self.assertEqual(
            [f'NVLink {ONE}', f'NVLink {TWO}'] * 2,
            [row['Clique'] for row in result.json],
        )

    def test_another_card_in_its_place(self) -> None:
        self.record()
        self.bind_all()
        self.fake.remove(THREE)
        self.fake.add_gpu(
            THREE, 0x2235, iommu_group=2, subsystem=(0x1028, 0x1)
        )
        result = self.topology('-f', 'json')
        self.assertEqual(
            [
                f'warning: {self.path}: at {THREE} is another card than was '
                f'recorded: its links are not known; run "nova-gpu host '
                f'record" again'
            ],
            result.errors,
        )
        self.assertEqual('numa', result.json[0][THREE])
        # Nor is that kept with a new record.
        result = self.record('-f', 'json')
        self.assertIn('its links are not known', result.errors[-2])
        self.assertNotIn(THREE, [row['Address'] for row in result.json])

    def test_nothing_to_ask(self) -> None:
        for name, number, expected in (
            ('nvmlInit', 'LIBRARY_NOT_FOUND',
             'NVML does not start: NVML Shared Library Not Found; install '
             "libnvidia-ml.so.1, which comes with NVIDIA's driver"),
            ('nvmlInit', 'DRIVER_NOT_LOADED',
             "NVML does not start: Driver Not Loaded; load NVIDIA's driver "
             '(modprobe nvidia), and record before the cards are bound to '
             'vfio-pci'),
            ('nvmlInit', 'NO_PERMISSION',
             'NVML does not start: Insufficient Permissions; run as root'),
            ('nvmlInit', 'LIB_RM_VERSION_MISMATCH', 'load it anew, or boot'),
            ('nvmlDeviceGetHandleByIndex', 'GPU_IS_LOST',
             'NVML does not tell of its card 0: GPU is lost'),
            ('nvmlDeviceGetNvLinkState', 'UNKNOWN',
             f'NVML does not tell the links of card {ONE}: Unknown Error'),
            ('nvmlSystemGetDriverVersion', 'UNKNOWN', 'no version of the'),
            ('nvmlDeviceGetCount', 'UNKNOWN', 'NVML lists no cards'),
        ):  # fmt: skip
            self.nvml.failures = {name: NUMBERS[number]}
            result = self.record()
            self.assertEqual((1, ''), (result.code, result.out))
            (line,) = result.errors
            self.assertIn(f'{expected}', line)
            self.assertFalse(self.path.exists())

    def test_no_package(self) -> None:
        sys.modules['pynvml'] = None  # type: ignore[assignment]
        result = self.record()
        self.assertEqual(1, result.code)
        self.assertEqual(
            [
                'error: The links are not recorded: the Python package '
                "nvidia-ml-py is missing: pip install 'nova-gpu[nvml]'"
            ],
            result.errors,
        )

    def test_no_card(self) -> None:
        self.bind_all()
        result = self.record()
        self.assertEqual(1, result.code)
        self.assertIn(
            "error: The links are not recorded: NVIDIA's driver 550.54.14 "
            'has no card: bind the cards to it',
            result.errors,
        )

    def test_file_that_can_not_be_written(self) -> None:
        self.fake.write('var/lib/nova', 'a file')
        result = self.record()
        self.assertEqual(1, result.code)
        self.assertIn(str(self.path), result.errors[-1])

    def test_other_file(self) -> None:
        self.fake.write('nova.conf', '[gpu]\nlinks_file = /srv/links\n')
        conf = ('--config-file', f'{self.root}/nova.conf')
        self.record(*conf)
        self.assertFalse(self.path.exists())
        self.bind_all()
        self.assertEqual('nvlink', self.ties(*conf)[THREE])

    def test_bad_file_is_a_warning(self) -> None:
        good = json.dumps(self.content())
        for text, expected in (
            ('', 'Expecting value'),
            ('[' * 100000, 'recursion'),
            ('{}', "$: 'cards' is a required property"),
            (good.replace('"version": 1', '"version": 2'),
             '$.version: 1 was expected'),
            (good.replace(ONE, '41:00'), 'does not match'),
            (good.replace('"10de"', '"10DE"'), "'10DE' does not match"),
        ):  # fmt: skip
            self.path.write_text(text)
            result = self.topology('-f', 'json')
            self.assertEqual(0, result.code)
            (line,) = result.errors
            self.assertIn(f'warning: [gpu] links_file {self.path}: ', line)
            self.assertIn(expected, line)
            self.assertEqual('numa', result.json[0][THREE])

    def content(self) -> Any:
        self.record()
        return json.loads(self.path.read_text())

    def test_read_again_when_it_has_changed(self) -> None:
        self.record()
        file = LinksFile(self.path)
        first = file.read()
        self.assertIs(first, file.read())
        self.nvml.cards.pop()
        self.fake.remove(FOUR)
        self.record()
        self.assertEqual(3, len(file.read()))
        self.path.unlink()
        self.assertEqual((), file.read())

    def test_folder_belongs_to_whom_the_one_above_does(self) -> None:
        above = pathlib.Path(self.root, 'var/lib/nova')
        above.mkdir(parents=True)
        given = []
        self.useFixture(
            fixtures.MonkeyPatch('os.chown', lambda *args: given.append(args))
        )
        self.record()
        owner = above.stat()
        self.assertEqual(
            [(str(above / 'gpu'), owner.st_uid, owner.st_gid)], given
        )
