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

"""Servers with GPUs on real Nova and Placement: boot, fill, free, reuse."""

from __future__ import annotations

import fixtures

from nova_gpu.mechanism.mdev import is_ours
from tests.fixtures import hosts
from tests.functional import base

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
T4 = 'CUSTOM_GPU_NVIDIA_TESLA_T4'
T4_4Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q'
T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q'
T4_16Q = 'CUSTOM_VGPU_NVIDIA_T4_16Q'


class WholeCardsTest(base.GpuServersTest):
    """Eight A100 on one host, passed through."""

    def setUp(self) -> None:
        super().setUp()
        hosts.a100_board(self.new_host('gpu1'))
        self.start_gpu_compute('gpu1')

    def test_one_provider_for_all_cards_of_a_model(self) -> None:
        providers = self.providers_of('gpu1')
        self.assertEqual(['gpu1_gpu_nvidia_a100_sxm4_40gb'], list(providers))
        (inventory,) = providers.values()
        self.assertEqual(8, inventory[A100]['total'])
        self.assertEqual(8, inventory[A100]['max_unit'])
        self.assertEqual(0, inventory[A100]['reserved'])

    def test_fill_refuse_delete_and_reuse(self) -> None:
        flavor = self.gpu_flavor(**{f'resources__{A100}': '4'})
        first = self.boot(flavor)
        held = self.guest_devices(first).functions
        self.assertEqual(4, len(held))
        # One NUMA node serves the guest, the other stays whole.
        self.assertEqual(
            set(hosts.A100_ADDRESSES[:4]), {str(address) for address in held}
        )
        second = self.boot(flavor)
        self.assertEqual({A100: 8}, self.usages_of('gpu1'))
        self.assert_no_device_twice()
        third = self.boot(flavor, state='ERROR')
        self.assertIn('No valid host', third['fault']['message'])
        freed = self.guest_devices(second).functions
        self._delete_server(second)
        self.assertEqual({A100: 4}, self.usages_of('gpu1'))
        again = self.boot(flavor)
        self.assertEqual(freed, self.guest_devices(again).functions)
        self.assert_no_device_twice()

    def test_eight_cards_in_one_guest(self) -> None:
        server = self.boot(self.gpu_flavor(**{f'resources__{A100}': '8'}))
        self.assertEqual(
            set(hosts.A100_ADDRESSES),
            {str(a) for a in self.guest_devices(server).functions},
        )

    def test_whole_hostdev(self) -> None:
        server = self.boot(self.gpu_flavor(**{f'resources__{A100}': '1'}))
        (hostdev,) = self.hostdevs(server)
        self.assert_xml_equal(
            """
            <hostdev mode='subsystem' type='pci' managed='yes'>
              <source>
                <address domain='0x0000' bus='0x25' slot='0x00'
                         function='0x0'/>
              </source>
            </hostdev>""",
            hostdev,
        )

    def test_server_without_gpu_gets_none(self) -> None:
        server = self.boot(self.gpu_flavor())
        self.assertEqual(frozenset(), self.guest_devices(server).functions)
        self.assertEqual({A100: 0}, self.usages_of('gpu1'))

    def test_stop_start_and_hard_reboot_keep_the_cards(self) -> None:
        server = self.boot(self.gpu_flavor(**{f'resources__{A100}': '2'}))
        before = self.guest_devices(server).functions
        self._stop_server(server)
        self.assertEqual({A100: 2}, self.usages_of('gpu1'))
        # A stopped guest's cards are nobody else's.
        other = self.boot(self.gpu_flavor(**{f'resources__{A100}': '2'}))
        self._start_server(server)
        self.assertEqual(before, self.guest_devices(server).functions)
        self._reboot_server(server, hard=True)
        self.assertEqual(before, self.guest_devices(server).functions)
        self.assertNotEqual(before, self.guest_devices(other).functions)
        self.assert_no_device_twice()

    def test_four_servers_at_once(self) -> None:
        flavor = self.gpu_flavor(**{f'resources__{A100}': '2'})
        servers = self.boot_many(flavor, 4)
        self.assertEqual(
            ['ACTIVE'] * 4, [server['status'] for server in servers]
        )
        self.assertEqual({A100: 8}, self.usages_of('gpu1'))
        self.assert_no_device_twice()


