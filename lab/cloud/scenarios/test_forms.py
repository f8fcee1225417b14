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

"""Each form of a GPU, from the flavor to the open file and back."""

from __future__ import annotations

from lab.cloud.scenarios import api, base, gpuhost
from lab.cloud.scenarios.base import (
    A40_8Q,
    A40_24Q,
    H100,
    L40S_12Q,
    L40S_48Q,
    MI300X_VF,
    RTX_4090,
)
from lab.scenarios import devices

NO_HOST = 'No valid host was found'


class WholeCardTest(base.Scenario):
    def test_card_with_its_audio_function(self) -> None:
        """cloud, whole card: with its audio function; full; used again"""
        flavor = api.units(RTX_4090)
        server = self.boot(flavor)
        self.assertEqual({RTX_4090: 1}, api.allocations(server))
        self.assertHeld(server, devices.GPU_WITH_AUDIO, base.AUDIO)
        self.assertRefused(flavor, NO_HOST)
        api.delete(server)
        self.assertFree(**{RTX_4090: 1})
        self.assertEqual('vfio-pci', gpuhost.driver(base.AUDIO))
        again = self.boot(flavor)
        self.assertHeld(again, devices.GPU_WITH_AUDIO, base.AUDIO)

    def test_two_cards(self) -> None:
        """cloud, whole cards: two of three, and none left for two more"""
        flavor = api.units(H100, 2)
        server = self.boot(flavor)
        self.assertEqual({H100: 2}, api.allocations(server))
        held = self.held(server)
        # Those that share a NUMA node.
        self.assertEqual(list(devices.H100S[1:]), held)
        self.assertHeld(server, *held)
        self.assertRefused(flavor, NO_HOST)


class NumaTest(base.Scenario):
    def test_pinned_cpu_near_the_card(self) -> None:
        """cloud: pinned CPUs and memory are on the GPU's NUMA node"""
        near = {'hw:cpu_policy': 'dedicated', 'gpu:numa_affinity': 'required'}
        pinned = api.units(H100, 1, near)
        server = self.boot(pinned)
        (card,) = self.held(server)
        self.assertHeld(server, card)
        self.assertEqual('1', gpuhost.read(card, 'numa_node'))
        domain = gpuhost.domain(server)
        assert domain is not None
        pins = [pin.get('cpuset') for pin in domain.xml.iter('vcpupin')]
        self.assertEqual(['1'], pins)
        memory = domain.xml.find('numatune/memory')
        assert memory is not None
        self.assertEqual('1', memory.get('nodeset'))
        api.delete(server)
        # The third card is free, and on the other node.
        both = self.boot(api.units(H100, 2))
        self.assertEqual(list(devices.H100S[1:]), self.held(both))
        server = api.create(pinned)
        message = api.fault(server)
        self.assertRegex(message, f'{NO_HOST}|Exceeded maximum number')
        api.delete(server)
        # Only the node stood in the way.
        far = near | {'gpu:numa_affinity': 'none'}
        other = self.boot(api.units(H100, 1, far))
        self.assertHeld(other, devices.H100S[0])


class VirtualFunctionTest(base.Scenario):
    def test_virtual_function(self) -> None:
        """cloud, virtual function: one of a card's four, then the others"""
        server = self.boot(api.units(MI300X_VF))
        (held,) = self.held(server)
        self.assertIn(held, gpuhost.functions(devices.SRIOV))
        self.assertHeld(server, held)
        self.assertFree(**{MI300X_VF: 3})
        self.assertRefused(api.units(MI300X_VF, 4), NO_HOST)
        api.delete(server)
        self.assertFree(**{MI300X_VF: 4})


class MdevTest(base.Scenario):
    def test_two_profiles_in_turn(self) -> None:
        """cloud, mediated devices: two profiles on one card in turn"""
        small, large = api.units(A40_8Q, 2), api.units(A40_24Q)
        one = self.boot(small)
        self.assertEqual({A40_8Q: 2}, api.allocations(one))
        both = self.held(one)
        self.assertEqual(dict.fromkeys(both, 'nvidia-562'), gpuhost.mdevs())
        self.assertHeld(one, *both)
        self.assertFree(**{A40_8Q: 4, A40_24Q: 0})
        self.assertRefused(large, NO_HOST)
        api.delete(one)
        self.assertEqual({}, gpuhost.mdevs())
        self.assertFree(**{A40_8Q: 6, A40_24Q: 2})
        two = self.boot(large)
        self.assertEqual(['nvidia-565'], list(gpuhost.mdevs().values()))
        self.assertHeld(two, *gpuhost.mdevs())
        self.assertFree(**{A40_8Q: 0, A40_24Q: 1})


class VendorVfioTest(base.Scenario):
    def test_two_profiles_in_turn(self) -> None:
        """cloud, vendor-specific VFIO: two profiles on one card in turn"""
        small, large = api.units(L40S_12Q), api.units(L40S_48Q)
        one = self.boot(small)
        (held,) = self.held(one)
        self.assertHeld(one, held)
        self.assertEqual('1156', self.vgpu_type(held))
        self.assertEqual('nvidia', gpuhost.driver(held))
        self.assertFree(**{L40S_12Q: 3, L40S_48Q: 0})
        self.assertRefused(large, NO_HOST)
        api.delete(one)
        self.assertEqual('0', self.vgpu_type(held))
        self.assertFree(**{L40S_12Q: 4, L40S_48Q: 1})
        two = self.boot(large)
        (held,) = self.held(two)
        self.assertHeld(two, held)
        self.assertEqual('1159', self.vgpu_type(held))

    def vgpu_type(self, function: str) -> str:
        return gpuhost.read(function, 'nvidia/current_vgpu_type')
