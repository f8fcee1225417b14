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

"""``make demo``: a cloud with GPU hosts, in one process, in a minute.

Nova's API, conductor, scheduler and three computes are real, and so is
Placement. libvirt is Nova's fake, and the hosts are directories that look
like the sysfs of GPU hosts. Every step checks what it shows: the exit code is
that of a test.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import sys
import unittest
from typing import Any

from lxml import etree

from nova_gpu.cli import main as cli
from tests.fixtures import hosts
from tests.functional import actions, base

LOG_FILE = pathlib.Path('build/demo.log')
A100 = 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB'
T4_8Q = 'CUSTOM_VGPU_NVIDIA_T4_8Q'
T4_4Q = 'CUSTOM_VGPU_NVIDIA_T4_4Q'
A10 = 'CUSTOM_VGPU_NVIDIA_A10'
A10_CARDS = ('0000:41:00.0', '0000:81:00.0')


def say(text: str = '') -> None:
    """Print at once, past what tests do to standard output."""
    print(text, file=sys.__stdout__, flush=True)


class Demo(base.GpuServersTest):
    """The story, from the cards found to a card that changes its profile."""

    step = 0

    def title(self, text: str) -> None:
        """Open the next step."""
        self.step += 1
        line = f'── {self.step}. {text} '
        bold = ('\033[1m', '\033[0m') if sys.__stdout__.isatty() else ('', '')
        say(f'\n{bold[0]}{line}{"─" * max(0, 78 - len(line))}{bold[1]}')

    def runTest(self) -> None:
        """Tell it."""
        self.find_cards()
        self.show_providers()
        self.make_flavors()
        self.whole_cards()
        self.vgpus()
        self.one_too_many()
        self.delete_and_reuse()
        self.restart()
        self.vendor_vfio()
        self.resize()
        self.audit()
        say(f'\nAll of it checked. What the services logged: {LOG_FILE}')

    def find_cards(self) -> None:
        hosts.a100_board(self.new_host('host-a'))
        hosts.four_t4(self.new_host('host-b'))
        for name in self.hosts:
            self.title(f'The cards of {name}: found, not listed by hand')
            self.show_host(name)

    def show_host(self, name: str) -> None:
        say(f'$ nova-gpu host show --root {name}')
        # The command writes to standard output by itself.
        root = str(self.hosts[name].root)
        self.assertEqual(0, cli.main(['host', 'show', '--root', root]))

    def show_providers(self) -> None:
        self.title('nova-compute starts on both: what Placement is told')
        for name in self.hosts:
            self.start_gpu_compute(name)
        for name in self.hosts:
            for provider, inventory in sorted(self.providers_of(name).items()):
                say(f'  {provider}')
                for resource_class, record in sorted(inventory.items()):
                    say(f'      {record["total"]:3} {resource_class}')
        self.assertEqual(1, len(self.providers_of('host-a')))
        self.assertEqual(4, len(self.providers_of('host-b')))

    def make_flavors(self) -> None:
        self.title('Flavors, made through the API')
        self.flavors = {}
        for name, specs in (
            ('gpu.4', {f'resources:{A100}': '4'}),
            ('gpu.8', {f'resources:{A100}': '8'}),
            ('vgpu.8q', {f'resources:{T4_8Q}': '1', 'gpu:display': 'on'}),
            ('vgpu.4q', {f'resources:{T4_4Q}': '1'}),
            ('plain', {}),
            *(
                (f'a10.{size}', {f'resources:{A10}_{size.upper()}': '1'})
                for size in ('8q', '12q', '24q')
            ),
        ):
            self.flavors[name] = self._create_flavor(
                name=name, vcpu=1, memory_mb=512, disk=1, extra_spec=specs
            )
            properties = ' '.join(
                f'--property {k}={v}' for k, v in specs.items()
            )
            say(f'$ openstack flavor create {name} … {properties}')
        error = self.assertRaises(
            base.ApiError,
            self.admin_api.post_extra_spec,
            self.flavors['gpu.4'],
            {'extra_specs': {'gpu:dispaly': 'on'}},
        )
        self.assertEqual(400, error.response.status_code)
        say('A typing error is refused at once:')
        say('  ' + error.response.json()['badRequest']['message'])

    def create(self, flavor: str) -> Any:
        """Boot a server of a flavor and show where it landed."""
        server = self.boot(self.flavors[flavor])
        devices = self.guest_devices(server)
        names = sorted(map(str, devices.functions)) + sorted(devices.mdevs)
        host = server['OS-EXT-SRV-ATTR:host']
        first = names[0] if names else 'no GPU'
        say(f'  {flavor:8} ACTIVE on {host}: {first}')
        for name in names[1:]:
            say(f'{"":29}{name}')
        self.assert_no_device_twice()
        return server

    def show_xml(self, server: Any) -> None:
        say("  The first of its host devices in the guest's XML:")
        parser = etree.XMLParser(remove_blank_text=True)
        element = etree.fromstring(self.hostdevs(server)[0], parser)
        text = etree.tostring(element, pretty_print=True, encoding='unicode')
        for line in text.splitlines():
            say(f'    {line}')

    def whole_cards(self) -> None:
        self.title('Whole cards: four in one server, then all eight')
        server = self.create('gpu.4')
        self.assertEqual(4, len(self.guest_devices(server).functions))
        self.show_xml(server)
        say('  It is deleted, to make room for:')
        self._delete_server(server)
        self.eight = self.create('gpu.8')
        self.assertEqual(8, len(self.guest_devices(self.eight).functions))

    def vgpus(self) -> None:
        self.title('vGPUs of two profiles, until the cloud is full')
        small = [self.create('vgpu.4q') for _ in range(4)]
        self.large = [self.create('vgpu.8q') for _ in range(6)]
        self.assertEqual({T4_4Q: 4, T4_8Q: 6}, self.nonzero_usages('host-b'))
        self.assertEqual(10, len(self.hosts['host-b'].mdevs))
        self.assertEqual(4, len({s['id'] for s in small}))
        self.show_xml(self.large[0])

    def one_too_many(self) -> None:
        self.title('One too many')
        for flavor in ('gpu.4', 'vgpu.8q'):
            server = self.boot(self.flavors[flavor], state='ERROR')
            self.assertIn('No valid host', server['fault']['message'])
            say(f'  {flavor:8} ERROR: {server["fault"]["message"]}')
            self._delete_server(server)
        say('  The reason, as Placement has it:')
        for name in self.hosts:
            used = self.nonzero_usages(name)
            for provider, inventory in sorted(self.providers_of(name).items()):
                open_classes = {
                    resource_class: record['total']
                    for resource_class, record in inventory.items()
                    if record['reserved'] < record['total']
                }
                for resource_class, total in open_classes.items():
                    say(f'    {provider:36} {total} {resource_class}: used')
            self.assertEqual(
                {'host-a': {A100: 8}, 'host-b': {T4_4Q: 4, T4_8Q: 6}}[name],
                used,
            )

    def delete_and_reuse(self) -> None:
        self.title('Delete one, and boot it again')
        self._delete_server(self.large.pop())
        say('  one vgpu.8q is deleted')
        self.assertEqual(9, len(self.hosts['host-b'].mdevs))
        self.large.append(self.create('vgpu.8q'))

    def restart(self) -> None:
        self.title('nova-compute stops and starts on both hosts')
        servers = [self.eight, *self.large]
        before = [self.guest_devices(server) for server in servers]
        inventories = {name: self.providers_of(name) for name in self.hosts}
        for name in self.hosts:
            self.restart_gpu_compute(name)
        self.assertEqual(before, [self.guest_devices(s) for s in servers])
        self.assertEqual(
            inventories, {name: self.providers_of(name) for name in self.hosts}
        )
        say('  the guests hold what they held, Placement counts as before')
        server = self.boot(self.flavors['vgpu.8q'], state='ERROR')
        self.assertIn('No valid host', server['fault']['message'])
        say('  and the cloud is as full as before: still one too many')
        freed = self.guest_devices(self.eight).functions
        self._delete_server(self.eight)
        again = self.create('gpu.8')
        self.assertEqual(freed, self.guest_devices(again).functions)

    def vendor_vfio(self) -> None:
        self.title(
            'A third host, of vendor-VFIO cards: one changes its profile'
        )
        self.fake = hosts.a10_vendor_vfio(self.new_host('host-c'))
        self.show_host('host-c')
        self.start_gpu_compute('host-c')
        self.create('a10.24q')
        say('  One card is taken: what follows gets the other.')
        (card,) = (c for c in A10_CARDS if not self.fake.made(c))
        self.assert_profiles(card, '8Q 0/3, 12Q 0/2, 24Q 0/1')
        large = [self.create('a10.12q') for _ in range(2)]
        self.assert_types(card, ['596', '596'])
        self.show_xml(large[0])
        self.assertEqual(['no'] * 2, list(map(self.managed, large)))
        self.assert_profiles(card, '8Q 3/3, 12Q 0/2, 24Q 1/1')
        say('  Both are deleted, and the card is free for any profile:')
        for server in large:
            self._delete_server(server)
        self.assert_types(card, [])
        self.assert_profiles(card, '8Q 0/3, 12Q 0/2, 24Q 0/1')
        self.small = [self.create('a10.8q') for _ in range(3)]
        self.assert_types(card, ['595'] * 3)
        self.assert_profiles(card, '8Q 0/3, 12Q 2/2, 24Q 1/1')

    def resize(self) -> None:
        self.title('A server that exists is given a GPU, by a resize')
        self._delete_server(self.small.pop())
        server = self.create('plain')
        self.flags(allow_resize_to_same_host=True)
        server = actions.resize(self, server, self.flavors['a10.8q'])
        say('  resized to a10.8q, not yet confirmed')
        name = server['OS-EXT-SRV-ATTR:host']
        self.restart_gpu_compute(name)
        say(f'  nova-compute is restarted on {name}')
        server = actions.confirm(self, server)
        (device,) = self.guest_devices(server).functions
        say(f'  confirmed: {server["status"]} on {name}: {device}')
        self.assert_consistent()

    def audit(self) -> None:
        self.title('Guests, GPUs, nova-compute and Placement agree')
        for name in self.hosts:
            code, found, _ = self.run_audit(name)
            self.assertEqual((0, []), (code, found))
            say(f'$ nova-gpu audit --root {name} --config-file nova.conf')
            say('  no difference')

    def managed(self, server: Any) -> str | None:
        (text,) = self.hostdevs(server)
        return etree.fromstring(text).get('managed')

    def assert_types(self, card: str, expected: list[str]) -> None:
        """The VFs of a card that have a vGPU type, as the driver says."""
        found = {
            function: self.fake.device(function)
            .joinpath('nvidia/current_vgpu_type')
            .read_text()
            .strip()
            for function in self.fake.functions(card)
        }
        made = {f: number for f, number in found.items() if number != '0'}
        for function, number in made.items():
            say(f'    …/{function}/nvidia/current_vgpu_type: {number}')
        if not made:
            say(f'    current_vgpu_type of all VFs of {card}: 0')
        self.assertEqual(expected, list(made.values()))

    def assert_profiles(self, card: str, expected: str) -> None:
        """What Placement has reserved of a card's classes, of how many."""
        name = f'host-c_gpu_{card.replace(":", "_").replace(".", "_")}'
        found = self.providers_of('host-c')[name]
        text = ', '.join(
            f'{size} {record["reserved"]}/{record["total"]}'
            for size in ('8Q', '12Q', '24Q')
            if (record := found.get(f'{A10}_{size}'))
        )
        say(f'    Placement, reserved of {card}: {text}')
        self.assertEqual(expected, text)


def main() -> int:
    """Run the demo; returns the exit code."""
    LOG_FILE.parent.mkdir(exist_ok=True)
    say('Starting a cloud in this process: Nova, Placement, GPU hosts …')
    result = unittest.TestResult()
    with LOG_FILE.open('w') as log, contextlib.redirect_stderr(log):
        logging.basicConfig(stream=log, level=logging.INFO)
        Demo().run(result)
    for _, trace in (*result.errors, *result.failures):
        say(trace[-3000:])
    if not result.wasSuccessful():
        say('The demo failed: the last lines above say where.')
    return 0 if result.wasSuccessful() else 1


if __name__ == '__main__':
    sys.exit(main())
