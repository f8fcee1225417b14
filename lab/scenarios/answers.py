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

"""What a kernel answers, asked of the lab's and of the unit tests' fake.

Both are asked the same by the same code: where FakeSysfs would answer
otherwise, one of the two fails.
"""

from __future__ import annotations

import abc
import errno
import unittest
from collections.abc import Callable
from typing import Any

from lab.scenarios import devices
from lab.scenarios.devices import MDEV, SRIOV, VENDOR_VFIO
from nova_gpu import exception
from nova_gpu.mechanism.mdev import new_uuid

#: Types of 24 and 48 GB, of cards of 48 GB: mediated devices.
TYPE, LARGE = 'nvidia-565', 'nvidia-566'
#: The same, by the vendor-specific interface.
NUMBER, LARGE_NUMBER = '1158', '1159'


class Answers(unittest.TestCase):
    """Mixed into a test, which sets whose they are."""

    #: What changes the host: those of :mod:`nova_gpu.privsep`.
    effects: Any
    devices: devices.Devices

    @abc.abstractmethod
    def disable_vfs(self, card: str) -> None:
        """Write 0 to a card's ``sriov_numvfs``, as an operator does."""

    def assertAnswer(
        self, number: int, effect: Callable[..., None], *args: str | int
    ) -> None:
        with self.assertRaises(exception.EffectFailed) as caught:
            effect(*args)
        self.assertEqual(
            errno.errorcode[number],
            errno.errorcode.get(caught.exception.errno or 0),
            str(caught.exception),
        )

    def test_mediated_devices(self) -> None:
        """kernel: making and removing mediated devices"""
        create, remove = self.effects.create_mdev, self.effects.remove_mdev
        one, two, three = new_uuid(), new_uuid(), new_uuid()
        create(MDEV, TYPE, one)
        self.assertAnswer(errno.EEXIST, create, MDEV, TYPE, one)
        create(MDEV, TYPE, two)
        self.assertAnswer(errno.EUSERS, create, MDEV, TYPE, three)
        self.assertAnswer(errno.EUSERS, create, MDEV, LARGE, three)
        self.assertAnswer(errno.ENOENT, create, MDEV, 'no-type', three)
        self.assertAnswer(errno.ENOENT, create, SRIOV, TYPE, three)
        self.assertEqual({one: TYPE, two: TYPE}, self.devices.mdevs())
        remove(one)
        remove(one)
        remove(two)
        self.assertEqual(1, self.devices.available(MDEV, LARGE))

    def test_groups_of_mdevs(self) -> None:
        """kernel: a mediated device has an IOMMU group of its own"""
        one, two = new_uuid(), new_uuid()
        for uuid in (one, two):
            self.effects.create_mdev(MDEV, TYPE, uuid)
        group = self.devices.group
        self.assertNotEqual(group(one), group(two))
        self.assertNotEqual(group(one), group(MDEV))

    def test_vgpu_types(self) -> None:
        """kernel: giving virtual functions types, and taking them"""
        first, second, *_ = self.devices.functions(VENDOR_VFIO)
        give, params = self.effects.set_vgpu_type, self.effects.set_vgpu_params
        give(first, NUMBER)
        self.assertEqual(set(), self.devices.creatable(first))
        self.assertEqual({'NVIDIA L40S-24Q'}, self.devices.creatable(second))
        self.assertAnswer(errno.EPERM, give, first, NUMBER)
        self.assertAnswer(errno.EINVAL, give, second, LARGE_NUMBER)
        self.assertAnswer(errno.EINVAL, give, second, '999')
        self.assertAnswer(errno.ENOENT, give, VENDOR_VFIO, NUMBER)
        self.assertAnswer(errno.EPERM, params, second, 'a=b')
        params(first, 'a=b')
        give(first, '0')
        give(first, '0')
        self.assertEqual(5, len(self.devices.creatable(second)))

    def test_virtual_functions(self) -> None:
        """kernel: virtual functions are enabled once"""
        enable = self.effects.enable_vfs
        self.assertAnswer(errno.EBUSY, enable, SRIOV, 2)
        self.assertAnswer(errno.EBUSY, enable, VENDOR_VFIO, 8)
        self.assertAnswer(errno.ENOENT, enable, MDEV, 2)
        self.disable_vfs(SRIOV)
        self.assertEqual([], self.devices.functions(SRIOV))
        self.assertAnswer(errno.ERANGE, enable, SRIOV, 99)
        enable(SRIOV, 4)
        self.assertEqual(4, len(self.devices.functions(SRIOV)))
