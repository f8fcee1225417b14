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

"""Hosts with GPUs, kept for who wants GPUs: ``[gpu] reserve_gpu_hosts``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from oslo_log import log as logging

from nova_gpu.scheduler.maps import CACHE

LOG = logging.getLogger(__name__)

#: How the names of classes begin that are GPUs wherever they are.
GPU_CLASSES = ('CUSTOM_GPU_', 'CUSTOM_VGPU_', 'PGPU', 'VGPU')
#: By these Nova and Cyborg hand devices out, which may be GPUs as well.
OTHER_DEVICES = ('pci_passthrough:alias', 'accel:device_profile')


def wants_no_gpus(
    wanted: Iterable[str], extra_specs: Mapping[str, str]
) -> bool:
    """Whether a flavor is for servers that certainly have no GPUs.

    :param wanted: its resource classes that a host's GPUs may have
    """
    return not (
        any(name.startswith(GPU_CLASSES) for name in wanted)
        or any(key in extra_specs for key in OTHER_DEVICES)
    )


def without_gpus(
    host_states: Iterable[Any], wanted: frozenset[str]
) -> list[Any]:
    """The hosts that have no GPUs, or such of which one is ``wanted``."""
    found = list(host_states)
    kept = [
        host
        for host, gpus in zip(found, CACHE.get(found), strict=True)
        if not gpus.classes or not gpus.classes.isdisjoint(wanted)
    ]
    if len(kept) < len(found):
        LOG.debug(
            '%d of %d hosts are refused: they are kept for servers with GPUs',
            len(found) - len(kept),
            len(found),
        )
    return kept
