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

"""What this guest's kernel answers: see :mod:`lab.scenarios.answers`."""

from __future__ import annotations

import errno

from lab.scenarios import answers, base, host
from nova_gpu import privsep


class AnswersTest(answers.Answers, base.Scenario):
    effects = privsep
    devices = host.HERE

    def disable_vfs(self, card: str) -> None:
        (host.HERE.pci / card / 'sriov_numvfs').write_text('0')

    def test_sriov_manage(self) -> None:
        """kernel: NVIDIA's own card takes its script, not a plain write"""
        path = host.HERE.pci / host.VENDOR_VFIO / 'sriov_numvfs'
        with self.assertRaises(OSError) as caught:
            path.write_text('0')
        self.assertEqual(errno.ENOENT, caught.exception.errno)
