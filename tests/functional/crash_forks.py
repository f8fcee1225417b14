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

"""Imported by the process from which those of :mod:`crash` are forked.

It plays a story, so that what Nova's services load and compute when they are
first used is there in each fork: that is most of a short life's work.
"""

from __future__ import annotations

import math

from tests.functional import base, crash, test_crash

# The test that starts a fork has looked at the time.
base.UNTIL = math.inf
crash.rehearse(test_crash.KINDS['mdev'])
