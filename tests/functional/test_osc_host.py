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

"""``openstack gpu host list`` against real Nova and Placement."""

from __future__ import annotations

from tests.fixtures import hosts
from tests.functional import osc

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q'


class HostTest(osc.OscTest):
    """Eight A100 on one host, four T4 on the other."""

    def setUp(self) -> None:
        super().setUp()
        hosts.a100_board(self.new_host('gpu1'))
        self.start_gpu_compute('gpu1')
        hosts.four_t4(self.new_host('gpu2'))
        self.start_gpu_compute('gpu2')

    def test_list(self) -> None:
        self.boot(self.gpu_flavor(**{f'resources__{A100}': '2'}))
        vgpu = self.gpu_flavor(**{f'resources__{T4_8Q}': '1'})
        self.boot(vgpu)
        self.assertEqual(
            [
                {
                    'Host': 'gpu1', 'Model': 'NVIDIA_A100_SXM4_40GB',
                    'Use': 'whole', 'Cards': 8, 'Empty': 6, 'Full': 2,
                    'Servers': 1,
                },
                {
                    'Host': 'gpu2', 'Model': 'NVIDIA_TESLA_T4',
                    'Use': 'shared', 'Cards': 4, 'Empty': 3, 'Full': 0,
                    'Servers': 1,
                },
            ],
            self.openstack_json('gpu', 'host', 'list'),
        )  # fmt: skip
        self.assertIn(
            'Placement does not let you see the GPUs of hosts',
            self.openstack_error('gpu', 'host', 'list', user='member'),
        )
