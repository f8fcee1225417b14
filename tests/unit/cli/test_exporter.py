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

"""``nova-gpu exporter --once``, and what a scrape reads."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import fixtures
from prometheus_client.parser import text_string_to_metric_families

from nova_gpu.claimsfile import PATH, ClaimsFile
from nova_gpu.cli import survey
from nova_gpu.cli.collector import Collector
from nova_gpu.cli.nvmlwatch import Watch
from nova_gpu.model import metric
from nova_gpu.model.address import parse_address
from nova_gpu.model.claim import ALLOCATED, CLAIMED, Claim
from nova_gpu.model.inventory import Unit
from nova_gpu.putaside import FOLDER, PutAside
from tests.fixtures import hosts, machine
from tests.fixtures.nvml import NUMBERS, FakeNvml, FakeVgpu, Load
from tests.unit.cli import base

GUEST, OTHER = (f'11111111-2222-4333-8444-55555555555{n}' for n in (5, 6))
FIRST, SECOND = (f'6e6f7661-6770-8000-8000-00000000000{n}' for n in (1, 2))
T4, T4_TWO = '0000:3b:00.0', '0000:5e:00.0'
A100 = hosts.A100_ADDRESSES[0]
PROFILE = '0000_3b_00_0', 'GRID T4-8Q', 'CUSTOM_VGPU_NVIDIA_T4_8Q'
NODE = '0a5c0a2e-9f1b-4c55-8d1e-0d6f6a3f9a11'
PROJECT = 'd1f6a1e0c0de4b0f8f4e6f0a9b8c7d6e'
#: As Nova 34 writes it, without what isn't looked at.
NOVA = (
    '<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">'
    '<nova:name>a</nova:name><nova:flavor name="gpu.t4-8q" id="f"/>'
    '<nova:owner><nova:user uuid="u">u</nova:user>'
    f'<nova:project uuid="{PROJECT}">research</nova:project></nova:owner>'
    '</nova:instance>'
)
#: What no scrape may do, by the name of Python's audit event.
WRITES = """
import os, sys
FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
BAD = {'os.mkdir', 'os.remove', 'os.rename', 'os.rmdir', 'os.chmod',
       'os.chown', 'os.link', 'os.symlink', 'os.truncate', 'os.utime',
       'os.setxattr', 'os.system', 'os.posix_spawn', 'subprocess.Popen',
       'os.fork', 'shutil.rmtree', 'socket.connect', 'os.exec'}
bad = []
def watch(event, args):
    if event in BAD or event == 'open' and args[2] & FLAGS:
        bad.append((event, repr(args)))
sys.dont_write_bytecode = True
sys.addaudithook(watch)
from nova_gpu.cli import main
code = main.main(sys.argv[1:])
effects = [m for m in sys.modules
           if m.startswith(('nova_gpu.privsep', 'nova_gpu.effects'))]
