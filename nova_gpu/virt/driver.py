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

import collections
import contextlib
import dataclasses
import inspect
import time
from collections.abc import Callable, Collection, Iterator, Mapping
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
from nova_gpu.model.choice import could_pack
from nova_gpu.model.claim import Claim, Want
from nova_gpu.model.device import Snapshot
from nova_gpu.model.guest import GuestDevices, parse_guest
from nova_gpu.model.inventory import provider_uuid
from nova_gpu.model.numa import NONE, Nodes, is_off
from nova_gpu.model.request import GpuRequest, gpu_classes
from nova_gpu.putaside import PutAside
from nova_gpu.restore import Restorer
from nova_gpu.sysfs.tree import Tree
from nova_gpu.tracker import Tracker
from nova_gpu.virt import addresses, live, numa, owners, placement, xml

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

#: What our resource classes begin with, unless a rule names others.
OUR_CLASSES = ('CUSTOM_GPU_', 'CUSTOM_VGPU_')


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
        self._gpu_claims = ClaimsFile(CONF.gpu.claims_file)
        self._gpu_restorer = Restorer(
            read, mechanisms, effects, parsed, nova_owned, manager=manager
        )
        self._gpu_placement = placement.HostPlacement(
            virtapi, self._host, self._gpus.view
        )
        # Instances whose guest is destroyed to be made anew right after.
        self._gpu_rebuilt: set[str] = set()
        self._gpu_audited = 0.0

    def _gpu_effects(self) -> Effects:
        """What changes the host; a host that isn't real has its own."""
        return privsep

    def _gpu_tell(self, claims: Collection[Claim]) -> None:
        """Let who audits the host know what is held."""
        try:
            self._gpu_claims.write(self._host.get_node_uuid(), claims)
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
        for use in view.uses:
            LOG.info(
                'Found card %s (%s): %s',
                use.card.address,
                use.card.name,
                use.reason or f'{use.mechanism}, pool {use.pool}',
            )

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
        self._gpus.reconcile(
            known, allocated, self._gpu_guests, at_start=at_start
        )
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
        found = self._gpus.map(self._gpus.view(), len(self.list_instances()))
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
            self._gpu_make_again(instance)
        else:
            # What an attempt before left behind would be given twice.
            self._gpus.release(instance.uuid)
        with self._gpu_claim(context, instance, allocations) as allocations:
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
        self._gpu_complete(context, instance)
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
        self._gpu_release(context, instance.uuid)

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
            with self._gpu_claim(context, instance, allocations) as left:
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
                # Nova gives the old allocation back to the instance.
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
        self._gpu_complete(context, instance)
        super().finish_revert_migration(
            context, instance, network_info, migration, *args, **kwargs
        )
        self._gpus.settle(instance.uuid)

    def confirm_migration(
        self, context: Any, migration: Any, instance: Any, network_info: Any
    ) -> None:
        super().confirm_migration(context, migration, instance, network_info)
        if not self._gpus.idle:
            self._gpu_release(
                context, migration.uuid if _stays(migration) else instance.uuid
            )

    # Moves of a running guest.

    def suspend(self, context: Any, instance: Any) -> None:
        request = GpuRequest.parse(instance.flavor.extra_specs)
        units = self._gpus.units_of(instance.uuid)
        reason = live.no_suspend(units, request)
        if reason is not None:
            raise nova_exception.InstanceFaultRollback(
                nova_exception.InstanceSuspendFailure(reason=reason)
            )
        super().suspend(context, instance)

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
            left = self._gpu_take(
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
            self._gpu_release(ctxt, instance.uuid)
            raise nova_exception.MigrationPreCheckError(
                reason=exc.format_message()
            ) from exc
        except Exception:
            with excutils.save_and_reraise_exception():
                self._gpu_release(ctxt, instance.uuid)
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

    # Claim, attach, release.

    @contextlib.contextmanager
    def _gpu_claim(
        self, context: Any, instance: Any, allocations: Any
    ) -> Iterator[dict[str, Any]]:
        """Hold an instance's units while its guest is made.

        Gives the instance's allocations as they are then.
        """
        allocations = self._gpu_take(context, instance, allocations)
        try:
            self._gpu_check_all_there(instance, allocations)
            yield allocations
        except Exception:
            with excutils.save_and_reraise_exception():
                self._gpu_release(context, instance.uuid)
        self._gpus.settle(instance.uuid)

    def _gpu_complete(self, context: Any, instance: Any) -> None:
        """Let an instance hold what it is allocated, no less and no more.

        :raises nova.exception.ComputeResourcesUnavailable: it can't be
        """
        if not gpu_classes(instance.flavor.extra_specs):
            return
        self._gpu_make_again(instance)
        if self._gpu_difference(instance):
            client = self.virtapi.reportclient
            found = client.get_allocations_for_consumer(context, instance.uuid)
            with _unavailable():
                self._gpus.trim(instance.uuid, self._gpu_wants(found))
            self._gpu_take(context, instance, found)
            self._gpu_check_all_there(instance, found)

    def _gpu_difference(self, instance: Any) -> dict[str, tuple[int, int]]:
        """The classes of which an instance holds other than its flavor says.

        With the numbers that it should hold and that it holds.
        """
        request = GpuRequest.parse(instance.flavor.extra_specs)
        held = collections.Counter(
            unit.resource_class for unit in self._gpus.units_of(instance.uuid)
        )
        ours = {
            name
            for name in request.resources
            if name.startswith(OUR_CLASSES) or name in held
        }
        return {
            name: (request.resources.get(name, 0), held[name])
            for name in sorted(ours | held.keys())
            if request.resources.get(name, 0) != held[name]
        }

    def _gpu_check_all_there(self, instance: Any, allocations: Any) -> None:
        """No guest starts with fewer GPUs than its flavor says.

        :raises nova.exception.ComputeResourcesUnavailable: it would
        """
        for name, (wanted, held) in self._gpu_difference(instance).items():
            # An operator may have given the node itself such a class.
            root = allocations.get(self._host.get_node_uuid(), {})
            given = root.get('resources', {}).get(name, 0)
            if held + given < wanted:
                raise nova_exception.ComputeResourcesUnavailable(
                    reason=f'flavor {instance.flavor.name} asks for {wanted} '
                    f'{name}, and the allocation of instance '
                    f'{instance.uuid} on this host has {held + given}'
                )

    def _gpu_take(
        self,
        context: Any,
        instance: Any,
        allocations: dict[str, Any],
        topology: Any = None,
    ) -> dict[str, Any]:
        """Claim what an instance is allocated and doesn't hold yet.

        Returns the allocations as they are then: what the cards that the
        scheduler named can't give may have come from others of this host.

        :param topology: where Nova has put the guest on this host, if that
            isn't where the instance is now
        :raises nova.exception.ComputeResourcesUnavailable: Nova tries
            another host
        """
        if not gpu_classes(instance.flavor.extra_specs):
            return allocations  # all of them are Nova's
        found: dict[str, Any] = dict(allocations or {})
        try:
            request = GpuRequest.parse(instance.flavor.extra_specs)
            wants = self._gpus.missing(instance.uuid, self._gpu_wants(found))
            if not wants:
                return found
            nodes = None
            if request.numa_affinity != NONE:
                topology = topology or instance.numa_topology
                nodes = numa.nodes_of(topology, self._host)
            found = self._gpu_claim_somewhere(
                context, instance, wants, request, found, nodes
            )
        except exception.GpuError as exc:
            LOG.warning('Could not claim GPUs: %s', exc, instance=instance)
            raise nova_exception.ComputeResourcesUnavailable(
                reason=str(exc)
            ) from exc
        self._gpu_placement.push(context)
        return found

    def _gpu_make_again(self, instance: Any) -> None:
        with _unavailable():
            self._gpus.make_again(instance.uuid)

    def _gpu_claim_somewhere(
        self,
        context: Any,
        instance: Any,
        wants: list[Want],
        request: GpuRequest,
        allocations: Mapping[str, Any],
        nodes: Nodes,
    ) -> dict[str, Any]:
        """Claim where the scheduler said, or on other cards of this host.

        Placement can't say that a card takes one profile at a time, so two
        requests can meet on an empty card; nor that a card is shared with
        some and not with others. Who comes second moves, and its
        allocation with it: the host may be the last that has room. One that
        would open an empty card moves as well, if a card that holds its
        profile has room: schedulers saw both as empty. And so does one of a
        guest that isn't where the card is, to one that is near.

        :raises nova_gpu.exception.GpuError: nothing on this host will do
        """
        before = self._gpus.units_of(instance.uuid)
        others: dict[str, set[str]] | None = None
        uses = self._gpus.view().uses
        if any(
            could_pack(uses, want) or is_off(uses, want, nodes)
            for want in wants
        ):
            others = self._gpu_placement.alike(context)
        while True:
            try:
                claim = self._gpus.claim(
                    instance.uuid,
                    wants,
                    request,
                    others,
                    nodes=nodes,
                    project=instance.project_id,
                )
            except (exception.NotEnoughUnits, exception.EffectFailed):
                if others is not None:
                    raise
                others = self._gpu_placement.alike(context)
                if not any(others.get(want.pool) for want in wants):
                    raise
                continue
            try:
                units = self._gpus.units_of(instance.uuid)
                addresses.check(self._gpus.view, units, instance)
                if not claim.moves:
                    return dict(allocations)
                moved = self._gpu_placement.move(
                    context, instance, claim.moves
                )
            except Exception:
                with excutils.save_and_reraise_exception():
                    self._gpus.undo(instance.uuid, before)
            if moved is not None:
                return moved
            # Others were faster in Placement: leave them those cards.
            self._gpus.undo(instance.uuid, before)
            taken = {move.pool for move in claim.moves}
            others = {k: v - taken for k, v in (others or {}).items()}

    def _gpu_wants(self, allocations: Mapping[str, Any]) -> list[Want]:
        """The part of an allocation that is on our pools.

        Of an instance that is evacuated another host's is in it too.

        :raises UnknownProvider: a provider of ours that has no such GPU
        """
        node_uuid = self._host.get_node_uuid()
        if set(allocations) <= {node_uuid}:
            return []  # no GPU is ever on the root: spare the host's reading
        pools = self._gpus.view().pools
        by_uuid = {provider_uuid(node_uuid, p.key): p for p in pools}
        wants = []
        for provider, allocation in allocations.items():
            if provider == node_uuid:
                continue
            pool = by_uuid.get(provider)
            if pool is None and not self._gpu_placement.is_ours(provider):
                continue
            for name, count in allocation['resources'].items():
                if pool is None:
                    raise exception.UnknownProvider(provider, name)
                wants.append(Want(pool.key, name, count))
        return wants

    def _gpu_release(self, context: Any, consumer: str) -> None:
        held = self._gpus.claim_of(consumer) is not None
        # In any case: it may wait for a card that has left the host.
        self._gpus.release(consumer)
        if held:
            self._gpu_placement.push(context)

    def _guest_add_pci_devices(self, guest: Any, instance: Any) -> None:
        super()._guest_add_pci_devices(guest, instance)
        request = GpuRequest.parse(instance.flavor.extra_specs)
        hostdevs = self._gpus.hostdevs(instance.uuid, request)
        kept = self._gpus.kept_for(instance.uuid)
        if not hostdevs:
            if kept:
                guest.metadata.append(xml.Metadata((), kept))
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
        units = self._gpus.units_of(instance.uuid)
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


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    """Tell Nova that this host can't give what an instance needs."""
    try:
        yield
    except exception.GpuError as exc:
        raise nova_exception.ComputeResourcesUnavailable(
            reason=str(exc)
        ) from exc


def _stays(migration: Any) -> bool:
    """Whether a move ends on the host where it began."""
    same: bool = migration.source_compute == migration.dest_compute
    return same
