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

"""The options of nova-gpu: the ``[gpu]`` group of nova.conf."""

from __future__ import annotations

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'gpu',
    title='GPU options',
    help="""
How nova-gpu hands out GPUs. Nothing has to be set: cards are found, and what
each is used for follows from its state.
""",
)

COMPUTE_OPTS = [
    cfg.MultiStrOpt(
        'rule',
        default=[],
        help="""
A rule for some of this host's cards, as a JSON object. Give the option again
for more rules; the first rule that says a thing about a card decides it.

Fields that choose cards, of which all given must match: ``address`` (a PCI
address with ``*`` and ``?``), ``vendor_id`` and ``product_id`` (four
hexadecimal digits), ``numa_node`` (a number, -1 for none), ``mechanism``
(``whole``, ``mdev``).

Fields that say what to do with them: ``use`` (``passthrough``, ``vgpu`` or
``ignore``), ``profiles`` (a list of the vGPU types to offer, by name without
the vendor or by id), ``reserved`` (units of each class that are never handed
out), ``resource_class`` (``VGPU``, ``PGPU`` or ``CUSTOM_...``, in place of
the default ``CUSTOM_GPU_<model>`` or ``CUSTOM_VGPU_<profile>``), ``traits``
(a list of ``CUSTOM_...`` traits to add).

Examples::

    rule = {"address": "0000:3b:00.0", "use": "ignore"}
    rule = {"product_id": "2235", "profiles": ["A40-8Q", "A40-24Q"]}

nova-compute does not start with a rule that is wrong, and names the rule and
the field. A rule that matches no card is only warned of.
""",
    ),
    cfg.StrOpt(
        'host_root',
        default='/',
        advanced=True,
        help="""
The directory that holds the ``sys`` and ``proc`` of the host. Change it only
where nova-compute sees them in another place than ``/``, as some containers
do.
""",
    ),
]

SCHEDULER_OPTS = [
    cfg.FloatOpt(
        'pack_weight_multiplier',
        default=100.0,
        help="""
How strongly a server with GPUs is drawn to the hosts whose GPUs are fullest.

A positive value keeps empty hosts free for large requests, a negative one
spreads, 0 turns it off. The default outweighs Nova's own weighers. An
aggregate's metadata key ``gpu_pack_weight_multiplier`` overrides it for the
hosts of the aggregate.

Related options:

* ``[filter_scheduler] weight_classes`` must name
  ``nova_gpu.scheduler.weigher.GpuWeigher``.
""",
    ),
    cfg.FloatOpt(
        'avoid_weight_multiplier',
        default=100.0,
        help="""
How strongly a server without GPUs is kept off the hosts that have GPUs.

With a positive value such hosts come last, 0 turns it off. The default
outweighs Nova's own weighers. An aggregate's metadata key
``gpu_avoid_weight_multiplier`` overrides it for the hosts of the aggregate.

Related options:

* ``[filter_scheduler] weight_classes`` must name
  ``nova_gpu.scheduler.weigher.GpuAvoidWeigher``.
""",
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register all options; done by who uses them, never on import."""
    conf.register_group(GROUP)
    conf.register_opts([*COMPUTE_OPTS, *SCHEDULER_OPTS], group=GROUP)


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """All options, for the generators of samples and documentation."""
    return [(GROUP, [*COMPUTE_OPTS, *SCHEDULER_OPTS])]
