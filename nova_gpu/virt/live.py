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

"""Suspending and moving a guest that runs: what its GPUs allow.

The units of both hosts travel in Nova's own data of the migration, in the
fields that it has for mediated devices: Nova's two ends hand them on unread.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from nova import exception as nova_exception
from nova.virt.libvirt import host as libvirt_host

from nova_gpu.model.guest import metadata, parse_metadata
from nova_gpu.model.inventory import Unit
from nova_gpu.model.request import GpuRequest
from nova_gpu.xml import move

#: Our entry among mediated devices and their types.
KEY = 'nova-gpu'

#: From these on libvirt and QEMU move guests with functions of drivers that
#: can be migrated: Nova's own minimum for its PCI devices.
VARIANT_LIBVIRT = (10, 0, 0)
VARIANT_QEMU = (8, 2, 2)


def no_suspend(units: Sequence[Unit], request: GpuRequest) -> str | None:
    """Why a guest with these units can't be suspended, if it can't."""
    for unit in units:
        if unit.functions:
            return (
                f'GPU {unit.device} is passed through to the instance, and '
                f'its state can not be saved'
            )
    if units and request.display:
        return (
            f'vGPU {units[0].device} shows the screen of the instance, and '
            f'can not be detached'
        )
    return None


def check(units: Sequence[Unit], host: Any, instance: Any) -> None:
    """Whether a guest with these units can be moved while it runs.

    On this host; Nova itself looks at the versions for mediated devices.

    :param host: a :class:`nova.virt.libvirt.host.Host`
    :raises nova.exception.MigrationPreCheckError: it can't
    """
    for unit in units:
        if not unit.functions:
            continue
        if unit.type_id is None:
            raise nova_exception.MigrationPreCheckError(
                reason=f'GPU {unit.device} is passed through to instance '
                f'{instance.uuid} as it is, and can not be moved while it is '
                f'in use: stop the server and migrate it cold'
            )
        if not host.has_min_version(
            lv_ver=VARIANT_LIBVIRT,
            hv_ver=VARIANT_QEMU,
            hv_type=libvirt_host.HV_DRIVER_QEMU,
        ):
            raise nova_exception.MigrationPreCheckError(
                reason=f'vGPU {unit.device} of instance {instance.uuid} '
                f'needs libvirt {_version(VARIANT_LIBVIRT)} and QEMU '
                f'{_version(VARIANT_QEMU)} to be moved while it is in use, '
                f'and host {host.get_hostname()} has older ones'
            )


def announce(data: Any, units: Sequence[Unit]) -> None:
    """Tell the destination what the guest holds here.

    :param data: a LibvirtLiveMigrateData
    """
    if not units:
        return
    types = data.source_mdev_types if 'source_mdev_types' in data else {}
    ours = {unit.device for unit in units}
    data.source_mdev_types = {
        **{uuid: kind for uuid, kind in types.items() if uuid not in ours},
        KEY: ET.tostring(metadata(units), encoding='unicode'),
    }


def take_announced(data: Any) -> tuple[Unit, ...]:
    """What the guest holds at its source; Nova sees the rest.

    :raises nova.exception.MigrationPreCheckError: it can't be read
    """
    if 'source_mdev_types' not in data:
        return ()
    types = dict(data.source_mdev_types)
    text = types.pop(KEY, None)
    data.source_mdev_types = types
    if text is None:
        return ()
    try:
        return parse_metadata(text)
    except ValueError as exc:
        raise nova_exception.MigrationPreCheckError(reason=str(exc)) from exc


def match(
    source: Sequence[Unit], target: Sequence[Unit]
) -> list[tuple[Unit, Unit]]:
    """Which unit of the destination each of the source's becomes.

    :raises nova.exception.MigrationPreCheckError: one has no counterpart
    """
    left = list(target)
    pairs = []
    for unit in source:
        for other in left:
            if (other.mechanism, other.type_id) == (
                unit.mechanism,
                unit.type_id,
            ):
                pairs.append((unit, other))
                left.remove(other)
                break
        else:
            offered = ', '.join(f'{o.name} ({o.type_id})' for o in target)
            raise nova_exception.MigrationPreCheckError(
                reason=f'vGPU {unit.device} is {unit.name} '
                f'({unit.type_id}, {unit.mechanism}), and the destination '
                f'gives {offered or "none"}'
            )
    return pairs


def answer(data: Any, pairs: Sequence[tuple[Unit, Unit]]) -> None:
    """Tell the source what the guest will hold at the destination."""
    if not pairs:
        return
    targets = data.target_mdevs if 'target_mdevs' in data else {}
    data.target_mdevs = {
        **targets,
        **{old.device: new.device for old, new in pairs},
        KEY: ET.tostring(metadata([n for _, n in pairs]), encoding='unicode'),
    }


def moving(guest: Any, units: Sequence[Unit], data: Any) -> Any:
    """The guest, which takes its new units along when it is migrated.

    :param units: what it holds here
    """
    targets = data.target_mdevs if 'target_mdevs' in data else {}
    text = targets.get(KEY)
    if text is None:
        return guest
    new = {unit.device: unit for unit in parse_metadata(text)}
    return _Moving(
        guest, [(unit, new[targets[unit.device]]) for unit in units]
    )


class _Moving:
    """A guest of Nova's whose destination XML has other GPUs."""

    def __init__(self, guest: Any, pairs: Sequence[tuple[Unit, Unit]]) -> None:
        self._guest = guest
        self._pairs = pairs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guest, name)

    def migrate(
        self,
        destination: str,
        destination_xml: str | None = None,
        **kwargs: Any,
    ) -> None:
        text = destination_xml or self._guest.get_xml_desc(
            dump_migratable=True
        )
        self._guest.migrate(
            destination, destination_xml=move(text, self._pairs), **kwargs
        )


def _version(numbers: Sequence[int]) -> str:
    return '.'.join(map(str, numbers))
