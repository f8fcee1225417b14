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


"""Errors carry their facts, and say them."""

from __future__ import annotations

import inspect

import testtools

from nova_gpu import exception

ERRORS: dict[type[exception.GpuError], dict[str, object]] = {
    exception.InvalidAddress: {'value': 'x:y'},
    exception.InvalidExtraSpec: {
        'key': 'gpu:x', 'value': 'yes', 'allowed': ('on', 'off'),
    },
    exception.InvalidRule: {
        'number': 7, 'field': 'use', 'reason': "'x' is wrong",
    },
    exception.InvalidHostMap: {'reason': 'it has version 9'},
    exception.InvalidExpected: {
        'number': 2, 'field': 'share', 'reason': '7 is above 1',
    },
    exception.InvalidTable: {
        'path': 'pods.csv', 'line': 3, 'column': 'num_gpu', 'value': 'x',
        'reason': 'not a number',
    },
    exception.MissingMechanism: {
        'wanted': ('mdev', 'whole'), 'found': ('acme',),
    },
    exception.UnknownProvider: {
        'provider': 'somewhere', 'resource_class': 'CUSTOM_X',
    },
    exception.NotEnoughUnits: {
        'pool': 'a_pool', 'resource_class': 'CUSTOM_X', 'wanted': 3,
        'reason': '2 are free',
    },
    exception.NoRoom: {'resource_class': 'CUSTOM_X', 'wanted': 3, 'found': 1},
    exception.AllocationRefused: {'wanted': '1 CUSTOM_X of pool a_pool'},
    exception.AddressesTooWide: {
        'needed': 43, 'host': 39, 'memory_mib': 2048, 'bars_mib': 131072,
    },
    exception.UnitTaken: {
        'device': '0000:41:00.4', 'reason': 'it has vGPU type 558',
    },
    exception.UnitUnusable: {'device': '0000:41:00.0', 'reason': 'EIO'},
    exception.NotLinked: {'partitions': (3, 7), 'reason': 'it is away'},
    exception.EffectFailed: {
        'action': 'creating a vGPU', 'path': '/sys/x', 'reason': 'busy',
        'errno': 16,
    },
    exception.UnknownGpu: {
        'what': 'card', 'wanted': 'A41', 'there': ('A40', 'T4'),
    },
    exception.AmbiguousGpu: {
        'what': 'card', 'wanted': 'A100', 'found': ('A100_40', 'A100_80'),
    },
    exception.NoGpuSoLarge: {'memory_mib': 99000, 'largest_mib': 81920},
    exception.ContradictoryFlavor: {
        'option': '--display', 'reason': 'needs a vGPU',
    },
    exception.Untranslatable: {'name': 'VGPU', 'reason': 'which one?'},
    exception.NoMatchingFlavor: {
        'wanted': '1 CUSTOM_X', 'size': '4 vCPUs', 'remedy': 'make one',
    },
}  # fmt: skip


class ErrorTest(testtools.TestCase):
    """Every class of the module."""

    def test_all_are_here(self) -> None:
        found = {
            item
            for item in vars(exception).values()
            if inspect.isclass(item) and issubclass(item, exception.GpuError)
        }
        self.assertEqual(found, {exception.GpuError, *ERRORS})

    def test_drawn_in_the_docstring(self) -> None:
        for error in ERRORS:
            self.assertIn(error.__name__, str(exception.__doc__))

    def test_facts(self) -> None:
        for error, facts in ERRORS.items():
            raised = error(**facts)  # type: ignore[arg-type]
            for name, value in facts.items():
                self.assertEqual(value, getattr(raised, name))
                if name == 'errno':
                    continue
                for part in value if isinstance(value, tuple) else (value,):
                    self.assertIn(str(part), str(raised))

    def test_errno_where_the_kernel_gave_none(self) -> None:
        self.assertIsNone(exception.EffectFailed('a', 'b', 'c').errno)

    def test_many_names(self) -> None:
        told = str(exception.UnknownGpu('card', 'X', map(str, range(15))))
        self.assertTrue(told.endswith(': 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, '
                                      '11, and 3 more'), told)  # fmt: skip
        self.assertIn('none', str(exception.UnknownGpu('card', 'X', ())))

    def test_no_mechanism_at_all(self) -> None:
        self.assertIn('none', str(exception.MissingMechanism(['mdev'], [])))