print('\\n#', code, bad, effects)
"""

#: prometheus_client sorts labels.
LABELS = {m.name: m.labels for m in metric.METRICS}
Values = dict[tuple[str, ...], float]


def vgpu(device: str, card: str = T4) -> Unit:
    return Unit(
        'mdev', card.replace(':', '_').replace('.', '_'),
        'CUSTOM_VGPU_NVIDIA_T4_8Q', parse_address(card), device,
        type_id='nvidia-233', name='GRID T4-8Q', parent=parse_address(card),
    )  # fmt: skip


class ExporterBase(base.CliTest):
    """Four T4 of which one has a vGPU, and eight whole A100."""

    def setUp(self) -> None:
        super().setUp()
        hosts.a100_board(hosts.four_t4(self.fake))
        machine.libvirt(self.fake)
        self.fake.create_mdev(T4, 'nvidia-233', FIRST)
        self.guest = pathlib.Path(
            self.add_guest('a', GUEST, mdevs=[FIRST], units=[vgpu(FIRST)])
        )
        text = self.guest.read_text()
        self.guest.write_text(
            text.replace('</metadata>', f'{NOVA}</metadata>')
        )
        self.tell(Claim(GUEST, (vgpu(FIRST),), ALLOCATED))

    def tell(self, *claims: Claim, now: float = 1000.0) -> None:
        """What nova-compute, which is this process then, tells."""
        self.file = getattr(self, 'file', None) or ClaimsFile(
            self.root + PATH, lambda: self.now
        )
        self.now = now
        self.file.write(NODE, claims)

    def exporter(self, *args: str) -> base.Result:
        return self.nova_gpu('exporter', '--once', '--root', self.root, *args)

    def without(self, name: str) -> None:
        """Let a package not be installed."""
        self.addCleanup(sys.modules.__setitem__, name, sys.modules[name])
        sys.modules[name] = None  # type: ignore[assignment]

    def scrape(self, *args: str) -> dict[str, Values]:
        """What one scrape gives, by name and labels."""
        result = self.exporter('--partial', *args)
        self.assertEqual(0, result.code, result.errors)
        self.errors = result.errors
        found: dict[str, Values] = {}
        for family in text_string_to_metric_families(result.out):
            for sample in family.samples:
                labels = tuple(
                    sample.labels[name] for name in LABELS.get(sample.name, ())
                )
                found.setdefault(sample.name, {})[labels] = sample.value
        return found


class ExporterTest(ExporterBase):
    """The host, without NVIDIA's driver."""

    def test_all_is_well(self) -> None:
        result = self.exporter('--no-nvml')
        self.assertEqual((0, []), (result.code, result.errors))
        found = self.scrape('--no-nvml')
        self.assertEqual(
            {(s,): 1.0 for s in (
                'guests', 'host', 'libvirt', 'nova_compute', 'put_aside',
            )},
            found['nova_gpu_source_up'],
        )  # fmt: skip
        self.assertEqual(
            {('mdev',): 4.0, ('vendor_vfio',): 0.0, ('vf',): 0.0,
             ('whole',): 8.0, ('none',): 0.0},
            found['nova_gpu_cards'],
        )  # fmt: skip
        self.assertEqual(
            {(GUEST, PROJECT, 'gpu.t4-8q', T4, FIRST, *PROFILE[1:]): 1.0},
            found['nova_gpu_instance_device_info'],
        )
        self.assertNotIn('nova_gpu_put_aside_info', found)
        self.assertEqual(
            {0.0}, set(found['nova_gpu_audit_differences'].values())
        )
        self.assertEqual({(): 0.0}, found['nova_gpu_host_warnings'])

    def test_units_and_profiles(self) -> None:
        found = self.scrape('--no-nvml')
        self.assertEqual(
            {'available': 1.0, 'allocated': 1.0, 'claimed': 0.0,
             'removed': 0.0, 'stuck': 0.0, 'put_aside': 0.0},
            {state: value
             for (card, state), value in found['nova_gpu_units'].items()
             if card == T4},
        )  # fmt: skip
        free = found['nova_gpu_profile_free_units']
        self.assertEqual(1.0, free[PROFILE])
        self.assertEqual(2.0, found['nova_gpu_profile_units'][PROFILE])
        self.assertEqual(1.0, found['nova_gpu_profile_used_units'][PROFILE])
        # The card has taken a profile, and the others are closed.
        self.assertEqual(
            0.0,
            free['0000_3b_00_0', 'GRID T4-4Q', 'CUSTOM_VGPU_NVIDIA_T4_4Q'],
        )
        whole = [k for k in free if k[2] == 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB']
        self.assertEqual([8.0], [free[k] for k in whole])

    def test_what_a_rule_reserves_is_not_available(self) -> None:
        rule = '{"profiles": ["T4-8Q", "T4-16Q"], "reserved": 1}'
        found = self.scrape('--no-nvml', '--rule', rule)
        units = found['nova_gpu_units']
        # Of the first card one is held and one reserved, the A100 all are.
        self.assertEqual(
            {T4: 0.0, T4_TWO: 1.0, A100: 0.0},
            {card: units[card, 'available'] for card in (T4, T4_TWO, A100)},
        )
        free = found['nova_gpu_profile_free_units']
        self.assertEqual(
            sum(n for (_, state), n in units.items() if state == 'available'),
            sum(n for key, n in free.items() if key[1] != 'GRID T4-16Q'),
        )

    def test_put_aside(self) -> None:
        aside = PutAside(self.root + FOLDER)
        aside.add(A100, 'it did not reset ' + 'x' * 300)
        aside.add(SECOND, 'it does not go')
        found = self.scrape('--no-nvml')
        (key, _), other = sorted(found['nova_gpu_put_aside_info'].items())
        self.assertEqual((A100, A100), key[:2])
        self.assertEqual(200, len(key[2]))
        self.assertEqual((SECOND, '', 'it does not go'), other[0])
        units = found['nova_gpu_units']
        self.assertEqual(1.0, units[A100, 'put_aside'])
        self.assertEqual(0.0, units[A100, 'available'])

    def test_claims(self) -> None:
        self.tell(
            Claim(GUEST, (vgpu(FIRST),), ALLOCATED),
            Claim(OTHER, (vgpu(SECOND, T4_TWO),), CLAIMED),
            now=1010.0,
        )
        found = self.scrape('--no-nvml')
        self.assertEqual(
            {(GUEST, GUEST, 'allocated'): 1000.0,
             (OTHER, OTHER, 'claimed'): 1010.0},
            found['nova_gpu_claim_state_timestamp_seconds'],
        )  # fmt: skip
        self.assertEqual(1.0, found['nova_gpu_units'][T4_TWO, 'claimed'])
        self.tell(
            Claim(GUEST, (vgpu(FIRST),), ALLOCATED),
            Claim(OTHER, (vgpu(SECOND, T4_TWO),), ALLOCATED),
            now=1014.5,
        )
        found = self.scrape('--no-nvml')
        name = 'nova_gpu_claim_duration_seconds'
        self.assertEqual({(): 1.0}, found[f'{name}_count'])
        self.assertEqual({(): 4.5}, found[f'{name}_sum'])
        self.assertEqual(
            {('claimed',): 0.0, ('allocated',): 2.0, ('removed',): 0.0,
             ('stuck',): 0.0},
            found['nova_gpu_claims'],
        )  # fmt: skip

    def test_differences(self) -> None:
        self.fake.create_mdev(T4_TWO, 'nvidia-233', SECOND)
        self.tell(
            Claim(
                GUEST, (vgpu(FIRST),), ALLOCATED, uncounted=frozenset([FIRST])
            )
        )
        found = self.scrape('--no-nvml')['nova_gpu_audit_differences']
        self.assertEqual(
            {('vGPU without a guest',): 1.0,
             ('held without an allocation',): 1.0},
            {key: value for key, value in found.items() if value},
        )  # fmt: skip

    def test_card_that_has_gone(self) -> None:
        shutil.rmtree(self.fake.device(T4))
        (self.fake.sys / 'bus/pci/devices' / T4).unlink()
        gone = Claim(GUEST, (vgpu(FIRST),), 'removed')
        self.tell(gone)
        found = self.scrape('--no-nvml')
        self.assertEqual(1.0, found['nova_gpu_units'][T4, 'removed'])
        self.assertEqual(3.0, found['nova_gpu_cards']['mdev',])
        self.assertEqual(
            1.0, found['nova_gpu_audit_differences']['vGPU gone',]
        )

    def test_card_that_is_not_used(self) -> None:
        rule = json.dumps({'address': A100, 'use': 'ignore'})
        found = self.scrape('--no-nvml', '--rule', rule)
        self.assertEqual(
            {(A100, 'rule 1 says to ignore it'): 1.0},
            found['nova_gpu_card_unused_info'],
        )
        self.assertEqual(1.0, found['nova_gpu_cards']['none',])

    def test_nova_compute_that_is_away(self) -> None:
        pathlib.Path(f'{self.root}{PATH}.lock').unlink()
        found = self.scrape('--no-nvml')
        self.assertEqual(0.0, found['nova_gpu_source_up']['nova_compute',])
        self.assertNotIn('nova_gpu_claims', found)
        # The guests tell what is held.
        self.assertEqual(1.0, found['nova_gpu_units'][T4, 'allocated'])

    def test_claims_that_can_not_be_read(self) -> None:
        pathlib.Path(self.root + PATH).write_text('not JSON')
        found = self.scrape('--no-nvml')
        self.assertEqual(0.0, found['nova_gpu_source_up']['nova_compute',])
        self.assertIn('what nova-compute holds is not known', self.errors[0])
        # Twice looked, once told.
        self.assertEqual(1, len(self.errors))

    def refused(self, *words: str) -> None:
        """It doesn't start, and one line says so."""
        result = self.exporter('--no-nvml')
        self.assertEqual(1, result.code)
        (line,) = result.errors
        for word in words:
            self.assertIn(word, line)

    def test_libvirt_that_is_away(self) -> None:
        machine.libvirt(self.fake, running=False)
        self.refused(
            'error: libvirt does not run on this host: start it', '--partial'
        )
        found = self.scrape('--no-nvml')
        self.assertEqual(0.0, found['nova_gpu_source_up']['libvirt',])
        self.assertEqual(1.0, found['nova_gpu_source_up']['guests',])
        self.assertEqual(1.0, found['nova_gpu_units'][T4, 'allocated'])

    def test_guests_of_which_nothing_is_known(self) -> None:
        libvirt = pathlib.Path(self.root, 'etc/libvirt')
        said = 'error: not all guests of this host can be read: '
        self.guest.write_text('<domain')
        self.refused(
            f'{said}the XML of guest a does not parse: define it anew'
        )
        self.guest.unlink()
        self.guest.mkdir()
        self.refused(f'{said}{self.guest}: Is a directory: mend that file')
        shutil.rmtree(libvirt)
        self.refused(
            f'{said}{libvirt}/qemu: No such file or directory: install libvirt'
        )
        found = self.scrape('--no-nvml')
        self.assertEqual(0.0, found['nova_gpu_source_up']['guests',])
        self.assertEqual(8.0, found['nova_gpu_cards']['whole',])

    def test_folder_that_can_not_be_read(self) -> None:
        path = pathlib.Path(self.root + FOLDER)
        path.write_text('')
        self.refused('error: what is put aside can not be read')
        found = self.scrape('--no-nvml')
        self.assertEqual(0.0, found['nova_gpu_source_up']['put_aside',])

    def test_no_host(self) -> None:
        result = self.nova_gpu(
            'exporter', '--once', '--partial', '--root', '/nowhere'
        )
        self.assertEqual(1, result.code)
        self.assertEqual(
            ['error: /nowhere: No such file or directory (the root of a host '
             'holds sys/bus/pci/devices)'],
            result.errors,
        )  # fmt: skip

    def test_wrong_input(self) -> None:
        with contextlib.closing(socket.create_server(('127.0.0.1', 0))) as s:
            port = s.getsockname()[1]
            for args, line in (
                (('--port', str(port)),
                 f'error: 127.0.0.1:{port}: {os.strerror(errno.EADDRINUSE)}: '
                 f'choose another --port, or end what listens there'),
                (('--port', '65536'),
                 'error: --port 65536: a port is from 0 to 65535'),
                (('--listen-address', '192.0.2.1'),
                 f'error: 192.0.2.1:9976: {os.strerror(errno.EADDRNOTAVAIL)}: '
                 f'choose a --listen-address that this host has; 0.0.0.0 is '
                 f'all'),
            ):  # fmt: skip
                result = self.nova_gpu(
                    'exporter', '--no-nvml', '--root', self.root, *args
                )
                self.assertEqual((1, [line]), (result.code, result.errors))

    def test_nothing_is_written(self) -> None:
        before = self.content()
        done = subprocess.run(
            [sys.executable, '-c', WRITES, 'exporter', '--once', '--no-nvml',
             '--root', self.root],
            env={
                **os.environ,
                'PYTHONPATH': os.pathsep.join(sys.path),
                'XDG_CACHE_HOME': self.without_cache(),
            },
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.assertIn('nova_gpu_units{', done.stdout)
        last = done.stdout.splitlines()[-1]
        self.assertEqual('# 0 [] []', last)
        self.assertEqual(before, self.content())

    def without_cache(self) -> str:
        """Where stevedore would keep entry points, of any program."""
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        (folder / 'python-entrypoints').mkdir()
        (folder / 'python-entrypoints/.disable').touch()
        return str(folder)

    def content(self) -> dict[str, tuple[int, bytes]]:
        """All files of the host, when they were changed, what is in them."""
        return {
            str(path): (path.stat().st_mtime_ns, path.read_bytes())
            for path in self.fake.root.rglob('*')
            if path.is_file() and not path.is_symlink()
        }

    def collector(self) -> Collector:
        """What a server would ask at each scrape."""
        args = argparse.Namespace(root=self.root, rule=[], config_file=[])
        return Collector(
            survey.Surveyor(args, ask_fabric=False), '1', nvml=False
        )

    def test_files_that_a_scrape_reads(self) -> None:
        # A card more is some files more, a scrape more none.
        collector = self.collector()
        first, again = (
            collector.look().of(metric.READ_FILES)[()] for _ in range(2)
        )
        self.assertEqual(first, again)
        for address in hosts.A100_ADDRESSES:
            (self.fake.sys / 'bus/pci/devices' / address).unlink()
        without = collector.look().of(metric.READ_FILES)[()]
        self.assertLess((first - without) / 8, 30)

    def test_each_scrape_sees_the_host_of_now(self) -> None:
        collector = self.collector()
        collector.look()
        self.assertEqual({}, collector.look().of(metric.PUT_ASIDE_INFO))
        PutAside(self.root + FOLDER).add(A100, 'it did not reset')
        self.assertEqual(1, len(collector.look().of(metric.PUT_ASIDE_INFO)))
        self.add_guest('b', OTHER, functions=[A100])
        self.assertEqual(2, len(collector.look().of(metric.INSTANCE_INFO)))
        self.guest.unlink()
        self.assertEqual(1, len(collector.look().of(metric.INSTANCE_INFO)))
        self.fake.create_mdev(T4_TWO, 'nvidia-230', SECOND)
        free = collector.look().of(metric.PROFILE_FREE)
        key = '0000_5e_00_0', 'GRID T4-1Q', 'CUSTOM_VGPU_NVIDIA_T4_1Q'
        self.assertEqual(15, free[key])
        shutil.rmtree(f'{self.root}/etc/libvirt')
        self.assertEqual(0, collector.look().of(metric.SOURCE_UP)['guests',])

    def test_host_that_goes(self) -> None:
        collector = self.collector()
        collector.look()
        shutil.rmtree(self.fake.sys)
        samples = collector.look()
        self.assertEqual({('host',): 0}, samples.of(metric.SOURCE_UP))
        self.assertEqual({}, samples.of(metric.CARDS))

    def test_package_that_is_not_installed(self) -> None:
        self.without('prometheus_client')
        result = self.exporter()
        self.assertEqual(
            (1, ["error: the Python package prometheus-client is not "
                 "installed: pip install 'nova-gpu[exporter]'"]),
            (result.code, result.errors),
        )  # fmt: skip

    def test_labels_are_bounded(self) -> None:
        """What no guest holds has no series of its own."""
        before = self.series()
        self.fake.create_mdev(T4_TWO, 'nvidia-230', SECOND)
        self.assertEqual(before, self.series())

    def series(self) -> int:
        return sum(map(len, self.scrape('--no-nvml').values()))

    def test_helps_and_names(self) -> None:
        names = [m.name for m in metric.METRICS]
        self.assertEqual(len(names), len(set(names)))
        for found in metric.METRICS:
            self.assertTrue(found.name.startswith('nova_gpu_'))
            self.assertTrue(found.help.endswith('.'), found.name)
            self.assertEqual(
                found.kind == metric.COUNTER, found.name.endswith('_total')
            )


class NvmlTest(ExporterBase):
    """The same with NVIDIA's driver, which has the T4."""

    def setUp(self) -> None:
        super().setUp()
        self.nvml = self.useFixture(FakeNvml())
        for address in (T4, T4_TWO, '0000:af:00.0', '0000:d8:00.0'):
            self.nvml.add_card(address, 0x1EB8)
        self.load = Load(
            percent=42, memory=(16 << 30, 3 << 30), temperature=55,
            power=61500, limit=70000, ecc=(7, 1), xids=[31, 79],
            vgpus=[FakeVgpu(1, GUEST, 1 << 30, 30),
                   FakeVgpu(2, GUEST, 2 << 30, 12)],
        )  # fmt: skip
        self.nvml.loads[T4] = self.load

    def test_what_cards_do(self) -> None:
        found = self.scrape()
        self.assertEqual([], self.errors)
        self.assertEqual(0, self.nvml.running)
        self.assertEqual(1.0, found['nova_gpu_source_up']['nvml',])
        self.assertEqual(
            {
                'utilization_ratio': 0.42, 'memory_bytes': 16 << 30,
                'memory_used_bytes': 3 << 30, 'temperature_celsius': 55,
                'power_watts': 61.5, 'power_limit_watts': 70,
                'xid_errors_total': 2, 'last_xid': 79, 'nvml_up': 1,
            },
            {
                name.removeprefix('nova_gpu_card_'): values[T4,]
                for name, values in found.items()
                if name.startswith('nova_gpu_card_') and (T4,) in values
            },
        )  # fmt: skip
        ecc = found['nova_gpu_card_ecc_errors_total']
        self.assertEqual(
            (7, 1), (ecc[T4, 'corrected'], ecc[T4, 'uncorrected'])
        )
        self.assertEqual(
            {(T4, GUEST): 3 << 30},
            found['nova_gpu_instance_memory_used_bytes'],
        )
        self.assertEqual(
            {(T4, GUEST): 0.42}, found['nova_gpu_instance_utilization_ratio']
        )

    def test_what_a_card_can_not_tell_is_missing(self) -> None:
        self.load.ecc = self.load.power = None
        found = self.scrape()
        self.assertNotIn((T4,), found['nova_gpu_card_power_watts'])
        self.assertIn((T4_TWO,), found['nova_gpu_card_power_watts'])
        self.assertEqual(1.0, found['nova_gpu_card_nvml_up'][T4,])

    def test_card_that_is_lost(self) -> None:
        self.load.lost = True
        up = self.scrape()['nova_gpu_card_nvml_up']
        self.assertEqual((0.0, 1.0), (up[T4,], up[T4_TWO,]))

    def test_driver_that_is_away(self) -> None:
        self.nvml.failures['nvmlInit'] = NUMBERS['DRIVER_NOT_LOADED']
        found = self.scrape()
        self.assertEqual(0.0, found['nova_gpu_source_up']['nvml',])
        self.assertNotIn('nova_gpu_card_nvml_up', found)
        self.assertEqual(
            ['warning: NVML does not tell of the cards: Driver Not Loaded'],
            self.errors,
        )

    def test_driver_that_comes_back(self) -> None:
        args = argparse.Namespace(root=self.root, rule=[], config_file=[])
        watch = Watch(self.nvml)
        collector = Collector(
            survey.Surveyor(args, ask_fabric=False), '1', watch
        )
        self.addCleanup(watch.stop)
        self.assertEqual(2, collector.look().of(metric.XID_ERRORS)[T4,])
        self.nvml.running = 0  # as after an update of the driver
        up = collector.look().of(metric.SOURCE_UP)
        self.assertEqual(0, up['nvml',])
        self.load.xids.append(13)
        found = collector.look()
        self.assertEqual(1, found.of(metric.SOURCE_UP)['nvml',])
        self.assertEqual(3, found.of(metric.XID_ERRORS)[T4,])
        self.assertEqual(13, found.of(metric.LAST_XID)[T4,])

    def test_package_that_is_missing(self) -> None:
        self.without('pynvml')
        found = self.scrape()
        self.assertEqual(0.0, found['nova_gpu_source_up']['nvml',])
        (line,) = self.errors
        self.assertIn("(pip install 'nova-gpu[nvml]')", line)
