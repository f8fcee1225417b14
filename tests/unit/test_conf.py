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


"""The options of nova-gpu."""

from __future__ import annotations

import pathlib

import fixtures
import testtools
from oslo_config import cfg

from nova_gpu import conf
from nova_gpu.model.rule import USES
from nova_gpu.rules import SCHEMA


class ConfTest(testtools.TestCase):
    """What nova.conf takes."""

    def setUp(self) -> None:
        super().setUp()
        self.conf = cfg.ConfigOpts()

    def test_nothing_is_registered_on_import(self) -> None:
        self.conf([])
        self.assertRaises(cfg.NoSuchOptError, getattr, self.conf, 'gpu')

    def test_defaults(self) -> None:
        conf.register_opts(self.conf)
        conf.register_opts(self.conf)  # driver and weighers do both
        self.conf([])
        self.assertEqual([], self.conf.gpu.rule)
        self.assertEqual('/', self.conf.gpu.host_root)
        self.assertEqual(100.0, self.conf.gpu.weight_multiplier)
        self.assertEqual(100.0, self.conf.gpu.avoid_weight_multiplier)
        self.assertIs(False, self.conf.gpu.reserve_gpu_hosts)

    def test_what_is_set_in_one_is_not_in_another(self) -> None:
        other = cfg.ConfigOpts()
        for each in (self.conf, other):
            conf.register_opts(each)
            each([])
        self.conf.set_override('host_root', '/elsewhere', 'gpu')
        self.assertEqual('/', other.gpu.host_root)

    def test_rules_keep_their_order_and_commas(self) -> None:
        first = '{"product_id": "2235", "profiles": ["A40-8Q", "A40-24Q"]}'
        second = '{"address": "0000:3b:00.0", "use": "ignore"}'
        path = self.create_file(f'[gpu]\nrule = {first}\nrule = {second}\n')
        conf.register_opts(self.conf)
        self.conf(['--config-file', path])
        self.assertEqual([first, second], self.conf.gpu.rule)

    def create_file(self, content: str) -> str:
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        (folder / 'nova.conf').write_text(content)
        return str(folder / 'nova.conf')

    def test_listed_are_all_that_are_registered(self) -> None:
        conf.register_opts(self.conf)
        self.conf([])
        ((group, opts),) = conf.list_opts()
        self.assertEqual('gpu', group.name)
        self.assertEqual(set(self.conf.gpu), {opt.name for opt in opts})

    def test_each_has_help(self) -> None:
        ((_, opts),) = conf.list_opts()
        for opt in opts:
            self.assertGreater(len(opt.help), 80, opt.name)

    def test_help_of_rules_names_every_field_and_use(self) -> None:
        ((_, opts),) = conf.list_opts()
        text = next(opt.help for opt in opts if opt.name == 'rule')
        for name in (*SCHEMA['properties'], *USES):
            self.assertIn(f'``{name}``', text)
