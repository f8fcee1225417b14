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

"""A real Prometheus scrapes the exporter, and alerts on what goes wrong."""

from __future__ import annotations

import re
import shutil

from nova_gpu.claimsfile import PATH, ClaimsFile
from nova_gpu.model.address import parse_address
from nova_gpu.model.claim import ALLOCATED, CLAIMED, REMOVED, Claim
from nova_gpu.model.inventory import Unit
from nova_gpu.putaside import FOLDER, PutAside
from tests.fixtures import hosts, machine, monitoring
from tests.unit.cli import base

GUEST = '11111111-2222-4333-8444-555555555555'
FIRST, SECOND = (f'6e6f7661-6770-8000-8000-00000000000{n}' for n in (1, 2))
T4, LAST_T4 = '0000:3b:00.0', '0000:d8:00.0'
A100 = hosts.A100_ADDRESSES[0]
NODE = '0a5c0a2e-9f1b-4c55-8d1e-0d6f6a3f9a11'
UNIT = Unit(
    'mdev', '0000_3b_00_0', 'CUSTOM_VGPU_NVIDIA_T4_8Q', parse_address(T4),
    FIRST, type_id='nvidia-233', name='GRID T4-8Q', parent=parse_address(T4),
    project='d1f6a1e0c0de4b0f8f4e6f0a9b8c7d6e',
)  # fmt: skip


class ScrapedTest(base.CliTest):
    """Four T4, one of which a guest has a vGPU of, and eight A100."""

    def setUp(self) -> None:
        super().setUp()
        if monitoring.Prometheus.program() is None:
            self.skipTest('prometheus is not installed (Debian: prometheus)')
        hosts.a100_board(hosts.four_t4(self.fake))
        machine.libvirt(self.fake)
        self.fake.create_mdev(T4, 'nvidia-233', FIRST)
        self.add_guest('a', GUEST, mdevs=[FIRST], units=[UNIT])
        # This process is nova-compute.
        self.claims = ClaimsFile(self.root + PATH)
        self.aside = PutAside(self.root + FOLDER)
        for state in (CLAIMED, ALLOCATED):
            self.claims.write(NODE, [Claim(GUEST, (UNIT,), state)])

    def serve(self) -> None:
        """Start the exporter, and who scrapes it."""
        cards = {T4: [(1, GUEST, 1 << 30, 30)], LAST_T4: []}
        self.exporter = self.useFixture(monitoring.Exporter(self.root, cards))
        # The times of the rules are promtool's to check.
        rules = re.sub('for: .*', 'for: 0s', monitoring.RULES.read_text())
        self.prometheus = self.useFixture(
            monitoring.Prometheus(self.exporter.target, rules)
        )
        monitoring.wait(
            'sample', lambda: self.prometheus.query('nova_gpu_cards')
        )

    def fires(self, alert: str) -> None:
        monitoring.wait(alert, lambda: alert in self.prometheus.firing())

    def test_a_fault_fires_its_alert(self) -> None:
        self.serve()
        (group,) = monitoring.wait(
            'rules', lambda: (self.prometheus.get('rules') or {}).get('groups')
        )
        self.assertNotIn('err', [rule['health'] for rule in group['rules']])
        monitoring.wait(
            'scrape', lambda: self.prometheus.query('up{job="nova-gpu"} == 1')
        )
        quiet = {
            'NovaGpuAuditDifference', 'NovaGpuCardLost',
            'NovaGpuSourceDown', 'NovaGpuUnitPutAside',
        }  # fmt: skip
        self.assertEqual(set(), self.prometheus.firing() & quiet)
        self.aside.add(A100, 'it did not reset')
        self.fires('NovaGpuUnitPutAside')
        self.fake.create_mdev(LAST_T4, 'nvidia-233', SECOND)
        self.fires('NovaGpuAuditDifference')
        shutil.rmtree(self.fake.device(T4))
        (self.fake.sys / 'bus/pci/devices' / T4).unlink()
        self.claims.write(NODE, [Claim(GUEST, (UNIT,), REMOVED)])
        self.fires('NovaGpuCardLost')
        machine.libvirt(self.fake, running=False)
        self.fires('NovaGpuSourceDown')
        self.assertEqual(0, self.exporter.process.stop())
        self.fires('NovaGpuExporterDown')

    def test_each_query_of_the_dashboard_finds_something(self) -> None:
        self.aside.add(A100, 'it did not reset')
        self.fake.create_mdev(LAST_T4, 'nvidia-233', SECOND)
        # A card of which nothing is handed out: it shows the console.
        self.fake.add_gpu(
            '0000:01:00.0', 0x2231, class_code=0x0300, iommu_group=99,
            driver='nouveau', boot_vga=1,
        )  # fmt: skip
        self.serve()
        self.assertGreater(len(monitoring.queries()), 15)
        for query in monitoring.queries():
            asked = query.replace('$instance', '.*')
            monitoring.wait(
                asked, lambda asked=asked: self.prometheus.query(asked)
            )
        (host,) = self.prometheus.get(
            'label/instance/values', **{'match[]': 'nova_gpu_build_info'}
        )
        self.assertEqual(self.exporter.target, host)
        (server,) = self.prometheus.query('nova_gpu_instance_device_info')
        self.assertEqual(GUEST, server['metric']['instance_uuid'])
        self.assertEqual(UNIT.project, server['metric']['project_id'])
