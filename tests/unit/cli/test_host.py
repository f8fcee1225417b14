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


"""``nova-gpu host show`` on recorded hosts."""

from __future__ import annotations

import csv
import re

import yaml

from nova_gpu.model.address import PciAddress
from nova_gpu.model.inventory import Unit
from nova_gpu.putaside import FOLDER, PutAside
from tests.fixtures import hosts
from tests.fixtures.sysfs import FakeType
from tests.unit.cli import base

GUEST = '11111111-2222-4333-8444-555555555555'
OTHER = '99999999-2222-4333-8444-555555555555'
MDEVS = (
    '6e6f7661-6770-8000-8000-000000000001',
    '6e6f7661-6770-8000-8000-000000000002',
)


def t4_profile(
    number: int, size: int, total: int, used: int, free: int
) -> dict[str, object]:
    return {
        'profile': f'GRID T4-{size}Q',
        'type': f'nvidia-{number}',
        'resource_class': f'CUSTOM_VGPU_NVIDIA_T4_{size}Q',
        'total': total,
        'used': used,
        'free': free,
        'reserved': 0,
    }


def t4_card(
    address: str,
    numa_node: int,
    iommu_group: int,
    profiles: list[dict[str, object]],
    instances: list[str],
) -> dict[str, object]:
    return {
        'Address': address,
        'Name': 'NVIDIA Tesla T4',
        'NUMA Node': numa_node,
        'IOMMU Group': iommu_group,
        'Driver': 'nvidia',
        'Use': 'mdev',
        'Pool': re.sub('[:.]', '_', address),
        'Profiles': profiles,
        'Instances': instances,
        'Reason': None,
        'Rules': {},
        'Put Aside': [],
    }


def whole_unit(address: str) -> Unit:
    parsed = PciAddress.parse(address)
    return Unit(
        mechanism='whole',
        pool='nvidia_a100_sxm4_40gb',
        resource_class='CUSTOM_GPU_NVIDIA_A100_SXM4_40GB',
        card=parsed,
        device=address,
        functions=(parsed,),
    )


class WholeCardsTest(base.CliTest):
    def setUp(self) -> None:
        super().setUp()
        hosts.a100_board(self.fake)

    def test_json(self) -> None:
        result = self.host_show('-f', 'json')
        self.assertEqual(0, result.code)
        self.assertEqual(
            {
                'Address': '0000:25:00.0',
                'Name': 'NVIDIA A100 SXM4 40GB',
                'NUMA Node': 0,
                'IOMMU Group': 47,
                'Driver': 'vfio-pci',
                'Use': 'whole',
                'Pool': 'nvidia_a100_sxm4_40gb',
                'Profiles': [
                    {
                        'profile': None,
                        'type': None,
                        'resource_class': 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB',
                        'total': 1,
                        'used': 0,
                        'free': 1,
                        'reserved': 0,
                    }
                ],
                'Instances': [],
                'Reason': None,
                'Rules': {},
                'Put Aside': [],
            },
            result.json[0],
        )
        self.assertEqual(
            list(hosts.A100_ADDRESSES), [c['Address'] for c in result.json]
        )

    def test_switches_are_noted_and_are_no_cards(self) -> None:
        result = self.host_show()
        self.assertEqual(
            [
                '6 NVSwitches, not handed out: '
                + ', '.join(hosts.NVSWITCH_ADDRESSES)
            ],
            [line.removeprefix('note: ') for line in result.errors],
        )
        self.assertNotIn(hosts.NVSWITCH_ADDRESSES[0], result.out)

    def test_quiet_says_only_what_is_wrong(self) -> None:
        result = self.nova_gpu('-q', 'host', 'show', '--root', self.root)
        self.assertEqual([], result.errors)
        self.assertIn(hosts.A100_ADDRESSES[0], result.out)

    def test_running_guest_holds_cards(self) -> None:
        held, free = hosts.A100_ADDRESSES[:2], hosts.A100_ADDRESSES[2]
        self.add_guest(
            'instance-1',
            GUEST,
            functions=held,
            running=True,
            units=map(whole_unit, held),
        )
        cards = self.cards()
        for address in held:
            self.assertEqual([GUEST], cards[address]['Instances'])
            self.assertEqual(1, cards[address]['Profiles'][0]['used'])
            self.assertEqual(0, cards[address]['Profiles'][0]['free'])
        self.assertEqual([], cards[free]['Instances'])
        self.assertEqual(1, cards[free]['Profiles'][0]['free'])

    def test_guest_that_somebody_else_made(self) -> None:
        address = hosts.A100_ADDRESSES[0]
        self.add_guest('mine', GUEST, functions=[address])
        card = self.cards()[address]
        self.assertEqual([GUEST], card['Instances'])
        # Nova knows of no such use, but the card can't be had.
        self.assertEqual(0, card['Profiles'][0]['used'])
        self.assertEqual(0, card['Profiles'][0]['free'])

    def test_two_guests_that_name_one_card(self) -> None:
        address = hosts.A100_ADDRESSES[0]
        for name, uuid in (('instance-1', GUEST), ('instance-2', OTHER)):
            self.add_guest(
                name, uuid, functions=[address], units=[whole_unit(address)]
            )
        card = self.cards()[address]
        self.assertEqual([GUEST, OTHER], card['Instances'])
        self.assertEqual(1, card['Profiles'][0]['used'])

    def test_guest_that_does_not_parse_still_holds_its_card(self) -> None:
        self.fake.write(
            'etc/libvirt/qemu/cut.xml',
            f'<domain><uuid>{GUEST}</uuid><devices><hostdev><source><address '
            f"domain='0x0000' bus='0x25' slot='0x00' function='0x0'/>",
        )
        result = self.host_show('-f', 'json')
        self.assertEqual([GUEST], result.json[0]['Instances'])
        self.assertIn(
            'warning: The XML of guest cut does not parse: all that looks '
            'like a device in it counts as held',
            result.errors,
        )