class VgpuTest(base.GpuServersTest):
    """Four T4, cut into vGPUs that are mediated devices."""

    def setUp(self) -> None:
        super().setUp()
        self.fake = hosts.four_t4(self.new_host('gpu1'))
        self.start_gpu_compute('gpu1')

    def test_one_provider_a_card_with_all_its_profiles(self) -> None:
        providers = self.providers_of('gpu1')
        self.assertEqual(
            [
                'gpu1_gpu_0000_3b_00_0',
                'gpu1_gpu_0000_5e_00_0',
                'gpu1_gpu_0000_af_00_0',
                'gpu1_gpu_0000_d8_00_0',
            ],
            sorted(providers),
        )
        totals = {
            name: record['total']
            for name, record in providers['gpu1_gpu_0000_3b_00_0'].items()
        }
        self.assertEqual(
            {
                'CUSTOM_VGPU_NVIDIA_T4_1Q': 16,
                'CUSTOM_VGPU_NVIDIA_T4_2Q': 8,
                T4_4Q: 4,
                T4_8Q: 2,
                T4_16Q: 1,
            },
            totals,
        )

    def test_fill_refuse_delete_and_reuse(self) -> None:
        flavor = self.gpu_flavor(**{f'resources__{T4_8Q}': '1'})
        servers = [self.boot(flavor) for _ in range(8)]
        self.assertEqual(8, len(self.fake.mdevs))
        self.assert_no_device_twice()
        refused = self.boot(flavor, state='ERROR')
        self.assertIn('No valid host', refused['fault']['message'])
        self.assertEqual(8, len(self.fake.mdevs))
        self._delete_server(servers[3])
        self.assertEqual(7, len(self.fake.mdevs))
        self.boot(flavor)
        self.assertEqual(8, len(self.fake.mdevs))
        self.assert_no_device_twice()

    def test_whole_hostdev_with_display(self) -> None:
        flavor = self.gpu_flavor(
            **{f'resources__{T4_4Q}': '2', 'gpu__display': 'on'}
        )
        server = self.boot(flavor)
        first, second = self.hostdevs(server)
        uuids = [u for u in self.fake.mdevs if u in first + second]
        self.assertEqual(2, len(uuids))
        shown = next(u for u in uuids if u in first)
        plain = next(u for u in uuids if u in second)
        self.assert_xml_equal(
            f"""
            <hostdev mode='subsystem' type='mdev' model='vfio-pci'
                     display='on' ramfb='on'>
              <source><address uuid='{shown}'/></source>
            </hostdev>""",
            first,
        )
        self.assert_xml_equal(
            f"""
            <hostdev mode='subsystem' type='mdev' model='vfio-pci'>
              <source><address uuid='{plain}'/></source>
            </hostdev>""",
            second,
        )

    def test_display_without_a_console_is_left_out(self) -> None:
        self.flags(enabled=False, group='vnc')
        self.flags(enabled=False, group='spice')
        server = self.boot(
            self.gpu_flavor(
                **{f'resources__{T4_4Q}': '1', 'gpu__display': 'on'}
            )
        )
        (hostdev,) = self.hostdevs(server)
        self.assertNotIn('display', hostdev)

    def test_first_profile_fixes_a_card_and_the_last_frees_it(self) -> None:
        small = self.gpu_flavor(**{f'resources__{T4_4Q}': '1'})
        server = self.boot(small)
        (card,) = [
            name
            for name, inventory in self.providers_of('gpu1').items()
            if inventory[T4_8Q]['reserved']
        ]
        inventory = self.providers_of('gpu1')[card]
        self.assertEqual(0, inventory[T4_4Q]['reserved'])
        for name in set(inventory) - {T4_4Q}:
            self.assertEqual(
                inventory[name]['total'], inventory[name]['reserved'], name
            )
        # The card of the 4Q can't take an 8Q: six go to the other three.
        large = self.gpu_flavor(**{f'resources__{T4_8Q}': '1'})
        for _ in range(6):
            self.boot(large)
        self.boot(large, state='ERROR')
        self._delete_server(server)
        self.assertEqual(0, self.providers_of('gpu1')[card][T4_8Q]['reserved'])
        self.boot(large)
        self.boot(large)
        self.assert_no_device_twice()
        # What boots and deletions change is told without a conflict, which
        # Nova's client would log as an error.
        self.assertNotIn(
            'Failed to update inventory', self.stdlog.logger.output
        )

    def test_same_profile_packs_on_one_card(self) -> None:
        flavor = self.gpu_flavor(**{f'resources__{T4_4Q}': '1'})
        for _ in range(4):
            self.boot(flavor)
        used = {
            parent
            for parent in ('0000:3b', '0000:5e', '0000:af', '0000:d8')
            if self.fake.mdevs_of(f'{parent}:00.0')
        }
        self.assertEqual(1, len(used))

    def test_stop_start_and_hard_reboot_keep_the_vgpu(self) -> None:
        server = self.boot(self.gpu_flavor(**{f'resources__{T4_8Q}': '1'}))
        before = self.guest_devices(server).mdevs
        self._stop_server(server)
        self.assertEqual(sorted(before), self.fake.mdevs)
        self._start_server(server)
        self._reboot_server(server, hard=True)
        self.assertEqual(before, self.guest_devices(server).mdevs)
        self.assertEqual(sorted(before), self.fake.mdevs)
        self.assertEqual(1, len(self.hostdevs(server)))

    def test_restart_makes_a_lost_vgpu_again(self) -> None:
        server = self.boot(self.gpu_flavor(**{f'resources__{T4_8Q}': '1'}))
        (lost,) = self.guest_devices(server).mdevs
        before = self.own_part(server)
        # The host reboots: mediated devices don't survive that.
        self.fake.remove_mdev(lost)
        self.restart_gpu_compute('gpu1')
        self.assertEqual([lost], self.fake.mdevs)
        self._reboot_server(server, hard=True)
        self.assertEqual([lost], self.fake.mdevs)
        self.assertEqual(before, self.own_part(server))
        self.assertEqual({T4_8Q: 1}, self.nonzero_usages('gpu1'))

    def test_plugin_parameters_reach_the_device(self) -> None:
        flavor = self.gpu_flavor(
            **{
                f'resources__{T4_8Q}': '1',
                'gpu__vgpu_params': 'frame_rate_limiter=0,disable_vnc=1',
            }
        )
        self.boot(flavor)
        (uuid,) = self.fake.mdevs
        device = self.fake.sys / 'bus/mdev/devices' / uuid
        self.assertEqual(
            'frame_rate_limiter=0,disable_vnc=1',
            (device / 'nvidia/vgpu_params').read_text(),
        )

    def test_resize_to_another_profile_and_back(self) -> None:
        self.flags(allow_resize_to_same_host=True)
        small = self.gpu_flavor(**{f'resources__{T4_4Q}': '1'})
        large = self.gpu_flavor(**{f'resources__{T4_8Q}': '1'})
        server = self.boot(small)
        before = self.guest_devices(server).mdevs
        server = self._resize_server(server, large)
        # Both are held until the user has decided.
        self.assertEqual(2, len(self.fake.mdevs))
        self.assertNotEqual(before, self.guest_devices(server).mdevs)
        server = self._revert_resize(server)
        self.assertEqual(before, self.guest_devices(server).mdevs)
        self.assertEqual(sorted(before), self.fake.mdevs)
        server = self._resize_server(server, large)
        server = self._confirm_resize(server)
        self.assertEqual(
            sorted(self.guest_devices(server).mdevs), self.fake.mdevs
        )
        self.assertEqual({T4_8Q: 1}, self.nonzero_usages('gpu1'))

    def test_four_servers_at_once(self) -> None:
        flavor = self.gpu_flavor(**{f'resources__{T4_8Q}': '2'})
        servers = self.boot_many(flavor, 4)
        self.assertEqual(
            ['ACTIVE'] * 4, [server['status'] for server in servers]
        )
        self.assertEqual(8, len(self.fake.mdevs))
        self.assert_no_device_twice()

    def test_our_mdevs_say_that_they_are_ours(self) -> None:
        self.boot(self.gpu_flavor(**{f'resources__{T4_8Q}': '1'}))
        self.assertTrue(is_ours(self.fake.mdevs[0]))


