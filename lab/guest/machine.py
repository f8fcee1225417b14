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

"""The machine: what is in it, how it starts and how it ends."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import time

from lab.guest import inputs

#: The machine ends by itself, whatever becomes of who has started it.
LIFETIME_SECONDS = 3 * 3600

#: Buses are numbered by the firmware, in this order, from those of the two
#: NUMA nodes on: 0x40 and 0x80. lab/README.rst has the list of what comes of
#: it, and lab/guest/files/lab/devices makes each read as something else.
TOPOLOGY = (
    ('intel-iommu', 'intremap=on,caching-mode=on'),
    ('pxb-pcie', 'id=node0,bus_nr=0x40,numa_node=0,bus=pcie.0,addr=0x5'),
    ('pxb-pcie', 'id=node1,bus_nr=0x80,numa_node=1,bus=pcie.0,addr=0x6'),
    *(
        ('pcie-root-port', f'id=port{n},chassis={n},slot={n},bus={b},addr={a}')
        for n, (b, a) in enumerate(
            [('node0', 0), *(('node1', slot) for slot in range(7))]
        )
    ),
    ('bochs-display', 'bus=port0'),
    ('bochs-display', 'bus=port1,addr=0.0,multifunction=on'),
    ('intel-hda', 'bus=port1,addr=0.1'),
    ('bochs-display', 'bus=port2'),
    ('bochs-display', 'bus=port3'),
    ('igb', 'bus=port4,romfile='),
    ('bochs-display', 'bus=port5'),
    ('igb', 'bus=port6,romfile='),
    ('pcie-pci-bridge', 'id=bridge,bus=port7'),
    ('bochs-display', 'bus=bridge,addr=1'),
    ('pci-testdev', 'bus=bridge,addr=2'),
)


class MachineError(Exception):
    """The machine doesn't do what it should."""


def running() -> bool:
    pid = _pid()
    return pid is not None and pathlib.Path(f'/proc/{pid}').exists()


def start(
    image: pathlib.Path,
    *,
    keep: bool = False,
    reach_host: bool = False,
    patience: float = 400,
) -> float:
    """Start the machine, and wait until libvirtd answers in it.

    :param keep: let the disk keep what is written
    :param reach_host: let the guest reach the host, as 10.0.2.2
    :return: the seconds that it took
    """
    if running():
        raise MachineError('the guest runs already')
    run = inputs.run()
    shutil.rmtree(run, ignore_errors=True)
    (run / 'share/in').mkdir(parents=True)
    (run / 'share/out').mkdir()
    began = time.monotonic()
    with open(run / 'qemu.log', 'wb') as log:
        process = subprocess.Popen(
            ['timeout', '--foreground', str(LIFETIME_SECONDS),
             *command(image, run, keep, reach_host)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {'QEMU_MODULE_DIR': str(_library() / 'qemu')},
            start_new_session=True,
        )  # fmt: skip
    (run / 'pid').write_text(str(process.pid))
    try:
        wait_until_ready(patience)
    except BaseException:
        kill()
        raise
    return time.monotonic() - began


def wait_until_ready(patience: float = 400) -> None:
    """Wait for libvirtd; also after a boot of the guest."""
    run = inputs.run()
    deadline = time.monotonic() + patience
    while not (run / 'share/ready').exists():
        if not running():
            raise MachineError(
                f'QEMU has ended: {(run / "qemu.log").read_text()}'
            )
        if time.monotonic() > deadline:
            raise MachineError(
                f'no libvirtd after {patience:.0f} s; the last that the '
                f'guest said:\n{console()[-2000:]}'
            )
        time.sleep(0.2)


def console() -> str:
    """What the guest's kernel has said."""
    path = inputs.run() / 'console'
    return path.read_text(errors='replace') if path.exists() else ''


def stop(patience: float = 30) -> None:
    """Stop the machine; it is no error if it doesn't run."""
    if not running():
        return
    (inputs.run() / 'share/stop').touch()
    deadline = time.monotonic() + patience
    while running() and time.monotonic() < deadline:
        time.sleep(0.2)
    kill()


def kill() -> None:
    """End the machine as a loss of power does."""
    pid = _pid()
    if pid is not None and running():
        os.killpg(pid, signal.SIGKILL)
    while running():
        _reap(pid)
        time.sleep(0.05)


def command(
    image: pathlib.Path, run: pathlib.Path, keep: bool, reach_host: bool
) -> list[str]:
    """The command line of the guest's own QEMU, newer than most hosts'."""
    root = inputs.root()
    half = inputs.MEMORY_MIB // 2
    restrict = 'off' if reach_host else 'on'
    arguments = [
        # In place: no chroot, no mounts, no rights.
        str(root / 'usr/lib64/ld-linux-x86-64.so.2'),
        '--library-path', str(_library()),
        str(root / 'usr/bin/qemu-system-x86_64'),
        '-L', str(root / 'usr/share/qemu'),
        '-L', str(root / 'usr/share/seabios'),
        '-name', 'nova-gpu-lab',
        '-machine', 'q35,kernel-irqchip=split',
        # No Intel or AMD virtualization is needed, nor used if it is there.
        '-accel', 'tcg,thread=multi,tb-size=1024', '-cpu', 'qemu64',
        '-m', str(inputs.MEMORY_MIB), '-smp', '2',
        '-object', f'memory-backend-ram,id=m0,size={half}M',
        '-object', f'memory-backend-ram,id=m1,size={half}M',
        '-numa', 'node,nodeid=0,cpus=0,memdev=m0',
        '-numa', 'node,nodeid=1,cpus=1,memdev=m1',
        # libvirt's host UUID, and so nova-compute's, stays the same.
        '-uuid', '6b1d6a5e-0000-4000-8000-0000000000a1',
        '-nodefaults', '-display', 'none',
        '-serial', f'file:{run / "console"}',
        '-kernel', str(image / 'vmlinuz'),
        '-initrd', str(image / 'initrd'),
        '-append',
        # An emulated timer may be late on a busy host: the kernel would panic.
        'console=ttyS0 quiet mitigations=off intel_iommu=on net.ifnames=0 '
        'no_timer_check',
        '-drive',
        f'if=none,id=disk,file={image / "disk"},format=raw,cache=unsafe,'
        f'snapshot={"off" if keep else "on"}',
        '-device', 'virtio-blk-pci,drive=disk,bus=pcie.0,addr=0x2',
        '-virtfs',
        f'local,path={run / "share"},mount_tag=share,security_model=none',
        '-device', 'virtio-rng-pci',
        '-netdev', f'user,id=net,restrict={restrict}',
        '-device', 'virtio-net-pci,netdev=net,romfile=',
    ]  # fmt: skip
    for name, options in TOPOLOGY:
        arguments += ['-device', f'{name},{options}']
    return arguments


def _library() -> pathlib.Path:
    return inputs.root() / 'usr/lib/x86_64-linux-gnu'


def _pid() -> int | None:
    try:
        pid = int((inputs.run() / 'pid').read_text())
    except (FileNotFoundError, ValueError):
        return None
    _reap(pid)
    return pid


def _reap(pid: int | None) -> None:
    """Let a child of ours that has ended be gone."""
    try:
        os.waitpid(pid or -1, os.WNOHANG)
    except ChildProcessError:
        return
