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

"""Each form of a GPU, from the claim to the open file and back."""

from __future__ import annotations

from lab.scenarios import base, host
from nova_gpu import exception


class WholeCardTest(base.Scenario):
    def test_card_with_its_audio_function(self) -> None:
        """whole card: its audio function comes along, on one slot"""
        name = self.class_of(host.GPU_WITH_AUDIO)
        server = self.boot(name)
        audio = '0000:81:00.1'
        self.assertHeld(server, host.GPU_WITH_AUDIO, audio)
        places = [
            element.find('address').attrib
            for element in host.hostdevs(server.domain)
        ]
        self.assertEqual(['0x0', '0x1'], [p['function'] for p in places])
        self.assertEqual(1, len({(p['bus'], p['slot']) for p in places}))
        self.assertEqual('on', places[0]['multifunction'])
        self.assertEqual(0, self.compute.free(name))
        with self.assertRaises(exception.NotEnoughUnits):
            self.boot(name)
        self.compute.delete(server)
        self.assertEqual(1, self.compute.free(name))
        self.assertEqual('vfio-pci', host.driver(audio))
        # And to the next one.
        again = self.boot(name)
        self.assertHeld(again, host.GPU_WITH_AUDIO, audio)
        self.compute.delete(again)

    def test_two_cards(self) -> None:
        """two whole cards of three, and none left for two more"""
        name = self.class_of(host.H100S[0])
        server = self.boot(name, 2)
        held = host.sources(server.domain)
        self.assertLess(set(held), set(host.H100S))
        self.assertHeld(server, *held)
        # One NUMA node has two of them.
        self.assertEqual({'1'}, {host.read(d, 'numa_node') for d in held})
        with self.assertRaises(exception.NotEnoughUnits):
            self.boot(name, 2)
        self.compute.delete(server)
        self.assertEqual(3, self.compute.free(name))

    def test_libvirt_refuses_a_card_in_use(self) -> None:
        """whole card: libvirt refuses a guest whose card another has"""
        name = self.class_of(host.GPU_WITH_AUDIO)
        server = self.boot(name)
        text = server.domain.XMLDesc().replace(
            server.uuid, '6b1d6a5e-0000-4000-8000-00000000dead'
        )
        other = text.replace(server.domain.name(), 'thief')
        connection = self.compute.connection
        with self.assertRaisesRegex(Exception, 'in use by'):
            connection.createXML(other)
        self.assertHeld(server, host.GPU_WITH_AUDIO, '0000:81:00.1')
        self.compute.delete(server)


class VirtualFunctionTest(base.Scenario):
    def test_virtual_function(self) -> None:
        """virtual function: one of a card's four"""
        functions = host.functions(host.SRIOV)
        name = self.class_of(host.SRIOV)
        self.assertEqual(4, self.compute.free(name))
        server = self.boot(name)
        (held,) = host.sources(server.domain)
        self.assertIn(held, functions)
        self.assertHeld(server, held)
        self.assertEqual('vfio-pci', host.driver(held))
        self.assertEqual(3, self.compute.free(name))
        self.compute.delete(server)
        self.assertEqual(4, self.compute.free(name))


class MdevTest(base.Scenario):
    def test_two_profiles_in_turn(self) -> None:
        """mediated devices: two profiles on one card in turn"""
        small = self.class_named(host.MDEV, 'NVIDIA A40-8Q')
        large = self.class_named(host.MDEV, 'NVIDIA A40-24Q')
        self.assertEqual(6, host.available(host.MDEV, 'nvidia-562'))
        one = self.boot(small, 2)
        both = host.sources(one.domain)
        self.assertHeld(one, *both)
        self.assertEqual(dict.fromkeys(both, 'nvidia-562'), host.mdevs())
        self.assertEqual(4, self.compute.free(small))
        self.assertEqual(0, host.available(host.MDEV, 'nvidia-565'))
        self.assertEqual(0, self.compute.free(large))
        with self.assertRaises(exception.NotEnoughUnits):
            self.boot(large)
        self.compute.delete(one)
        self.assertEqual({}, host.mdevs())
        two = self.boot(large)
        self.assertEqual(['nvidia-565'], list(host.mdevs().values()))
        self.assertHeld(two, *host.mdevs())
        self.compute.delete(two)
        self.assertEqual(6, self.compute.free(small))

    def test_parameters(self) -> None:
        """mediated devices: the flavor's plugin parameters are set"""
        name = self.class_named(host.MDEV, 'NVIDIA A40-48Q')
        server = self.compute.boot(
            **{
                f'resources:{name}': '1',
                'gpu:vgpu_params': 'frame_rate_limiter=0',
            }
        )
        (mdev,) = host.mdevs()
        text = (host.HERE.mediated / mdev / 'nvidia/vgpu_params').read_text()
        self.assertEqual('frame_rate_limiter=0\n', text)
        self.compute.delete(server)


class VendorVfioTest(base.Scenario):
    def test_two_profiles_in_turn(self) -> None:
        """vendor-specific VFIO: two profiles on one card in turn"""
        small = self.class_named(host.VENDOR_VFIO, 'NVIDIA L40S-12Q')
        large = self.class_named(host.VENDOR_VFIO, 'NVIDIA L40S-48Q')
        functions = host.functions(host.VENDOR_VFIO)
        # Eight functions; the memory is for four.
        self.assertEqual(4, self.compute.free(small))
        one = self.boot(small)
        (held,) = host.sources(one.domain)
        self.assertHeld(one, held)
        self.assertEqual('1156', host.read(held, 'nvidia/current_vgpu_type'))
        self.assertEqual('nvidia', host.driver(held))
        (element,) = host.hostdevs(one.domain)
        self.assertEqual('no', element.get('managed'))
        sibling = next(f for f in functions if f != held)
        self.assertEqual({'NVIDIA L40S-12Q'}, host.creatable(sibling))
        with self.assertRaises(exception.NotEnoughUnits):
            self.boot(large)
        self.compute.delete(one)
        self.assertEqual('0', host.read(held, 'nvidia/current_vgpu_type'))
        two = self.boot(large)
        self.assertHeld(two, *host.sources(two.domain))
        self.compute.delete(two)

    def test_function_without_type(self) -> None:
        """vendor-specific VFIO: no guest starts on a function without type"""
        name = self.class_named(host.VENDOR_VFIO, 'NVIDIA L40S-48Q')
        server = self.boot(name)
        (held,) = host.sources(server.domain)
        server.domain.destroy()
        path = host.HERE.pci / held / 'nvidia/current_vgpu_type'
        path.write_text('0')
        self.assertIn('No such device', self.assertStartFails(server))
        # What a hard reboot does.
        self.compute.tracker.make_again(server.uuid)
        server.domain.create()
        self.assertHeld(server, held)
        self.compute.delete(server)
