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

"""What a host is apart from its cards, read below a root.

No program is run: what a recorded or mounted host holds is told as well.

Sources of the formats: Documentation/admin-guide/kernel-parameters.txt and
Documentation/ABI/testing/sysfs-firmware-acpi in the Linux tree; modprobe.d(5);
the UEFI specification, "Globally Defined Variables"; libvirt's
src/qemu/qemu_capabilities.c (``virQEMUCapsFormatCache``) and its library's
version in configure (``major * 1000 + minor``); deb822(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from nova_gpu.model.machine import Machine, User, Version
from nova_gpu.sysfs.iommu import GROUPS
from nova_gpu.sysfs.proc import CPUINFO
from nova_gpu.sysfs.tree import Tree

TABLES = 'sys/firmware/acpi/tables'
SECURE_BOOT = (
    'sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c'
)
MODPROBE = ('etc/modprobe.d', 'run/modprobe.d', 'usr/lib/modprobe.d',
            'lib/modprobe.d')  # fmt: skip
INITRAMFS = ('boot/initrd.img-{}', 'boot/initramfs-{}.img')
#: Where systemd has its units, with the unified hierarchy and before.
SLICES = ('sys/fs/cgroup/system.slice', 'sys/fs/cgroup/systemd/system.slice')
LIBRARIES = ('usr/lib64', 'usr/lib/x86_64-linux-gnu',
             'usr/lib/aarch64-linux-gnu')  # fmt: skip
CAPABILITIES = 'var/cache/libvirt/qemu/capabilities'
PACKAGES = 'var/lib/dpkg/status'
STATE = 'var/lib/nova'
_LIMIT = 16 * 1024 * 1024
_FLAGS = re.compile(r'^flags\s*:(.*)$', re.MULTILINE)
_IDS = re.compile(
    r'([0-9a-f]{4}):([0-9a-f]{4})(?::[0-9a-f:]*)?', re.IGNORECASE
)
_LIBVIRT = re.compile(r'libvirt\.so\.0\.([0-9]{1,6})\.([0-9]{1,3})')
_QEMU = re.compile(r'<version>([0-9]{1,9})</version>')
_NOTHING = (['/bin/false'], ['/bin/true'],
            ['/usr/bin/false'], ['/usr/bin/true'])  # fmt: skip
_PACKAGE = re.compile(
    r'^Package: qemu-system-x86\n(?:.+\n)*?Version: (?:[0-9]+:)?([0-9.]+)',
    re.MULTILINE,
)


def read_machine(tree: Tree) -> Machine:
    """Read it all; what isn't there is as if it were off."""
    modules = frozenset(
        name.replace('-', '_') for name in tree.names('sys/module')
    )
    kernel = tree.text('proc/sys/kernel/osrelease', optional=True) or ''
    command_line = tuple(
        (tree.text('proc/cmdline', optional=True) or '').split()
    )
    initramfs = _initramfs(tree, kernel)
    files = tuple(_modprobe_files(tree))
    return Machine(
        kernel=kernel,
        command_line=command_line,
        cpu_flags=_cpu_flags(tree),
        kvm='kvm' in tree.names('dev'),
        iommu_tables=tuple(
            t for t in ('DMAR', 'IVRS') if t in tree.names(TABLES)
        ),
        iommu_groups=len(tree.names(GROUPS)),
        modules=modules,
        blocked=_blocked(tree, files, command_line),
        vfio_ids=_vfio_ids(tree, files, command_line),
        initramfs=initramfs,
        older=tuple(f for f in files if _is_newer(tree, f, initramfs)),
        secure_boot=_secure_boot(tree),
        gvt=_gvt(tree, modules),
        guc_submission=_guc_submission(tree),
        services=frozenset(
            name.removesuffix('.service')
            for folder in SLICES
            for name in tree.names(folder)
            if name.endswith('.service')
        ),
        huge_pages=dict(_huge_pages(tree)),
        libvirt=_libvirt(tree),
        qemu=_qemu(tree),
        nova=_user(tree, 'nova'),
        state_owner=_owner(tree, STATE),
        groups=frozenset(name for name, _, _ in _groups(tree)),
    )


def _cpu_flags(tree: Tree) -> frozenset[str]:
    match = _FLAGS.search(tree.text(CPUINFO, optional=True) or '')
    return frozenset(match[1].split() if match else ())


def _initramfs(tree: Tree, kernel: str) -> str | None:
    if not kernel:
        return None
    there = (name.format(kernel) for name in INITRAMFS)
    return next((n for n in there if os.path.exists(tree.path(n))), None)


def _modprobe_files(tree: Tree) -> Iterator[str]:
    for folder in MODPROBE:
        # /lib is the same as /usr/lib where the two are merged.
        if folder == 'lib/modprobe.d' and os.path.islink(tree.path('lib')):
            continue
        for name in tree.names(folder):
            if name.endswith('.conf'):
                yield f'{folder}/{name}'


