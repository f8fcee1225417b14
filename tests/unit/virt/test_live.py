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

"""What travels with a guest that runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import testtools
from nova import exception as nova_exception
from nova.objects.migrate_data import LibvirtLiveMigrateData

from nova_gpu.model.address import PciAddress
from nova_gpu.model.guest import parse_guest
from nova_gpu.model.inventory import Unit
from nova_gpu.model.request import GpuRequest
from nova_gpu.virt import live
from tests.unit import base

CARD, OTHER = map(PciAddress.parse, ('0000:3b:00.0', '0000:5e:00.0'))
FUNCTION, THERE = map(PciAddress.parse, ('0000:3b:00.4', '0000:5e:01.2'))
MDEV = Unit(
    'mdev', 'p', 'CUSTOM_VGPU_X', CARD, 'a1', type_id='nvidia-1', name='X',
)  # fmt: skip
VFIO = Unit(
    'vendor_vfio', 'p', 'CUSTOM_VGPU_X', CARD, str(FUNCTION), (FUNCTION,),
    type_id='7', name='X',
)  # fmt: skip
NEW_MDEV = dataclasses.replace(MDEV, card=OTHER, device='b2')
NEW_VFIO = dataclasses.replace(
    VFIO, card=OTHER, device=str(THERE), functions=(THERE,)
)
WHOLE = Unit('whole', 'p', 'CUSTOM_GPU_X', CARD, str(CARD), (CARD,))
INSTANCE = type('Instance', (), {'uuid': base.instance('a')})()


class Host:
    """Libvirt as far as it is asked here."""

    def __init__(self, libvirt: tuple[int, ...], qemu: tuple[int, ...]):
        self.versions = libvirt, qemu

    def has_min_version(self, lv_ver: Any, hv_ver: Any, hv_type: str) -> bool:
        assert hv_type == 'QEMU'
        return self.versions[0] >= lv_ver and self.versions[1] >= hv_ver

    def get_hostname(self) -> str:
        return 'gpu7'


NEWEST = Host((12, 0, 0), (11, 0, 0))


class Guest:
    """What Nova gives to libvirt when a guest is migrated."""

    def __init__(self, xml: str) -> None:
        self.xml = xml
        self.calls: list[Any] = []

    def get_xml_desc(self, dump_migratable: bool = False) -> str:
        assert dump_migratable
        return self.xml

    def migrate(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append((args, kwargs))


class RefusalTest(testtools.TestCase):
    def test_suspend(self) -> None:
        plain, display = GpuRequest({}), GpuRequest({}, display=True)
        self.assertIsNone(live.no_suspend([], display))
        self.assertIsNone(live.no_suspend([MDEV], plain))
        for units, request, device in (
            ([WHOLE], plain, str(CARD)),
            ([MDEV, VFIO], plain, str(FUNCTION)),
            ([MDEV], display, 'a1'),
        ):
            reason = live.no_suspend(units, request)
            self.assertIn(device, str(reason))

    def assertRefused(self, host: Host, *units: Unit) -> str:
        error = self.assertRaises(
            nova_exception.MigrationPreCheckError,
            live.check, units, host, INSTANCE,
        )  # fmt: skip
        return str(error)

    def test_migration(self) -> None:
        live.check([MDEV, VFIO], NEWEST, INSTANCE)
        live.check([MDEV], Host((1,), (1,)), INSTANCE)
        self.assertIn(f'{CARD} is passed through',
                      self.assertRefused(NEWEST, MDEV, WHOLE))  # fmt: skip
        for host in (Host((9, 9, 9), (11,)), Host((12,), (8, 2, 1))):
            message = self.assertRefused(host, VFIO)
            for word in (str(FUNCTION), 'gpu7', '10.0.0', '8.2.2'):
                self.assertIn(word, message)


class TravelTest(testtools.TestCase):
    """From the source to the destination and back."""

    def test_and_back(self) -> None:
        data = LibvirtLiveMigrateData()
        data.source_mdev_types = {'a1': 'nvidia-1', 'novas': 'nvidia-2'}
        live.announce(data, [MDEV, VFIO])
        self.assertEqual({'novas', live.KEY}, set(data.source_mdev_types))
        data = data.obj_from_primitive(data.obj_to_primitive())
        self.assertEqual((MDEV, VFIO), live.take_announced(data))
        self.assertEqual({'novas': 'nvidia-2'}, data.source_mdev_types)
        pairs = live.match([MDEV, VFIO], [NEW_VFIO, NEW_MDEV])
        self.assertEqual([(MDEV, NEW_MDEV), (VFIO, NEW_VFIO)], pairs)
        data.target_mdevs = {'novas': 'other'}
        live.answer(data, pairs)
        data = data.obj_from_primitive(data.obj_to_primitive())
        self.assertEqual('b2', data.target_mdevs['a1'])
        self.assertEqual('other', data.target_mdevs['novas'])

        hostdevs = [
            base.Hostdev(mdev='a1'),
            base.Hostdev(function=FUNCTION, managed=False),
        ]
        xml = base.domain_xml('x', INSTANCE.uuid, hostdevs, [MDEV, VFIO])
        guest = Guest(xml)
        moving = live.moving(guest, [MDEV, VFIO], data)
        self.assertIs(guest.calls, moving.calls)
        moving.migrate('qemu+tcp://there', destination_xml=xml, flags=3)
        moving.migrate('qemu+tcp://there')
        ((args, kwargs), (_, without)) = guest.calls
        self.assertEqual(('qemu+tcp://there',), args)
        self.assertEqual(3, kwargs['flags'])
        for given in (kwargs, without):
            found = parse_guest(given['destination_xml'], 'x')
            self.assertEqual({'b2'}, found.mdevs)
            self.assertEqual({THERE}, found.functions)
            self.assertEqual((NEW_MDEV, NEW_VFIO), found.units)

    def test_without_gpus(self) -> None:
        data = LibvirtLiveMigrateData()
        live.announce(data, [])
        self.assertNotIn('source_mdev_types', data)
        self.assertEqual((), live.take_announced(data))
        live.answer(data, [])
        self.assertNotIn('target_mdevs', data)
        guest = Guest('<domain/>')
        self.assertIs(guest, live.moving(guest, [], data))

    def test_only_novas(self) -> None:
        data = LibvirtLiveMigrateData()
        data.source_mdev_types = {'novas': 'nvidia-2'}
        self.assertEqual((), live.take_announced(data))
        data.target_mdevs = {'novas': 'other'}
        guest = Guest('<domain/>')
        self.assertIs(guest, live.moving(guest, [], data))

    def test_another_type_there(self) -> None:
        other = dataclasses.replace(NEW_MDEV, type_id='nvidia-9', name='Y')
        for target in ([other], [NEW_VFIO], []):
            error = self.assertRaises(
                nova_exception.MigrationPreCheckError,
                live.match, [MDEV], target,
            )  # fmt: skip
            self.assertIn('a1 is X (nvidia-1, mdev)', str(error))
        self.assertIn('gives none', str(error))

    def test_what_does_not_parse(self) -> None:
        data = LibvirtLiveMigrateData()
        data.source_mdev_types = {live.KEY: '<units'}
        self.assertRaises(
            nova_exception.MigrationPreCheckError, live.take_announced, data
        )
