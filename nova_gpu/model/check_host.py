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

"""What a host needs apart from its cards. Each check is a pure function."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nova_gpu.model.addressing import DEFAULT_BITS, needed_bits
from nova_gpu.model.device import Card
from nova_gpu.model.finding import (
    AMD,
    ERROR,
    INTEL,
    NVIDIA,
    OK,
    PASSTHROUGH,
    VGPU,
    WARNING,
    Finding,
    Subject,
)
from nova_gpu.model.machine import Version

#: Drivers that take a card for the screen, or instead of the vendor's.
SCREENS = {
    NVIDIA: ('nouveau', 'nvidiafb', 'nova_core'),
    AMD: ('amdgpu', 'radeon'),
}
#: What Nova 31 and newer start with, and what moves a guest with a vGPU.
LIBVIRT, QEMU = (8, 0, 0), (6, 2, 0)
LIVE_LIBVIRT, LIVE_QEMU = (10, 0, 0), (8, 2, 2)
#: Takes functions that stay at the vendor's driver; sets address widths.
VARIANT_LIBVIRT, WIDE_LIBVIRT = (9, 7, 0), (8, 7, 0)
DRIVER = 'gpu.GpuLibvirtDriver'
_GRUB = (
    'in GRUB_CMDLINE_LINUX of /etc/default/grub, then run update-grub '
    '(Debian, Ubuntu) or grub2-mkconfig -o /boot/grub2/grub.cfg (RHEL and '
    'its family), and reboot'
)
_INITRAMFS = (
    'update-initramfs -u (Debian, Ubuntu) or dracut -f (RHEL and its family), '
    'and reboot'
)

Check = Callable[[Subject], Iterator[Finding]]


def virtualization(host: Subject) -> Iterator[Finding]:
    """The processor, and KVM."""
    name, flags = 'virtualization', host.machine.cpu_flags
    found = sorted(flags & {'vmx', 'svm'})
    if flags and not found:
        yield Finding(
            name, '', ERROR, 'no vmx and no svm in /proc/cpuinfo',
            'guests would be emulated, and no device can be passed through',
            'turn on nested virtualization for this virtual machine'
            if 'hypervisor' in flags
            else 'turn on VT-x (Intel) or SVM (AMD) in the firmware',
        )  # fmt: skip
    elif not host.machine.kvm:
        module = 'kvm_amd' if 'svm' in found else 'kvm_intel'
        yield Finding(
            name, '', ERROR, 'no /dev/kvm',
            'KVM is not loaded: guests would be emulated',
            f'modprobe {module}' if flags else 'load the KVM module',
        )  # fmt: skip
    else:
        yield Finding(name, '', OK, ', '.join((*found, '/dev/kvm')))


def iommu(host: Subject) -> Iterator[Finding]:
    """Whether there are groups, and if not which part is off."""
    name, machine = 'iommu', host.machine
    if machine.iommu_groups:
        yield Finding(name, '', OK, f'{machine.iommu_groups} groups')
        return
    off = [
        parameter
        for parameter in machine.command_line
        if parameter in ('iommu=off', 'intel_iommu=off', 'amd_iommu=off')
    ]
    if off:
        seen, mend = (
            f'{off[0]} on the kernel command line',
            (f'remove {off[0]} {_GRUB}'),
        )
    elif not machine.iommu_tables:
        seen, mend = (
            'no groups, and no DMAR or IVRS table of the firmware',
            ('turn on VT-d (Intel) or IOMMU, AMD-Vi (AMD) in the firmware'),
        )
    else:
        parameter = (
            'intel_iommu=on' if 'DMAR' in machine.iommu_tables else 'iommu=pt'
        )
        seen = f'no groups; the firmware has {machine.iommu_tables[0]}'
        mend = f'add {parameter} {_GRUB}'
    needed = host.cards(PASSTHROUGH) or [
        c for c in host.cards(VGPU) if c.total_vfs
    ]
    yield Finding(
        name, '', ERROR if needed else WARNING, seen,
        'without an IOMMU no PCI device can be given to a guest', mend,
    )  # fmt: skip


def iommu_mode(host: Subject) -> Iterator[Finding]:
    """Whether the host's own devices go past the translation."""
    line = host.machine.command_line
    if not host.machine.iommu_groups:
        return
    for parameter in ('iommu=pt', 'iommu.passthrough=1'):
        if parameter in line:
            yield Finding('iommu-mode', '', OK, parameter)
            return
    yield Finding(
        'iommu-mode', '', WARNING,
        'no iommu=pt on the kernel command line',
        "the host's own disks and network cards pay for the translation",
        f'add iommu=pt {_GRUB}',
    )  # fmt: skip


