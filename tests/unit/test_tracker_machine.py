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


"""Any order of events, on each form that GPUs come in."""

from __future__ import annotations

import fixtures
import testtools
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.machine.host import FORMS
from tests.machine.machine import TrackerMachine

STEPS = 30


class TrackerMachineTest(testtools.TestCase):
    """The machine, run."""

    def run_machine(self, part: int, *names: str) -> None:
        """Run a part of the examples that the profile asks for."""
        self.useFixture(fixtures.FakeLogger())
        forms = tuple(form for form in FORMS if form.name in names)
        self.assertEqual(len(names), len(forms))

        class Machine(TrackerMachine):
            forms_wanted = forms or None

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=max(1, settings().max_examples // part),
                stateful_step_count=STEPS,
                # Explaining a failure takes longer than all the rest.
                phases=(Phase.generate, Phase.shrink),
            ),
        )

    def test_any_forms(self) -> None:
        self.run_machine(8)

    def test_whole_cards(self) -> None:
        self.run_machine(16, 'whole cards')

    def test_mdev_on_the_card(self) -> None:
        self.run_machine(16, 'mdev on the card')

    def test_mdev_on_virtual_functions(self) -> None:
        self.run_machine(16, 'mdev on virtual functions')

    def test_mixed_sizes_on_the_card(self) -> None:
        self.run_machine(16, 'mixed sizes on the card')

    def test_mig_mdev(self) -> None:
        self.run_machine(16, 'MIG, mdev, instances of two sizes')

    def test_vendor_vfio_one_size(self) -> None:
        self.run_machine(16, 'vendor VFIO, one size')

    def test_vendor_vfio_functions_by_rule(self) -> None:
        self.run_machine(16, 'vendor VFIO, functions enabled by rule')

    def test_vendor_vfio_mixed_sizes(self) -> None:
        self.run_machine(16, 'vendor VFIO, mixed sizes')

    def test_mig_vendor_vfio_equal_instances(self) -> None:
        self.run_machine(16, 'MIG, vendor VFIO, equal instances')

    def test_mig_vendor_vfio_two_sizes(self) -> None:
        self.run_machine(16, 'MIG, vendor VFIO, instances of two sizes')

    def test_plain_virtual_functions(self) -> None:
        self.run_machine(16, 'plain virtual functions')

    def test_virtual_parents(self) -> None:
        self.run_machine(16, 'virtual parents')
