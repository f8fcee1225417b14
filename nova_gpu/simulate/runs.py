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
"""Runs of the simulator: a policy, some seeds, and what comes of them."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Callable, Sequence

from nova_gpu.model.fragmentation import Mix
from nova_gpu.simulate.cloud import Cloud, Outcome, arrivals, churn, fill
from nova_gpu.simulate.hosts import PROFILES, empty
from nova_gpu.simulate.policies import Make
from nova_gpu.simulate.tables import Host, Request

#: The 97.5 % quantiles of Student's distribution, by degrees of freedom.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is the same for all policies."""

    requests: Sequence[Request]
    hosts: Sequence[Host]
    mix: Mix
    #: Of the profiles that cards can be cut into; none: any share.
    sizes: tuple[int, ...] = PROFILES
    load: float = 1.0
    churn: bool = False

    def run(
        self,
        make: Make,
        seed: int,
        tell: Callable[[float], object] = lambda share: None,
    ) -> Outcome:
        """One run; what comes, and to which hosts, the seed decides alone."""
        source = random.Random(seed)
        found = [empty(host, self.sizes) for host in self.hosts]
        source.shuffle(found)
        cloud = Cloud(found, make(self.mix, self.requests, found, seed))
        coming = arrivals(self.requests, source)
        if not self.churn:
            return fill(cloud, coming, self.load, tell)
        mean = statistics.fmean(request.milli for request in self.requests)
        lives = random.Random(seed + 1)
        return churn(cloud, coming, lives, mean, self.load, tell)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and how far from it the true one is, with 95 % confidence."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    freedom = min(len(values) - 1, len(_STUDENT))
    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean, _STUDENT[freedom - 1] * error