def vfio(host: Subject) -> Iterator[Finding]:
    """The driver for what is passed through."""
    if not host.cards(PASSTHROUGH):
        return
    if 'vfio_pci' in host.machine.modules:
        yield Finding('vfio', '', OK, 'vfio_pci is loaded')
    else:
        yield Finding(
            'vfio', '', ERROR, 'vfio_pci is not loaded',
            'libvirt can give no PCI device to a guest',
            'echo vfio-pci > /etc/modules-load.d/vfio-pci.conf; '
            'modprobe vfio-pci',
        )  # fmt: skip


def vfio_ids(host: Subject) -> Iterator[Finding]:
    """Models that vfio-pci takes at boot, whoever wants them."""
    ids = host.machine.vfio_ids
    found = False
    for use in host.uses:
        card, meant = use.card, host.meant(use)
        where = ids.get((card.vendor_id, card.product_id))
        if where is None or (meant == PASSTHROUGH and not card.boot_vga):
            continue
        found = True
        yield Finding(
            'vfio-ids', str(card.address),
            ERROR if meant == VGPU else WARNING,
            f'{card.vendor_id:04x}:{card.product_id:04x} is in the ids of '
            f'vfio-pci ({where})',
            'vfio-pci takes this card as well at the next boot',
            f'remove the id there; nova-gpu host prepare binds the other '
            f'cards of the model one by one; {_INITRAMFS}',
        )  # fmt: skip
    if ids and not found:
        told = ', '.join(f'{v:04x}:{p:04x}' for v, p in sorted(ids))
        yield Finding('vfio-ids', '', OK, told)


def unwanted(host: Subject) -> Iterator[str]:
    """The drivers that must not take cards, by module.

    Not those of cards that stay with the host: the one that shows the
    console, and such as a rule ignores.
    """
    vendors = {use.card.vendor_id for use in host.uses if host.meant(use)}
    needed = {
        use.card.driver
        for use in host.uses
        if use.card.boot_vga or host.meant(use) is None
    }
    for vendor in sorted(vendors & SCREENS.keys()):
        yield from (m for m in SCREENS[vendor] if m not in needed)


def screen_drivers(host: Subject) -> Iterator[Finding]:
    """Drivers that would take cards before anybody else."""
    machine = host.machine
    first = {modules[0] for modules in SCREENS.values()}
    for module in unwanted(host):
        file = '/etc/modprobe.d/nova-gpu.conf'
        block = f'echo "blacklist {module}" >> {file}; {_INITRAMFS}'
        if module in machine.modules:
            yield Finding(
                'screen-drivers', '', WARNING, f'{module} is loaded',
                'it takes cards that have no driver yet', block,
            )  # fmt: skip
        elif module in machine.blocked:
            where = machine.blocked[module]
            yield Finding(
                'screen-drivers', '', OK, f'{module}: blocked by {where}'
            )
        elif module in first:
            yield Finding(
                'screen-drivers', '', WARNING,
                f'nothing keeps {module} from being loaded',
                'it may take cards at the next boot', block,
            )  # fmt: skip


def initramfs(host: Subject) -> Iterator[Finding]:
    """Whether what boots knows what modprobe.d says."""
    machine = host.machine
    if machine.initramfs is None:
        return
    if machine.older:
        changed = ', '.join(f'/{name}' for name in machine.older)
        yield Finding(
            'initramfs', '', WARNING,
            f'/{machine.initramfs} is older than {changed}',
            'the host may boot with the drivers of before', _INITRAMFS,
        )  # fmt: skip
    else:
        yield Finding('initramfs', '', OK, f'/{machine.initramfs} is newer')