def _blocked(
    tree: Tree, files: tuple[str, ...], command_line: tuple[str, ...]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in files:
        for line in (tree.text(name) or '').splitlines():
            words = line.split()
            # "install X /bin/false" is the stricter form of "blacklist X".
            if words[:1] == ['blacklist'] or (
                words[:1] == ['install'] and words[2:3] in _NOTHING
            ):
                for module in words[1:2]:
                    found.setdefault(module.replace('-', '_'), f'/{name}')
    for parameter in command_line:
        key, _, value = parameter.partition('=')
        if key in ('modprobe.blacklist', 'rd.driver.blacklist'):
            for module in value.split(','):
                found.setdefault(module.replace('-', '_'), parameter)
    return found


def _vfio_ids(
    tree: Tree, files: tuple[str, ...], command_line: tuple[str, ...]
) -> dict[tuple[int, int], str]:
    found: dict[tuple[int, int], str] = {}
    told: list[tuple[str, str]] = []
    for name in files:
        for line in (tree.text(name) or '').splitlines():
            words = line.replace('-', '_').split()
            if words[:2] == ['options', 'vfio_pci']:
                told += [(word, f'/{name}') for word in words[2:]]
    for parameter in command_line:
        module, dot, option = parameter.partition('.')
        if dot and module.replace('-', '_') == 'vfio_pci':
            told.append((option, parameter))
    for option, where in told:
        key, _, value = option.partition('=')
        if key != 'ids':
            continue
        for text in value.split(','):
            if match := _IDS.fullmatch(text):
                model = int(match[1], 16), int(match[2], 16)
                found.setdefault(model, where)
    return found


def _is_newer(tree: Tree, name: str, than: str | None) -> bool:
    if than is None or not name.startswith('etc/'):
        return False
    try:
        return (
            os.stat(tree.path(name)).st_mtime
            > os.stat(tree.path(than)).st_mtime
        )
    except OSError:
        return False


def _secure_boot(tree: Tree) -> bool | None:
    """Four bytes of attributes, then one of the value."""
    try:
        with open(tree.path(SECURE_BOOT), 'rb') as stream:
            content = stream.read(16)
    except OSError:
        return None
    return content[4:5] == b'\x01'


def _gvt(tree: Tree, modules: frozenset[str]) -> bool | None:
    if 'i915' not in modules:
        return None
    text = tree.text('sys/module/i915/parameters/enable_gvt', optional=True)
    return text in ('Y', '1')


def _guc_submission(tree: Tree) -> bool:
    """Bit 0 of the parameter; -1 leaves it to the driver."""
    text = tree.text('sys/module/i915/parameters/enable_guc', optional=True)
    return text is not None and text.isdecimal() and bool(int(text) & 1)


def _owner(tree: Tree, name: str) -> int | None:
    try:
        return os.stat(tree.path(name)).st_uid
    except OSError:
        return None


def _huge_pages(tree: Tree) -> Iterator[tuple[int, int]]:
    nodes = 'sys/devices/system/node'
    for name in tree.names(nodes):
        if not re.fullmatch(r'node[0-9]{1,4}', name):
            continue
        sizes = f'{nodes}/{name}/hugepages'
        pages = (
            tree.number(f'{sizes}/{size}/nr_hugepages', optional=True)
            for size in tree.names(sizes)
        )
        yield int(name.removeprefix('node')), sum(n or 0 for n in pages)


def _libvirt(tree: Tree) -> Version | None:
    """From the full name of the library, which every package has."""
    for folder in LIBRARIES:
        for name in tree.names(folder):
            if match := _LIBVIRT.fullmatch(name):
                number = int(match[1])
                return number // 1000, number % 1000, int(match[2])
    return None


def _qemu(tree: Tree) -> Version | None:
    """From what libvirt remembers of it, which root can read, or dpkg."""
    told = [
        int(match[1])
        for name in tree.names(CAPABILITIES)
        if name.endswith('.xml')
        and (
            match := _QEMU.search(
                tree.text(f'{CAPABILITIES}/{name}', limit=_LIMIT) or ''
            )
        )
    ]
    if told:
        number = max(told)
        return number // 1_000_000, number // 1000 % 1000, number % 1000
    status = tree.text(PACKAGES, optional=True, limit=_LIMIT) or ''
    match = _PACKAGE.search(status)
    if match is None:
        return None
    return tuple(int(part) for part in match[1].strip('.').split('.'))


def _user(tree: Tree, name: str) -> User | None:
    for line in (tree.text('etc/passwd', optional=True) or '').splitlines():
        fields = line.split(':')
        if fields[0] == name and fields[3:4] and fields[2].isdigit():
            return User(
                name,
                int(fields[2]),
                frozenset(
                    group
                    for group, number, members in _groups(tree)
                    if number == fields[3] or name in members
                ),
            )
    return None


def _groups(tree: Tree) -> Iterator[tuple[str, str, list[str]]]:
    for line in (tree.text('etc/group', optional=True) or '').splitlines():
        fields = line.split(':')
        if len(fields) == 4:
            yield fields[0], fields[2], fields[3].split(',')
