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

"""What the documentation tells people to type is tried here."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.metadata
import io
import itertools
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from typing import Any

import nova
import nova.conf
import testtools
from nova import exception as nova_exception
from nova.api.validation.extra_specs import validators
from oslo_config import cfg

from nova_gpu import conf, exception, mechanism, rules
from nova_gpu.cli import main as cli
from nova_gpu.host import read_snapshot
from nova_gpu.model.addressing import needed_bits
from nova_gpu.model.device import Card
from nova_gpu.model.inventory import classify
from nova_gpu.sysfs.tree import Tree
from tests.fixtures import hosts, machine
from tests.fixtures.sysfs import FakeSysfs

TOP = pathlib.Path(__file__).parents[2]
TROUBLE = TOP / 'doc/source/admin/troubleshooting.rst'
PAGES = [TOP / 'README.rst', *sorted(TOP.glob('doc/source/**/*.rst'))]
LITERAL = re.compile(
    r'(?:^.*::|^\.\. code-block:: \w+)\n\n((?:    .*\n|\n)+)', re.M
)


def blocks(page: pathlib.Path) -> list[str]:
    """The literal blocks of a page, without their indent."""
    return [
        '\n'.join(line[4:] for line in block.splitlines())
        for block in LITERAL.findall(page.read_text())
    ]


def commands(prefix: str) -> list[list[str]]:
    """Every command line in the pages that begins with ``prefix``."""
    return [
        shlex.split(line)
        for page in PAGES
        for block in blocks(page)
        for line in block.splitlines()
        if line.startswith(prefix)
    ]


def settings() -> list[tuple[str, str, str]]:
    """Every (section, option, value) of the nova.conf in the pages."""
    found = []
    for page in PAGES:
        for block in blocks(page):
            if not block.startswith('['):
                continue
            sections: dict[str, dict[str, list[str]]] = {}
            with tempfile.NamedTemporaryFile('w', suffix='.conf') as stream:
                stream.write(block)
                stream.flush()
                cfg.ConfigParser(stream.name, sections).parse()
            found += [
                (section, name, value)
                for section, options in sections.items()
                for name, values in options.items()
                for value in values
            ]
    return found


def project() -> dict[str, Any]:
    """What pyproject.toml says of this project."""
    text = (TOP / 'pyproject.toml').read_text()
    return tomllib.loads(text)['project']


def needed(requirements: list[str]) -> set[str]:
    """The distributions that requirements name, without extras."""
    names = (
        re.match(r'[\w.-]+', text)[0]
        for text in requirements
        if 'extra ==' not in text
    )
    return {re.sub('[-_.]+', '-', name).lower() for name in names}


def brought_by(distribution: str) -> set[str]:
    """All that pip installs with a distribution."""
    found: set[str] = set()
    new = {distribution}
    while new:
        name = new.pop()
        found.add(name)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            requirements = importlib.metadata.requires(name) or []
            new |= needed(requirements) - found
    return found


def documented() -> list[str]:
    """The messages that the page on troubleshooting explains."""
    lines = re.findall(r'^``(.*)``$', TROUBLE.read_text(), re.M)
    return [text for line in lines for text in line.split('``, ``')]


#: Messages of others that the page explains, with where they are.
OTHERS = {
    # hw/vfio/container.c
    ('QEMU', 'group … is not viable'),
    # src/util/virpci.c, src/util/virmdev.c, src/hypervisor/virhostdev.c
    ('libvirt', 'Device … not found: could not access …'),
    ('libvirt', "mediated device '…' not found"),
    ('libvirt',
     'Unmanaged PCI device … must be manually detached from the host'),
}  # fmt: skip


def others() -> set[tuple[str, str]]:
    """The messages of others that the page explains, with who says it."""
    found = re.findall(r'^``(.*)`` \((\w+)\)$', TROUBLE.read_text(), re.M)
    return {(who, text) for text, who in found}


def messages() -> Iterator[str]:
    """All texts in the code, with … for what varies."""
    for path in TOP.glob('nova_gpu/**/*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant):
                yield re.sub('%[sd]', '…', str(node.value))
            elif isinstance(node, ast.JoinedStr):
                yield ''.join(
                    str(v.value) if isinstance(v, ast.Constant) else '…'
                    for v in node.values
                )


def literally(message: str, text: str) -> int:
    """How much of ``text`` is in a message that it begins; -1 if none."""
    literal, variable, rest = message.partition('…')
    if literal.startswith(text):
        return len(text)
    if not variable or not text.startswith(literal):
        return -1
    after = text[len(literal) :]
    found = max(literally(rest, after[i:]) for i in range(len(after) + 1))
    return -1 if found < 0 else len(literal) + found


class DocumentationTest(testtools.TestCase):
    """Commands, options and messages."""

    def setUp(self) -> None:
        super().setUp()
        self.root = self.useFixtureDir()
        fake = hosts.four_t4(hosts.a100_board(FakeSysfs(self.root)))
        machine.vgpu_manager(machine.well(fake), 'nvidia_vgpu_vfio')
        machine.libvirt(fake)
        fake.write('etc/libvirt/qemu/networks/default.xml', '<network/>')
        self.roots = [self.root]
        for make in (
            hosts.a10_vendor_vfio,
            hosts.a100_mig,
            hosts.gvt_g,
            hosts.mi300x,
            hosts.mtty,
        ):
            root = self.useFixtureDir()
            make(FakeSysfs(root))
            self.roots.append(root)
        self.mechanisms = mechanism.load()

    def cards(self) -> list[Card]:
        """The cards of all forms that the pages speak of."""
        return [
            card
            for root in self.roots
            for card in read_snapshot(Tree(root)).cards
        ]

    def found(self, card: Card) -> str | None:
        """The mechanism that the card's state asks for."""
        names = (m.name for m in self.mechanisms if m.recognizes(card))
        return next(names, None)

    def useFixtureDir(self) -> str:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return folder.name

    def test_options_exist_and_name_what_is_there(self) -> None:
        conf.register_opts(nova.conf.CONF)
        found = settings()
        self.assertGreater(len(found), 8)
        for section, name, value in found:
            group = nova.conf.CONF
            if section != 'DEFAULT':
                group = group[section]
            self.assertIn(name, list(group), f'[{section}] {name}')
            if name in ('available_filters', 'weight_classes'):
                for path in value.split(','):
                    module, _, attribute = path.rpartition('.')
                    getattr(importlib.import_module(module), attribute)

    def test_the_filters_are_novas_own_and_ours(self) -> None:
        opts = nova.conf.CONF._groups['filter_scheduler']._opts
        default = opts['enabled_filters']['opt'].default
        for _, name, value in settings():
            if name == 'enabled_filters':
                self.assertEqual([*default, 'GpuFilter'], value.split(','))

    def test_the_driver_is_in_the_shim(self) -> None:
        drivers = {v for _, name, v in settings() if name == 'compute_driver'}
        self.assertEqual({'gpu.GpuLibvirtDriver'}, drivers)
        from nova_gpu.virt import shim

        self.assertTrue(hasattr(shim, 'GpuLibvirtDriver'))

    def test_rules_parse_and_match(self) -> None:
        texts = [value for _, name, value in settings() if name == 'rule']
        names = [m.name for m in self.mechanisms]
        parsed = rules.parse_rules(texts, names)
        self.assertGreater(len(parsed), 4)
        for rule in parsed:
            self.assertTrue(
                any(rule.matches(c, self.found(c)) for c in self.cards()),
                rule,
            )

    def test_examples_in_the_help_of_rules_parse(self) -> None:
        (option,) = (o for o in conf.COMPUTE_OPTS if o.name == 'rule')
        texts = re.findall(r'rule = (\{.*\})', option.help)
        self.assertEqual(2, len(rules.parse_rules(texts)))

    def test_nova_gpu_commands_run(self) -> None:
        found = commands('nova-gpu ')
        self.assertGreater(len(found), 2)
        for _, *arguments in found:
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                code = cli.main([*arguments, '--root', self.root])
            self.assertEqual(0, code, arguments)
            self.assertIn('0000:25:00.0', output.getvalue())

    def test_flavors_are_valid(self) -> None:
        tried = 0
        for words in commands('openstack flavor create'):
            for flag, word in itertools.pairwise(words):
                if flag == '--property':
                    validators.validate(*word.split('=', 1))
                    tried += 1
        self.assertGreater(tried, 4)

    def test_resource_classes_of_flavors_are_those_of_the_cards(self) -> None:
        classes = {
            offer.resource_class
            for card in self.cards()
            for offer in classify(card, self.mechanisms).offers
        }
        page = (TOP / 'doc/source/install/index.rst').read_text()
        for name in re.findall(r'``(CUSTOM_\w+)``', page):
            self.assertIn(name, classes)
        for words in commands('openstack flavor create'):
            for word in words:
                if word.startswith('resources'):
                    name = word.partition(':')[2].partition('=')[0]
                    self.assertIn(name, classes)

    def test_the_refusal_reads_as_documented(self) -> None:
        (words,) = commands('openstack flavor set')
        error = self.assertRaises(
            nova_exception.ValidationError,
            validators.validate,
            *words[-1].split('=', 1),
        )
        page = (TOP / 'doc/source/install/index.rst').read_text()
        self.assertIn(f'``{error}``', page)

    def test_reasons_read_as_documented(self) -> None:
        root = self.useFixtureDir()
        fake = hosts.workstation(FakeSysfs(root))
        fake.bind('0000:b3:00.0', None)
        fake.add_gpu('0000:01:00.0', iommu_group=None)
        fake.add_gpu('0000:02:00.0', iommu_group=2, driver='nouveau')
        fake.add_gpu('0000:03:00.0', iommu_group=3)
        ignore = rules.parse_rules(
            ['{"address": "0000:03:00.0", "use": "ignore"}']
        )
        reasons = [
            classify(card, self.mechanisms, ignore).reason
            for card in read_snapshot(Tree(root)).cards
        ]
        given = [reason for reason in reasons if reason is not None]
        self.assertEqual(5, len(given))
        for reason in given:
            self.assertTrue(
                any(reason.startswith(text) for text in documented()), reason
            )

    def test_what_is_documented_is_said(self) -> None:
        said = set(messages())
        for text in documented():
            start = text.rstrip('…')
            self.assertGreater(
                max(literally(message, start) for message in said), 10, text
            )

    def test_what_others_say(self) -> None:
        said = {pair for pair in others() if pair[0] != 'Nova'}
        self.assertEqual(OTHERS, said)
        texts = [
            re.sub(r'%\(\w+\)s', '…', path.read_text())
            for name in ('exception.py', 'virt/driver.py')
            for path in [pathlib.Path(nova.__file__).parent / name]
        ]
        own = [text for who, text in others() if who == 'Nova']
        self.assertGreater(len(own), 3)
        for text in own:
            self.assertTrue(any(text in there for there in texts), text)

    def test_widths_read_as_documented(self) -> None:
        bars = [64 * hosts.GIB + 32 * hosts.MIB] * 8
        bits = needed_bits(1 << 20, bars)
        error = exception.AddressesTooWide(
            bits, 42, 1 << 20, sum(bars) // hosts.MIB
        )
        self.assertIn(str(error), documented())
        page = (TOP / 'doc/source/admin/flavors.rst').read_text()
        bits = needed_bits(262144, bars[:4])
        self.assertIn(f'    Set {bits} bits of physical addresses, ', page)

    def test_extras_exist(self) -> None:
        exist = project()['optional-dependencies']
        named = {
            extra
            for page in PAGES
            for extras in re.findall(r'nova-gpu\[([\w,]+)\]', page.read_text())
            for extra in extras.split(',')
        }
        self.assertEqual(set(exist), named)

    def test_nova_brings_what_is_needed_beside_its_packages(self) -> None:
        ours = needed(project()['dependencies'])
        self.assertEqual(set(), ours - brought_by('nova'))

    def test_the_service_of_packages_starts_our_command(self) -> None:
        (daemon,) = commands('DAEMON=')
        scripts = {f'DAEMON=/usr/local/bin/{n}' for n in project()['scripts']}
        self.assertIn(daemon[0], scripts)

    def test_make_targets_exist(self) -> None:
        makefile = (TOP / 'Makefile').read_text()
        for _, target, *_ in commands('make '):
            self.assertIn(f'\n{target}:', makefile)

    def test_the_table_of_actions_is_that_of_the_tests(self) -> None:
        # Another process: Nova's functional tests change this one's modules.
        done = subprocess.run(
            [
                sys.executable,
                '-m',
                'tests.functional.actions_table',
                '--check',
            ],
            cwd=TOP,
            env={**os.environ, 'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'true'},
        )
        self.assertEqual(0, done.returncode)
