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

"""``python3 -m lab.scenarios [NAME…]``, in the guest.

A line a scenario, and the last one counts.
"""

from __future__ import annotations

import logging
import pathlib
import sys

from lab import runner


def main(wanted: list[str]) -> int:
    # What nova-gpu warns of is for who reads on after a failure.
    logging.basicConfig(
        filename='/var/log/scenarios.log', level=logging.INFO, force=True
    )
    return runner.run('lab.scenarios', pathlib.Path(__file__).parent, wanted)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