def vgpu_manager(host: Subject) -> Iterator[Finding]:
    """NVIDIA's driver for hosts, which isn't the one for guests."""
    cards = host.cards(VGPU, NVIDIA)
    if not cards:
        return
    name, modules = 'vgpu-manager', host.machine.modules
    if 'nvidia' not in modules:
        yield Finding(
            name, '', ERROR, 'the module nvidia is not loaded',
            'nothing can make vGPUs',
            "install NVIDIA's vGPU host driver (Virtual GPU Manager)",
        )  # fmt: skip
    elif 'nvidia_vgpu_vfio' not in modules and not _has_vgpus(cards):
        yield Finding(
            name, '', ERROR,
            'nvidia is loaded, nvidia_vgpu_vfio is not, and no virtual '
            'function takes vGPU types',
            'this is a driver for bare metal or for guests',
            "install NVIDIA's vGPU host driver (Virtual GPU Manager) in its "
            'place',
        )  # fmt: skip
    elif 'nvidia-vgpu-mgr' not in host.machine.services:
        yield Finding(
            name, '', ERROR, 'nvidia-vgpu-mgr.service does not run',
            'guests with vGPUs do not start',
            'systemctl enable --now nvidia-vgpud nvidia-vgpu-mgr',
        )  # fmt: skip
    else:
        yield Finding(name, '', OK, 'loaded; nvidia-vgpu-mgr runs')


def _has_vgpus(cards: list[Card]) -> bool:
    return any(card.vendor_vfio or card.types for card in cards)


def gvt(host: Subject) -> Iterator[Finding]:
    """Intel GVT-g."""
    if not host.cards(VGPU, INTEL):
        return
    machine = host.machine
    if not machine.gvt:
        yield Finding(
            'gvt-g', '', ERROR, 'enable_gvt of i915 is off',
            'the card can not be shared', f'add i915.enable_gvt=1 {_GRUB}',
        )  # fmt: skip
    elif machine.guc_submission:
        yield Finding(
            'gvt-g', '', ERROR, 'enable_guc of i915 has submission on',
            'i915 does not start GVT-g together with it',
            f'add i915.enable_guc=0 {_GRUB}',
        )  # fmt: skip
    elif 'kvmgt' not in machine.modules:
        yield Finding(
            'gvt-g', '', ERROR, 'the module kvmgt is not loaded',
            'the card offers no vGPU types',
            'echo kvmgt > /etc/modules-load.d/kvmgt.conf; modprobe kvmgt',
        )  # fmt: skip
    else:
        yield Finding('gvt-g', '', OK, 'enable_gvt is on, kvmgt is loaded')


def secure_boot(host: Subject) -> Iterator[Finding]:
    """A vendor's module that isn't signed is refused without a word."""
    if not host.cards(VGPU):
        return
    on = host.machine.secure_boot
    missing = [
        module
        for vendor, module in ((NVIDIA, 'nvidia'), (AMD, 'gim'))
        if host.cards(VGPU, vendor) and module not in host.machine.modules
    ]
    if on and missing:
        yield Finding(
            'secure-boot', '', ERROR,
            f'on, and {", ".join(missing)} is not loaded',
            'the kernel loads no module that is not signed',
            'sign the module with a key that mokutil --import has enrolled, '
            'or turn Secure Boot off in the firmware',
        )  # fmt: skip
    else:
        yield Finding('secure-boot', '', OK, 'on' if on else 'off')


def huge_pages(host: Subject) -> Iterator[Finding]:
    """Whether huge pages are where the cards are."""
    pages = host.machine.huge_pages
    if not any(pages.values()):
        return
    nodes = {
        use.card.numa_node
        for use in host.uses
        if host.meant(use) and use.card.numa_node in pages
    }
    without = sorted(node for node in nodes if not pages[node])
    told = ', '.join(f'node {n}: {pages[n]}' for n in sorted(pages))
    if without:
        yield Finding(
            'huge-pages', '', WARNING, told,
            f'guests next to the cards of NUMA node {without[0]} get none',
            f'echo N > /sys/devices/system/node/node{without[0]}/hugepages/'
            f'hugepages-2048kB/nr_hugepages, or hugepages={without[0]}:N on '
            f'the kernel command line',
        )  # fmt: skip
    else:
        yield Finding('huge-pages', '', OK, told)


def versions(host: Subject) -> Iterator[Finding]:
    """libvirt and QEMU against what each mechanism needs."""
    machine = host.machine
    for name, version, needs in (
        ('libvirt', machine.libvirt, list(_libvirt_needs(host))),
        ('qemu', machine.qemu, list(_qemu_needs(host))),
    ):
        if version is None:
            least = max(need for need, level, _ in needs if level == ERROR)
            yield Finding(
                name, '', WARNING, 'no file tells its version',
                f'at least {_text(least)} is needed',
                f'run this as root, or look yourself: {_QUESTIONS[name]}',
            )  # fmt: skip
            continue
        lacking = [need for need in needs if version < need[0]]
        # The errors first, and of those what asks for most.
        lacking.sort(key=lambda need: (need[1] == ERROR, need[0]))
        for least, level, meaning in lacking[-1:]:
            yield Finding(
                name, '', level, _text(version),
                f'{meaning} with less than {_text(least)}',
                f'install {name} {_text(least)} or newer',
            )  # fmt: skip
        if not lacking:
            yield Finding(name, '', OK, _text(version))


