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


"""Every name of Nova's that nova-gpu relies on without a promise.

Nova has no stable interface for drivers, filters and weighers: what is here
can change with any release. A test looks for each name in the source of all
supported releases, and for names that are used and aren't here.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Seam:
    """A name in ``module``, or an attribute of its class ``cls``.

    ``signature`` has the parameters that we rely on, ``self`` left out:
    those before ``*`` come first and in this order, those after it can be
    given by name, and ``/`` at the end says that Nova itself gives all of
    them by position, so that an override may name them as it likes. None
    for what isn't called.

    ``until`` is the last supported release of Nova that has the name, if
    that isn't the newest.
    """

    module: str
    cls: str
    name: str
    signature: str | None
    why: str
    until: int | None = None


_CELL = ('nova.objects.numa', 'NUMACell')
_CONFIG = 'nova.virt.libvirt.config'
_DRIVER = ('nova.virt.libvirt.driver', 'LibvirtDriver')
_GUEST = (_CONFIG, 'LibvirtConfigGuest')
_LIMITS = ('nova.objects.numa', 'NUMATopologyLimits')
_NETWORKS = ('nova.objects.network_metadata', 'NetworkMetadata')
_HOST = ('nova.virt.libvirt.host', 'Host')
_HOST_STATE = ('nova.scheduler.host_manager', 'HostState')
_MDEV = (_CONFIG, 'LibvirtConfigGuestHostdevMDEV')
_PCI = (_CONFIG, 'LibvirtConfigGuestHostdevPCI')
_REPORT = ('nova.scheduler.client.report', 'SchedulerReportClient')
_TREE = ('nova.compute.provider_tree', 'ProviderTree')
_PROVIDER = ('nova.compute.provider_tree', 'ProviderData')
_VALIDATOR = ('nova.api.validation.extra_specs.base', 'ExtraSpecValidator')
_WEIGHER = ('nova.scheduler.weights', 'BaseHostWeigher')
_FILTER = ('nova.scheduler.filters', 'BaseHostFilter')

#: The driver: what we extend of it, and what we read of it.
DRIVER = (
    Seam('nova.virt.libvirt.driver', '', 'LibvirtDriver', None,
         'the driver that ours extends'),
    Seam('nova.virt.libvirt.driver', '', 'libvirt', None,
         "libvirt's own module, for its errors"),
    Seam(*_DRIVER, '__init__', 'virtapi, read_only',
         'makes our tracker, once the options are there'),
    Seam(*_DRIVER, 'init_host', 'host',
         'rebuilds the claims from the guests when nova-compute starts'),
    Seam(*_DRIVER, '_is_existing_mdev', 'uuid',
         'keeps Nova 29 from looking for vGPUs that the restorer brings back',
         until=33),
    Seam(*_DRIVER, 'get_available_resource', 'nodename',
         'adds the map of the GPUs to the statistics'),
    Seam(*_DRIVER, 'update_provider_tree',
         'provider_tree, nodename, allocations',
         'adds our providers'),
    Seam(*_DRIVER, 'list_instances', '',
         'says for how many instances the map of the GPUs counts'),
    Seam(*_DRIVER, 'spawn',
         'context, instance, image_meta, injected_files, admin_password, '
         'allocations',
         'claims units before the guest is made'),
    Seam(*_DRIVER, 'rebuild', '*, instance, evacuate',
         'is told of a rebuild, and leaves it to Nova: the guest keeps its '
         'units'),
    Seam(*_DRIVER, '_hard_reboot', 'context, instance',
         'holds the units while the guest is destroyed and made again; '
         'start, resume and the restart of a host come here as well'),
    Seam(*_DRIVER, 'cleanup', 'context, instance',
         'takes the units back: every end of a guest comes here'),
    Seam(*_DRIVER, 'finish_migration',
         'context, migration, instance, disk_info, network_info, '
         'image_meta, resize_instance, allocations',
         'claims the new units beside the old'),
    Seam(*_DRIVER, 'finish_revert_migration',
         'context, instance, network_info, migration',
         'gives the old units to the instance again'),
    Seam(*_DRIVER, 'confirm_migration',
         'context, migration, instance, network_info',
         'takes the old units back'),
    Seam(*_DRIVER, 'suspend', 'context, instance',
         'refuses what can not be saved'),
    Seam(*_DRIVER, '_resume_guest_after_snapshot',
         'context, live_snapshot, original_power_state, instance, guest',
         'puts vGPUs in again that a cold snapshot has taken out'),
    Seam(*_DRIVER, '_attach_mediated_devices', 'guest, devs',
         'does that'),
    Seam(*_DRIVER, 'check_can_live_migrate_source',
         'context, instance, dest_check_data',
         'refuses what can not be moved, and tells what the guest holds'),
    Seam(*_DRIVER, 'check_source_migrate_data_at_dest',
         'ctxt, instance, migrate_data, migration, limits, allocs',
         'claims what the guest will hold'),
    Seam(*_DRIVER, '_live_migration_operation',
         'context, instance, dest, block_migration, migrate_data, guest, '
         'device_names',
         'gives the guest its new devices'),
    Seam(*_DRIVER, 'post_live_migration_at_destination',
         'context, instance',
         'the guest is there'),
    Seam(*_DRIVER, '_guest_add_pci_devices', 'guest, instance',
         'adds our devices: the one step of making a guest that is told the '
         'guest and the instance'),
    Seam(*_DRIVER, '_allocate_mdevs', 'allocations',
         'leaves out our providers, whose classes Nova may have as well'),
    Seam(*_DRIVER, '_guest_add_mdevs', 'guest, chosen_mdevs',
         'leaves out ours, which Nova found in the old guest'),
    Seam(*_DRIVER, '_host', None, 'the connection to libvirt'),
    Seam(*_DRIVER, 'capabilities', None,
         'tells whether libvirt can set the width of addresses'),
    Seam(*_DRIVER, 'virtapi', None, 'the way to the report client'),
    Seam(*_DRIVER, 'pgpu_type_mapping', None,
         '[devices] enabled_mdev_types: cards that Nova hands out itself'),
    Seam(*_DRIVER, 'pgpu_type_default', None,
         'the same, if one type is for all cards'),
    Seam(*_HOST, 'list_guests', 'only_running',
         'the guests when nova-compute starts, and now and then'),
    Seam(*_HOST, 'get_guest', 'instance',
         'the guest whose metadata is written anew'),
    Seam(*_HOST, 'get_hostname', '', "the compute node's name"),
    Seam(*_HOST, 'get_node_uuid', '', 'the UUID of its resource provider'),
    Seam(*_HOST, 'get_capabilities', '',
         'whether a guest can be on other NUMA nodes than its GPUs'),
    Seam(*_HOST, 'has_min_version', '*, lv_ver, hv_ver, hv_type',
         'whether libvirt and QEMU can move a vGPU'),
    Seam('nova.virt.libvirt.host', '', 'HV_DRIVER_QEMU', None,
         'that it is QEMU'),
    Seam('nova.virt.libvirt.guest', 'Guest', 'migrate',
         'destination, *, destination_xml',
         'is given the XML with the new devices'),
    Seam('nova.virt.libvirt.guest', 'Guest', 'is_active', '',
         'whether what runs has metadata as well'),
    Seam('nova.virt.libvirt.guest', 'Guest', '_domain', None,
         "Nova's own method sets only the metadata of its own"),
    Seam('nova.virt.libvirt.guest', 'Guest', 'get_xml_desc',
         '*, dump_migratable',
         'the devices that a guest holds'),
    Seam('nova.virt.libvirt.guest', 'Guest', 'name', None, 'for messages'),
)  # fmt: skip

#: What makes nova-compute find and start the driver.
SERVICE = (
    Seam('nova.virt.driver', '', 'load_compute_driver',
         'virtapi, compute_driver', 'looks for the driver below nova.virt'),
    Seam('nova.cmd.compute', '', 'main', '', 'is what nova-gpu-compute runs'),
    Seam('nova.conf', '', 'CONF', None, 'the options; ours are put there'),
    Seam('nova.context', '', 'get_admin_context', '',
         'reads allocations when no request is at hand'),
    Seam('nova.exception', '', 'InvalidConfiguration', None,
         'stops nova-compute if a rule in [gpu] is wrong'),
    Seam('nova.exception', '', 'ComputeResourcesUnavailable', None,
         'makes Nova try another host'),
    Seam('nova.exception', '', 'ResourceProviderUpdateConflict', None,
         'says that a push to Placement is worth another attempt'),
    Seam('nova.exception', '', 'AllocationUpdateFailed', None,
         'says that moving an allocation is worth another attempt'),
    Seam('nova.exception', '', 'ConsumerAllocationRetrievalFailed', None,
         'says that Placement is away'),
    Seam('nova.exception', '', 'PlacementAPIConnectFailure', None,
         'says that Placement is away'),
    Seam('nova.exception', '', 'InstanceNotFound', None,
         'says that an instance has no guest here'),
    Seam('nova.exception', '', 'InternalError', None,
         'says that libvirt does not find it, for another reason'),
    Seam('nova.exception', '', 'ValidationError', None,
         'is HTTP 400 for an extra spec'),
    Seam('nova.exception', '', 'InstanceFaultRollback', None,
         'leaves an instance as it was'),
    Seam('nova.exception', '', 'InstanceSuspendFailure', None,
         'is what the user is told'),
    Seam('nova.exception', '', 'MigrationPreCheckError', None,
         'ends a live migration before it begins'),
    Seam('nova.compute.task_states', '', 'REBUILDING', None,
         'tells a rebuild from the end of a guest'),
    Seam('nova.compute.vm_states', '', 'ERROR', None,
         'where an instance may have an allocation that is not its flavor'),
    Seam('nova.scheduler.utils', '', 'resources_from_flavor',
         'instance, flavor',
         'what else an instance is allocated that has lost all'),
    Seam('nova.pci.whitelist', '', 'Whitelist', None,
         '[pci] device_spec: cards that Nova hands out itself'),
    Seam('nova.pci.whitelist', 'Whitelist', '__init__', 'whitelist_spec',
         'reads the option as Nova does'),
    Seam('nova.pci.whitelist', 'Whitelist', 'device_assignable', 'dev',
         'whether a card is in it'),
)  # fmt: skip

#: Placement, as the compute service talks to it.
PLACEMENT = (
    Seam('nova.compute.resource_tracker', '', 'COMPUTE_RESOURCE_SEMAPHORE',
         None, "the name of the resource tracker's lock, for a push between "
         'two of its updates'),
    Seam('nova.compute.manager', 'ComputeVirtAPI', 'reportclient', None,
         "Nova's client of Placement"),
    Seam(*_REPORT, 'get_allocations_for_resource_provider',
         'context, rp_uuid', 'whether a provider can go'),
    Seam(*_REPORT, 'get_allocs_for_consumer', 'context, consumer',
         'an allocation with its generation, to move it'),
    Seam(*_REPORT, 'put_allocations', 'context, consumer_uuid, payload',
         'moves it'),
    Seam(*_REPORT, 'get_provider_tree_and_ensure_root',
         'context, rp_uuid, *, name', 'the tree, for a push'),
    Seam(*_REPORT, '_refresh_and_get_inventory', 'context, rp_uuid',
         'the generation of a provider, for a push that is not refused'),
    Seam(*_REPORT, 'update_from_provider_tree', 'context, new_tree',
         'the push'),
    Seam('nova.scheduler.client.report', 'ProviderAllocInfo', 'allocations',
         None, 'empty if a provider can go'),
    Seam(*_TREE, 'data', 'name_or_uuid', 'what Placement has'),
    Seam(*_TREE, 'exists', 'name_or_uuid', 'whether a provider is there'),
    Seam(*_TREE, 'get_provider_uuids', 'name_or_uuid', 'all providers'),
    Seam(*_TREE, 'new_child', 'name, parent, *, uuid', 'adds a provider'),
    Seam(*_TREE, 'remove', 'name_or_uuid', 'takes one out'),
    Seam(*_TREE, 'update_inventory', 'name_or_uuid, inventory',
         'sets totals and what is reserved'),
    Seam(*_TREE, 'update_traits', 'name_or_uuid, traits', 'sets traits'),
    Seam(*_PROVIDER, 'uuid', None, 'of a provider'),
    Seam(*_PROVIDER, 'parent_uuid', None, 'tells our providers from others'),
    Seam(*_PROVIDER, 'name', None, 'tells our providers from others'),
    Seam(*_PROVIDER, 'inventory', None, 'is closed if its cards are gone'),
    Seam(*_PROVIDER, 'traits', None, 'those of others stay'),
    Seam(*_PROVIDER, 'aggregates', None,
         'tells whether a request may move to another provider'),
)  # fmt: skip

#: Guest and host configuration.
CONFIG = (
    Seam(_CONFIG, 'LibvirtConfigCaps', 'host', None, 'what the host has'),
    Seam(_CONFIG, 'LibvirtConfigCapsHost', 'topology', None,
         'has its NUMA nodes'),
    Seam(_CONFIG, 'LibvirtConfigCapsNUMATopology', 'cells', None,
         'are its NUMA nodes'),
    Seam(*_GUEST, 'os_mach_type', None, 'decides on guest addresses'),
    Seam(*_GUEST, 'devices', None, 'tells which mediated devices it has'),
    Seam(*_GUEST, 'add_device', 'dev', 'adds ours'),
    Seam(*_GUEST, 'metadata', None, 'records what the guest holds'),
    Seam(*_GUEST, 'cpu', None, 'has the width of physical addresses'),
    Seam(_CONFIG, '', 'LibvirtConfigObject', None, 'base of our metadata'),
    Seam(_CONFIG, 'LibvirtConfigObject', '__init__',
         '*, root_name, ns_prefix, ns_uri', 'is told the name of the element'),
    Seam(_CONFIG, 'LibvirtConfigObject', 'format_dom', '',
         'gives our element instead'),
    Seam(_CONFIG, '', 'LibvirtConfigGuestCPUMaxPhysAddr', None,
         'the width of physical addresses'),
    Seam(_CONFIG, 'LibvirtConfigGuestCPU', 'mode', None,
         "the host's own CPU model brings the host's width"),
    Seam(_CONFIG, 'LibvirtConfigGuestCPU', 'maxphysaddr', None,
         'is set, if nobody has'),
    Seam(_CONFIG, 'LibvirtConfigGuestCPUMaxPhysAddr', 'mode', None,
         'is to emulate'),
    Seam(_CONFIG, 'LibvirtConfigGuestCPUMaxPhysAddr', 'bits', None,
         'is what the GPUs need'),
    Seam(_CONFIG, '', 'LibvirtConfigGuestGraphics', None,
         'tells whether a display can be shown'),
    Seam(_CONFIG, '', 'LibvirtConfigGuestDevice', None, 'base of ours'),
    Seam(_CONFIG, 'LibvirtConfigGuestDevice', '__init__', '*, root_name',
         'is told the name of the element'),
    Seam(_CONFIG, 'LibvirtConfigGuestDevice', 'format_dom', '',
         'gives our element instead'),
    Seam(_CONFIG, '', 'LibvirtConfigGuestHostdevPCI', None, 'base of ours'),
    Seam(*_PCI, '__init__', '', 'sets what Nova reads of a device'),
    Seam(*_PCI, 'format_dom', '', 'gives our element instead'),
    Seam(*_PCI, 'domain', None, 'Nova compares the address'),
    Seam(*_PCI, 'bus', None, 'Nova compares the address'),
    Seam(*_PCI, 'slot', None, 'Nova compares the address'),
    Seam(*_PCI, 'function', None, 'Nova compares the address'),
    Seam(_CONFIG, '', 'LibvirtConfigGuestHostdevMDEV', None, 'base of ours'),
    Seam(*_MDEV, '__init__', '', 'sets what Nova reads of a device'),
    Seam(*_MDEV, 'format_dom', '', 'gives our element instead'),
    Seam(*_MDEV, 'uuid', None, 'Nova collects the UUIDs of a guest'),
)  # fmt: skip

#: Filter, weighers and the validation of extra specs.
API_AND_SCHEDULER = (
    Seam('nova.scheduler.filters', '', 'BaseHostFilter', None,
         'base of the filter'),
    Seam(*_FILTER, 'RUN_ON_REBUILD', None,
         'a rebuild stays where its GPUs are'),
    Seam(*_FILTER, 'filter_all', 'filter_obj_list, spec_obj, /',
         'reads the flavor once and not once a host'),
    Seam(*_FILTER, 'host_passes', 'host_state, filter_properties, /',
         'the same for one host'),
    Seam('nova.scheduler.utils', '', 'request_is_rebuild', 'spec_obj',
         'what RUN_ON_REBUILD does in the method that we override'),
    Seam('nova.scheduler.utils', '', 'get_weight_multiplier',
         'host_state, multiplier_name, multiplier_config',
         "lets an aggregate's metadata override the option"),
    Seam('nova.scheduler.weights', '', 'BaseHostWeigher', None,
         'base of the weighers'),
    Seam(*_WEIGHER, 'minval', None, 'keeps weights from being stretched'),
    Seam(*_WEIGHER, 'maxval', None, 'keeps weights from being stretched'),
    Seam(*_WEIGHER, 'weight_multiplier', 'host_state, /', 'our options'),
    Seam(*_WEIGHER, '_weigh_object', 'obj, weight_properties, /',
         'how much the GPUs of a host lose'),
    Seam(*_WEIGHER, 'weigh_objects',
         'weighed_obj_list, weight_properties, /',
         'the same for all hosts, reading the flavor once'),
    Seam('nova.weights', 'WeighedObject', 'obj', None, 'the host'),
    Seam(*_HOST_STATE, 'uuid', None, 'which compute node it is'),
    Seam(*_HOST_STATE, 'host', None, 'for messages'),
    Seam(*_HOST_STATE, 'aggregates', None,
         'whether there is metadata that could override the option'),
    Seam(*_HOST_STATE, 'stats', None, 'holds the map of the GPUs'),
    Seam(*_HOST_STATE, 'vcpus_total', None, 'CPUs beside the GPUs'),
    Seam(*_HOST_STATE, 'vcpus_used', None, 'CPUs beside the GPUs'),
    Seam(*_HOST_STATE, 'total_usable_ram_mb', None, 'memory beside the GPUs'),
    Seam(*_HOST_STATE, 'free_ram_mb', None, 'memory beside the GPUs'),
    Seam(*_HOST_STATE, 'num_instances', None,
         'how many instances were placed since the map was made'),
    Seam(*_HOST_STATE, 'allocation_candidates', None,
         'is put in order: Nova claims the first'),
    Seam(*_HOST_STATE, 'numa_topology', None,
         'what is in use of its NUMA nodes'),
    Seam(*_HOST_STATE, 'limits', None,
         'holds a server on NUMA nodes: the claim on the host observes them'),
    Seam(*_HOST_STATE, 'pci_stats', None,
         "whether Nova's own devices are near as well"),
    Seam('nova.virt.hardware', '', 'numa_fit_instance_to_host',
         'host_topology, instance_topology, provider_mapping, *, limits, '
         'pci_requests, pci_stats',
         'whether a server has room on NUMA nodes'),
    Seam('nova.api.validation.extra_specs.base', '', 'ExtraSpecValidator',
         None, 'base of ours'),
    Seam(*_VALIDATOR, 'validate', 'name, value', 'asks our own check'),
    Seam(*_VALIDATOR, 'name', None, 'given by name'),
    Seam(*_VALIDATOR, 'description', None, 'given by name'),
    Seam(*_VALIDATOR, 'value', None, 'given by name'),
    Seam(*_VALIDATOR, 'parameters', None, 'given by name'),
)  # fmt: skip

#: Fields of versioned objects; those change less, but they are Nova's too.
OBJECTS = (
    Seam('nova.objects.instance', 'Instance', 'uuid', None,
         'who holds the units'),
    Seam('nova.objects.instance', 'Instance', 'project_id', None,
         'whom its cards may be shared with'),
    Seam('nova.objects.instance', 'Instance', 'flavor', None,
         'what it asks for'),
    Seam('nova.objects.instance', 'Instance', 'user_id', None,
         'whose allocation it is'),
    Seam('nova.objects.instance', 'Instance', 'vm_state', None,
         'whether something has failed'),
    Seam('nova.objects.instance', 'Instance', 'task_state', None,
         'whether it is rebuilt'),
    Seam('nova.objects.migrate_data', 'LibvirtLiveMigrateData',
         'source_mdev_types', None, 'takes what a guest holds along'),
    Seam('nova.objects.migrate_data', 'LibvirtLiveMigrateData',
         'target_mdevs', None, 'takes back what it will hold'),
    Seam('nova.objects.flavor', 'Flavor', 'name', None, 'for messages'),
    Seam('nova.objects.flavor', 'Flavor', 'memory_mb', None,
         "how much lies below the BARs in a guest's addresses"),
    Seam('nova.objects.flavor', 'Flavor', 'extra_specs', None,
         'what it asks for'),
    Seam('nova.objects.migration', 'Migration', 'uuid', None,
         'who holds the old units of a move'),
    Seam('nova.objects.migration', 'Migration', 'source_compute', None,
         'whether a move stays on its host'),
    Seam('nova.objects.migration', 'Migration', 'dest_compute', None,
         'whether a move stays on its host'),
    Seam('nova.objects.request_spec', 'RequestSpec', 'instance_uuid', None,
         'names the instance in the log, and the server that shares cards'),
    Seam('nova.objects.request_spec', 'RequestSpec', 'project_id', None,
         'whom its cards may be shared with'),
    Seam('nova.objects.request_spec', 'RequestSpec', 'requested_destination',
         None, 'holds the cell of a server that is moved'),
    Seam('nova.objects.request_spec', 'Destination', 'cell', None,
         'only set for a server that is moved'),
    Seam('nova.objects.request_spec', 'RequestSpec', 'flavor', None,
         'what a request asks for'),
    Seam('nova.objects.request_spec', 'RequestSpec', 'numa_topology', None,
         'whether a server is fitted to NUMA nodes'),
    Seam('nova.objects.request_spec', 'RequestSpec', 'pci_requests', None,
         "Nova's own devices of a server"),
    Seam('nova.objects.instance_pci_requests', 'InstancePCIRequests',
         'requests', None, "Nova's own devices of a server"),
    Seam('nova.objects.flavor', 'Flavor', 'vcpus', None,
         'how much of a NUMA node a server takes'),
    Seam('nova.objects.instance', 'Instance', 'numa_topology', None,
         'to which NUMA nodes Nova has fitted it'),
    Seam('nova.objects.instance', 'Instance', 'migration_context', None,
         'where it will be when it is moved'),
    Seam('nova.objects.migration_context', 'MigrationContext',
         'new_numa_topology', None, 'to which NUMA nodes it is moved'),
    Seam('nova.objects.instance_numa', 'InstanceNUMATopology', 'cells', None,
         'the parts of a guest'),
    Seam('nova.objects.instance_numa', 'InstanceNUMACell', 'id', None,
         'the NUMA node that a part of a guest is fitted to'),
    Seam('nova.objects.numa', '', 'NUMATopology', None,
         "a host's NUMA nodes"),
    Seam('nova.objects.numa', 'NUMATopology', 'obj_from_db_obj', 'db_obj',
         'reads what the driver reports'),
    Seam('nova.objects.numa', 'NUMATopology', '_to_json', '',
         'reports them, with our names'),
    Seam('nova.objects.numa', 'NUMATopology', 'cells', None, 'the nodes'),
    Seam(*_CELL, 'id', None, "a node's number"),
    Seam(*_CELL, 'network_metadata', None, 'takes our name of a node'),
    Seam(*_CELL, 'cpu_usage', None, 'what is in use of a node'),
    Seam(*_CELL, 'pinned_cpus', None, 'what is in use of a node'),
    Seam(*_CELL, 'free_pcpus', None, 'what is free of a node'),
    Seam(*_CELL, 'avail_memory', None, 'what is free of a node'),
    Seam('nova.objects.numa', '', 'NUMATopologyLimits', None,
         'what a claim observes'),
    Seam(*_LIMITS, 'cpu_allocation_ratio', None, 'stays as it is'),
    Seam(*_LIMITS, 'ram_allocation_ratio', None, 'stays as it is'),
    Seam(*_LIMITS, 'network_metadata', None, 'names the wanted nodes'),
    Seam('nova.objects.network_metadata', '', 'NetworkMetadata', None,
         'has our names'),
    Seam(*_NETWORKS, 'physnets', None, 'has our names'),
    Seam(*_NETWORKS, 'tunneled', None, 'stays as it is'),
)  # fmt: skip

SEAMS: tuple[Seam, ...] = (
    *DRIVER, *SERVICE, *PLACEMENT, *CONFIG, *API_AND_SCHEDULER, *OBJECTS,
)  # fmt: skip
