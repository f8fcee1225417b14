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

"""The documentation's page of states is drawn from the code."""

from __future__ import annotations

import ast
import os
import pathlib
import re

import testtools

from nova_gpu import book, recovery, taking, tracker
from nova_gpu.model import claim

PAGE = pathlib.Path(__file__).parents[2] / 'doc/source/admin/states.rst'
MARK = '.. Made from nova_gpu.model.claim.TRANSITIONS; a test compares them.\n'
#: Set it to write the table anew.
WRITE = 'NOVA_GPU_WRITE_DOCS'


def table() -> str:
    """The transitions as rows of a list-table."""
    return ''.join(
        f'   * - {before}\n     - {event}\n     - {after}\n'
        for (before, event), after in claim.TRANSITIONS.items()
    )


class StatesTest(testtools.TestCase):
    def test_the_page_has_the_transitions(self) -> None:
        text = PAGE.read_text()
        head, _, rest = text.partition('     - State after it\n')
        rows, _, tail = rest.partition(MARK)
        if os.environ.get(WRITE):
            PAGE.write_text(
                f'{head}     - State after it\n{table()}\n{MARK}{tail}'
            )
            return
        self.assertEqual(table().strip(), rows.strip())

    def test_every_state_is_explained_and_can_be_left(self) -> None:
        text = PAGE.read_text()
        reached = {*claim.TRANSITIONS.values()}
        for state in reached:
            self.assertIn(f'\n{state}\n    ', text)
            self.assertIn(state, {before for before, _ in claim.TRANSITIONS})

    def test_what_the_log_says_is_said(self) -> None:
        said = [
            re.sub('%[sd]', '…', str(node.value))
            for path in pathlib.Path(tracker.__file__).parent.rglob('*.py')
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant)
        ]
        told = re.findall(r'^``(.*….*)``$', PAGE.read_text(), re.M)
        self.assertEqual(7, len(told))
        for text in told:
            # "Claimed" and "Prepared" are words of one message.
            variants = (text, re.sub('^(Claimed|Prepared)', '…', text))
            self.assertTrue(any(v in said for v in variants), text)

    def test_states_are_taken_from_the_transitions(self) -> None:
        used = {
            node.id
            for module in (book, recovery, taking, tracker)
            for node in ast.walk(
                ast.parse(pathlib.Path(module.__file__).read_text())
            )
            if isinstance(node, ast.Name)
        }
        self.assertIn('after', used)
        # A unit that can't be given back is claimed for nobody's guest.
        self.assertEqual(
            set(), used & {'ALLOCATED', 'REMOVED'}, 'use after() instead'
        )
