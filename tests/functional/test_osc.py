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

"""``openstack gpu …`` against real Nova and Placement.

Keystone is a stand-in, see :mod:`tests.fixtures.identity`.
"""

from __future__ import annotations

from typing import Any

from tests.fixtures import hosts
from tests.functional import osc

A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
A100_MODEL = 'NVIDIA_A100_SXM4_40GB'
T4_MODEL = 'NVIDIA_TESLA_T4'
T4_4Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q'
T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q'
T4_16Q = 'CUSTOM_VGPU_NVIDIA_T4_16Q'


class GpuCommandsTest(osc.OscTest):
    """Eight A100 on gpu1, four T4 on gpu2; a server has two, one a vGPU."""

    def setUp(self) -> None:
        super().setUp()
        hosts.a100_board(self.new_host('gpu1'))
        self.start_gpu_compute('gpu1')
        hosts.four_t4(self.new_host('gpu2'))
        self.start_gpu_compute('gpu2')
        self.names: dict[str, str] = {}
        self.whole = self.boot(self.flavor_of(A100, 2))
        self.vgpu = self.boot(self.flavor_of(T4_8Q, 1))

    def flavor_of(self, resource_class: str, count: int) -> str:
        """A flavor with so many units, remembered by its name."""
        flavor = self.gpu_flavor(
            **{f'resources__{resource_class}': f'{count}'}
        )
        self.names[resource_class] = self.api.get_flavor(flavor)['name']
        return flavor

    def row(self, rows: list[Any], **values: Any) -> Any:
        """The one row that has these values."""
        found = [r for r in rows if all(r[k] == v for k, v in values.items())]
        self.assertEqual(1, len(found), rows)
        return found[0]

    def test_what_an_administrator_sees(self) -> None:
        self.assertEqual(
            [
                {
                    'Host': 'gpu1', 'State': 'up', 'Model': A100_MODEL,
                    'Use': 'whole', 'Cards': 8, 'Empty': 6, 'Full': 2,
                    'Servers': 1,
                },
                {
                    'Host': 'gpu2', 'State': 'up', 'Model': T4_MODEL,
                    'Use': 'shared', 'Cards': 4, 'Empty': 3, 'Full': 0,
                    'Servers': 1,
                },
            ],
            self.openstack_json('gpu', 'host', 'list'),
        )  # fmt: skip
        self.check_cards()
        self.check_profiles()
        self.check_usage()

    def check_cards(self) -> None:
        rows = self.openstack_json('gpu', 'list')
        self.assertEqual(5, len(rows))
        self.assertEqual(
            {
                'Host': 'gpu1', 'Card': A100_MODEL.lower(),
                'Model': A100_MODEL, 'State': 'in use', 'Profile': A100,
                'Total': 8, 'Used': 2, 'Free': 6, 'Servers': 1,
            },
            self.row(rows, Host='gpu1'),
        )  # fmt: skip
        # Placement chose the card.
        card = self.row(rows, Host='gpu2', State='in use')
        expected = {
            'Host': 'gpu2', 'Card': card['Card'], 'Model': T4_MODEL,
            'State': 'in use', 'Profile': T4_8Q, 'Total': 2, 'Used': 1,
            'Free': 1, 'Servers': 1,
        }  # fmt: skip
        self.assertEqual(expected, card)
        empty = [r for r in rows if r['State'] == 'empty']
        self.assertEqual(
            [(None, None)] * 3, [(r['Profile'], r['Total']) for r in empty]
        )
        # The others of that card are closed.
        rows = self.openstack_json(
            'gpu', 'list', '--host', 'gpu2', '--profile', 'T4-4Q'
        )
        self.assertEqual(
            {'Total': 4, 'Used': 0, 'Free': 0, 'State': 'full'},
            {
                key: self.row(rows, Card=card['Card'])[key]
                for key in ('Total', 'Used', 'Free', 'State')
            },
        )
        shown = self.openstack_json('gpu', 'show', card['Card'])
        profiles = {p.pop('profile'): p for p in shown.pop('profiles')}
        self.assertEqual({'total': 2, 'used': 1, 'free': 1}, profiles[T4_8Q])
        self.assertEqual({'total': 1, 'used': 0, 'free': 0}, profiles[T4_16Q])
        name = f'gpu2_gpu_{card["Card"].replace(":", "_").replace(".", "_")}'
        traits = shown.pop('traits')
        self.assertIn('OWNER_NOVA', traits)
        self.assertEqual(
            {
                'id': shown['id'],
                'name': name,
                'host': 'gpu2',
                'card': card['Card'],
                'model': T4_MODEL,
                'vendor': 'NVIDIA',
                'memory_gib_at_least': 16,
                'use': 'shared',
                'state': 'in use',
                'profile': T4_8Q,
                'servers': [
                    {
                        'id': self.vgpu['id'],
                        'name': self.vgpu['name'],
                        'project': osc.PROJECT,
                        'flavor': self.names[T4_8Q],
                        'resources': {T4_8Q: 1},
                    }
                ],
            },
            shown,
        )
        for other in (name, shown['id']):
            again = self.openstack_json('gpu', 'show', other)
            self.assertEqual(shown['id'], again['id'])

    def check_profiles(self) -> None:
        rows = self.openstack_json('gpu', 'profile', 'list')
        whole = {
            'Profile': A100, 'Model': A100_MODEL, 'Cards': 8, 'Total': 8,
            'Used': 2, 'Free': 6, 'Flavors': [self.names[A100]],
        }  # fmt: skip
        shared = {
            'Profile': T4_8Q, 'Model': T4_MODEL, 'Cards': 4, 'Total': 8,
            'Used': 1, 'Free': 7, 'Flavors': [self.names[T4_8Q]],
        }  # fmt: skip
        self.assertEqual(whole, self.row(rows, Profile=A100))
        self.assertEqual(shared, self.row(rows, Profile=T4_8Q))
        self.assertEqual(12, self.row(rows, Profile=T4_4Q)['Free'])
        for expected, more in ((whole, 3), (shared, 7)):
            self.assertEqual(
                [{**expected, 'More Servers': more}],
                self.openstack_json(
                    'gpu', 'profile', 'list',
                    '--flavor', expected['Flavors'][0],
                ),
            )  # fmt: skip

    def check_usage(self) -> None:
        project = {'Project ID': osc.PROJECT, 'Project': 'demo'}
        expected = [
            {
                **project, 'Model': A100_MODEL, 'Profile': A100, 'Used': 2,
                'Servers': 1,
            },
            {
                **project, 'Model': T4_MODEL, 'Profile': T4_8Q, 'Used': 1,
                'Servers': 1,
            },
        ]  # fmt: skip
        usage = 'gpu', 'usage'
        self.assertEqual(expected, self.openstack_json(*usage))
        self.assertEqual([], self.openstack_json(*usage, '--project', 'other'))
        self.assertEqual(
            [
                {
                    'Server ID': server['id'], 'Server': server['name'],
                    'Project ID': osc.PROJECT, 'Flavor': self.names[name],
                    'Host': host, 'Model': model, 'Profile': name,
                    'Used': used,
                }
                for server, host, model, name, used in (
                    (self.whole, 'gpu1', A100_MODEL, A100, 2),
                    (self.vgpu, 'gpu2', T4_MODEL, T4_8Q, 1),
                )
            ],
            self.openstack_json(*usage, '--servers', '--project', 'demo'),
        )  # fmt: skip

    def test_what_a_member_sees(self) -> None:
        refusal = (
            'Placement lets only administrators see the GPUs of the hosts'
        )
        for command in (
            ('host', 'list'),
            ('list',),
            ('show', '0000:3b:00.0'),
            ('profile', 'list', '--flavor', self.names[A100]),
            ('usage', '--project', osc.OTHER_PROJECT),
        ):
            line = self.openstack_error('gpu', *command, user='member')
            self.assertIn('lets only administrators', line)
        rows, told = self.openstack_told('gpu', 'profile', 'list')
        self.assertEqual(f'Without numbers: {refusal}\n', told)
        nothing = dict.fromkeys(('Cards', 'Total', 'Used', 'Free'))
        self.assertEqual(
            [
                {
                    'Profile': A100, 'Model': A100_MODEL, **nothing,
                    'Flavors': [self.names[A100]],
                },
                {
                    'Profile': T4_8Q, 'Model': None, **nothing,
                    'Flavors': [self.names[T4_8Q]],
                },
            ],
            rows,
        )  # fmt: skip
        rows, told = self.openstack_told('gpu', 'usage')
        self.assertEqual(f'Of your own project only: {refusal}\n', told)
        project = {'Project ID': osc.PROJECT, 'Project': 'demo'}
        self.assertEqual(
            [
                {
                    **project, 'Model': A100_MODEL, 'Profile': A100,
                    'Used': 2, 'Servers': 1,
                },
                {
                    **project, 'Model': None, 'Profile': T4_8Q, 'Used': 1,
                    'Servers': 1,
                },
            ],
            rows,
        )  # fmt: skip
        rows, told = self.openstack_told('gpu', 'usage', '--servers')
        self.assertEqual(
            {
                (self.whole['id'], self.names[A100], None, A100, 2),
                (self.vgpu['id'], self.names[T4_8Q], None, T4_8Q, 1),
            },
            {
                (r['Server ID'], r['Flavor'], r['Host'], r['Profile'],
                 r['Used'])
                for r in rows
            },
        )  # fmt: skip
        # Nothing of it is another project's to see.
        rows, told = self.openstack_told('gpu', 'usage', user='stranger')
        self.assertEqual([], rows)
        rows, told = self.openstack_told(
            'gpu', 'usage', '--servers', user='stranger'
        )
        self.assertEqual([], rows)

    def test_quotas(self) -> None:
        quota = ('gpu', 'quota')
        setting = (*quota, 'set', '--project', 'demo')
        self.assertIn(
            f'--default {T4_8Q} -1',
            self.openstack_error(*setting, 'T4-8Q', '3'),
        )
        for limit in ('-1', '4'):
            self.openstack_json(*quota, 'set', '--default', 'T4-8Q', limit)
        for limit in ('3', '5'):
            self.assertEqual(
                {
                    'profile': T4_8Q, 'project': osc.PROJECT,
                    'region': 'RegionOne', 'limit': int(limit),
                },
                self.openstack_json(*setting, 'T4-8Q', limit),
            )  # fmt: skip
        key = {
            'service_id': 'compute', 'region_id': 'RegionOne',
            'resource_name': f'class:{T4_8Q}', 'description': None,
        }  # fmt: skip
        limits = self.keystone.limits
        (default,) = limits['registered_limits'].values()
        (own,) = limits['limits'].values()
        self.assertEqual(
            {**key, 'id': default['id'], 'default_limit': 4}, default
        )
        self.assertEqual(
            {
                **key, 'id': own['id'], 'project_id': osc.PROJECT,
                'resource_limit': 5,
            },
            own,
        )  # fmt: skip
        mine = [
            {'Profile': A100, 'Limit': None, 'Default': None, 'Used': 2},
            {'Profile': T4_8Q, 'Limit': 5, 'Default': 4, 'Used': 1},
        ]
        shown = (*quota, 'show')
        self.assertEqual(mine, self.openstack_json(*shown, 'demo'))
        for args in (shown, (*shown, 'demo')):
            self.assertEqual(mine, self.openstack_json(*args, user='member'))
        self.assertEqual(
            [{'Profile': T4_8Q, 'Limit': 4, 'Default': 4, 'Used': 0}],
            self.openstack_json(*shown, 'other'),
        )
        self.check_wrong_quotas(setting, shown)

    def check_wrong_quotas(
        self, setting: tuple[str, ...], shown: tuple[str, ...]
    ) -> None:
        for args, user, expected in (
            ((*setting, 'T4-8Q', 'x'), 'admin', "'x' is no quota"),
            ((*setting, 'T4-8Q', '-2'), 'admin', "'-2' is no quota"),
            ((*setting, 'T4-5Q', '1'), 'admin', "called 'T4-5Q'"),
            ((*setting, 'T4-8Q', '1'), 'member', 'only administrators'),
            ((*shown, 'nobody'), 'admin', "there is no project 'nobody'"),
            ((*shown, 'other'), 'member', 'only administrators'),
        ):
            self.assertIn(expected, self.openstack_error(*args, user=user))
        self.assertEqual(1, len(self.keystone.limits['limits']))

    def test_what_is_wrong_and_what_to_do(self) -> None:
        plain = self.api.get_flavor(self.gpu_flavor())['name']
        for args, expected in (
            (('list', '--host', 'gpu3'), "'gpu3' (there are: gpu1, gpu2)"),
            (('list', '--model', 'T5'), f'{A100_MODEL}, {T4_MODEL}'),
            (('list', '--profile', 'T4-5Q'), "called 'T4-5Q'"),
            (('show', '0000:3b:00.1'), 'see "openstack gpu list"'),
            (('show', '--host', 'gpu3', '0000:3b:00.0'), 'gpu1, gpu2'),
            (('show', T4_MODEL), 'can be more than one card'),
            (('profile', 'list', '--flavor', 'f'), "no flavor 'f'"),
            (('profile', 'list', '--flavor', plain), 'asks for one'),
            (('usage', '--project', 'nobody'), 'demo, other'),
        ):
            self.assertIn(expected, self.openstack_error('gpu', *args))
        self.keystone.broken.add('placement')
        for args in (
            ('host', 'list'), ('list',), ('show', 'x'), ('profile', 'list'),
            ('usage',), ('quota', 'show'),
        ):  # fmt: skip
            for user in ('admin', 'member'):
                self.assertIn(
                    'Placement does not answer as it should',
                    self.openstack_error('gpu', *args, user=user),
                )
        self.keystone.broken = {'compute'}
        for args in (('host', 'list'), ('profile', 'list')):
            self.assertIn(
                'Nova does not answer as it should',
                self.openstack_error('gpu', *args),
            )
