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

"""What an instance holds is what it is allocated in Placement.

The tracker knows units and pools; here the two are brought together for
instances of Nova, and errors become Nova's.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from keystoneauth1 import exceptions as ksa_exceptions
from nova import exception as nova_exception
from nova.compute import vm_states
from oslo_log import log as logging
from oslo_utils import excutils

from nova_gpu import exception
from nova_gpu.model.allotment import allot
from nova_gpu.model.choice import could_pack
from nova_gpu.model.claim import Want, count
from nova_gpu.model.inventory import provider_uuid
from nova_gpu.model.numa import NONE, Nodes, is_off
from nova_gpu.model.request import GpuRequest, gpu_classes
from nova_gpu.tracker import Tracker
from nova_gpu.virt import addresses, numa
from nova_gpu.virt.placement import HostPlacement

LOG = logging.getLogger(__name__)

#: What our resource classes begin with, unless a rule names others.
OUR_CLASSES = ('CUSTOM_GPU_', 'CUSTOM_VGPU_')
#: What Nova's client raises where Placement doesn't answer.
PLACEMENT_AWAY = (
    ksa_exceptions.ClientException,
    nova_exception.ConsumerAllocationRetrievalFailed,
    nova_exception.PlacementAPIConnectFailure,
)


class InstanceClaims:
    """Claims and releases for instances.

    :param host: a :class:`nova.virt.libvirt.host.Host`
    """

    def __init__(
        self, tracker: Tracker, host: Any, host_placement: HostPlacement
    ) -> None:
        self._gpus = tracker
        self._host = host
        self._placement = host_placement

    @contextlib.contextmanager
    def claim(
        self, context: Any, instance: Any, allocations: Any
    ) -> Iterator[dict[str, Any]]:
        """Hold an instance's units while its guest is made.

        Gives the instance's allocations as they are then.
        """
        allocations = self.take(context, instance, allocations)
        try:
            self._check_all_there(instance, allocations)
            yield allocations
        except Exception:
            with excutils.save_and_reraise_exception():
                self.release(context, instance.uuid)
        self._gpus.settle(instance.uuid)

    def complete(self, context: Any, instance: Any) -> dict[str, Any] | None:
        """Let an instance hold what its flavor says, no less and no more.

        And be allocated the same. Returns the allocations, or None if there
        was no reason to ask for them.

        :raises nova.exception.ComputeResourcesUnavailable: it can't be
        """
        if gpu_classes(instance.flavor.extra_specs):
            with _unavailable(instance):
                GpuRequest.parse(instance.flavor.extra_specs)
            self.make_again(instance)
        if not self._is_doubtful(instance):
            return None
        try:
            found = self._agree(context, instance)
        except PLACEMENT_AWAY as exc:
            if self._difference(instance):
                raise nova_exception.ComputeResourcesUnavailable(
                    reason=f'Placement does not answer: {exc}'
                ) from exc
            LOG.warning(
                'Could not compare the GPUs with their allocation: %s',
                exc,
                instance=instance,
            )
            return None
        found = self.take(context, instance, found)
        self._check_all_there(instance, found)
        return found

    def _is_doubtful(self, instance: Any) -> bool:
        """Whether the allocation may not be what the flavor says.

        Nova leaves an instance in error with another flavor's if a resize
        has failed, and without one if a rebuild has.
        """
        claim = self._gpus.claim_of(instance.uuid)
        return bool(
            (claim is not None and claim.uncounted)
            or self._difference(instance)
            or (
                self._placement.has_gpus
                and instance.vm_state == vm_states.ERROR
            )
        )

    def _agree(self, context: Any, instance: Any) -> dict[str, Any]:
        """Let an instance be allocated what its flavor says.

        Returns the allocations as they are then. What it holds beyond the
        flavor is given back.
        """
        uuid = instance.uuid
        found = self._placement.allocations(context, uuid)
        given = self._placement.given_by_others(found)
        held = self._gpus.units_of(uuid)
        asked = _asked(instance)
        wanted = collections.Counter(
            {name: asked.get(name, 0) for name in self._ours(instance)}
        )
        wanted -= given
        with _unavailable(instance):
            self._gpus.trim(
                uuid,
                [
                    Want(pool, name, number)
                    for (pool, name), number in allot(
                        wanted, count(held)
                    ).items()
                ],
            )
            self._gpus.count_again(uuid)
            self._placement.push(context)
            return self._placement.allot(
                context, instance, wanted, self._gpus.units_of(uuid)
            )

    def make_again(self, instance: Any) -> None:
        """Make again what has gone of an instance's units, as it was.

        :raises nova.exception.ComputeResourcesUnavailable: it can't be
        """
        with _unavailable(instance):
            self._gpus.make_again(instance.uuid)

    def release(self, context: Any, consumer: str) -> None:
        """Take back all that a consumer holds; it may be none."""
        held = self._gpus.claim_of(consumer) is not None
        # In any case: it may wait for a card that has left the host.
        self._gpus.release(consumer)
        if held:
            self._placement.push(context)

    def take(
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
        with _unavailable(instance):
            request = GpuRequest.parse(instance.flavor.extra_specs)
            wants = self._gpus.missing(instance.uuid, self._wants(found))
            if not wants:
                return found
            nodes = None
            if request.numa_affinity != NONE:
                topology = topology or instance.numa_topology
                nodes = numa.nodes_of(topology, self._host)
            found = self._claim_somewhere(
                context, instance, wants, request, found, nodes
            )
        self._placement.push(context)
        return found

    def _claim_somewhere(
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
            others = self._placement.alike(context)
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
                others = self._placement.alike(context)
                if not any(others.get(want.pool) for want in wants):
                    raise
                continue
            try:
                units = self._gpus.units_of(instance.uuid)
                addresses.check(self._gpus.view, units, instance)
                if not claim.moves:
                    return dict(allocations)
                moved = self._placement.move(context, instance, claim.moves)
            except Exception:
                with excutils.save_and_reraise_exception():
                    self._gpus.undo(instance.uuid, before)
            if moved is not None:
                return moved
            # Others were faster in Placement: leave them those cards.
            self._gpus.undo(instance.uuid, before)
            taken = {move.pool for move in claim.moves}
            others = {k: v - taken for k, v in (others or {}).items()}

    def _wants(self, allocations: Mapping[str, Any]) -> list[Want]:
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
            if pool is None and not self._placement.is_ours(provider):
                continue
            for name, number in allocation['resources'].items():
                if pool is None:
                    raise exception.UnknownProvider(provider, name)
                wants.append(Want(pool.key, name, number))
        return wants

    def _difference(self, instance: Any) -> dict[str, tuple[int, int]]:
        """The classes of which an instance holds other than its flavor says.

        With the numbers that it should hold and that it holds.
        """
        asked = _asked(instance)
        held = collections.Counter(
            unit.resource_class for unit in self._gpus.units_of(instance.uuid)
        )
        return {
            name: (asked.get(name, 0), held[name])
            for name in sorted(self._ours(instance) | held.keys())
            if asked.get(name, 0) != held[name]
        }

    def _ours(self, instance: Any) -> set[str]:
        """The classes of an instance's flavor that we may be to give."""
        held = {u.resource_class for u in self._gpus.units_of(instance.uuid)}
        return {
            name
            for name in gpu_classes(instance.flavor.extra_specs)
            if name.startswith(OUR_CLASSES)
            or name in held
            or name in self._gpus.ruled_classes
        }

    def _check_all_there(self, instance: Any, allocations: Any) -> None:
        """No guest starts with fewer GPUs than its flavor says.

        :raises nova.exception.ComputeResourcesUnavailable: it would
        """
        difference = self._difference(instance)
        if not difference:
            return
        given = self._placement.given_by_others(allocations)
        for name, (wanted, held) in difference.items():
            if held + given[name] < wanted:
                raise nova_exception.ComputeResourcesUnavailable(
                    reason=f'flavor {instance.flavor.name} asks for {wanted} '
                    f'{name}, and the allocation of instance '
                    f'{instance.uuid} on this host has {held + given[name]}'
                )


def _asked(instance: Any) -> Mapping[str, int]:
    """The resources that a flavor with GPUs asks for.

    Of others not even the ``gpu:`` keys are looked at, which may be wrong.
    """
    extra_specs = instance.flavor.extra_specs
    if not gpu_classes(extra_specs):
        return {}
    return GpuRequest.parse(extra_specs).resources


@contextlib.contextmanager
def _unavailable(instance: Any) -> Iterator[None]:
    """Tell Nova that this host can't give what an instance needs.

    And the log: of a reboot that fails while the guest runs Nova tells nobody
    the reason.
    """
    try:
        yield
    except exception.GpuError as exc:
        LOG.warning('Could not claim GPUs: %s', exc, instance=instance)
        raise nova_exception.ComputeResourcesUnavailable(
            reason=str(exc)
        ) from exc
