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

# Every check and every test, on Nova 34 and on the releases that are given.
# The last line counts the tests; the exit code also tells of style and
# documentation.

set -u

# build/lib too: setuptools would put modules that are gone into the wheel.
rm -rf build/lib build/stestr
mkdir -p build/stestr
status=0
environments=py3,functional
for release in "$@"; do
    environments+=,py3-nova$release,functional-nova$release
done
.venv/bin/tox run -e "$environments,pep8,docs" || status=1

# What a release has results of. The older ones run on eventlet only.
repositories() {
    local suffix=
    [ "$1" -eq 34 ] || suffix=-nova$1
    echo "build/stestr/py3$suffix"
    [ "$1" -lt 34 ] || echo "build/stestr/functional$suffix-threading"
    echo "build/stestr/functional$suffix-eventlet"
}

count() {
    .venv/bin/python tools/count-tests.py "$@"
}

all=()
for release in 34 "$@"; do
    mapfile -t own < <(repositories "$release")
    all+=("${own[@]}")
    [ $# -eq 0 ] || echo "Nova $release: $(count "${own[@]}")"
done
count "${all[@]}" | tee build/test-count
[ "${PIPESTATUS[0]}" -eq 0 ] || status=1
exit $status
