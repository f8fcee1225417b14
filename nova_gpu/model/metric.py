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

"""The metrics of ``nova-gpu exporter``, and the values of one scrape.

Each label's values are bounded by what the host has: its cards, the vGPU types
of these, the devices that guests hold, and words that are fixed here.
"""

from __future__ import annotations

import dataclasses

GAUGE = 'gauge'
COUNTER = 'counter'
#: Its samples are labeled here by what they are: sum and count.
SUMMARY = 'summary'


@dataclasses.dataclass(frozen=True, slots=True)
class Metric:
    """One metric, with its name as Prometheus has it."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: str = GAUGE


class Samples:
    """The values of one scrape: for each metric those by its labels."""

    def __init__(self) -> None:
        self._values: dict[Metric, dict[tuple[str, ...], float]] = {}

    def set(self, metric: Metric, value: float, *labels: object) -> None:
        """Give a metric a value; a label that is None is empty."""
        texts = tuple('' if text is None else str(text) for text in labels)
        self._values.setdefault(metric, {})[texts] = value

    def add(self, metric: Metric, value: float, *labels: object) -> None:
        """Add to a metric's value, which begins with 0."""
        texts = tuple('' if text is None else str(text) for text in labels)
        values = self._values.setdefault(metric, {})
        values[texts] = values.get(texts, 0) + value

    def of(self, metric: Metric) -> dict[tuple[str, ...], float]:
        """All values of a metric, by its labels."""
        return self._values.get(metric, {})


BUILD_INFO = Metric(
    'nova_gpu_build_info', 'The release of nova-gpu; always 1.', ('version',)
)
SOURCE_UP = Metric(
    'nova_gpu_source_up',
    'Whether all of a source could be read: host (sysfs), guests (libvirt\'s '
    'files of them), libvirt (it listens), nova_compute (it runs, and tells '
    'its claims), put_aside, nvml (where the host has cards under NVIDIA\'s '
    'driver). What a source that is 0 would tell is missing or not complete.',
    ('source',),
)
READ_SECONDS = Metric(
    'nova_gpu_read_duration_seconds', 'How long this look at the host took.'
)
READ_FILES = Metric(
    'nova_gpu_read_files', 'The files that this look at the host opened.'
)
WARNINGS = Metric(
    'nova_gpu_host_warnings',
    'Files of the host that make no sense; "nova-gpu host show" names them.',
)

CARDS = Metric(
    'nova_gpu_cards',
    'Cards of the host, by what they are used for; none: not handed out.',
    ('use',),
)
CARD_INFO = Metric(
    'nova_gpu_card_info',
    'A card; always 1.',
    ('card', 'model', 'vendor', 'driver', 'numa_node', 'use', 'pool'),
)
CARD_UNUSED_INFO = Metric(
    'nova_gpu_card_unused_info',
    'A card of which nothing is handed out, with the reason; always 1.',
    ('card', 'reason'),
)
UNITS = Metric(
    'nova_gpu_units',
    'Units of a card by state: claimed (by a server that is being made), '
    'allocated (a guest has it), removed (its card has gone while a guest has '
    'it), stuck (could not be given back), put_aside, and available: what '
    'could be had now of the profile of which the card gives most.',
    ('card', 'state'),
)
PROFILE_UNITS = Metric(
    'nova_gpu_profile_units',
    'Units of a profile in a pool, if the pool had nothing else.',
    ('pool', 'profile', 'resource_class'),
)
PROFILE_USED = Metric(
    'nova_gpu_profile_used_units',
    'Units of a profile that guests have.',
    ('pool', 'profile', 'resource_class'),
)
PROFILE_FREE = Metric(
    'nova_gpu_profile_free_units',
    'Units of a profile that can be had now. Those of one card add up for '
    'one profile, not for several.',
    ('pool', 'profile', 'resource_class'),
)
PUT_ASIDE_INFO = Metric(
    'nova_gpu_put_aside_info',
    'A device that is put aside, with the reason; always 1. The card is '
    'empty if the host has none that is in use with that device.',
    ('device', 'card', 'reason'),
)
DIFFERENCES = Metric(
    'nova_gpu_audit_differences',
    'What "nova-gpu audit" would list without asking Placement. What is on '
    'its way is one for some seconds.',
    ('problem',),
)

CLAIMS = Metric(
    'nova_gpu_claims',
    'Claims of nova-compute, each all the units of one server.',
    ('state',),
)
CLAIM_SINCE = Metric(
    'nova_gpu_claim_state_timestamp_seconds',
    'Since when a claim is in its state, in seconds since the epoch. The '
    'consumer is the server, or the record of its move.',
    ('consumer', 'instance_uuid', 'state'),
)
CLAIM_DURATION = Metric(
    'nova_gpu_claim_duration_seconds',
    'Claims that became a guest\'s, and the seconds from the claim to the '
    'guest, since nova-compute started.',
    kind=SUMMARY,
)
CLAIMS_ABANDONED = Metric(
    'nova_gpu_claims_abandoned_total',
    'Claims that no guest came of, since nova-compute started.',
    kind=COUNTER,
)
INSTANCE_INFO = Metric(
    'nova_gpu_instance_device_info',
    'A card or vGPU that a guest holds; always 1. The profile is empty for '
    'what is passed through, project and flavor for guests that are not '
    'Nova\'s.',
    (
        'instance_uuid', 'project_id', 'flavor', 'card', 'device', 'profile',
        'resource_class',
    ),
)  # fmt: skip

NVML_UP = Metric(
    'nova_gpu_card_nvml_up',
    'Whether NVIDIA\'s driver tells of the card; 0 if it fell off the bus.',
    ('card',),
)
UTILIZATION = Metric(
    'nova_gpu_card_utilization_ratio',
    'The share of time in which the card computed.',
    ('card',),
)
MEMORY = Metric('nova_gpu_card_memory_bytes', 'Memory of the card.', ('card',))
MEMORY_USED = Metric(
    'nova_gpu_card_memory_used_bytes', 'Memory of the card in use.', ('card',)
)
TEMPERATURE = Metric(
    'nova_gpu_card_temperature_celsius',
    'Temperature of the card.',
    ('card',),
)
POWER = Metric('nova_gpu_card_power_watts', 'Power that it draws.', ('card',))
POWER_LIMIT = Metric(
    'nova_gpu_card_power_limit_watts', 'Power that it may draw.', ('card',)
)
ECC_ERRORS = Metric(
    'nova_gpu_card_ecc_errors_total',
    'Errors of memory since the driver was loaded: corrected, uncorrected.',
    ('card', 'type'),
    COUNTER,
)
XID_ERRORS = Metric(
    'nova_gpu_card_xid_errors_total',
    'XID errors that the driver told since the exporter started.',
    ('card',),
    COUNTER,
)
LAST_XID = Metric(
    'nova_gpu_card_last_xid',
    'The number of the last of them; 0 if there was none.',
    ('card',),
)
INSTANCE_UTILIZATION = Metric(
    'nova_gpu_instance_utilization_ratio',
    'The share of the card\'s time that a server\'s vGPUs on it computed.',
    ('card', 'instance_uuid'),
)
INSTANCE_MEMORY = Metric(
    'nova_gpu_instance_memory_used_bytes',
    'Memory in use of a server\'s vGPUs on a card.',
    ('card', 'instance_uuid'),
)

#: All, in the order in which they are shown.
METRICS = tuple(m for m in tuple(globals().values()) if type(m) is Metric)
