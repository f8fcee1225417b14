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

"""nova-compute stops and starts while guests run, and bad things happen."""

from __future__ import annotations

import fixtures
import testtools

from nova_gpu.mechanism.mdev import new_uuid
from tests.fixtures import hosts
from tests.functional import base
from tests.functional.test_boot import A100, T4_4Q, T4_8Q


class RestartTest(base.GpuServersTest):
    """Everything is read back from guest XML and sysfs."""

    def setUp(self) -> None:
        super().setUp()
        self.logs = self.useFixture(fixtures.FakeLogger())
        self.fake = self.new_host('gpu1')
        hosts.a100_board(self.fake)
        hosts.four_t4(self.fake)
        self.start_gpu_compute('gpu1')

    def test_nothing_is_lost_and_nothing_given_twice(self) -> None:
        whole = self.boot(self.gpu_flavor(**{f'resources__{A100}': '4'}))
        vgpu = self.boot(self.gpu_flavor(**{f'resources__{T4_8Q}': '2'}))
        held = self.guest_devices(whole).functions
        mdevs = self.guest_devices(vgpu).mdevs
        before = self.providers_of('gpu1')
        self.restart_gpu_compute('gpu1')
        self.assertEqual(before, self.providers_of('gpu1'))
        self.assertEqual(sorted(mdevs), self.fake.mdevs)
        other = self.boot(self.gpu_flavor(**{f'resources__{A100}': '4'}))
        self.assertEqual(
            frozenset(), held & self.guest_devices(other).functions
        )
        self.boot(
            self.gpu_flavor(**{f'resources__{A100}': '1'}), state='ERROR'
        )
        self.assert_no_device_twice()
        # What was claimed before the restart is given back after it.
        self._delete_server(vgpu)
        self._delete_server(whole)
        self.assertEqual([], self.fake.mdevs)
        again = self.boot(self.gpu_flavor(**{f'resources__{A100}': '4'}))
        self.assertEqual(held, self.guest_devices(again).functions)

    def test_vgpu_that_no_guest_holds_is_removed(self) -> None:
        lost, foreign = new_uuid(), '0a5c0a2e-9f1b-4c55-8d1e-0d6f6a3f9a11'
        self.fake.create_mdev('0000:3b:00.0', 'nvidia-233', lost)
        self.fake.create_mdev('0000:5e:00.0', 'nvidia-233', foreign)
        self.restart_gpu_compute('gpu1')
        self.assertEqual([foreign], self.fake.mdevs)
        self.assertIn(f'Removing {lost}', self.logs.output)
        # What somebody else has made is not promised to anybody.
        inventory = self.providers_of('gpu1')['gpu1_gpu_0000_5e_00_0']
        self.assertEqual(1, inventory[T4_8Q]['reserved'])
        self.assertEqual(
            inventory[T4_4Q]['total'], inventory[T4_4Q]['reserved']
        )

    @testtools.skipIf(
        base.NOVA_RELEASE == 29,
        'Nova 29 itself parses the XML of all guests for their mediated '
        'devices when it starts, and stops',
    )
    def test_guest_whose_xml_does_not_parse(self) -> None:
        vgpu = self.boot(self.gpu_flavor(**{f'resources__{T4_8Q}': '1'}))
        whole = self.boot(self.gpu_flavor(**{f'resources__{A100}': '4'}))
        held = self.guest_devices(whole).functions
        (mdev,) = self.guest_devices(vgpu).mdevs
        connection = self.computes['gpu1'].driver._host.get_connection()
        domain = connection.lookupByUUIDString(vgpu['id'])
        broken = domain.XMLDesc(0).replace('</domain>', '')
        # Nova starts with such a guest, but can't do much with it: mend it
        # once our driver has seen it.
        domain.XMLDesc = lambda flags: broken
        self.restart_gpu_compute('gpu1')
        del domain.XMLDesc
        self._run_periodics()
        self.assertIn('does not parse', self.logs.output)
        self.assertIn(vgpu['OS-EXT-SRV-ATTR:instance_name'], self.logs.output)
        self.assertEqual([mdev], self.fake.mdevs)
        other = self.boot(self.gpu_flavor(**{f'resources__{A100}': '4'}))
        self.assertEqual(
            frozenset(), held & self.guest_devices(other).functions
        )

    def test_card_that_goes(self) -> None:
        server = self.boot(self.gpu_flavor(**{f'resources__{A100}': '1'}))
        (held,) = self.guest_devices(server).functions
        self.fake.remove('0000:cb:00.0')  # free
        self.fake.remove(str(held))
        self._run_periodics()
        pool = self.providers_of('gpu1')['gpu1_gpu_nvidia_a100_sxm4_40gb']
        self.assertEqual(7, pool[A100]['total'])
        self.assertIn(f'Card {held} has left the host', self.logs.output)
        self.assertEqual(5, len(self.providers_of('gpu1')))
        self.boot(self.gpu_flavor(**{f'resources__{A100}': '6'}))
        self._delete_server(server)
        self._run_periodics()
        pool = self.providers_of('gpu1')['gpu1_gpu_nvidia_a100_sxm4_40gb']
        self.assertEqual(6, pool[A100]['total'])

    def test_vgpu_card_that_goes_takes_its_provider_along(self) -> None:
        self.fake.remove('0000:d8:00.0')
        self._run_periodics()
        self.assertNotIn('gpu1_gpu_0000_d8_00_0', self.providers_of('gpu1'))
        self.assertIn('gpu1_gpu_0000_af_00_0', self.providers_of('gpu1'))

    def test_broken_files_cost_one_card(self) -> None:
        device = 'sys/bus/pci/devices/0000:25:00.0'
        self.fake.write(f'{device}/device', 'not a number\n')
        self.fake.write(
            'sys/class/mdev_bus/0000:3b:00.0/mdev_supported_types/nvidia-233'
            '/available_instances',
            '',
        )
        self.restart_gpu_compute('gpu1')
        self.assertIn("'not a number' is not a number", self.logs.output)
        self.assertIn(f'{self.fake.root}/{device}/device', self.logs.output)
        providers = self.providers_of('gpu1')
        self.assertEqual(
            7, providers['gpu1_gpu_nvidia_a100_sxm4_40gb'][A100]['total']
        )
        self.assertNotIn(T4_8Q, providers['gpu1_gpu_0000_3b_00_0'])
        self.assertIn(T4_8Q, providers['gpu1_gpu_0000_5e_00_0'])


