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

"""The documentation's table of actions, made of the tests.

``python -m tests.functional.actions_table`` writes it into the page, with
``--check`` it only says whether the page has it.
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Iterator

from tests.functional import test_actions

PAGE = pathlib.Path(__file__).parents[2] / 'doc/source/admin/actions.rst'
#: What is below this line in the page is not written by hand.
MARK = '.. Made by "python -m tests.functional.actions_table".\n'
KINDS = (
    test_actions.WholeCardTest,
    test_actions.MdevTest,
    test_actions.VendorVfioTest,
)


def rows() -> Iterator[str]:
    """The names of all rows, in the order of the test methods."""
    for method in vars(test_actions.ActionsMixin).values():
        yield from getattr(method, 'rows', ())


def cell(kind: type[test_actions.ActionsMixin], row: str) -> str:
    """What comes of an action with a kind of unit."""
    error = kind.ERRORS.get(row)
    if error is None:
        return 'works'
    # No literal: those don't wrap.
    text = error.format(server='<server>', device='<device>')
    return re.sub(r'([\\*`|])', r'\\\1', text)


def table() -> str:
    """The table as reStructuredText."""
    lines = [
        '.. list-table::',
        '   :header-rows: 1',
        '   :widths: 34 22 22 22',
        '',
        '   * - Action',
        *(f'     - {kind.kind}' for kind in KINDS),
    ]
    for row in rows():
        lines.append(f'   * - {row}')
        lines += (f'     - {cell(kind, row)}' for kind in KINDS)
    return '\n'.join(lines) + '\n'


def main(check: bool) -> int:
    """Write the page anew, or compare it."""
    before = PAGE.read_text()
    by_hand, _, _ = before.partition(MARK)
    after = f'{by_hand}{MARK}\n{table()}'
    if check:
        return int(before != after)
    PAGE.write_text(after)
    return 0


if __name__ == '__main__':
    sys.exit(main('--check' in sys.argv))
