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

"""A core of the lab's scenarios, for CI: one of each form of a GPU.

``make lab-test`` runs all of them. Where the guest can't be built or doesn't
start, which is the machine's doing, these are skipped, and say why.
"""

from __future__ import annotations

import io
import unittest

import testscenarios

from lab import parts
from lab.guest import agent, build, inputs, machine

CORE = (
    'AnswersTest',
    'WholeCardTest.test_card_with_its_audio_function',
    'VirtualFunctionTest',
    'MdevTest.test_two_profiles_in_turn',
    'VendorVfioTest.test_two_profiles_in_turn',
    'LibvirtdTest',
)

load_tests = testscenarios.load_tests_apply_scenarios


class CoreTest(unittest.TestCase):
    """The guest is started once, and what they write is gone with it."""

    scenarios = [(name, {'name': name}) for name in CORE]
    name: str

    @classmethod
    def setUpClass(cls) -> None:
        cls.addClassCleanup(machine.stop)
        try:
            build.build()
            machine.stop()
            machine.start(inputs.image())
        except (parts.BuildError, machine.MachineError) as exc:
            raise unittest.SkipTest(f'no guest: {exc}') from exc
        agent.install_project()

    def test_scenario(self) -> None:
        said = io.StringIO()
        self.assertEqual(
            0, agent.scenarios([self.name], said), said.getvalue()
        )
