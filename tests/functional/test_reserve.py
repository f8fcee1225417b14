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

"""Hosts with GPUs that take no servers without GPUs."""

from __future__ import annotations

from typing import Any

from tests.fixtures import hosts
from tests.functional import actions, base

T4_4Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q'


class ReserveTest(base.GpuServersTest):
    """A host with GPUs, and one without."""

    def setUp(self) -> None:
        super().setUp()
        hosts.four_t4(self.new_host('gpu1'))
        self.new_host('cpu1')
        for name in ('gpu1', 'cpu1'):
            self.start_gpu_compute(name)
        self.plain = self.gpu_flavor()

    def host(self, server: Any) -> str:
        name: str = server['OS-EXT-SRV-ATTR:host']
        return name

    def test_servers_without_gpus(self) -> None:
        before = actions.create(self, self.plain, 'gpu1')
        self.flags(reserve_gpu_hosts=True, group='gpu')
        error = self.assertRaises(
            actions.ActionError, actions.create, self, self.plain, 'gpu1'
        )
        self.assertIn('No valid host', error.message)
        forced = actions.create(
            self, self.plain, availability_zone='nova:gpu1'
        )
        self.assertEqual('gpu1', self.host(forced))
        wanted = actions.create(self, self.gpu_flavor(resources__VCPU='1'))
        self.assertEqual('cpu1', self.host(wanted))
        gpus = self.gpu_flavor(**{f'resources__{T4_4Q}': '1'})
        self.assertEqual('gpu1', self.host(actions.create(self, gpus)))
        # Who is there stays there, and is made anew there, until it moves.
        rebuilt = actions.rebuild(self, before, base.OTHER_IMAGE)
        self.assertEqual('gpu1', self.host(rebuilt))
        moved = actions.live_migrate(self, rebuilt)
        self.assertEqual('cpu1', self.host(moved))
        error = self.assertRaises(
            actions.ActionError, actions.cold_migrate, self, moved
        )
        self.assertIn('No valid host', error.message)
