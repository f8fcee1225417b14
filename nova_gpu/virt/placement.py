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


"""What Placement is told, and asked, of a host's GPUs outside of Nova's turn.

Nova's resource tracker updates Placement once a minute, and after a claim
before the guest is made. What making a guest changes has to be there at once.
"""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

from nova import context as nova_context
from nova import exception as nova_exception
from nova.compute import resource_tracker
from nova.scheduler import utils
from oslo_concurrency import lockutils
from oslo_log import log as logging

from nova_gpu import exception
from nova_gpu.model.allotment import allot, free
from nova_gpu.model.audit import Allocated
from nova_gpu.model.claim import Counts, Move, View, count
from nova_gpu.model.inventory import (
    Pool,
    Unit,
    provider_prefix,
    provider_uuid,
)
from nova_gpu.virt import owners, providers

LOG = logging.getLogger(__name__)

#: How often a push is tried: each allocation in between raises the provider's
#: generation and makes one attempt fail.
PUSH_ATTEMPTS = 5
#: How often a move is tried that meets another change of the allocation.
MOVE_ATTEMPTS = 3


class HostPlacement:
    """The resource providers of one host's GPUs.

    :param virtapi: the driver's, which has the report client
    :param host: a :class:`nova.virt.libvirt.host.Host`
    :param look: looks at the GPUs as they are now
    """

    def __init__(
        self, virtapi: Any, host: Any, look: Callable[[], View]
    ) -> None:
        self._virtapi = virtapi
        self._host = host
        self._look = look
        # The pools as Placement was last told of them.
        self._told: tuple[Pool, ...] = ()

    @property
    def has_gpus(self) -> bool:
        """Whether Placement knows of any GPU of this host."""
        return bool(self._told)

    def update(self, tree: Any, nodename: str) -> None:
        """Put the GPUs into a provider tree, which the caller sends."""

        def in_use(uuid: str) -> bool:
            client = self._virtapi.reportclient
            found = client.get_allocations_for_resource_provider(
                nova_context.get_admin_context(), uuid
            )
            return bool(found.allocations)

        view = self._look()
        left = owners.left_by_nova(view.uses, nodename)
        providers.update(tree, nodename, view.pools, in_use, left)
        self._told = view.pools

    def push(self, context: Any) -> None:
        """Tell Placement now what a claim or a release has changed.

        The periodic task would do it within a minute, but until then
        Placement would promise what is no longer there.
        """
        pools = self._look().pools
        if pools == self._told:
            return
        for _ in range(PUSH_ATTEMPTS):
            try:
                self._push_once(context, pools)
            except nova_exception.ResourceProviderUpdateConflict:
                LOG.debug('Placement changed meanwhile: pushing again')
            except Exception:
                # Not worth a server: the periodic update will do it.
                LOG.exception('Could not tell Placement of changed GPUs')
                break
            else:
                return
        self._told = ()
        LOG.warning(
            "The periodic update has to tell Placement of the changed GPUs "
            "of %s",
            self._host.get_hostname(),
        )

    def _push_once(self, context: Any, pools: Iterable[Pool]) -> None:
        # The report client's tree is the resource tracker's as well, and
        # not safe between threads: this is the tracker's own lock.
        with lockutils.lock(
            resource_tracker.COMPUTE_RESOURCE_SEMAPHORE, fair=True
        ):
            self._refresh(context, pools)
            tree = self._tree(context)
            self.update(tree, self._host.get_hostname())
            self._virtapi.reportclient.update_from_provider_tree(context, tree)

    def _refresh(self, context: Any, pools: Iterable[Pool]) -> None:
        """Read anew what Placement has of the pools that have changed.

        The allocation that changed them has raised the generations of their
        providers. Nova's client would send those that it knows, log an error
        when they are refused, and read the whole tree.
        """
        known = self._tree(context)
        node_uuid = self._host.get_node_uuid()
        for pool in pools:
            uuid = provider_uuid(node_uuid, pool.key)
            if pool not in self._told and known.exists(uuid):
                self._virtapi.reportclient._refresh_and_get_inventory(
                    context, uuid
                )

    def _tree(self, context: Any) -> Any:
        return self._virtapi.reportclient.get_provider_tree_and_ensure_root(
            context, self._host.get_node_uuid(), name=self._host.get_hostname()
        )

    def is_ours(self, provider: str) -> bool:
        """Whether a provider is one of this host's GPUs, there or gone."""
        return self._of_this_host([provider]).get(provider, False)

    def _of_this_host(self, providers: Iterable[str]) -> dict[str, bool]:
        """Those of the providers that this host has, and whether ours."""
        prefix = provider_prefix(self._host.get_hostname())
        with lockutils.lock(
            resource_tracker.COMPUTE_RESOURCE_SEMAPHORE, fair=True
        ):
            tree = self._tree(nova_context.get_admin_context())
            return {
                provider: tree.data(provider).name.startswith(prefix)
                for provider in providers
                if tree.exists(provider)
            }

    def allocations(self, context: Any, consumer: str) -> dict[str, Any]:
        """What a consumer is allocated, by provider.

        :raises nova.exception.ConsumerAllocationRetrievalFailed: Placement
            doesn't say; or keystoneauth's ClientException: it is away
        """
        client = self._virtapi.reportclient
        record = client.get_allocs_for_consumer(context, consumer)
        found: dict[str, Any] = record['allocations']
        return found

    def given_by_others(
        self, allocations: Mapping[str, Any]
    ) -> collections.Counter[str]:
        """What an allocation has of this host, but not of our GPUs.

        By resource class: some Nova hands out itself, and an operator may
        have given the node itself such a class.
        """
        given: collections.Counter[str] = collections.Counter()
        for provider, is_ours in self._of_this_host(allocations).items():
            if not is_ours:
                given.update(allocations[provider]['resources'])
        return given

    def allot(
        self,
        context: Any,
        instance: Any,
        wanted: Mapping[str, int],
        held: Iterable[Unit],
    ) -> dict[str, Any]:
        """Let an instance be allocated what is ``wanted`` of our GPUs.

        No more and no less: what it holds, then what it is allocated, and
        for the rest what is free. Returns the allocations as they are then.

        :param wanted: numbers of units by resource class
        :raises NoRoom: there is less on this host; nothing has changed
        """
        client = self._virtapi.reportclient
        specs = instance.flavor.extra_specs
        mine = count(held)
        for _ in range(MOVE_ATTEMPTS):
            record = client.get_allocs_for_consumer(context, instance.uuid)
            before: dict[str, Any] = copy.deepcopy(record['allocations'])
            view = self._look()
            now, gone = self._taken_out(record['allocations'], view.pools)
            then = allot(wanted, mine, mine | now, mine + free(view, specs))
            if then == now and not gone:
                return before
            for name, number in wanted.items():
                found = sum(n for key, n in then.items() if key[1] == name)
                if found < number:
                    raise exception.NoRoom(name, number, found)
            self._put_in(record['allocations'], then, instance, wanted)
            record.setdefault('consumer_generation', None)
            record.setdefault('project_id', instance.project_id)
            record.setdefault('user_id', instance.user_id)
            try:
                if not client.put_allocations(context, instance.uuid, record):
                    break
            except nova_exception.AllocationUpdateFailed:
                continue
            LOG.warning(
                'Allocated %s, as the flavor says; it was %s',
                _described(then),
                _described(now),
                instance=instance,
            )
            allocations: dict[str, Any] = record['allocations']
            return allocations
        raise exception.AllocationRefused(_described(then))

    def _taken_out(
        self, allocations: dict[str, Any], pools: Iterable[Pool]
    ) -> tuple[Counts, bool]:
        """Take our GPUs out of an allocation.

        Returns what there was, and whether of pools that have gone as well.
        """
        node_uuid = self._host.get_node_uuid()
        keys = {provider_uuid(node_uuid, pool.key): pool.key for pool in pools}
        known = self._of_this_host(allocations)
        taken = Counts()
        gone = False
        for provider in tuple(allocations):
            if provider in keys:
                resources = allocations.pop(provider)['resources']
                for name, number in resources.items():
                    taken[keys[provider], name] += number
            elif known.get(provider):
                del allocations[provider]
                gone = True
        return taken, gone

    def _put_in(
        self,
        allocations: dict[str, Any],
        counts: Counts,
        instance: Any,
        wanted: Container[str],
    ) -> None:
        """Add units of our GPUs to an allocation.

        And what else the flavor asks for, if there is nothing of this node:
        as ``nova-manage placement heal_allocations`` does it, which knows
        nothing of providers below the node.
        """
        node_uuid = self._host.get_node_uuid()
        for (pool, name), number in counts.items():
            provider = provider_uuid(node_uuid, pool)
            given = allocations.setdefault(provider, {'resources': {}})
            given['resources'][name] = number
        if node_uuid not in allocations:
            asked = utils.resources_from_flavor(instance, instance.flavor)
            rest = {k: n for k, n in asked.items() if n and k not in wanted}
            if rest:
                allocations[node_uuid] = {'resources': rest}

    def allocated(self) -> Allocated | None:
        """What Placement has allocated of the pools; None if it is away."""
        context = nova_context.get_admin_context()
        node_uuid = self._host.get_node_uuid()
        client = self._virtapi.reportclient
        found: dict[str, dict[tuple[str, str], int]] = {}
        try:
            known = self._known(context)
            for pool in self._look().pools:
                uuid = provider_uuid(node_uuid, pool.key)
                if uuid not in known:
                    continue  # this host is new to Placement
                info = client.get_allocations_for_resource_provider(
                    context, uuid
                )
                for consumer, record in info.allocations.items():
                    counts = found.setdefault(consumer, {})
                    for name, count in record['resources'].items():
                        counts[pool.key, name] = count
        except Exception as exc:
            # Whatever it is: the next time will do.
            LOG.warning('Could not compare the GPUs with Placement: %s', exc)
            return None
        return found

    def _known(self, context: Any) -> set[str]:
        with lockutils.lock(
            resource_tracker.COMPUTE_RESOURCE_SEMAPHORE, fair=True
        ):
            return set(self._tree(context).get_provider_uuids())

    def alike(self, context: Any) -> dict[str, set[str]]:
        """For each pool the others that suit the same requests."""
        with lockutils.lock(
            resource_tracker.COMPUTE_RESOURCE_SEMAPHORE, fair=True
        ):
            tree = self._tree(context)
        return providers.alike(
            tree, self._host.get_hostname(), self._look().pools
        )

    def move(
        self, context: Any, instance: Any, moves: Iterable[Move]
    ) -> dict[str, Any] | None:
        """Let an instance's allocation follow its units to other pools.

        Returns the instance's allocations as they are then, or None if
        Placement doesn't have the room: nothing has changed in that case.

        :raises UnknownProvider: the allocation isn't there any more
        """
        moves = tuple(moves)
        client = self._virtapi.reportclient
        for _ in range(MOVE_ATTEMPTS):
            record = client.get_allocs_for_consumer(context, instance.uuid)
            for move in moves:
                self._apply(record['allocations'], move)
            try:
                if not client.put_allocations(context, instance.uuid, record):
                    return None
            except nova_exception.AllocationUpdateFailed:
                continue
            for move in moves:
                LOG.info(
                    'Moved the allocation of %d %s from pool %s to pool %s',
                    move.want.count,
                    move.want.resource_class,
                    move.want.pool,
                    move.pool,
                    instance=instance,
                )
            allocations: dict[str, Any] = record['allocations']
            return allocations
        return None

    def _apply(self, allocations: dict[str, Any], move: Move) -> None:
        node_uuid = self._host.get_node_uuid()
        source = provider_uuid(node_uuid, move.want.pool)
        target = provider_uuid(node_uuid, move.pool)
        name, number = move.want.resource_class, move.want.count
        resources = allocations.get(source, {}).get('resources', {})
        if resources.get(name, 0) < number:
            raise exception.UnknownProvider(source, name)
        resources[name] -= number
        if not resources[name]:
            del resources[name]
        if not resources:
            del allocations[source]
        given = allocations.setdefault(target, {'resources': {}})['resources']
        given[name] = given.get(name, 0) + number


def _described(counts: Counts) -> str:
    return (
        ', '.join(
            f'{number} {name} of pool {pool}'
            for (pool, name), number in sorted(counts.items())
        )
        or 'no GPU of this host'
    )
