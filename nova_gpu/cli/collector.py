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

"""The samples of a host, as prometheus_client asks for them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import core

from nova_gpu import exception
from nova_gpu.claimsfile import Told
from nova_gpu.cli.compare import compare
from nova_gpu.cli.guests import Unread
from nova_gpu.cli.nvmlwatch import Watch
from nova_gpu.cli.survey import Survey, Surveyor
from nova_gpu.model import metric, sampling
from nova_gpu.model.audit import Difference
from nova_gpu.model.claim import ALLOCATED, Claim
from nova_gpu.model.metric import METRICS, Metric, Samples
from nova_gpu.sysfs.proc import read_listening
from nova_gpu.sysfs.tree import Tree

LOG = logging.getLogger('nova_gpu.cli')

#: Of libvirt as one daemon, and as one for each driver.
SOCKETS = ('/libvirt/libvirt-sock', '/libvirt/virtqemud-sock')
DRIVER = 'nvidia'


class Collector:
    """Reads the host anew at each scrape, one scrape at a time.

    :param watch: asks NVIDIA's driver, if it is to be asked and can be
    :param nvml: whether it is to be asked
    """

    def __init__(
        self,
        surveyor: Surveyor,
        version: str,
        watch: Watch | None = None,
        *,
        nvml: bool = True,
    ) -> None:
        self._surveyor = surveyor
        self._version = version
        self._watch = watch
        self._nvml = nvml
        self._lock = threading.Lock()
        self._compared: tuple[Any, list[Difference]] | None = None
        #: Why not all guests were read the last time, if so.
        self.unread: Unread | None = None

    def collect(self) -> Iterator[Any]:
        """What prometheus_client makes a page of."""
        samples = self.look()
        for what in METRICS:
            values = samples.of(what)
            if values:
                yield _family(what, values)

    def look(self, *, strict: bool = False) -> Samples:
        """All samples of now; what can't be seen is missing.

        :param strict: whether a host that can't be read at all is an error
        :raises UnusableRoot: it is
        """
        samples = Samples()
        with self._lock:
            start = time.perf_counter()
            try:
                found = self._surveyor.look()
            except exception.GpuError as exc:
                if strict:
                    raise
                LOG.error('%s', exc)
                samples.set(metric.SOURCE_UP, 0, 'host')
            else:
                self._add(samples, found)
            samples.set(metric.READ_SECONDS, time.perf_counter() - start)
        samples.set(metric.BUILD_INFO, 1, self._version)
        return samples

    def _add(self, samples: Samples, found: Survey) -> None:
        self.unread = found.unread
        tree = Tree(found.root)
        told = _told(found)
        running = told is not None and told.running
        claims = told.claims if told and running else _claims(found)
        up = {
            'host': True,
            'guests': found.unread is None,
            'libvirt': any(
                path.endswith(SOCKETS) for path in read_listening(tree)
            ),
            'nova_compute': running,
            'put_aside': found.aside_read,
        }
        sampling.add_cards(samples, found.uses, found.mechanisms)
        sampling.add_units(samples, found.uses, claims)
        sampling.add_profiles(samples, found.uses)
        sampling.add_put_aside(samples, found.put_aside, found.uses)
        sampling.add_instances(samples, found.held)
        sampling.add_differences(
            samples,
            self._differences(found, told),
            claims if running else (),
        )
        if told is not None and running:
            sampling.add_claims(samples, claims, told.times)
        if self._nvml and any(use.card.driver == DRIVER for use in found.uses):
            up['nvml'] = self._ask_driver(samples)
        for source, is_up in up.items():
            samples.set(metric.SOURCE_UP, is_up, source)
        samples.set(metric.READ_FILES, found.reads + tree.reads)
        samples.set(metric.WARNINGS, len(found.snapshot.warnings))

    def _differences(
        self, found: Survey, told: Told | None
    ) -> list[Difference]:
        """Compare, unless all is as it was."""
        seen = found, told
        if self._compared is None or self._compared[0] != seen:
            self._compared = seen, compare(found, told)
        return self._compared[1]

    def _ask_driver(self, samples: Samples) -> bool:
        if self._watch is None:
            LOG.warning(
                'what cards do is not known: the Python package nvidia-ml-py '
                "is not installed (pip install 'nova-gpu[nvml]')"
            )
            return False
        problem = self._watch.look(samples)
        if problem is not None:
            LOG.warning('NVML does not tell of the cards: %s', problem)
        return problem is None


def _told(found: Survey) -> Told | None:
    try:
        return found.claims.read()
    except (OSError, ValueError) as exc:
        LOG.warning('what nova-compute holds is not known: %s', exc)
        return None


def _claims(found: Survey) -> list[Claim]:
    """What guests hold, where nova-compute doesn't say it."""
    return [
        Claim(guest.server, (unit,), ALLOCATED) for guest, unit in found.held
    ]


def _family(what: Metric, values: dict[tuple[str, ...], float]) -> Any:
    if what.kind == metric.SUMMARY:
        return core.SummaryMetricFamily(
            what.name, what.help, int(values['count',]), values['sum',]
        )
    kinds = {
        metric.GAUGE: core.GaugeMetricFamily,
        metric.COUNTER: core.CounterMetricFamily,
    }
    family = kinds[what.kind](what.name, what.help, labels=what.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
