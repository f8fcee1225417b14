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

"""From a bare host to a server with GPUs, by what the tools say alone."""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
from typing import Any

import fixtures
from oslo_config import cfg

from nova_gpu.cli import main
from tests.fixtures import machine
from tests.fixtures.sysfs import FakeSysfs
from tests.functional import base

A40 = 'CUSTOM_GPU_NVIDIA_A40'


class BareHostTest(base.GpuServersTest):
    """The host is prepared, and Nova configured, before its services start."""

    ADDITIONAL_FILTERS: list[str] = []

    def _setup_scheduler_service(self) -> Any:
        self.root = self.useFixture(fixtures.TempDir()).path
        fake = machine.bare(FakeSysfs(self.root))
        code, found = self.tool('host', 'check', '-f', 'json')
        wrong = {f['Check'] for f in json.loads(found) if f['Mend']}
        self.assertEqual(2, code)
        self.assertEqual({'iommu', 'vfio', 'screen-drivers', 'driver'}, wrong)
        self.assertEqual(0, self.tool('host', 'prepare', '--apply')[0])
        machine.boot(fake)
        self.assertEqual(
            (0, '[]'),
            self.tool('host', 'check', '--problems', '-f', 'json'),
        )
        self.generated = self.generate()
        scheduler = self.generated['filter_scheduler']
        self.flags(
            available_filters=scheduler['available_filters'],
            enabled_filters=scheduler['enabled_filters'][0].split(','),
            weight_classes=scheduler['weight_classes'][0].split(','),
            group='filter_scheduler',
        )
        return super()._setup_scheduler_service()

    def _host_root(self, name: str) -> str:
        return self.root

    def tool(self, *args: str) -> tuple[int, str]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = main.main([*args, '--root', self.root])
        return code, out.getvalue().strip()

    def generate(self) -> dict[str, dict[str, list[str]]]:
        path = pathlib.Path(self.root, 'nova.conf')
        path.write_text(self.tool('config', 'generate')[1])
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(str(path), sections).parse()
        return sections

    def test_servers_get_the_cards(self) -> None:
        self.assertEqual(
            ['gpu.GpuLibvirtDriver'],
            self.generated['DEFAULT']['compute_driver'],
        )
        self.new_host('gpu1')
        self.start_gpu_compute('gpu1')
        flavor = self.gpu_flavor(**{f'resources__{A40}': '1'})
        held = [
            self.guest_devices(self.boot(flavor)).functions for _ in range(2)
        ]
        self.assertEqual(
            {'0000:41:00.0', '0000:42:00.0'},
            {str(function) for functions in held for function in functions},
        )
        refused = self.boot(flavor, 'ERROR')
        self.assertIn('No valid host', refused['fault']['message'])