class BothKindsTest(base.GpuServersTest):
    """Whole cards and vGPUs on one host, and in one guest."""

    def setUp(self) -> None:
        super().setUp()
        self.fake = self.new_host('gpu1')
        hosts.a100_board(self.fake)
        hosts.four_t4(self.fake)
        self.start_gpu_compute('gpu1')

    def test_both_in_one_guest(self) -> None:
        flavor = self.gpu_flavor(
            **{
                f'resources__{A100}': '2',
                f'resources_VGPU__{T4_8Q}': '1',
                'group_policy': 'none',
            }
        )
        server = self.boot(flavor)
        devices = self.guest_devices(server)
        self.assertEqual(2, len(devices.functions))
        self.assertEqual(self.fake.mdevs, sorted(devices.mdevs))
        self._delete_server(server)
        self.assertEqual([], self.fake.mdevs)
        self.assertEqual({}, self.nonzero_usages('gpu1'))

    def test_hard_reboot_makes_only_the_lost_half_again(self) -> None:
        flavor = self.gpu_flavor(
            **{
                f'resources__{A100}': '1',
                f'resources_VGPU__{T4_8Q}': '2',
                'group_policy': 'none',
            }
        )
        server = self.boot(flavor)
        before = self.guest_devices(server)
        lost, kept = sorted(before.mdevs)
        self.hosts['gpu1'].remove_mdev(lost)
        self.restart_gpu_compute('gpu1')
        self._reboot_server(server, hard=True)
        after = self.guest_devices(server)
        self.assertEqual(before.functions, after.functions)
        self.assertIn(kept, after.mdevs)
        self.assertEqual(self.fake.mdevs, sorted(after.mdevs))
        self.assertEqual(2, len(after.mdevs))

    def test_hard_reboot_that_fails_keeps_the_units(self) -> None:
        server = self.boot(
            self.gpu_flavor(
                **{
                    f'resources__{A100}': '1',
                    f'resources_VGPU__{T4_8Q}': '1',
                    'group_policy': 'none',
                }
            )
        )
        before = self.guest_devices(server)
        with fixtures.MonkeyPatch(
            'nova.virt.libvirt.driver.LibvirtDriver'
            '._create_guest_with_network',
            self.fail_with_libvirt,
        ):
            # Casts are calls here: the error comes out of the API.
            self.assertRaises(
                base.ApiError,
                self.api.post_server_action,
                server['id'],
                {'reboot': {'type': 'HARD'}},
            )
        self.assertEqual(sorted(before.mdevs), self.fake.mdevs)
        self._reboot_server(server, hard=True)
        self.assertEqual(before, self.guest_devices(server))

    def fail_with_libvirt(self, *args: object, **kwargs: object) -> None:
        raise base.LibvirtError('no')


