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

"""Nova's libvirt driver, with GPUs.

Everything that isn't about GPUs is Nova's: each method here calls Nova's own
and adds the units of the instance before, or takes them back after.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import nova.conf
from nova import context as nova_context
from nova import exception as nova_exception
from nova.compute import resource_tracker
from nova.virt.libvirt import config as vconfig
from nova.virt.libvirt import driver as libvirt_driver
from oslo_concurrency import lockutils
from oslo_log import log as logging
from oslo_utils import excutils

from nova_gpu import conf, exception, mechanism, privsep, rules
from nova_gpu.host import read_snapshot
from nova_gpu.mechanism.base import Effects
from nova_gpu.mechanism.mdev import is_ours
from nova_gpu.model import hostmap
from nova_gpu.model.guest import parse_guest
from nova_gpu.model.inventory import Pool, provider_uuid
from nova_gpu.model.request import GpuRequest, gpu_classes
from nova_gpu.sysfs.tree import Tree
from nova_gpu.tracker import Tracker, View, Want
from nova_gpu.virt import owners, providers, xml

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

#: How often a push to Placement is tried: each allocation in between raises
#: the provider's generation and makes one attempt fail.
PUSH_ATTEMPTS = 5

#: What our resource classes begin with, unless a rule names others.
OUR_CLASSES = ('CUSTOM_GPU_', 'CUSTOM_VGPU_')


class GpuLibvirtDriver(libvirt_driver.LibvirtDriver):
    """LibvirtDriver that finds, reports, claims and attaches GPUs."""

    def __init__(self, virtapi: Any, read_only: bool = False) -> None:
        conf.register_opts(CONF)
        super().__init__(virtapi, read_only)
        root = CONF.gpu.host_root
        try:
            parsed = rules.parse_rules(CONF.gpu.rule)
        except exception.InvalidRule as exc:
            raise nova_exception.InvalidConfiguration(str(exc)) from exc
        self._gpus = Tracker(
            read=lambda: read_snapshot(Tree(root)),
            mechanisms=mechanism.load(),
            effects=self._gpu_effects(),
            rules=parsed,
            owned=lambda snapshot: owners.nova_owned(
                snapshot,
                CONF.pci.device_spec,
                self.pgpu_type_mapping,
                self.pgpu_type_default is not None,
            ),
        )

        # The pools as Placement was last told of them.
        self._gpu_told: tuple[Pool, ...] = ()

    def _gpu_effects(self) -> Effects:
        """What changes the host; a host that isn't real has its own."""
        return privsep

    # Start.

    def init_host(self, host: str) -> None:
        super().init_host(host)
        guests = [
            parse_guest(guest.get_xml_desc(), guest.name)
            for guest in self._host.list_guests(only_running=False)
        ]
        view = self._gpus.rebuild(guests)
        self._gpus.report_rules(view)
        for use in view.uses:
            LOG.info(
                'Found card %s (%s): %s',
                use.card.address,
                use.card.name,
                use.reason or f'{use.mechanism}, pool {use.pool}',
            )

    # What the host has.

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        data: dict[str, Any] = super().get_available_resource(nodename)
        stats = data.setdefault('stats', {})
        found = self._gpus.map(self._gpus.view(), len(self.list_instances()))
        stats[hostmap.STATS_KEY] = found.dump()
        return data

    def update_provider_tree(
        self,
        provider_tree: Any,
        nodename: str,
        allocations: Mapping[str, Any] | None = None,
    ) -> None:
        super().update_provider_tree(
            provider_tree, nodename, allocations=allocations
        )
        self._gpu_update_tree(provider_tree, nodename, self._gpus.view())

    def _gpu_update_tree(self, tree: Any, nodename: str, view: View) -> None:
        def in_use(uuid: str) -> bool:
            client = self.virtapi.reportclient
            found = client.get_allocations_for_resource_provider(
                nova_context.get_admin_context(), uuid
            )
            return bool(found.allocations)

        providers.update(tree, nodename, view.pools, in_use)
        self._gpu_told = view.pools

    def _gpu_push(self, context: Any) -> None:
        """Tell Placement now what a claim or a release has changed.

        The periodic task would do it within a minute, but until then
        Placement would promise what is no longer there.
        """
        if self._gpus.view().pools == self._gpu_told:
            return
        nodename = self._host.get_hostname()

        for _ in range(PUSH_ATTEMPTS):
            try:
                self._gpu_push_once(context, nodename)
            except nova_exception.ResourceProviderUpdateConflict:
                LOG.debug('Placement changed meanwhile: pushing again')
            except Exception:
                # Not worth a server: the periodic update will do it.
                LOG.exception('Could not tell Placement of changed GPUs')
                break
            else:
                return
        self._gpu_told = ()
        LOG.warning(
            "The periodic update has to tell Placement of the changed GPUs "
            "of %s",
            nodename,
        )

    def _gpu_push_once(self, context: Any, nodename: str) -> None:
        # The report client's tree is the resource tracker's as well, and
        # not safe between threads: this is the tracker's own lock.
        with lockutils.lock(
            resource_tracker.COMPUTE_RESOURCE_SEMAPHORE, fair=True
        ):
            client = self.virtapi.reportclient
            tree = client.get_provider_tree_and_ensure_root(
                context, self._host.get_node_uuid(), name=nodename
            )
            self._gpu_update_tree(tree, nodename, self._gpus.view())
            client.update_from_provider_tree(context, tree)

    # A guest's life.

    def spawn(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        injected_files: Any,
        admin_password: Any,
        allocations: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        # What an attempt before left behind would be given twice.
        self._gpus.release(instance.uuid)
        with self._gpu_claim(context, instance, allocations):
            super().spawn(
                context,
                instance,
                image_meta,
                injected_files,
                admin_password,
                allocations,
                *args,
                **kwargs,
            )

    def _hard_reboot(
        self, context: Any, instance: Any, *args: Any, **kwargs: Any
    ) -> None:
        # Nova destroys the guest and makes it again: its units stay, also
        # if that fails, since the allocation does. Mediated devices are gone
        # after a reboot of the host: they are claimed anew.
        if gpu_classes(instance.flavor.extra_specs):
            client = self.virtapi.reportclient
            self._gpu_take(
                context,
                instance,
                client.get_allocations_for_consumer(context, instance.uuid),
            )
        with self._gpus.keeping(instance.uuid):
            super()._hard_reboot(context, instance, *args, **kwargs)
        self._gpus.settle(instance.uuid)

    def cleanup(
        self, context: Any, instance: Any, *args: Any, **kwargs: Any
    ) -> None:
        super().cleanup(context, instance, *args, **kwargs)
        self._gpu_release(context, instance.uuid)

    # Moves. The migration's record holds the old allocation in Placement,
    # so its UUID is the consumer of the old units here as well.

    def finish_migration(
        self,
        context: Any,
        migration: Any,
        instance: Any,
        disk_info: Any,
        network_info: Any,
        image_meta: Any,
        resize_instance: bool,
        allocations: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self._gpus.hand_over(instance.uuid, migration.uuid)
        with self._gpu_claim(context, instance, allocations):
            super().finish_migration(
                context,
                migration,
                instance,
                disk_info,
                network_info,
                image_meta,
                resize_instance,
                allocations,
                *args,
                **kwargs,
            )

    def finish_revert_migration(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        migration: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self._gpus.hand_over(migration.uuid, instance.uuid)
        super().finish_revert_migration(
            context, instance, network_info, migration, *args, **kwargs
        )
        self._gpus.settle(instance.uuid)

    def confirm_migration(
        self, context: Any, migration: Any, instance: Any, network_info: Any
    ) -> None:
        super().confirm_migration(context, migration, instance, network_info)
        same_host = migration.source_compute == migration.dest_compute
        self._gpu_release(
            context, migration.uuid if same_host else instance.uuid
        )

    # Claim, attach, release.

    @contextlib.contextmanager
    def _gpu_claim(
        self, context: Any, instance: Any, allocations: Any
    ) -> Iterator[None]:
        """Hold an instance's units while its guest is made."""
        self._gpu_take(context, instance, allocations)
        try:
            yield
        except Exception:
            with excutils.save_and_reraise_exception():
                self._gpu_release(context, instance.uuid)
        self._gpus.settle(instance.uuid)

    def _gpu_take(self, context: Any, instance: Any, allocations: Any) -> None:
        """Claim what an instance is allocated and doesn't hold yet.

        :raises nova.exception.ComputeResourcesUnavailable: Nova tries
            another host
        """
        try:
            request = GpuRequest.parse(instance.flavor.extra_specs)
            wants = self._gpus.missing(
                instance.uuid, self._gpu_wants(allocations or {})
            )
            if not wants:
                return
            self._gpus.claim(instance.uuid, wants, request)
        except exception.GpuError as exc:
            LOG.warning('Could not claim GPUs: %s', exc, instance=instance)
            raise nova_exception.ComputeResourcesUnavailable(
                reason=str(exc)
            ) from exc
        self._gpu_push(context)

    def _gpu_wants(self, allocations: Mapping[str, Any]) -> list[Want]:
        """The part of an allocation that is on our pools.

        :raises UnknownProvider: a class of ours on a provider that isn't
        """
        node_uuid = self._host.get_node_uuid()
        if set(allocations) <= {node_uuid}:
            return []  # no GPU is ever on the root: spare the host's reading
        pools = self._gpus.view().pools
        by_uuid = {provider_uuid(node_uuid, p.key): p for p in pools}
        ours = {name for pool in pools for name in pool.inventories}
        wants = []
        for provider, allocation in allocations.items():
            pool = by_uuid.get(provider)
            for name, count in allocation['resources'].items():
                if pool is not None:
                    wants.append(Want(pool.key, name, count))
                elif name in ours or name.startswith(OUR_CLASSES):
                    raise exception.UnknownProvider(provider, name)
        return wants

    def _gpu_release(self, context: Any, consumer: str) -> None:
        held = self._gpus.claim_of(consumer) is not None
        # In any case: it may wait for a card that has left the host.
        self._gpus.release(consumer)
        if held:
            self._gpu_push(context)

    def _guest_add_pci_devices(self, guest: Any, instance: Any) -> None:
        super()._guest_add_pci_devices(guest, instance)
        request = GpuRequest.parse(instance.flavor.extra_specs)
        hostdevs = self._gpus.hostdevs(instance.uuid, request)
        if not hostdevs:
            return
        if request.display and not any(
            isinstance(device, vconfig.LibvirtConfigGuestGraphics)
            for device in guest.devices
        ):
            LOG.warning(
                'gpu:display=on shows nothing: neither VNC nor SPICE is '
                'enabled on this host',
                instance=instance,
            )
            hostdevs = [
                dataclasses.replace(h, display=False) for h in hostdevs
            ]
        for device in xml.build(hostdevs, guest.os_mach_type or ''):
            guest.add_device(device)
        LOG.info(
            'Attached %s',
            ', '.join(str(h.function or h.mdev) for h in hostdevs),
            instance=instance,
        )

    def _guest_add_mdevs(self, guest: Any, chosen_mdevs: Any) -> None:
        """Add Nova's own mediated devices.

        When Nova makes a guest again it names all mediated devices of the
        old one. Ours are in the new one already, or gone for good.
        """
        added = {getattr(device, 'uuid', None) for device in guest.devices}
        super()._guest_add_mdevs(
            guest,
            [u for u in chosen_mdevs if u not in added and not is_ours(u)],
        )
