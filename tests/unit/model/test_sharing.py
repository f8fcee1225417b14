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


"""How many vGPUs a card takes, by what they share."""

from __future__ import annotations

import dataclasses
from typing import Any

import testtools

from nova_gpu.model.address import PciAddress
from nova_gpu.model.device import Card, Mdev, VirtualFunction
from nova_gpu.model.profile import VgpuType
from nova_gpu.model.sharing import Room, room
from tests.unit import base

VFS = tuple(PciAddress(0, 0x25, 0, n) for n in range(4, 8))


def kind(name: str, available: int = 1, **fields: Any) -> VgpuType:
    return VgpuType(name, f'NVIDIA {name}', available, **fields)


def card(*made: str | None, problem: int = 0, **fields: Any) -> Card:
    """With four functions, of which the first have types."""
    types = (*made, *[None] * (len(VFS) - len(made)))
    vfs = tuple(
        VirtualFunction(
            address, type_id=type_id, problem='x' if n < problem else None
        )
        for n, (address, type_id) in enumerate(zip(VFS, types, strict=True))
    )
    return base.card(
        **{
            'vfs': vfs, 'parents': VFS[problem:], 'memory_mib': 24 * 1024,
            'model': 'NVIDIA A10', **fields,
        }
    )  # fmt: skip


KNOWN = {
    k.id: k
    for k in (kind('A10-6Q'), kind('A10-8Q'), kind('A10-24Q'),
              kind('A10-4Q'), kind('A10-1-5C'), kind('A10-2-10C'),
              kind('A10-1-5CME'))
}  # fmt: skip


class OnTheCardTest(testtools.TestCase):
    """The driver counts."""

    def test_its_number_counts(self) -> None:
        plain = base.card()
        for available, capacity, expected in (
            (3, 4, Room(4, 3)), (3, None, Room(3, 3)), (0, 4, Room(4, 0)),
            (0, None, Room(1, 0)), (-1, None, Room(1, 0)),
        ):  # fmt: skip
            found = room(plain, kind('T4-4Q', available, capacity=capacity),
                         0, {})  # fmt: skip
            self.assertEqual(expected, found)

    def test_without_a_capacity_there_are_as_many_as_there_are(self) -> None:
        mdevs = tuple(Mdev(str(n), VFS[0], 'T4-4Q') for n in range(2))
        plain = base.card(mdevs=mdevs)
        self.assertEqual(Room(3, 1), room(plain, kind('T4-4Q'), 0, {}))


