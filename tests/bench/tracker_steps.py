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


"""Many steps of the tracker's random test: the violations that it finds.

Not a time but a search: what ``tests/unit/test_tracker_machine.py`` does in
short, for as long as one likes. Another seed searches elsewhere.

``TRACKER_STEPS`` and ``TRACKER_SEED`` change the run.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.bench import measure
from tests.machine.host import FORMS
from tests.machine.machine import TrackerMachine

STEPS = int(os.environ.get('TRACKER_STEPS', '10000'))
SEED = int(os.environ.get('TRACKER_SEED', '1'))
#: Steps on one host, and how many hosts of a form before it's the next's turn.
LENGTH, HOSTS = 50, 4


def run() -> Iterator[measure.Row]:
    """One form after the other, and hosts of several, until it is enough."""
    logging.disable(logging.CRITICAL)
    counts = TrackerMachine.counts
    violations = turn = 0
    while counts['steps'] < STEPS and not violations:
        form, seed = turn % (len(FORMS) + 1), SEED + turn // (len(FORMS) + 1)
        try:
            _run(form, seed)
        except Exception:
            # Hypothesis has printed the steps that lead there.
            traceback.print_exc(file=sys.stderr)
            violations += 1
        turn += 1
    yield measure.Row(
        'tracker_steps',
        {
            'steps': counts['steps'],
            'requests': counts['requests'],
            'claims': counts['claims'],
            'moves': counts['moves'],
            'faults': counts['faults'] + counts['wedged'],
            'restarts': counts['restart'] + counts['restart_with_broken_xml'],
            'reboots': counts['reboot'],
            'seed': SEED,
        },
        violations,
        None,
        None,
        'wrong',
    )
    if violations:
        raise SystemExit(1)


def _run(form: int, seed: int) -> None:
    @hypothesis.seed(seed)
    class Machine(TrackerMachine):
        forms_wanted = FORMS[form : form + 1] or None

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=HOSTS,
            stateful_step_count=LENGTH,
            deadline=None,
            derandomize=False,
            database=None,
            # Shrinking is for the test, which shows less in less time.
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


if __name__ == '__main__':
    measure.emit(run())