class VgpuTest(base.CliTest):
    def setUp(self) -> None:
        super().setUp()
        hosts.four_t4(self.fake)

    def hold_two(self) -> None:
        for mdev in MDEVS:
            self.fake.create_mdev('0000:3b:00.0', 'nvidia-233', mdev)
        self.add_guest('instance-1', GUEST, mdevs=MDEVS)

    def test_json(self) -> None:
        self.hold_two()
        result = self.host_show('-f', 'json')
        self.assertEqual(0, result.code)
        self.assertEqual([], result.errors)
        closed = [
            t4_profile(230, 1, 16, 0, 0),
            t4_profile(231, 2, 8, 0, 0),
            t4_profile(232, 4, 4, 0, 0),
            t4_profile(233, 8, 2, 2, 0),
            t4_profile(234, 16, 1, 0, 0),
        ]
        empty = [
            t4_profile(230, 1, 16, 0, 16),
            t4_profile(231, 2, 8, 0, 8),
            t4_profile(232, 4, 4, 0, 4),
            t4_profile(233, 8, 2, 0, 2),
            t4_profile(234, 16, 1, 0, 1),
        ]
        self.assertEqual(
            [
                t4_card('0000:3b:00.0', 0, 20, closed, [GUEST]),
                t4_card('0000:5e:00.0', 0, 21, empty, []),
                t4_card('0000:af:00.0', 1, 22, empty, []),
                t4_card('0000:d8:00.0', 1, 23, empty, []),
            ],
            result.json,
        )

    def test_yaml_says_the_same(self) -> None:
        self.hold_two()
        self.assertEqual(
            self.host_show('-f', 'json').json,
            yaml.safe_load(self.host_show('-f', 'yaml').out),
        )

    def test_csv(self) -> None:
        self.hold_two()
        rows = list(csv.reader(self.host_show('-f', 'csv').out.splitlines()))
        self.assertEqual(
            [
                '0000:3b:00.0',
                'NVIDIA Tesla T4',
                '0',
                '20',
                'nvidia',
                'mdev',
                '0000_3b_00_0',
                'GRID T4-8Q 0/2 free, 4 closed',
                GUEST,
                '',
                '',
                '',
            ],
            rows[1],
        )
        self.assertEqual(
            'GRID T4-1Q 16/16 free, GRID T4-2Q 8/8 free, GRID T4-4Q 4/4 '
            'free, GRID T4-8Q 2/2 free, GRID T4-16Q 1/1 free',
            rows[2][7],
        )
        self.assertEqual(5, len(rows))

    def test_value(self) -> None:
        result = self.host_show(
            '-f', 'value', '-c', 'Address', '-c', 'Instances', '-c', 'Pool'
        )
        self.assertEqual(
            '0000:3b:00.0 0000_3b_00_0 -', result.out.splitlines()[0]
        )

    def test_part_of_the_profile_is_used(self) -> None:
        self.fake.create_mdev('0000:5e:00.0', 'nvidia-233', MDEVS[0])
        self.add_guest('instance-1', GUEST, mdevs=MDEVS[:1])
        self.assertIn('GRID T4-8Q 1/2 free, 4 closed', self.host_show().out)

    def test_vgpu_of_no_guest_is_not_used_and_not_removed(self) -> None:
        self.fake.create_mdev('0000:5e:00.0', 'nvidia-233', MDEVS[0])
        card = self.cards()['0000:5e:00.0']
        self.assertEqual([], card['Instances'])
        self.assertEqual(
            t4_profile(233, 8, total=2, used=0, free=1), card['Profiles'][3]
        )
        self.assertEqual([MDEVS[0]], self.fake.mdevs)

    def test_what_a_rule_reserves_is_not_free(self) -> None:
        self.hold_two()
        args = ('--rule', '{"profiles": ["T4-8Q", "T4-16Q"], "reserved": 1}')
        found = [
            [(p['free'], p['reserved']) for p in card['Profiles']]
            for card in self.cards(*args).values()
        ]
        # Nothing is left to reserve of the first card, which is full.
        self.assertEqual([[(0, 0), (0, 0)], *[[(1, 1), (0, 1)]] * 3], found)
        rows = self.host_show('-f', 'csv', '-c', 'Profiles', *args).out
        self.assertEqual(
            [
                'GRID T4-8Q 0/2 free, 1 closed',
                'GRID T4-8Q 1/2 free (1 reserved), '
                'GRID T4-16Q 0/1 free (1 reserved)',
            ],
            [row[0] for row in csv.reader(rows.splitlines())][1:3],
        )

    def test_types_on_virtual_functions_are_one_card(self) -> None:
        hosts.two_a40_with_functions(self.fake)
        cards = self.cards()
        self.assertEqual(6, len(cards))
        self.assertEqual(10, len(cards['0000:41:00.0']['Profiles']))


