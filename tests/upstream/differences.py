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

"""Tests of Nova's that end otherwise with our driver, and why."""

_UNIT = 'nova.tests.unit.virt.libvirt.test_driver'

#: By release, then by test id.
DIFFERENCES: dict[int, dict[str, str]] = {
    34: {
        f'{_UNIT}.LibvirtDriverTestCase'
        '.test_start_inactive_mediated_devices_on_init_host': (
            'When it starts, ours reads from all guests who holds which GPU; '
            "the test's host is a mock without a list of guests."
        ),
    },
}