#: A version, what it is to lack it, and what then is so.
_Need = tuple[Version, str, str]


def _libvirt_needs(host: Subject) -> Iterator[_Need]:
    yield LIBVIRT, ERROR, 'Nova 31 and newer do not start'
    if any(card.vendor_vfio for card in host.cards(VGPU)):
        yield VARIANT_LIBVIRT, ERROR, 'guests with such vGPUs do not start'
        yield LIVE_LIBVIRT, WARNING, _NOT_LIVE
    if any(
        needed_bits(0, card.bars) > DEFAULT_BITS
        for card in host.cards(PASSTHROUGH)
    ):
        yield WIDE_LIBVIRT, WARNING, 'guests may miss cards with large BARs'


def _qemu_needs(host: Subject) -> Iterator[_Need]:
    yield QEMU, ERROR, 'Nova 31 and newer do not start'
    if any(card.vendor_vfio for card in host.cards(VGPU)):
        yield LIVE_QEMU, WARNING, _NOT_LIVE


_NOT_LIVE = 'servers with vGPUs can not be live migrated'
_QUESTIONS = {
    'libvirt': 'virsh version',
    'qemu': 'qemu-system-x86_64 --version',
}


def _text(version: Version) -> str:
    return '.'.join(map(str, version))


def nova_user(host: Subject) -> Iterator[Finding]:
    """Whether nova-compute may talk to libvirt."""
    user = host.machine.nova
    if user is None:
        return  # nova-compute runs as another user, or in a container
    if 'libvirt' in host.machine.groups and 'libvirt' not in user.groups:
        yield Finding(
            'nova-user', '', WARNING, 'nova is not in the group libvirt',
            'nova-compute may not be let in by libvirt',
            'usermod -aG libvirt nova; systemctl restart nova-compute '
            '(openstack-nova-compute on RHEL)',
        )  # fmt: skip
    elif host.machine.state_owner not in (None, user.uid):
        yield Finding(
            'nova-user', '', WARNING,
            f'/var/lib/nova belongs to uid {host.machine.state_owner}, and '
            f'nova is {user.uid}',
            'nova-compute can not write down which devices it has put aside',
            'chown nova: /var/lib/nova',
        )  # fmt: skip
    else:
        yield Finding(
            'nova-user', '', OK, ', '.join(sorted(user.groups)) or 'no group'
        )


def nova_conf(host: Subject) -> Iterator[Finding]:
    """What this host's nova.conf says of drivers and cards."""
    if host.looked_for:
        yield Finding(
            'nova-conf', '', WARNING, 'no nova.conf was read',
            f'looked for {" and ".join(host.looked_for)}: what nova-compute '
            f'does is not known',
            'give --config-file for each file that nova-compute reads, or '
            'run this as root',
        )  # fmt: skip
    if host.driver is None:
        return
    found = [*_options(host)]
    yield from found
    if not found:
        yield Finding('nova-conf', '', OK, f'compute_driver is {host.driver}')


def _options(host: Subject) -> Iterator[Finding]:
    """What is wrong in nova.conf."""
    if host.driver != DRIVER:
        where = f' of {host.driver_file}' if host.driver_file else ''
        yield Finding(
            'nova-conf', '', ERROR,
            f'compute_driver is {host.driver or "not set"}',
            'nova-compute does not look at GPUs',
            f'set compute_driver = {DRIVER} in [DEFAULT]{where}',
        )  # fmt: skip
    elif host.nova_owns:
        yield Finding(
            'nova-conf', '', WARNING, ' and '.join(host.nova_owns),
            'Nova itself hands out the cards that are listed there',
            'remove them, unless that is what you want',
        )  # fmt: skip
    if host.unknown:
        yield Finding(
            'nova-conf', '', WARNING,
            f'no options of [gpu]: {", ".join(host.unknown)}',
            'nobody heeds what they are set to',
            'correct or remove them',
        )  # fmt: skip


#: In the order in which things build on each other.
CHECKS: tuple[Check, ...] = (
    virtualization, iommu, iommu_mode, vfio, vfio_ids, screen_drivers,
    initramfs, vgpu_manager, gvt, secure_boot, huge_pages, versions, nova_user,
    nova_conf,
)  # fmt: skip