class TableTest(base.CliTest):
    """The table is for eyes: cells of some lines, none of them broken."""

    def table(self, *args: str) -> list[list[list[str]]]:
        """Rows of cells of lines."""
        rows: list[list[list[str]]] = []
        for line in self.host_show(*args).out.splitlines():
            if line.startswith('+'):
                continue
            cells = [cell.strip() for cell in line.split('|')[1:-1]]
            if cells[0]:
                rows.append([[cell] for cell in cells])
            else:
                for lines, cell in zip(rows[-1], cells, strict=True):
                    lines += [cell] if cell else []
        return rows

    def test_profiles(self) -> None:
        hosts.four_t4(self.fake)
        header, first, *_ = self.table()
        self.assertEqual(['Profiles'], header[7])
        self.assertEqual(
            [
                'GRID T4-1Q 16/16 free, GRID T4-2Q 8/8 free,',
                'GRID T4-4Q 4/4 free, GRID T4-8Q 2/2 free,',
                'GRID T4-16Q 1/1 free',
            ],
            first[7],
        )
        self.assertEqual(['-'], first[8])

    def test_reasons(self) -> None:
        hosts.workstation(self.fake)
        rows = {row[0][0]: row for row in self.table()}
        self.assertEqual(
            'shares IOMMU group 61 with 0000:18:00.0 [0200] 8086:1521',
            ' '.join(rows['0000:17:00.0'][9]),
        )
        for column in range(4, 8):
            self.assertEqual(['-'], rows['0000:17:00.0'][column])
        self.assertEqual(
            [['CUSTOM_GPU_NVIDIA_RTX_A6000 1/1 free'], ['-'], ['-']],
            rows['0000:65:00.0'][7:10],
        )
        reason = rows['0000:b3:00.0'][9]
        self.assertIn('bind it to vfio-pci', ' '.join(reason))
        self.assertLess(max(map(len, reason)), 60)

    def test_a_host_of_eight_fits_a_wide_terminal(self) -> None:
        hosts.a100_board(self.fake)
        lines = self.host_show().out.splitlines()
        self.assertEqual(8 + 4, len(lines))
        self.assertLess(len(lines[0]), 200)

    def test_no_card(self) -> None:
        result = self.host_show()
        self.assertEqual(0, result.code)
        self.assertEqual('', result.out.strip())
        self.assertEqual(
            [f'note: no GPU found below {self.root}'], result.errors
        )


