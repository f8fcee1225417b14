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


"""``openstack gpu flavor`` against real Nova and Placement."""

from __future__ import annotations

import json
import shlex
from typing import Any

from nova_gpu.model.hostmap import HostMap, PoolState
from tests.fixtures import hosts
from tests.functional import osc
from tests.unit.test_docs import commands

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q'
T4_16Q = 'CUSTOM_VGPU_NVIDIA_T4_16Q'
SIZES = ('--vcpus', '1', '--ram', '512', '--disk', '1')
#: With the width of guests' addresses.
LIBVIRT = 8007000


class FlavorTest(osc.OscTest):
    """Eight A100 and four T4 on one host."""

    def setUp(self) -> None:
        super().setUp()
        hosts.four_t4(hosts.a100_board(self.new_host('gpu1')))
        self.start_gpu_compute('gpu1', libvirt_version=LIBVIRT)

    def create(self, name: str, *args: str) -> Any:
        return self.openstack_json(
            'gpu', 'flavor', 'create', name, *args, *SIZES
        )

    def check(self, flavor: str, *args: str) -> tuple[int, list[Any]]:
        """The code of a check, and what it says of each host."""
        code, out, err = self.openstack(
            'gpu', 'flavor', 'check', flavor, '-f', 'json', *args
        )
        self.assertEqual('', err)
        return code, json.loads(out)

    def row(self, now: bool, ever: bool, reason: str | None) -> Any:
        row = {'Host': 'gpu1', 'Now': now, 'Ever': ever, 'Reason': reason}
        return int(not now), [row]

    def test_create(self) -> None:
        made = self.create(
            'a100x2', '--card', 'A100', '--count', '2', '--topology', 'numa',
            '--numa-affinity', 'preferred', '--isolation', 'exclusive',
            '--hide-hypervisor', '--address-bits', 'host',
            '--property', 'hw:cpu_policy=shared', '--description', 'Two',
        )  # fmt: skip
        flavor = made.pop('id')
        self.assertEqual(
            {
                'name': 'a100x2', 'vcpus': 1, 'ram': 512, 'disk': 1,
                'resource_class': A100, 'count': 2,
                'properties': {
                    f'resources:{A100}': '2',
                    'gpu:topology': 'numa',
                    'gpu:numa_affinity': 'preferred',
                    'gpu:isolation': 'exclusive',
                    'hw:cpu_policy': 'shared',
                    'hw:hide_hypervisor_id': 'true',
                    'hw:maxphysaddr_mode': 'passthrough',
                },
            },
            made,
        )  # fmt: skip
        server = self.boot(flavor)
        self.assertEqual(2, len(self.guest_devices(server).functions))
        document = self.document(server)
        self.assertEqual(
            'on', document.find('features/kvm/hidden').get('state')
        )
        width = document.find('cpu/maxphysaddr')
        self.assertEqual({'mode': 'passthrough'}, dict(width.attrib))
        # The smallest that has 9 GiB.
        made = self.create(
            't4', '--memory', '9', '--series', 'Q', '--display',
            '--vgpu-params', 'frame_rate_limiter=0', '--private',
            '--property', 'hw:cpu_policy=shared',
        )  # fmt: skip
        self.assertEqual(T4_16Q, made['resource_class'])
        self.assertEqual(
            {
                f'resources:{T4_16Q}': '1',
                'gpu:display': 'on',
                'gpu:vgpu_params': 'frame_rate_limiter=0',
                'hw:cpu_policy': 'shared',
            },
            made['properties'],
        )
        server = self.boot(made['id'])
        self.assertEqual(1, len(self.guest_devices(server).mdevs))
        self.assertFalse(
            self.api.get_flavor(made['id'])['os-flavor-access:is_public']
        )
        # A host has to tell its width for this one: the fake doesn't.
        made = self.create('wide', '--card', 'A100', '--address-bits', '46')
        specs = self.api.get_flavor(made['id'])['extra_specs']
        self.assertEqual(made['properties'], specs)
        self.assertEqual('46', specs['hw:maxphysaddr_bits'])
        # As the pages say it.
        tried = commands('openstack gpu flavor create')
        for _, *words in tried:
            made = self.openstack_json(*words)
            self.assertIn(made['resource_class'], (A100, T4_8Q))
        self.assertEqual(4, len(tried))
        # More than any host has.
        code, _, err = self.openstack(
            'gpu', 'flavor', 'create', 'a100x9', '--card', A100, '--count',
            '9', *SIZES,
        )  # fmt: skip
        self.assertEqual(0, code)
        self.assertIn(f'No host gives more than 8 {A100} at once', err)

    def test_create_refuses(self) -> None:
        self.create('taken', '--profile', 'T4-8Q')
        before = len(self.api.get_flavors())
        for words, said in (
            ('x --card H100', "no card of this cloud is called 'H100'; there"),
            ('x --profile T4', "'T4' may be more than one profile: CUSTOM_V"),
            ('x --memory 99', 'no GPU of this cloud has 101376 MiB of memor'),
            ('x --memory lots', "'lots' is not a size like 16, 16G or 512M"),
            ('x --card A100 --display', '--display needs a vGPU, and CUSTOM_'),
            ('x --card A100 --topology numa', '--topology is about several'),
            ('x --card A100 --count 0', '--count is 0; a flavor has 1 or mo'),
            ('x --card A100 --address-bits 9', '--address-bits is 9; betwe'),
            ('x --profile T4-8Q --vgpu-params x', "gpu:vgpu_params='x' is n"),
            ('taken --profile T4-8Q', 'refuses to make the flavor taken: '),
            # Nova finds this one after it has made the flavor.
            (
                'x --profile T4-8Q --property hw:cpu_policy=fast',
                'Nova refuses to change the flavor x: ',
            ),
        ):
            args = ('gpu', 'flavor', 'create', *words.split(), *SIZES)
            if said.startswith("'lots'"):
                code, _, err = self.openstack(*args)
                self.assertEqual(2, code)
                self.assertIn(said, err.splitlines()[-1])
                continue
            self.assertIn(said, self.openstack_error(*args))
        self.assertIn(
            'Placement lets only administrators see the GPUs of the hosts',
            self.openstack_error(
                'gpu', 'flavor', 'create', 'x', '--card', 'A100', *SIZES,
                user='member',
            ),
        )  # fmt: skip
        self.assertEqual(before, len(self.api.get_flavors()))

    def test_check(self) -> None:
        def flavor(vcpu: int = 1, **specs: str) -> str:
            specs = {f'resources__{A100}': '8', **specs}
            return self.gpu_flavor(vcpu=vcpu, **specs)

        eight = flavor()
        self.assertEqual(self.row(True, True, None), self.check(eight))
        server = self.boot(self.gpu_flavor(**{f'resources__{A100}': '1'}))
        self.assertEqual(
            self.row(False, True, f'wants 8 {A100}, and has 7 free at most'),
            self.check(eight),
        )
        for specs, reason in (
            ({f'resources__{A100}': '9'},
             f'wants 9 {A100}, and has 8 at most'),
            ({'resources__CUSTOM_GPU_NVIDIA_H200': '1'},
             'has no CUSTOM_GPU_NVIDIA_H200'),
            ({'trait__CUSTOM_NVLINK_OF_OURS': 'required'},
             'has no trait CUSTOM_NVLINK_OF_OURS'),
            ({f'resources__{A100}': '1', 'gpu__display': 'on'},
             'gpu:display=on needs a vGPU, and the flavor has none'),
        ):  # fmt: skip
            self.assertEqual(
                self.row(False, False, reason), self.check(flavor(**specs))
            )
        code, ((row,)) = self.check(flavor(vcpu=10_000))
        self.assertEqual((1, False), (code, row['Ever']))
        self.assertIn('wants 10000 VCPU, and has ', row['Reason'])
        self._delete_server(server)
        # What only the host's map tells: the cards of this one aren't linked.
        apart = PoolState(
            'nvidia_a100_sxm4_40gb', 'whole', {A100: 8}, used=0,
            numa_nodes=(0, 0, 0, 0, 1, 1, 1, 1), switches=(-1,) * 8,
            cliques=(-1,) * 8, free=(True,) * 8,
        )  # fmt: skip
        record = {'host': 'gpu1', 'node': self.compute_rp_uuids['gpu1']}
        maps = self.hosts['gpu1'].root / 'maps.json'
        maps.write_text(
            json.dumps({**record, 'map': HostMap((apart,)).dump()})
        )
        linked = flavor(gpu__topology='numa')
        self.assertEqual(self.row(True, True, None), self.check(linked))
        code, ((row,)) = self.check(linked, '--maps', str(maps))
        self.assertEqual((1, False, False), (code, row['Now'], row['Ever']))
        self.assertIn('GpuFilter: gpu:topology wants 8 cards', row['Reason'])
        # Who takes no servers can once he does.
        (service,) = self.api.get_services(binary='nova-compute', host='gpu1')
        self.api.put_service(service['id'], {'status': 'disabled'})
        self.assertEqual(
            self.row(False, True, 'nova-compute is disabled or down'),
            self.check(eight),
        )

    def test_check_refuses(self) -> None:
        plain = self.gpu_flavor()
        for args, said in (
            (('nothing',), "there is no flavor 'nothing' (there are: "),
            ((plain,), 'no resources: property of it asks for a GPU'),
            ((self.gpu_flavor(**{f'resources__{A100}': '1'}), '--maps',
              '/nowhere'), '/nowhere: No such file'),
            ((self.gpu_flavor(**{f'resources__{A100}': '1'}), '--maps',
              '/dev/null'), '/dev/null: holds no host'),
        ):  # fmt: skip
            self.assertIn(
                said, self.openstack_error('gpu', 'flavor', 'check', *args)
            )
        self.assertIn(
            'Placement lets only administrators see what the hosts have',
            self.openstack_error(
                'gpu', 'flavor', 'check', plain, user='member'
            ),
        )

    def test_translate(self) -> None:
        conf = self.hosts['gpu1'].root / 'nova.conf'
        nic = {'name': 'nic', 'vendor_id': '8086', 'product_id': '1572'}
        card = {
            'name': 'a100', 'vendor_id': '10de', 'product_id': '20b0',
            'device_type': 'type-PF',
        }  # fmt: skip
        conf.write_text(
            f'[pci]\nalias = {json.dumps(nic)}\nalias = {json.dumps(card)}\n'
        )
        alias = {'name': 'a100', 'vendor_id': '10de', 'product_id': '20b0'}
        self.flags(alias=[json.dumps(alias)], group='pci')
        aliased = self._create_flavor(
            name='aliased', memory_mb=512, vcpu=1, disk=1, ephemeral=0,
            extra_spec={
                'pci_passthrough:alias': 'a100:2, nic:1',
                'hw:pci_numa_affinity_policy': 'required',
            },
        )  # fmt: skip
        vgpu = self._create_flavor(
            name='vgpu', memory_mb=512, vcpu=1, disk=1, ephemeral=0,
            extra_spec={
                'resources:VGPU': '1',
                'trait:CUSTOM_NVIDIA_222': 'required',
            },
        )  # fmt: skip
        self._create_flavor(
            name='old gvt', memory_mb=512, vcpu=1, disk=1, ephemeral=0,
            extra_spec={'vgt_low_gm_sz': '128', 'vgt_high_gm_sz': '384'},
        )  # fmt: skip
        command = ('gpu', 'flavor', 'translate', '-f', 'json')
        code, out, err = self.openstack(*command)
        self.assertNotEqual('', out, err)
        self.assertEqual(1, code)
        notes = {row['Flavor']: row['Note'] for row in json.loads(out)}
        self.assertIn("the alias 'a100' stands for is not", notes['aliased'])
        self.assertIn('name it with --map VGPU=PROFILE', notes['vgpu'])
        self.assertIn('no GVT-g type of this cloud', notes['old gvt'])

        known = (
            '--nova-conf', str(conf), '--map', 'nvidia-222=T4-8Q', 'vgpu',
            'aliased',
        )  # fmt: skip
        rows = self.openstack_json(*command[:-2], *known)
        stays = 'the alias nic stays: no GPU of this cloud is such a device'
        self.assertEqual(
            [
                {
                    'Flavor': 'vgpu', 'Applied': False, 'Note': None,
                    'Command': 'openstack flavor set --property '
                    f'resources:{T4_8Q}=1 vgpu',
                },
                {
                    'Flavor': 'vgpu', 'Applied': False, 'Note': None,
                    'Command': 'openstack flavor unset --property '
                    'resources:VGPU --property trait:CUSTOM_NVIDIA_222 vgpu',
                },
                {
                    'Flavor': 'aliased', 'Applied': False, 'Note': stays,
                    'Command': 'openstack flavor set --property '
                    f'resources:{A100}=2 --property '
                    'pci_passthrough:alias=nic:1 --property '
                    'gpu:numa_affinity=required aliased',
                },
            ],
            rows,
        )  # fmt: skip
        # The commands as they are, then those of the other flavor.
        for row in rows[:2]:
            _, *words = shlex.split(row['Command'])
            self.assertEqual((0, '', ''), self.openstack(*words))
        server = self.boot(vgpu)
        self.assertEqual(1, len(self.guest_devices(server).mdevs))
        (done,) = self.openstack_json(*command[:-2], *known, '--apply')
        self.assertEqual({**rows[2], 'Applied': True}, done)
        self.assertEqual(
            {
                f'resources:{A100}': '2',
                'pci_passthrough:alias': 'nic:1',
                'hw:pci_numa_affinity_policy': 'required',
                'gpu:numa_affinity': 'required',
            },
            self.api.get_flavor(aliased)['extra_specs'],
        )

    def test_translate_refuses(self) -> None:
        broken = self.hosts['gpu1'].root / 'broken.conf'
        broken.write_text('[pci]\nalias = a100\n')
        for args, said in (
            (('nothing',), "there is no flavor 'nothing' (there are: "),
            (('--nova-conf', '/nowhere'), '/nowhere: No such file'),
            (('--nova-conf', str(broken)), '[pci] alias = a100: is no alias'),
            (('--map', 'VGPU=T5'), "no card or profile of this cloud is cal"),
        ):
            self.assertIn(
                said, self.openstack_error('gpu', 'flavor', 'translate', *args)
            )
        self.assertIn(
            'Placement lets only administrators see the GPUs of the hosts',
            self.openstack_error('gpu', 'flavor', 'translate', user='member'),
        )