class FaultTest(base.GpuServersTest):
    """A claim that fails leaves nothing, and another host is tried."""

    def setUp(self) -> None:
        super().setUp()
        self.logs = self.useFixture(fixtures.FakeLogger())
        for name in ('gpu1', 'gpu2'):
            hosts.four_t4(self.new_host(name))
            self.start_gpu_compute(name)

    def test_failing_write_means_another_host(self) -> None:
        self.hosts['gpu1'].failures['create_mdev'] = 5
        self.hosts['gpu2'].failures['set_vgpu_params'] = 5
        flavor = self.gpu_flavor(**{f'resources__{T4_8Q}': '1'})
        server = self.boot(flavor)
        self.assertEqual('gpu2', server['OS-EXT-SRV-ATTR:host'])
        self.assertEqual([], self.hosts['gpu1'].mdevs)
        self.assertEqual({}, self.nonzero_usages('gpu1'))

    def test_half_a_claim_is_undone(self) -> None:
        for fake in self.hosts.values():
            fake.failures['set_vgpu_params'] = 22
        flavor = self.gpu_flavor(
            **{f'resources__{T4_8Q}': '1', 'gpu__vgpu_params': 'a=b'}
        )
        self.boot(flavor, state='ERROR')
        for name, fake in self.hosts.items():
            self.assertEqual([], fake.mdevs)
            self.assertEqual({}, self.nonzero_usages(name))
            card = self.providers_of(name)[f'{name}_gpu_0000_3b_00_0']
            self.assertEqual(0, card[T4_4Q]['reserved'])
        self.assertIn('setting vGPU parameters failed', self.logs.output)

    def test_allocation_on_a_provider_that_is_not_there(self) -> None:
        # The card goes after Placement has counted it, before the claim.
        for name in ('gpu1', 'gpu2'):
            for address in ('3b', '5e', 'af', 'd8'):
                self.hosts[name].remove(f'0000:{address}:00.0')
        server = self.boot(
            self.gpu_flavor(**{f'resources__{T4_8Q}': '1'}), state='ERROR'
        )
        self.assertIn('which no GPU of this host offers', self.logs.output)
        self.assertEqual({}, self.nonzero_usages('gpu1'))
        self._delete_server(server)


