#!/bin/bash
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

# Every check and every test. The last line counts the tests; the exit code
# also tells of style and documentation.

set -u

# build/lib too: setuptools would put modules that are gone into the wheel.
rm -rf build/lib build/stestr
mkdir -p build/stestr
status=0
.venv/bin/tox run -e py3,functional,pep8,docs || status=1
.venv/bin/python tools/count-tests.py \
    build/stestr/{unit,functional-threading,functional-eventlet} |
    tee build/test-count
[ "${PIPESTATUS[0]}" -eq 0 ] || status=1
exit $status