class BadFilesTest(base.CliTest):
    """One bad file is one line on stderr; the other cards keep their rows."""

    def setUp(self) -> None:
        super().setUp()
        hosts.four_t4(self.fake)
        self.path = 'sys/bus/pci/devices/0000:3b:00.0'
        self.types = f'{self.path}/mdev_supported_types'

    def show(self) -> tuple[dict[str, object], list[str]]:
        """The bad card, and the lines on stderr without the root."""
        result = self.host_show('-f', 'json')
        self.assertEqual(0, result.code)
        self.assertEqual(
            ['0000:3b:00.0', '0000:5e:00.0', '0000:af:00.0', '0000:d8:00.0'],
            [card['Address'] for card in result.json],
        )
        errors = [e.replace(self.root + '/', '') for e in result.errors]
        return result.json[0], errors

    def profiles(self, card: dict[str, object]) -> list[str]:
        assert isinstance(card['Profiles'], list)
        return [profile['profile'] for profile in card['Profiles']]

    def test_no_numa_node(self) -> None:
        (self.fake.device('0000:3b:00.0') / 'numa_node').unlink()
        card, errors = self.show()
        self.assertEqual(-1, card['NUMA Node'])
        self.assertEqual([], errors)

    def test_numa_node_is_not_a_number(self) -> None:
        self.fake.write(f'{self.path}/numa_node', 'one\n')
        card, errors = self.show()
        self.assertEqual(-1, card['NUMA Node'])
        self.assertEqual(
            [f"warning: {self.path}/numa_node: 'one' is not a number"],
            errors,
        )

    def test_no_iommu_group_and_no_driver(self) -> None:
        device = self.fake.device('0000:3b:00.0')
        (device / 'iommu_group').unlink()
        (device / 'driver').unlink()
        card, errors = self.show()
        self.assertIsNone(card['IOMMU Group'])
        self.assertIsNone(card['Driver'])
        self.assertEqual([], errors)

    def test_available_instances_are_empty(self) -> None:
        self.fake.write(f'{self.types}/nvidia-232/available_instances', '')
        card, errors = self.show()
        self.assertNotIn('GRID T4-4Q', self.profiles(card))
        self.assertEqual(4, len(self.profiles(card)))
        [line] = [e for e in errors if 'nvidia-232' in e]
        self.assertIn("available_instances: '' is not a number", line)

    def test_type_without_a_name(self) -> None:
        # The kernel's documentation has it optional.
        name = self.fake.root / self.types / 'nvidia-232/name'
        name.unlink()
        card, errors = self.show()
        self.assertIn('nvidia-232', self.profiles(card))
        self.assertEqual([], errors)

    def test_card_that_can_not_be_read(self) -> None:
        vendor = self.fake.root / self.path / 'vendor'
        vendor.unlink()
        vendor.mkdir()
        result = self.host_show('-f', 'json')
        self.assertEqual(0, result.code)
        self.assertEqual(3, len(result.json))
        self.assertEqual([f'warning: {vendor}: Is a directory'], result.errors)

    def test_type_without_a_description(self) -> None:
        for kind in hosts.T4_TYPES:
            self.fake.write(f'{self.types}/{kind.id}/description', '')
        card, _ = self.show()
        self.assertEqual(5, len(self.profiles(card)))

    def test_unknown_card_of_a_known_vendor(self) -> None:
        self.fake.add_gpu(
            '0000:f1:00.0',
            0x7FFF,
            driver='nvidia',
            types=(FakeType('nvidia-1', None, size=1),),
            units=2,
        )
        card = self.cards()['0000:f1:00.0']
        self.assertEqual('NVIDIA 7fff', card['Name'])
        self.assertEqual('nvidia-1', card['Profiles'][0]['profile'])
        self.assertIsNone(card['IOMMU Group'])


