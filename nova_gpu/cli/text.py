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

"""Text in the cells of tables."""

from __future__ import annotations

from collections.abc import Sequence


def fill(parts: Sequence[str], glue: str, width: int) -> str:
    """Parts in lines of ``width``, none of them broken."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(glue) + len(part) <= width:
            lines[-1] += glue + part
            continue
        if lines:
            lines[-1] += glue.rstrip()
        lines.append(part)
    return '\n'.join(lines)
