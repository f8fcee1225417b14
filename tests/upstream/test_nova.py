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

"""What stestr's workers load: a suite of Nova's, with the class asked for."""

from __future__ import annotations

import importlib
import os
import unittest
from typing import Any

from oslo_db.sqlalchemy import engines
from sqlalchemy import pool

from tests.upstream.suites import CLASS, OURS, RELEASE, SUITE, SUITES


def load_tests(
    loader: unittest.TestLoader, tests: Any, pattern: str | None
) -> unittest.TestSuite:
    """Nova's tests in the place of those of this module."""
    suite = SUITES[int(os.environ[RELEASE])][os.environ[SUITE]]
    # Decides between threads and eventlet, before all else of Nova.
    importlib.import_module(suite.package)
    if suite.threading:
        # Then Nova's fixtures have their databases in files, and oslo.db
        # reads the schema anew for each session: half of a test's time.
        engines.pool.NullPool = pool.QueuePool
    if os.environ[CLASS] == OURS:
        from tests.upstream import swap

        swap.put_in_place()
    return loader.loadTestsFromNames(suite.expanded())