class RulesTest(base.CliTest):
    """Which rule decided what."""

    ARGS = (
        *('--rule', '{"address": "0000:3b:*", "profiles": ["T4-8Q"]}'),
        *('--rule', '{"use": "vgpu", "traits": ["CUSTOM_A"]}'),
        *('--rule', '{"use": "vgpu", "profiles": ["T4-8Q", "T4-16Q"]}'),
    )

    def setUp(self) -> None:
        super().setUp()
        hosts.four_t4(self.fake)

    def test_json(self) -> None:
        cards = self.cards(*self.ARGS)
        self.assertEqual(
            {'use': 2, 'profiles': 1, 'traits': 2},
            cards['0000:3b:00.0']['Rules'],
        )
        self.assertEqual(
            {'use': 2, 'profiles': 3, 'traits': 2},
            cards['0000:5e:00.0']['Rules'],
        )

    def test_text(self) -> None:
        result = self.host_show('-f', 'value', '-c', 'Rules', *self.ARGS)
        self.assertEqual(
            '1 (profiles), 2 (use, traits)', result.out.splitlines()[0]
        )
        result = self.host_show('-f', 'value', '-c', 'Rules')
        self.assertEqual('-', result.out.splitlines()[0])


class PutAsideTest(base.CliTest):
    """What is put aside shows, and can't be had."""

    def setUp(self) -> None:
        super().setUp()
        hosts.a100_board(self.fake)
        self.card = hosts.A100_ADDRESSES[0]
        self.folder = PutAside(self.root + FOLDER)

    def test_json(self) -> None:
        self.folder.add(self.card, 'the reset failed')
        cards = self.cards()
        self.assertEqual(
            [{'device': self.card, 'reason': 'the reset failed'}],
            cards[self.card]['Put Aside'],
        )
        self.assertEqual(0, cards[self.card]['Profiles'][0]['free'])
        other = cards[hosts.A100_ADDRESSES[1]]
        self.assertEqual([], other['Put Aside'])
        self.assertEqual(1, other['Profiles'][0]['free'])

    def test_text(self) -> None:
        self.folder.add(self.card, 'the reset failed')
        result = self.host_show('-f', 'value', '-c', 'Put Aside')
        self.assertEqual(
            [f'{self.card} (the reset failed)', '-'],
            result.out.splitlines()[:2],
        )

    def test_what_has_left_the_host_is_named(self) -> None:
        self.folder.add('0000:f1:00.0', 'the reset failed')
        self.assertIn(
            'warning: 0000:f1:00.0 is put aside, and is no device of a card '
            'in use: the reset failed',
            self.host_show().errors,
        )

    def test_folder_of_the_configuration(self) -> None:
        PutAside(f'{self.root}/here').add(self.card, 'why')
        self.fake.write('nova.conf', '[gpu]\nput_aside_dir = /here\n')
        cards = self.cards('--config-file', f'{self.root}/nova.conf')
        self.assertEqual('why', cards[self.card]['Put Aside'][0]['reason'])
        # Without --root it is where nova-compute has it, not below its host.
        self.fake.write(
            'nova.conf',
            f'[gpu]\nput_aside_dir = {self.root}/here\n'
            f'host_root = {self.root}\n',
        )
        result = self.nova_gpu(
            *('host', 'show', '-f', 'json'),
            *('--config-file', f'{self.root}/nova.conf'),
        )
        self.assertEqual('why', result.json[0]['Put Aside'][0]['reason'])

    def test_folder_that_can_not_be_read(self) -> None:
        self.fake.write(FOLDER[1:], 'a file')
        result = self.host_show('-f', 'json')
        self.assertEqual(0, result.code)
        self.assertEqual(8, len(result.json))
        [line] = [e for e in result.errors if e.startswith('warning')]
        self.assertIn('what is put aside is not known', line)
        self.assertIn(self.root + FOLDER, line)
