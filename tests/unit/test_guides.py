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


"""The guides show what the commands print, on recorded hosts."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import testtools
from nova.api.validation.extra_specs import validators

from tests.fixtures import guides


class GuidesTest(testtools.TestCase):
    def test_pages_show_what_is_printed(self) -> None:
        """``python -m tests.fixtures.guides`` writes it into the pages."""
        tried = set()
        for page in guides.GUIDES:
            for step in guides.play(page):
                where = f'{page.name}, line {step.line + 1}'
                self.assertTrue(step.matches(), f'{where}: {step.printed}')
                self.assertNotIn('Traceback', ' '.join(step.printed), where)
                tried.add((step.host, step.words[0]))
                if step.words[:3] == ['openstack', 'flavor', 'create']:
                    self.assert_flavor(step, where)
        self.assertEqual(
            {
                (host, program)
                for host in guides.HOSTS
                for program in ('nova-gpu', 'reboot', 'openstack')
            },
            tried,
        )

    def assert_flavor(self, step: guides.Step, where: str) -> None:
        for flag, word in itertools.pairwise(step.words):
            if flag == '--property':
                key, value = word.split('=', 1)
                validators.validate(key, value)
                self.assertIn(
                    key.removeprefix('resources:'), step.classes, where
                )

    def test_a_page_that_shows_something_else(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder, 'guide.rst')
            block = '.. host: a40\n\n.. code-block:: console\n\n'
            command = '    # nova-gpu host show -c Driver -f value\n'
            right = f'{block}{command}    nouveau\n    nouveau\n\nEnd.\n'
            for shown, matches in (
                ('    nouveau\n    nouveau\n', True),
                ('    ...\n    nouveau\n', True),
                ('    vfio-pci\n    nouveau\n', False),
                ('', False),
            ):
                page.write_text(f'{block}{command}{shown}\nEnd.\n')
                (step,) = guides.play(page)
                self.assertEqual(matches, step.matches(), shown)
            guides.write(page)
            self.assertEqual(right, page.read_text())
