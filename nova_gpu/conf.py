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

import copy

from oslo_config import cfg

from nova_gpu import claimsfile, linksfile, putaside

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
(``whole`` for a card without virtual functions and vGPU types, ``mdev`` for
vGPUs that are mediated devices, ``vendor_vfio`` for NVIDIA's vGPUs on virtual
functions without them, ``vf`` for virtual functions handed out as they are).

Fields that say what to do with them: ``use`` (``passthrough``, ``vgpu`` or
``ignore``), ``profiles`` (a list of the vGPU types to offer, by name without
the vendor or by id), ``reserved`` (units of each class that are never handed
out), ``resource_class`` (``VGPU``, ``PGPU`` or ``CUSTOM_...``, in place of
the default ``CUSTOM_GPU_<model>`` or ``CUSTOM_VGPU_<profile>``; of vGPUs it is
one profile of a card, which ``profiles`` names), ``traits``
(a list of ``CUSTOM_...`` traits to add), ``virtual_functions`` (a number, or
``"all"``: where none is enabled when nova-compute starts, enable so many;
NVIDIA's driver always enables all), ``clique`` (a name: cards with the same
are all linked by NVLink or its like; ``none`` for a card that isn't linked),
``module`` (a number: which module of its NVSwitch board the card is, see
``fabric_manager``).

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
The directory that holds the ``sys``, ``proc`` and ``dev`` of the host, and
``usr/lib/nvidia`` if there is one. Change it only where nova-compute sees them
in another place than ``/``, as some containers do. What runs privileged reads
this option from the same configuration files.
""",
    ),
    cfg.StrOpt(
        'fabric_manager',
        default='',
        help="""
Where NVIDIA's Fabric Manager is, on a host whose NVSwitches it divides into
partitions (``FABRIC_MODE=1``, shared NVSwitch): a host name or IP address,
with ``:port`` or without, or the path of a Unix domain socket. Empty, it is
not asked.

Each server's whole cards of the board are then those of one partition, which
is activated before the server starts and deactivated when it has ended. The
partitions are nova-gpu's alone: an active one of whose cards no guest has any
is deactivated. While Fabric Manager doesn't answer, no card of the board is
handed out.

It is not found by itself, since a Fabric Manager that is just being restarted
could not be told from none.

Examples::

    fabric_manager = 127.0.0.1
    fabric_manager = /run/nvidia-fabricmanager/socket

Related options:

* ``[gpu] fmpm``
* ``[gpu] rule``, field ``module``
""",
    ),
    cfg.StrOpt(
        'fmpm',
        default='/usr/bin/fmpm',
        advanced=True,
        help="""
The path of ``fmpm``, NVIDIA's program that talks to Fabric Manager. It is run
privileged, and only if ``[gpu] fabric_manager`` is set.
""",
    ),
    cfg.IntOpt(
        'restore_timeout',
        default=60,
        min=0,
        help="""
How many seconds nova-compute waits, when it starts, for a driver that comes
late.

After a host's boot the vGPUs of its instances have to be made again before
the instances start, and virtual functions have to be enabled where a rule
asks for them. If the card's driver isn't there yet, nova-compute looks again
every second for so long in all, then logs what is missing and goes on without
it. 0 doesn't wait. A host where nothing is missing never waits.

Related options:

* ``[gpu] rule``, field ``virtual_functions``
* ``[DEFAULT] resume_guests_state_on_host_boot``
""",
    ),
    cfg.IntOpt(
        'audit_interval',
        default=600,
        min=-1,
        help="""
How many seconds pass, at least, between two comparisons of what guests hold
with what Placement has allocated.

nova-compute compares when it starts, and then with the first periodic update
after so many seconds: it reads the XML of all guests and asks Placement once
for each of the host's providers of GPUs. What guests hold without an
allocation is reserved, so that nobody is promised it; what was claimed for a
guest that never came is given back, if two comparisons in a row find it so.
vGPUs that nobody holds are removed. 0 compares with every periodic update, -1
only at start. ``nova-gpu audit`` compares at any time.
""",
    ),
    cfg.StrOpt(
        'put_aside_dir',
        default=putaside.FOLDER,
        advanced=True,
        help="""
The directory that remembers which cards, virtual functions and mediated
devices are put aside.

A device that can't be cleaned, as one whose reset fails, is given to nobody
until ``nova-gpu host release`` brings it back. Each has a small file here, so
that it stays put aside over a restart of nova-compute and of the host: the
directory must be on a disk, and nova-compute must be able to write to it. It
is made when it is needed.
""",
    ),
    cfg.StrOpt(
        'claims_file',
        default=claimsfile.PATH,
        advanced=True,
        help="""
The file in which nova-compute tells ``nova-gpu audit`` and ``nova-gpu
exporter`` what it holds, and since when.

It is written at every change. nova-compute, which must be able to write to
its directory, decides nothing by it.
""",
    ),
    cfg.StrOpt(
        'links_file',
        default=linksfile.PATH,
        advanced=True,
        help="""
The file in which ``nova-gpu host record`` writes which cards NVLink links.

nova-compute reads it, if it is there, each time that it looks at the host, for
the cards of which no rule gives the ``clique``. It must be able to read it.

Related options:

* ``[gpu] rule``, field ``clique``
""",
    ),
]

SCHEDULER_OPTS = [
    cfg.FloatOpt(
        'weight_multiplier',
        default=100.0,
        help="""
How strongly a server with GPUs is drawn to the host of whose free GPUs the
least becomes unusable by it.

It is what 2 % of a GPU count for, where Nova's own weighers give one host 1.0
more than another, at most, and each: the default outweighs them. 0 turns it
off, and a negative value does the contrary. An aggregate's metadata key
``gpu_weight_multiplier`` overrides it for the hosts of the aggregate.

Related options:

* ``[gpu] expected_request`` says for whom GPUs have to stay usable.
* ``[filter_scheduler] weight_classes`` must name
  ``nova_gpu.scheduler.weigher.GpuWeigher``.
""",
    ),
    cfg.MultiStrOpt(
        'expected_request',
        default=[],
        help="""
A kind of request that is expected, as a JSON object. Give the option again
for more kinds; ``nova-gpu simulate --kinds`` prints them from a list of
requests.

A free GPU counts as lost for a kind if no request of it can have the GPU any
more, and *GpuWeigher* loses as few as it can, on average over all kinds.

Fields, all of which can be left out: ``gpus`` (how many, 1), ``share`` (of
each of them, for vGPUs: above 0 and at most 1, which is the whole GPU),
``vcpus`` and ``memory_mib`` (what comes with them: a GPU is lost too if the
host has none of these left; by default 0, they don't matter), ``weight`` (how
often it comes, beside the others, 1).

Example::

    expected_request = {"gpus": 8, "vcpus": 96, "weight": 2}
    expected_request = {"share": 0.25, "vcpus": 4, "weight": 5}

Without any, 1, 2, 4 and 8 whole GPUs are expected, and as often parts of one.
nova-scheduler does not start with a kind that is wrong, and names the field.
""",
    ),
    cfg.BoolOpt(
        'reserve_gpu_hosts',
        default=False,
        help="""
Whether hosts with GPUs take no servers without GPUs.

If so, ``GpuFilter`` refuses every host that has cards of nova-gpu's to a
server whose flavor asks for no GPU. That holds for each choice of a host: a
boot, a resize, a migration, an evacuation, an unshelve. A server without GPUs
that is on such a host stays there, is rebuilt there, and leaves when it is
resized or migrated. Nova's filters, this one among them, aren't asked where a
host is forced by ``--availability-zone <zone>:<host>``.

Flavors with ``pci_passthrough:alias`` or ``accel:device_profile`` aren't
refused: what Nova and Cyborg hand out may be GPUs as well. By default hosts
with GPUs only come last, see ``[gpu] avoid_weight_multiplier``.

Related options:

* ``[filter_scheduler] enabled_filters`` must have ``GpuFilter``.
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
    # A copy: a group keeps the values that were set, of whichever conf.
    conf.register_group(copy.deepcopy(GROUP))
    conf.register_opts([*COMPUTE_OPTS, *SCHEDULER_OPTS], group=GROUP)


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """All options, for the generators of samples and documentation."""
    return [(GROUP, [*COMPUTE_OPTS, *SCHEDULER_OPTS])]
