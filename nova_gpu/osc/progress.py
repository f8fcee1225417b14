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

"""How far long work has come, for who watches a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from nova_gpu.osc.placement import Progress


@contextlib.contextmanager
def shown(what: str) -> Iterator[Progress | None]:
    """Count on stderr, on a line that goes away when the work is done.

    Nothing is shown where stderr is no terminal.
    """
    stream = sys.stderr
    if not stream.isatty():
        yield None
        return

    def tell(done: int, total: int) -> None:
        stream.write(f'\r{what}: {done} of {total}')
        stream.flush()

    try:
        yield tell
    finally:
        stream.write('\r\x1b[K')
        stream.flush()