class FramebufferTest(testtools.TestCase):
    """What isn't MIG-backed shares memory."""

    def room(self, name: str, *made: str | None, **fields: Any) -> Room:
        functions = fields.pop('functions', len(VFS) - len(made))
        available = fields.pop('available', 1)
        known = fields.pop('known', KNOWN)
        capacity = fields.pop('capacity', None)
        return room(
            card(*made, **fields),
            kind(name, available, capacity=capacity), functions, known,
        )  # fmt: skip

    def test_empty(self) -> None:
        self.assertEqual(Room(3, 3), self.room('A10-8Q'))
        self.assertEqual(Room(1, 1), self.room('A10-24Q'))

    def test_functions_bound_it(self) -> None:
        self.assertEqual(Room(4, 4), self.room('A10-4Q'))
        self.assertEqual(Room(4, 2), self.room('A10-4Q', functions=2))
        self.assertEqual(Room(4, 0), self.room('A10-4Q', functions=0))

    def test_never_more_than_thirty_two(self) -> None:
        addresses = [PciAddress(0, 0x25, n // 8, n % 8) for n in range(8, 56)]
        large = base.card(
            vfs=tuple(map(VirtualFunction, addresses)),
            parents=tuple(addresses),
            memory_mib=96 * 1024,
        )
        found = room(large, kind('RTX PRO 6000 DC-2Q'), 48, {})
        self.assertEqual(Room(32, 32), found)
        thirty = [
            VirtualFunction(a, type_id='RTX PRO 6000 DC-2Q')
            for a in addresses[:30]
        ]
        large = dataclasses.replace(large, vfs=(*thirty, *large.vfs[30:]))
        two = kind('RTX PRO 6000 DC-2Q')
        self.assertEqual(Room(32, 2), room(large, two, 18, {two.id: two}))

    def test_what_is_made_is_taken_off(self) -> None:
        self.assertEqual(Room(3, 2), self.room('A10-8Q', 'A10-8Q'))
        self.assertEqual(Room(3, 2), self.room('A10-8Q', 'A10-6Q'))

    def test_the_driver_says_whether_any_more_can_be_made(self) -> None:
        self.assertEqual(Room(3, 0), self.room('A10-8Q', available=0))
        # Memory that doesn't add up: it lists the type.
        self.assertEqual(Room(3, 1), self.room('A10-8Q', *['A10-8Q'] * 2))
        self.assertEqual(Room(1, 1), self.room('A10-24Q', 'A10-6Q'))

    def test_memory_of_the_largest_type(self) -> None:
        self.assertEqual(Room(3, 3), self.room('A10-8Q', memory_mib=None))

    def test_memory_by_the_description(self) -> None:
        vgpu = VgpuType('x', 'no name', 1, framebuffer_mib=12 * 1024)
        self.assertEqual(Room(2, 2), room(card(), vgpu, 4, {}))

    def test_capacity_by_the_description(self) -> None:
        self.assertEqual(Room(2, 2), self.room('A10-8Q', capacity=2))
        self.assertEqual(Room(2, 1), self.room('A10-8Q', 'A10-8Q', capacity=2))

    def test_capacity_where_the_name_tells_nothing(self) -> None:
        vgpu = VgpuType('x', 'no name', 1, capacity=3)
        self.assertEqual(Room(3, 3), room(card(), vgpu, 4, {}))
        self.assertEqual(Room(3, 2), room(card('x'), vgpu, 3, {}))
        # Others share what isn't known.
        self.assertEqual(Room(1, 1), room(card('A10-8Q'), vgpu, 3, KNOWN))

    def test_nothing_is_known(self) -> None:
        vgpu = VgpuType('x', 'no name', 1)
        self.assertEqual(Room(1, 1), room(card(), vgpu, 4, {}))
        self.assertEqual(Room(2, 1), room(card('x'), vgpu, 3, {}))

    def test_made_of_a_type_never_seen(self) -> None:
        self.assertEqual(Room(1, 1), self.room('A10-8Q', 'new'))
        self.assertEqual(Room(1, 1), self.room('A10-8Q', 'new', capacity=3))

    def test_function_that_does_not_tell_its_type(self) -> None:
        # It may have one of these, and then that one is held by a guest.
        self.assertEqual(
            Room(2, 1), self.room('A10-8Q', problem=1, functions=3)
        )


class GpuInstancesTest(testtools.TestCase):
    """What is MIG-backed takes a GPU instance each."""

    def room(
        self, instances: int | None, *made: str, listed: tuple[str, ...],
        problem: int = 0, capacity: int | None = None,
    ) -> Room:  # fmt: skip
        found = card(
            *made, problem=problem, gpu_instances=instances,
            types=tuple(kind(name) for name in listed),
        )  # fmt: skip
        return room(
            found, kind('A10-1-5C', capacity=capacity),
            len(VFS) - len(made), KNOWN,
        )  # fmt: skip

    def test_all_alike(self) -> None:
        listed = ('A10-1-5C',)
        self.assertEqual(Room(3, 3), self.room(3, listed=listed))
        self.assertEqual(Room(3, 2), self.room(3, 'A10-1-5C', listed=listed))

    def test_of_several_sizes(self) -> None:
        # Of three, at least one takes it: the driver lists it.
        for listed, made in (
            (('A10-1-5C', 'A10-2-10C'), ()),
            (('A10-1-5C', 'A10-1-5CME'), ()),
            (('A10-1-5C',), ('A10-2-10C',)),
        ):
            for capacity in (None, 7):
                self.assertEqual(
                    Room(1, 1),
                    self.room(3, *made, listed=listed, capacity=capacity),
                )

    def test_number_that_is_not_known(self) -> None:
        for capacity in (None, 7):
            self.assertEqual(
                Room(1, 1),
                self.room(None, listed=('A10-1-5C',), capacity=capacity),
            )

    def test_function_that_does_not_tell_its_type(self) -> None:
        self.assertEqual(
            Room(2, 1), self.room(3, listed=('A10-1-5C',), problem=1)
        )

    def test_framebuffer_is_not_shared(self) -> None:
        found = card(
            'A10-2-10C', gpu_instances=3, memory_mib=8 * 1024,
            types=(dataclasses.replace(kind('A10-2-10C'), available=0),
                   kind('A10-2-10C')),
        )  # fmt: skip
        self.assertEqual(Room(3, 2), room(found, kind('A10-2-10C'), 3, KNOWN))