class CompanionsTest(base.GpuServersTest):
    """A workstation card with audio and USB functions in its group."""

    def test_the_whole_slot_goes_along(self) -> None:
        hosts.workstation(self.new_host('gpu1'))
        self.start_gpu_compute('gpu1')
        server = self.boot(
            self.gpu_flavor(resources__CUSTOM_GPU_NVIDIA_RTX_A6000='1')
        )
        self.assertEqual(
            {f'0000:65:00.{number}' for number in range(4)},
            {str(a) for a in self.guest_devices(server).functions},
        )
        self.assertEqual(4, len(self.hostdevs(server)))
        # The other cards of this host are not to be had.
        self.assertEqual(
            ['gpu1_gpu_nvidia_rtx_a6000'], list(self.providers_of('gpu1'))
        )


class VirtualFunctionsTest(base.GpuServersTest):
    """vGPU types on SR-IOV functions: one provider a card, VF at the claim."""

    def test_fill_one_card(self) -> None:
        fake = hosts.two_a40_with_functions(self.new_host('gpu1'))
        self.start_gpu_compute('gpu1')
        self.assertEqual(2, len(self.providers_of('gpu1')))
        flavor = self.gpu_flavor(resources__CUSTOM_VGPU_NVIDIA_A40_24Q='1')
        servers = [self.boot(flavor) for _ in range(4)]
        self.boot(flavor, state='ERROR')
        self.assertEqual(4, len(fake.mdevs))
        self.assert_no_device_twice()
        for server in servers:
            self._delete_server(server)
        self.assertEqual([], fake.mdevs)
