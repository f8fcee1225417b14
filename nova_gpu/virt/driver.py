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

import dataclasses
import inspect
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import nova.conf
from nova import exception as nova_exception
from nova.compute import task_states
from nova.virt.libvirt import config as vconfig
from nova.virt.libvirt import driver as libvirt_driver
from oslo_log import log as logging
from oslo_utils import excutils

from nova_gpu import conf, exception, mechanism, privsep, rules
from nova_gpu.claimsfile import ClaimsFile
from nova_gpu.fabric import FabricManager
from nova_gpu.host import read_snapshot
from nova_gpu.linksfile import LinksFile
from nova_gpu.mechanism.base import Effects
from nova_gpu.mechanism.mdev import is_ours
from nova_gpu.model import hostmap
from nova_gpu.model.claim import Claim, View
from nova_gpu.model.device import Snapshot
from nova_gpu.model.guest import GuestDevices, parse_guest
from nova_gpu.model.inventory import provider_uuid
from nova_gpu.model.request import GpuRequest
from nova_gpu.putaside import PutAside
from nova_gpu.restore import Restorer
from nova_gpu.sysfs.tree import Tree
from nova_gpu.tracker import Tracker
from nova_gpu.virt import addresses, live, numa, owners, placement, xml
from nova_gpu.virt.claims import InstanceClaims

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


def _as_novas(method: Callable[..., Any]) -> Callable[..., Any]:
    """Give an override the signature that Nova's own method has.

    What it passes on as it is differs between Nova's releases; who looks at
    the signature, as autospec does, gets that of the release which runs.
    """
    novas = getattr(libvirt_driver.LibvirtDriver, method.__name__)
    method.__signature__ = inspect.signature(novas)  # type: ignore[attr-defined]
    return method


