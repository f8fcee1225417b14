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

"""Since when claims are as they are, and how long they took."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from nova_gpu.model.claim import CLAIMED, Claim

#: In place of its state, that of a claim of which something can't be given
#: back.
STUCK = 'stuck'


def told_state(claim: Claim) -> str:
    """A claim's state, as it is told to people."""
    return STUCK if claim.stuck else claim.state


@dataclasses.dataclass(frozen=True, slots=True)
class ClaimTimes:
    """The clock beside the claims; no decision looks at it.

    ``since`` has for each consumer its claim's state, and since when it is in
    that, in seconds since the epoch. ``settled`` are the claims that became a
    guest's, after ``seconds`` in all; ``abandoned`` those that didn't. Both
    are counted from the start of nova-compute.
    """

    since: Mapping[str, tuple[str, float]] = dataclasses.field(
        default_factory=dict
    )
    settled: int = 0
    seconds: float = 0.0
    abandoned: int = 0

    def then(self, claims: Iterable[Claim], now: float) -> ClaimTimes:
        """The times when these are the claims."""
        states = {claim.consumer: told_state(claim) for claim in claims}
        settled, seconds = self.settled, self.seconds
        abandoned = self.abandoned
        for consumer, (state, start) in self.since.items():
            after = states.get(consumer, STUCK)
            if state != CLAIMED or after == CLAIMED:
                continue
            if after == STUCK:
                abandoned += 1
            else:
                settled += 1
                # A clock that was set back is no claim of less than nothing.
                seconds += max(0.0, now - start)
        since = {}
        for consumer, state in states.items():
            before, start = self.since.get(consumer, (None, now))
            since[consumer] = (state, start if before == state else now)
        return ClaimTimes(since, settled, seconds, abandoned)
