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

"""Hosts with GPUs, kept for who wants GPUs."""

from __future__ import annotations

from typing import Any

import fixtures
import nova.conf
import testtools
from oslo_config import fixture as config_fixture

from nova_gpu.scheduler.filter import GpuFilter
from tests.fixtures import hosts
from tests.fixtures.scheduler import (
    host_state,
    host_tracker,
    map_text,
    request_spec,
    run_filter,
)
from tests.fixtures.sysfs import FakeSysfs
from tests.unit import base

T4_4Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q'


class ReserveTest(testtools.TestCase):
    """A host with T4, one whose GPUs have a class by rule, one without."""

    def setUp(self) -> None:
        super().setUp()
        self.config = self.useFixture(
            config_fixture.Config(nova.conf.CONF)
        ).config
        self.filter = GpuFilter()
        self.config(reserve_gpu_hosts=True, group='gpu')

    def map(self, *rules: str) -> str:
        fake = FakeSysfs(self.useFixture(fixtures.TempDir(base.MEMORY)).path)
        return map_text(host_tracker(hosts.four_t4(fake), *rules))

    def passing(self, *names: str, **fields: Any) -> list[str]:
        specs = dict.fromkeys(names, '1')
        states = [
            host_state('gpu', self.map()),
            host_state('ruled', self.map('{"resource_class": "CUSTOM_ANY"}')),
            host_state('cpu', None),
        ]
        return run_filter(self.filter, states, request_spec(specs, **fields))

    def test_who_wants_no_gpus(self) -> None:
        self.assertEqual(['cpu'], self.passing())
        self.assertEqual(['cpu'], self.passing('hw:cpu_policy'))
        self.assertEqual(['cpu'], self.passing('resources:CUSTOM_NVME'))

    def test_who_wants_gpus(self) -> None:
        everywhere = ['gpu', 'ruled', 'cpu']
        for name in (T4_4Q, 'CUSTOM_GPU_NEW', 'PGPU', 'VGPU'):
            # Placement may know GPUs that are newer than the maps.
            self.assertEqual(everywhere, self.passing(f'resources1:{name}'))
        self.assertEqual(
            ['ruled', 'cpu'], self.passing('resources:CUSTOM_ANY')
        )

    def test_who_may_get_gpus_of_others(self) -> None:
        for key in ('pci_passthrough:alias', 'accel:device_profile'):
            self.assertEqual(['gpu', 'ruled', 'cpu'], self.passing(key))

    def test_rebuild(self) -> None:
        """The server is there already."""
        hints = {'_nova_check_type': ['rebuild']}
        found = self.passing(scheduler_hints=hints)
        self.assertEqual(['gpu', 'ruled', 'cpu'], found)

    def test_default(self) -> None:
        self.config(reserve_gpu_hosts=False, group='gpu')
        self.assertEqual(['gpu', 'ruled', 'cpu'], self.passing())