class TwoComputesTest(base.GpuServersTest):
    """Where servers land, with GPUs and without."""

    def test_gpus_pack_and_others_stay_away(self) -> None:
        for name in ('gpu1', 'gpu2'):
            hosts.a100_board(self.new_host(name))
            self.start_gpu_compute(name)
        self.new_host('plain')
        self.start_gpu_compute('plain')
        first = self.boot(self.gpu_flavor(**{f'resources__{A100}': '2'}))
        # Schedulers learn of it with the periodic update.
        self._run_periodics()
        second = self.boot(self.gpu_flavor(**{f'resources__{A100}': '2'}))
        self.assertEqual(
            first['OS-EXT-SRV-ATTR:host'], second['OS-EXT-SRV-ATTR:host']
        )
        large = self.boot(self.gpu_flavor(**{f'resources__{A100}': '8'}))
        self.assertNotEqual(
            first['OS-EXT-SRV-ATTR:host'], large['OS-EXT-SRV-ATTR:host']
        )
        none = self.boot(self.gpu_flavor())
        self.assertEqual('plain', none['OS-EXT-SRV-ATTR:host'])


class SimultaneousTest(base.GpuServersTest):
    """Casts that are casts: builds run at the same time."""

    CAST_AS_CALL = False

    def test_many_at_once_on_two_hosts(self) -> None:
        for name in ('gpu1', 'gpu2'):
            hosts.a100_board(self.new_host(name))
            hosts.four_t4(self.hosts[name])
            self.start_gpu_compute(name)
        cards = self.gpu_flavor(**{f'resources__{A100}': '2'})
        vgpus = self.gpu_flavor(**{f'resources__{T4_8Q}': '1'})
        ids = [
            self.api.post_server(
                {
                    'server': self._build_server(
                        flavor_id=flavor, networks='none'
                    )
                }
            )['id']
            for flavor in (cards, vgpus) * 6
        ]
        servers = [self.wait_until_built(server_id) for server_id in ids]
        self.assertEqual(['ACTIVE'] * 12, [s['status'] for s in servers])
        self.assert_no_device_twice()
        used = {
            name: self.usages_of('gpu1')[name] + self.usages_of('gpu2')[name]
            for name in (A100, T4_8Q)
        }
        self.assertEqual({A100: 12, T4_8Q: 6}, used)


class ExtraSpecTest(base.GpuServersTest):
    """A wrong gpu: extra spec is refused by the API."""

    def post(self, specs: dict[str, str]) -> str:
        flavor = self._create_flavor(vcpu=1, memory_mb=512, disk=1)
        error = self.assertRaises(
            base.ApiError,
            self.admin_api.post_extra_spec,
            flavor,
            {'extra_specs': specs},
        )
        self.assertEqual(400, error.response.status_code)
        return str(error)

    def test_wrong_key_names_the_keys(self) -> None:
        message = self.post({'gpu:dispaly': 'on'})
        self.assertIn('gpu:dispaly', message)
        for key in ('gpu:display', 'gpu:numa_affinity', 'gpu:vgpu_params'):
            self.assertIn(key, message)

    def test_wrong_value_names_the_values(self) -> None:
        message = self.post({'gpu:display': 'yes'})
        self.assertIn('yes', message)
        self.assertIn('on, off', message)