class GpuLibvirtDriver(libvirt_driver.LibvirtDriver):
    """LibvirtDriver that finds, reports, claims and attaches GPUs."""

    def __init__(self, virtapi: Any, read_only: bool = False) -> None:
        conf.register_opts(CONF)
        super().__init__(virtapi, read_only)
        root = CONF.gpu.host_root
        mechanisms = mechanism.load()
        try:
            parsed = rules.parse_rules(
                CONF.gpu.rule, [m.name for m in mechanisms]
            )
        except exception.InvalidRule as exc:
            raise nova_exception.InvalidConfiguration(str(exc)) from exc

        effects = self._gpu_effects()
        manager = FabricManager(effects, bool(CONF.gpu.fabric_manager))
        links = LinksFile(CONF.gpu.links_file)

        def read() -> Snapshot:
            return manager.complete(read_snapshot(Tree(root), links))

        nova_owned = owners.NovaOwned(
            CONF.pci.device_spec,
            self.pgpu_type_mapping,
            self.pgpu_type_default is not None,
        )
        self._gpus = Tracker(
            read=read,
            mechanisms=mechanisms,
            effects=effects,
            aside=PutAside(CONF.gpu.put_aside_dir),
            rules=parsed,
            owned=nova_owned,
            changed=self._gpu_tell,
            manager=manager,
        )
        self._gpu_claims_file = ClaimsFile(CONF.gpu.claims_file)
        self._gpu_restorer = Restorer(
            read, mechanisms, effects, parsed, nova_owned, manager=manager
        )
        self._gpu_placement = placement.HostPlacement(
            virtapi, self._host, self._gpus.view
        )
        self._gpu_claims = InstanceClaims(
            self._gpus, self._host, self._gpu_placement
        )
        # Instances whose guest is destroyed to be made anew right after.
        self._gpu_rebuilt: set[str] = set()
        self._gpu_audited = 0.0
        self._gpu_reported: dict[str, str] = {}

    def _gpu_effects(self) -> Effects:
        """What changes the host; a host that isn't real has its own."""
        return privsep

    def _gpu_tell(self, claims: Collection[Claim]) -> None:
        """Let who audits the host know what is held."""
        try:
            self._gpu_claims_file.write(self._host.get_node_uuid(), claims)
        except OSError as exc:
            LOG.warning('nova-gpu audit will not know what is held: %s', exc)

    # Start.

    def init_host(self, host: str) -> None:
        super().init_host(host)
        guests = self._gpu_guests()
        self._gpu_restorer.restore(guests, CONF.gpu.restore_timeout)
        self._gpus.rebuild(guests)
        self._gpu_reconcile(at_start=True)
        view = self._gpus.view()
        conflicts = owners.conflicts(view.uses)
        if conflicts:
            raise nova_exception.InvalidConfiguration('; '.join(conflicts))
        self._gpus.report_rules(view)
        self._gpu_report(view)

    def _gpu_report(self, view: View) -> None:
        """Log what each card is used for, and later what has changed."""
        found = {}
        for use in view.uses:
            address = str(use.card.address)
            text = use.reason or f'{use.mechanism}, pool {use.pool}'
            if self._gpu_reported.get(address) != text:
                LOG.info(
                    'Found card %s (%s): %s', address, use.card.name, text
                )
            found[address] = text
        for address in sorted(self._gpu_reported.keys() - found.keys()):
            LOG.warning('Card %s is gone', address)
        self._gpu_reported = found

    def _gpu_guests(self) -> list[GuestDevices]:
        libvirt = libvirt_driver.libvirt
        guests = []
        for guest in self._host.list_guests(only_running=False):
            try:
                text = guest.get_xml_desc()
            except libvirt.libvirtError as exc:
                if exc.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                    raise
                continue  # it has gone since it was listed
            guests.append(parse_guest(text, guest.name))
        return guests

    def _gpu_reconcile(self, *, at_start: bool = False) -> None:
        """Compare what guests hold with Placement, and mend what is safe."""
        self._gpu_audited = time.monotonic()
        known = self._gpus.consumers()
        allocated = self._gpu_placement.allocated() if known else {}
        guests: list[GuestDevices] = []

        def read() -> Collection[GuestDevices]:
            guests.extend(self._gpu_guests())
            return guests

        self._gpus.reconcile(known, allocated, read, at_start=at_start)
        for guest in guests:
            if not all(self._gpus.knows(mover) for mover, _ in guest.kept):
                self._gpu_forget_moves(guest)
        self._gpu_tell(self._gpus.view().claims)

    def _is_existing_mdev(self, uuid: str) -> bool:
        # What Nova 29 doesn't find after a boot of the host it looks up in
        # libvirt, which doesn't know it either, and doesn't start. Ours are
        # made again when Nova's are there.
        return is_ours(uuid) or super()._is_existing_mdev(uuid)

    # What the host has.

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        data: dict[str, Any] = super().get_available_resource(nodename)
        interval = CONF.gpu.audit_interval
        if 0 <= interval <= time.monotonic() - self._gpu_audited:
            libvirt = libvirt_driver.libvirt
            try:
                self._gpu_reconcile()
            except libvirt.libvirtError as exc:
                LOG.warning('Could not compare the GPUs with guests: %s', exc)
        stats = data.setdefault('stats', {})
        view = self._gpus.view()
        self._gpu_report(view)
        found = self._gpus.map(view, len(self.list_instances()))
        stats[hostmap.STATS_KEY] = found.dump()
        if found.pools:
            data['numa_topology'] = numa.report(data['numa_topology'])
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
        self._gpu_placement.update(provider_tree, nodename)

    # A guest's life.

    @_as_novas
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
        if instance.uuid in self._gpu_rebuilt:
            self._gpu_rebuilt.discard(instance.uuid)
            found = self._gpu_claims.complete(context, instance)
            allocations = allocations if found is None else found
        else:
            # What an attempt before left behind would be given twice.
            self._gpus.release(instance.uuid)
        with self._gpu_claims.claim(
            context, instance, allocations
        ) as allocations:
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

    @_as_novas
    def rebuild(self, *args: Any, **kwargs: Any) -> None:
        """Note that a guest is made anew; Nova's own steps do the rest.

        It keeps its units: once they are free another profile could take
        the card, and the rebuild would find no room.
        """
        if not kwargs['evacuate']:
            self._gpu_rebuilt.add(kwargs['instance'].uuid)
        raise NotImplementedError()

    @_as_novas
    def _hard_reboot(
        self, context: Any, instance: Any, *args: Any, **kwargs: Any
    ) -> None:
        # Nova destroys the guest and makes it again: its units stay, also
        # if that fails, since the allocation does. What is missing is made
        # again, as it was if the guest had it, or claimed anew.
        self._gpu_claims.complete(context, instance)
        with self._gpus.keeping(instance.uuid):
            super()._hard_reboot(context, instance, *args, **kwargs)
        self._gpus.settle(instance.uuid)

    @_as_novas
    def cleanup(
        self, context: Any, instance: Any, *args: Any, **kwargs: Any
    ) -> None:
        super().cleanup(context, instance, *args, **kwargs)
        if (
            instance.uuid in self._gpu_rebuilt
            and instance.task_state == task_states.REBUILDING
        ):
            return
        self._gpu_rebuilt.discard(instance.uuid)
        self._gpu_claims.release(context, instance.uuid)

    # Moves. The migration's record holds the old allocation in Placement,
    # so its UUID is the consumer of the old units here as well. While nobody
    # holds a unit, nothing is read of it: Nova's own methods don't either.

    @_as_novas
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
        if self._gpus.idle:
            pass
        elif _stays(migration):
            self._gpus.hand_over(instance.uuid, migration.uuid)
        else:
            # What an attempt before left behind would be given twice.
            self._gpus.release(instance.uuid)
        try:
            with self._gpu_claims.claim(
                context, instance, allocations
            ) as left:
                super().finish_migration(
                    context,
                    migration,
                    instance,
                    disk_info,
                    network_info,
                    image_meta,
                    resize_instance,
                    left,
                    *args,
                    **kwargs,
                )
        except Exception:
            with excutils.save_and_reraise_exception():
                # The instance has its old flavor again. Nova leaves it the
                # new allocation, until its guest is made.
                if not self._gpus.idle:
                    self._gpus.hand_over(migration.uuid, instance.uuid)

    @_as_novas
    def finish_revert_migration(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        migration: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if not self._gpus.idle:
            self._gpus.hand_over(migration.uuid, instance.uuid)
        self._gpu_claims.complete(context, instance)
        super().finish_revert_migration(
            context, instance, network_info, migration, *args, **kwargs
        )
        self._gpus.settle(instance.uuid)

    def confirm_migration(
        self, context: Any, migration: Any, instance: Any, network_info: Any
    ) -> None:
        super().confirm_migration(context, migration, instance, network_info)
        if self._gpus.idle:
            return
        if not _stays(migration):
            self._gpu_claims.release(context, instance.uuid)
        elif self._gpus.claim_of(migration.uuid) is not None:
            self._gpu_claims.release(context, migration.uuid)
            self._gpu_forget_moves(instance)

    def _gpu_forget_moves(self, server: Any) -> None:
        """Take out of a guest's metadata what moves that are over kept.

        :param server: an instance, or anything else with its UUID
        """
        libvirt = libvirt_driver.libvirt
        try:
            guest = self._host.get_guest(server)
            found = parse_guest(guest.get_xml_desc(), guest.name)
            kept = {c: u for c, u in found.kept if self._gpus.knows(c)}
            if len(kept) == len(found.kept):
                return
            flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
            if guest.is_active():
                flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
            kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
            xml.record(guest._domain, kind, found.units, kept, flags)
        except (
            nova_exception.InstanceNotFound,
            nova_exception.InternalError,
            libvirt.libvirtError,
        ) as exc:
            LOG.warning(
                'The guest of instance %s goes on recording what it had '
                'before a resize, until the next comparison: %s',
                server.uuid,
                exc,
            )

    # Moves of a running guest.

    def suspend(self, context: Any, instance: Any) -> None:
        units = self._gpus.units_of(instance.uuid)
        if units:
            request = GpuRequest.parse(instance.flavor.extra_specs)
            reason = live.no_suspend(units, request)
            if reason is not None:
                raise nova_exception.InstanceFaultRollback(
                    nova_exception.InstanceSuspendFailure(reason=reason)
                )
        super().suspend(context, instance)

    def _resume_guest_after_snapshot(
        self,
        context: Any,
        live_snapshot: bool,
        original_power_state: int,
        instance: Any,
        guest: Any,
    ) -> None:
        super()._resume_guest_after_snapshot(
            context, live_snapshot, original_power_state, instance, guest
        )
        # Nova has taken mediated devices out to save the guest, and puts
        # only those in again that are PCI devices.
        units = self._gpus.units_of(instance.uuid)
        if not units:
            return
        there = parse_guest(guest.get_xml_desc(), guest.name).mdevs
        request = GpuRequest.parse(instance.flavor.extra_specs)
        lacking = [
            hostdev
            for hostdev in self._gpus.hostdevs(instance.uuid, request)
            if hostdev.mdev is not None and hostdev.mdev not in there
        ]
        self._attach_mediated_devices(guest, xml.build(lacking, ''))

    @_as_novas
    def check_can_live_migrate_source(
        self,
        context: Any,
        instance: Any,
        dest_check_data: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        units = self._gpus.units_of(instance.uuid)
        live.check(units, self._host, instance)
        data = super().check_can_live_migrate_source(
            context, instance, dest_check_data, *args, **kwargs
        )
        live.announce(data, units)
        return data

    def check_source_migrate_data_at_dest(
        self,
        ctxt: Any,
        instance: Any,
        migrate_data: Any,
        migration: Any,
        limits: Any,
        allocs: Any,
    ) -> Any:
        units = live.take_announced(migrate_data)
        live.check(units, self._host, instance)
        # An attempt that was given up may have left its units.
        self._gpus.release(instance.uuid)
        try:
            left = self._gpu_claims.take(
                ctxt, instance, allocs, numa.claimed_by_move(instance)
            )
            pairs = live.match(units, self._gpus.units_of(instance.uuid))
            data = super().check_source_migrate_data_at_dest(
                ctxt,
                instance,
                migrate_data,
                migration,
                limits,
                left,
            )
        except nova_exception.ComputeResourcesUnavailable as exc:
            self._gpu_claims.release(ctxt, instance.uuid)
            raise nova_exception.MigrationPreCheckError(
                reason=exc.format_message()
            ) from exc
        except Exception:
            with excutils.save_and_reraise_exception():
                self._gpu_claims.release(ctxt, instance.uuid)
        live.answer(data, pairs)
        return data

    def _live_migration_operation(
        self,
        context: Any,
        instance: Any,
        dest: Any,
        block_migration: Any,
        migrate_data: Any,
        guest: Any,
        device_names: Any,
    ) -> None:
        super()._live_migration_operation(
            context,
            instance,
            dest,
            block_migration,
            migrate_data,
            live.moving(
                guest, self._gpus.units_of(instance.uuid), migrate_data
            ),
            device_names,
        )

    @_as_novas
    def post_live_migration_at_destination(
        self, context: Any, instance: Any, *args: Any, **kwargs: Any
    ) -> None:
        super().post_live_migration_at_destination(
            context, instance, *args, **kwargs
        )
        self._gpus.settle(instance.uuid)

    # Attach.

    def _guest_add_pci_devices(self, guest: Any, instance: Any) -> None:
        super()._guest_add_pci_devices(guest, instance)
        units = self._gpus.units_of(instance.uuid)
        kept = self._gpus.kept_for(instance.uuid)
        if not units:
            # Whatever its flavor says of GPUs.
            if kept:
                guest.metadata.append(xml.Metadata((), kept))
            return
        request = GpuRequest.parse(instance.flavor.extra_specs)
        hostdevs = self._gpus.hostdevs(instance.uuid, request)
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
        guest.metadata.append(xml.Metadata(units, kept))
        addresses.widen(
            guest,
            self._gpus.view,
            units,
            instance,
            bool(self.capabilities.get('supports_address_space_emulated')),
        )
        LOG.info(
            'Attached %s',
            ', '.join(str(h.function or h.mdev) for h in hostdevs),
            instance=instance,
        )

    def _allocate_mdevs(self, allocations: Any) -> Any:
        # Nova makes one for any class that it has, on whichever provider.
        pools = self._gpus.view().pools if allocations else ()
        if pools:
            node_uuid = self._host.get_node_uuid()
            ours = {provider_uuid(node_uuid, pool.key) for pool in pools}
            allocations = {
                provider: allocation
                for provider, allocation in allocations.items()
                if provider not in ours
            }
        return super()._allocate_mdevs(allocations)

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


def _stays(migration: Any) -> bool:
    """Whether a move ends on the host where it began."""
    same: bool = migration.source_compute == migration.dest_compute
    return same
