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
# documentation. A functional test that fails while others run beside it runs
# once more alone, and a line says so: services that wait for each other in one
# process meet their limits of time on a machine that is busy with other work.

set -u

# build/lib too: setuptools would put modules that are gone into the wheel.
rm -rf build/lib build/stestr
mkdir -p build/stestr
status=0
tests_failed=0
ran_again=0
environments=py3,functional
for release in "$@"; do
    environments+=,py3-nova$release,functional-nova$release
done
.venv/bin/tox run -e pep8,docs || status=1
.venv/bin/tox run -e "$environments" || tests_failed=1

# What a release has results of, and whether without eventlet.
modes() {
    if [ "$1" -lt 34 ]; then
        echo eventlet false
        echo long false
    else
        echo threading true
        echo eventlet false
        echo long true
    fi
}

# run_again ENVIRONMENT MODE WITHOUT_EVENTLET
run_again() {
    local stestr=(".tox/$1/bin/stestr" --repo-url "build/stestr/$1-$2")
    local failing
    failing=$("${stestr[@]}" failing --list 2>/dev/null | wc -l)
    # More of them isn't the machine.
    if [ "$failing" -ge 1 ] && [ "$failing" -le 5 ]; then
        echo "== Again, alone: $failing that failed in $1-$2"
        ran_again=1
        OS_NOVA_DISABLE_EVENTLET_PATCHING=$3 OS_TEST_TIMEOUT=1500 \
            NOVA_GPU_TESTS_UNTIL='' \
            "${stestr[@]}" --test-path tests/functional run --failing --serial
    fi
}

count() {
    .venv/bin/python tools/count-tests.py "$@"
}

all=()
for release in 34 "$@"; do
    suffix=-nova$release
    [ "$release" -lt 34 ] || suffix=
    own=("build/stestr/py3$suffix")
    while read -r mode without_eventlet; do
        run_again "functional$suffix" "$mode" "$without_eventlet" </dev/null
        own+=("build/stestr/functional$suffix-$mode")
    done < <(modes "$release")
    all+=("${own[@]}")
    [ $# -eq 0 ] || echo "Nova $release: $(count "${own[@]}")"
done
count "${all[@]}" | tee build/test-count
[ "${PIPESTATUS[0]}" -eq 0 ] || status=1
# What went wrong was no test. But when there was no time for some of them
# stestr may find that none was successful: then the count alone tells.
if [ "${NOVA_GPU_TESTS_UNTIL:-$(date +%s)}" -ge "$(date +%s)" ]; then
    [ $tests_failed -eq $ran_again ] || status=1
fi
exit $status
