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


"""``openstack gpu server`` against real Nova and Placement."""

from __future__ import annotations

import json
from typing import Any

from tests.fixtures import hosts
from tests.functional import osc

T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q'


class ServerTest(osc.OscTest):
    """A host with four T4, and one without GPUs."""

    # What a resize fails with afterwards is no error of the API.
    CAST_AS_CALL = False

    def setUp(self) -> None:
        super().setUp()
        self.fake = hosts.four_t4(self.new_host('gpu1'))
        self.start_gpu_compute('gpu1')
        self.new_host('plain1')
        self.start_gpu_compute('plain1')
        self.flags(allow_resize_to_same_host=True)
        self.plain = self.flavor('plain')

    def flavor(self, name: str, **specs: str) -> str:
        specs = {k.replace('__', ':'): v for k, v in specs.items()}
        return self._create_flavor(
            name=name, memory_mb=512, vcpu=1, disk=1, ephemeral=0,
            extra_spec={'quota:cpu_shares': '1024', **specs},
        )  # fmt: skip

    # Nova works in this process meanwhile, and its services log to the
    # client's stderr.

    def moved(self, *args: str, user: str = 'admin') -> Any:
        """What a command prints in JSON."""
        code, out, err = self.openstack(*args, '-f', 'json', user=user)
        self.assertEqual(0, code, err)
        return json.loads(out)

    def refused(self, *args: str, user: str = 'admin') -> str:
        """The line that a command fails with."""
        code, out, err = self.openstack(*args, user=user)
        self.assertEqual((1, ''), (code, out))
        return err.splitlines()[-1]

    def held(self, server: Any) -> int:
        """How many vGPUs a server's guest has, wherever it is now."""
        found = self.api.get_server(server['id'])
        return len(self.guest_devices(found).mdevs)

    def test_attach_and_detach(self) -> None:
        self.flavor('vgpu2', **{f'resources__{T4_8Q}': '2'})
        server = self.boot(self.plain, host='plain1')
        for user, name in (
            ('member', server['id']),
            ('admin', server['name']),
        ):
            self.assertEqual(
                {
                    'id': server['id'], 'name': server['name'],
                    'status': 'ACTIVE', 'flavor': 'vgpu2',
                    'gpus': {T4_8Q: 2},
                },
                self.moved(
                    'gpu', 'server', 'attach', name, '--profile', 'T4-8Q',
                    '--count', '2', user=user,
                ),
            )  # fmt: skip
            self.assertEqual(2, self.held(server))
            self.assert_consistent()
            again = self.refused(
                'gpu',
                'server',
                'attach',
                name,
                '--profile',
                'T4-8Q',
                user=user,
            )
            self.assertIn(f'has 2 {T4_8Q} already; take that away', again)
            self.assertEqual(
                {
                    'id': server['id'], 'name': server['name'],
                    'status': 'ACTIVE', 'flavor': 'plain', 'gpus': {},
                },
                self.moved(
                    'gpu', 'server', 'detach', name, user=user
                ),
            )  # fmt: skip
            self.assertEqual(0, self.held(server))
            self.assert_all_free()
        self.assertIn(
            'has no GPU: its flavor plain asks for none',
            self.refused('gpu', 'server', 'detach', server['id']),
        )

    def test_refusals(self) -> None:
        server = self.boot(self.plain, host='plain1')
        attach = ('gpu', 'server', 'attach', server['id'])
        told = self.refused(*attach, '--profile', 'T4-8Q')
        self.assertIn(f'no flavor that you can use has 1 {T4_8Q} and 1 ', told)
        # The command that it names makes what was missing.
        _, _, command = told.partition('it with: openstack ')
        made = self.moved(*command.replace('NAME', 'made').split())
        self.flavor('many', **{f'resources__{T4_8Q}': '9'})
        self.flavor('two', **{f'resources__{T4_8Q}': '2'})
        for user in ('admin', 'member'):
            for words, said in (
                ('--profile H100-8Q', "no profile of this cloud is called 'H"),
                ('--card T4', "no card of this cloud is called 'T4'; there"),
                ('--profile T4-8Q --count 0', '--count is 0; a server gets'),
                # Nova takes this one, and finds no host.
                ('--profile T4-8Q --count 9', 'stays as it was, since it co'),
            ):
                self.assertIn(
                    said,
                    self.refused(*attach, *words.split(), user=user),
                )
        self.assertEqual(0, self.held(server))
        self.assert_all_free()
        self.api.post_server_action(server['id'], {'pause': None})
        self.assertIn(
            'is PAUSED, and only one that is ACTIVE or SHUTOFF can be resized',
            self.refused(*attach, '--profile', 'T4-8Q'),
        )
        self.api.post_server_action(server['id'], {'unpause': None})
        for user in ('stranger', 'member'):
            name = server['id'] if user == 'stranger' else 'nobody'
            self.assertIn(
                f'server {name}: is not in your project',
                self.refused(
                    'gpu', 'server', 'attach', name, '--profile', 'T4-8Q',
                    user=user,
                ),
            )  # fmt: skip
        # And it does have a GPU in the end, with that flavor.
        self.moved(*attach, '--profile', 'T4-8Q', user='member')
        self.assertEqual(1, self.held(server))
        self.assertEqual(
            made['name'],
            self.api.get_server(server['id'])['flavor']['original_name'],
        )
