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
"""The unit of systemd for what single cards need at each boot.

In the order in which NVIDIA's driver needs it: MIG mode, then the virtual
functions (enabling them wipes GPU instances), then the GPU instances, and only
then nova-compute. Each step of the script looks first whether it is done, so
that it may run at any time: what is as it should be is not touched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nova_gpu.model.device import Card
from nova_gpu.model.finding import (
    AMD,
    NVIDIA,
    PASSTHROUGH,
    SHARING,
    VGPU,
    Subject,
)
from nova_gpu.model.inventory import Use
from nova_gpu.model.mig import Layout, layout

HEADER = '# Written by "nova-gpu host prepare"; --undo takes it away.\n'
SCRIPT = '/etc/nova-gpu/prepare-cards'
UNIT = '/etc/systemd/system/nova-gpu-cards.service'
UNIT_NAME = 'nova-gpu-cards.service'
UNIT_TEXT = f"""\
{HEADER}[Unit]
Description=Drivers, MIG and virtual functions of GPUs
After=systemd-modules-load.service
Before=nova-compute.service openstack-nova-compute.service
Before=nvidia-vgpu-mgr.service nvidia-vgpud.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {SCRIPT}

[Install]
WantedBy=multi-user.target
"""
_FUNCTIONS = f"""\
#!/bin/sh
{HEADER}set -u
devices=/sys/bus/pci/devices
status=0

driver() {{
    [ ! -e "$devices/$1/driver" ] ||
        basename "$(readlink "$devices/$1/driver")"
}}

# The drivers of cards may be loaded later than this begins.
wait_for() {{
    seconds=60
    until [ "$(driver "$1")" = "$2" ]; do
        seconds=$((seconds - 1))
        if [ "$seconds" -lt 0 ]; then
            echo "$1 is not bound to $2" >&2
            return 1
        fi
        sleep 1
    done
}}

to_vfio() {{
    [ "$(driver "$1")" = vfio-pci ] && return
    echo vfio-pci > "$devices/$1/driver_override"
    [ ! -e "$devices/$1/driver" ] || echo "$1" > "$devices/$1/driver/unbind"
    echo "$1" > /sys/bus/pci/drivers_probe
}}

mig_mode() {{
    nvidia-smi -i "$1" --query-gpu=mig.mode.current --format=csv,noheader
}}

mig_on() {{
    [ "$(mig_mode "$1")" = Enabled ] || nvidia-smi -i "$1" -mig 1 || return
    if [ "$(mig_mode "$1")" != Enabled ]; then
        echo "$1: MIG mode waits for a reset or a reboot" >&2
        return 1
    fi
}}

# NVIDIA's driver takes no number.
sriov() {{
    [ "$(cat "$devices/$1/sriov_numvfs")" = 0 ] || return 0
    if [ "$(driver "$1")" = nvidia ]; then
        /usr/lib/nvidia/sriov-manage -e "$1"
    else
        echo "$2" > "$devices/$1/sriov_numvfs"
    fi
}}

instances() {{
    nvidia-smi mig -i "$1" -lgi | grep -q 'MIG [0-9]' ||
        nvidia-smi mig -i "$1" -cgi "$2" -C
}}

# For --undo: "prepare-cards without-mig ADDRESS".
if [ "${{1:-}}" = without-mig ]; then
    nvidia-smi mig -i "$2" -dci
    nvidia-smi mig -i "$2" -dgi
    exec nvidia-smi -i "$2" -mig 0
fi

"""


def script(
    host: Subject,
    others: Collection[tuple[int, int]],
    held: Collection[object],
) -> str | None:
    """The script, or None if no card needs anything at each boot.

    :param others: models of which not every card is passed through
    :param held: the addresses of cards that guests hold
    """
    lines = []
    for use in host.uses:
        steps = _steps(host, use, others)
        if steps and not is_left(host, use, held):
            lines.append(f'# {use.card.name}')
            lines.append(f'{{ {" && ".join(steps)}; }} || status=1')
    if not lines:
        return None
    return _FUNCTIONS + '\n'.join([*lines, 'exit "$status"', ''])


def is_left(host: Subject, use: Use, held: Collection[object]) -> bool:
    """Whether a step would change a card that a guest has, or the console's.

    A card that is as it should be already stays in the script: it needs the
    same after the next boot.
    """
    card, meant = use.card, host.meant(use)
    if card.boot_vga and meant == PASSTHROUGH:
        return True
    if card.address not in held or has_functions(card):
        return False
    if meant == PASSTHROUGH:
        return card.driver != 'vfio-pci'
    if card.driver != SHARING.get(card.vendor_id, card.driver):
        return True
    return bool(mig(use).instances) and not card.gpu_instances


def mig(use: Use) -> Layout:
    """The GPU instances that the rules ask for."""
    if use.card.vendor_id != NVIDIA:
        return Layout()
    return layout(use.card, use.ruling.profiles or ())


def _steps(
    host: Subject, use: Use, others: Collection[tuple[int, int]]
) -> Sequence[str]:
    card, meant = use.card, host.meant(use)
    model = (card.vendor_id, card.product_id)
    if meant == PASSTHROUGH and not has_functions(card) and model in others:
        # Others of the model stay with the vendor's driver.
        return [f'to_vfio {card.address}']
    driver = SHARING.get(card.vendor_id)
    if driver is None or (meant != VGPU and not has_functions(card)):
        return []
    cut = mig(use).instances
    steps = [f'mig_on {card.address}'] if cut else []
    # A rule may leave the functions to nova-compute, but not with MIG.
    if card.total_vfs and (cut or not use.ruling.virtual_functions):
        count = len(card.vfs) or card.total_vfs
        steps.append(f'sriov {card.address} {count}')
    if cut:
        steps.append(f'instances {card.address} {",".join(cut)}')
    if not steps:
        return []
    return [f'wait_for {card.address} {driver}', *steps]


def has_functions(card: Card) -> bool:
    """Whether it is its virtual functions that are passed through."""
    return bool(card.vfs) and card.vendor_id == AMD
