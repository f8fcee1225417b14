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

"""How a claim gets its units: chosen on the host as it is, then prepared."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

from oslo_log import log as logging

from nova_gpu import exception
from nova_gpu.book import Book
from nova_gpu.mechanism.base import Mechanism
from nova_gpu.model import choice, numa
from nova_gpu.model.claim import Move, Want
from nova_gpu.model.inventory import Pool, Unit, Use
from nova_gpu.model.isolation import Tenant
from nova_gpu.model.request import GpuRequest

LOG = logging.getLogger(__name__)

#: How often a claim chooses again in one pool, if what it chose is broken or
#: taken by somebody faster.
ATTEMPTS = 3


class Taking:
    """Takes units for one claim.

    :param nodes: the NUMA nodes that the guest is on, if it could be on
        others; what they mean is the request's to say
    """

    def __init__(
        self,
        book: Book,
        request: GpuRequest,
        tenant: Tenant,
        nodes: numa.Nodes = None,
    ) -> None:
        self._book = book
        self._request = request
        self._tenant = tenant
        self._nodes = nodes
        #: What is made, each unit as soon as it is.
        self.prepared: list[Unit] = []

    def take(
        self, wants: Iterable[Want], others: Mapping[str, Collection[str]]
    ) -> list[Move]:
        """Prepare all that is wanted, or nothing.

        :param others: for each pool those that may serve in its place
        :returns: the wants that another pool has served
        """
        wants = tuple(wants)
        moves = []
        # No two wants of a request may end up in one pool.
        asked = {want.pool for want in wants}
        try:
            for want in wants:
                pools = [
                    p for p in others.get(want.pool, ()) if p not in asked
                ]
                pool = self._take(want, pools)
                asked.add(pool)
                if pool != want.pool:
                    moves.append(Move(want, pool))
        except Exception:
            self._book.undo(self.prepared, self._tenant.server)
            raise
        return moves

    def _take(self, want: Want, others: Collection[str]) -> str:
        """Prepare what is wanted; returns the pool that served it."""
        before = len(self.prepared)
        error: exception.GpuError | None
        pools = [want.pool]
        if others:
            uses = self._book.look(self._tenant, self.prepared).uses
            pools = choice.pools_in_order(uses, want, others)
        LOG.debug(
            'Pools for %d %s of instance %s, best first: %s',
            want.count,
            want.resource_class,
            self._tenant.server,
            ', '.join(pools),
        )
        for near in numa.reach(self._request.numa_affinity, self._nodes):
            error = None
            for pool in pools:
                try:
                    self._take_from(pool, want, near)
                except (
                    exception.NotEnoughUnits,
                    exception.EffectFailed,
                ) as exc:
                    error = error or exc
                    self._book.undo(
                        self.prepared[before:], self._tenant.server
                    )
                    del self.prepared[before:]
                else:
                    return pool
        assert error is not None
        raise error

    def _take_from(self, key: str, want: Want, nodes: numa.Nodes) -> None:
        book, server = self._book, self._tenant.server
        left = want.count
        for _ in range(ATTEMPTS):
            view = book.look(self._tenant, self.prepared)
            pool = view.pool(key)
            if pool is None or want.resource_class not in pool.inventories:
                raise exception.UnknownProvider(key, want.resource_class)
            mechanism = book.mechanisms[pool.mechanism]
            uses = [u for u in view.uses if u.pool == pool.key]
            held = [
                u for u in (*view.units, *self.prepared) if u.pool == pool.key
            ]
            try:
                chosen = _choose(
                    mechanism,
                    pool,
                    uses,
                    dataclasses.replace(want, count=left),
                    held,
                    self._request,
                    nodes,
                )
                book.fabric.activate(chosen)
                for unit in chosen:
                    _tell('Claimed', unit, server)
                    made = mechanism.prepare(
                        self._tenant.own(unit), self._request, book.effects
                    )
                    self.prepared.append(made)
                    left -= 1
                    self.prepared[-1] = mechanism.configure(
                        made, self._request, book.effects
                    )
                    if made.type_id is not None:
                        _tell('Prepared', self.prepared[-1], server)
            except exception.UnitUnusable as exc:
                book.cleaner.put_aside(exc)
                error: exception.GpuError = exc
            except exception.UnitTaken as exc:
                LOG.warning('Choosing again: %s', exc)
                error = exc
            else:
                return
        raise exception.NotEnoughUnits(
            key, want.resource_class, left, str(error)
        )


def _choose(
    mechanism: Mechanism,
    pool: Pool,
    uses: Sequence[Use],
    want: Want,
    held: Sequence[Unit],
    request: GpuRequest,
    nodes: numa.Nodes,
) -> tuple[Unit, ...]:
    """Choose what is wanted of a pool, on the NUMA nodes that are given."""
    name, count = want.resource_class, want.count
    if nodes is None:
        return mechanism.choose(pool, uses, name, count, held, request)
    where = f'NUMA node {numa.listed(nodes)}, where the guest is'
    near = numa.on(uses, nodes)
    if not near:
        raise exception.NotEnoughUnits(
            pool.key, name, count, f'it has no card on {where}'
        )
    try:
        return mechanism.choose(pool, near, name, count, held, request)
    except exception.NotEnoughUnits as exc:
        raise exception.NotEnoughUnits(
            pool.key, name, count, f'on {where}: {exc.reason}'
        ) from exc


def _tell(what: str, unit: Unit, consumer: str) -> None:
    LOG.info(
        '%s %s (%s) of card %s for instance %s',
        what,
        unit.device,
        unit.resource_class,
        unit.card,
        consumer,
    )
