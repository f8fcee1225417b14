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

"""A Placement full of GPU hosts, which answers how long it takes to ask it.

Run by :mod:`tests.bench.candidates` as ``python -m tests.bench.placement
KIND HOSTS FOLDER``: says that it is ready, then reads numbers of cards and
answers each with the seconds of one request.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import urllib.parse
import uuid
from typing import Any

import os_traits
import webob
from nova.compute.provider_tree import ProviderTree
from oslo_config import cfg
from placement import conf as placement_conf
from placement import context, db_api, deploy, exception
from placement.db.sqlalchemy import models
from placement.objects import resource_class

from nova_gpu.virt import providers
from tests.bench import measure
from tests.fixtures import hosts
from tests.fixtures.scheduler import host_tracker
from tests.fixtures.sysfs import FakeSysfs

#: The production code's pools, and Nova's PCI in Placement.
KINDS = ('pool', 'card')
CARDS = 8
CUSTOM = {
    'pool': 'CUSTOM_GPU_NVIDIA_A100_SXM4_40GB',
    'card': 'CUSTOM_PCI_10DE_20B0',
}
ROOT_INVENTORY = {'VCPU': 128, 'MEMORY_MB': 1048576, 'DISK_GB': 4096}


def main(kind: str, count: int, folder: str) -> None:
    """Fill, then answer until there are no more questions."""
    app = application(folder)
    engine = db_api.get_placement_engine()
    with engine.begin() as connection:
        if not connection.execute(
            models.ResourceProvider.__table__.select().limit(1)
        ).first():
            fill(connection, kind, count)
    print(json.dumps('ready'), flush=True)
    for line in sys.stdin:
        cards = int(line)
        request = query(kind, cards)
        found: list[Any] = []
        took = measure.seconds(
            lambda: found.append(request.get_response(app))  # noqa: B023
        )
        assert found[0].status_code == 200, found[0].text
        assert found[0].json['allocation_requests']
        print(json.dumps(took), flush=True)


def application(folder: str) -> Any:
    """A Placement whose database is in ``folder``."""
    conf = cfg.ConfigOpts()
    placement_conf.register_opts(conf)
    conf.set_override(
        'connection', f'sqlite:///{folder}/placement.db', 'placement_database'
    )
    conf.set_override('sync_on_startup', True, 'placement_database')
    conf.set_override('auth_strategy', 'noauth2', 'api')
    conf([], default_config_files=[], default_config_dirs=[])
    application = deploy.loadapp(conf)
    admin = context.RequestContext(config=conf)
    for name in CUSTOM.values():
        # There already if the database is that of an earlier process.
        with contextlib.suppress(exception.ResourceClassExists):
            resource_class.ResourceClass(admin, name=name).create()
    return application


def query(kind: str, cards: int) -> webob.Request:
    """What the scheduler asks for a flavor with so many cards."""
    resources = 'VCPU:8,MEMORY_MB:65536,DISK_GB:100'
    parts = [
        ('limit', '1000'),
        ('root_required', '!COMPUTE_STATUS_DISABLED'),
        ('group_policy', 'none'),
    ]
    if kind == 'pool':
        parts.append(('resources', f'{resources},{CUSTOM[kind]}:{cards}'))
    else:
        parts.append(('resources', resources))
        parts += [
            (f'resources_gpu-{n}', f'{CUSTOM[kind]}:1') for n in range(cards)
        ]
    return webob.Request.blank(
        f'/allocation_candidates?{urllib.parse.urlencode(parts)}',
        headers={
            'X-Auth-Token': 'admin',
            'OpenStack-API-Version': 'placement 1.36',
        },
    )


def root_uuid(node: str) -> str:
    """The UUID of a host's root provider."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, node))


def _tree(kind: str, node: str, pools: Any) -> ProviderTree:
    """One host's providers, as nova-compute makes them."""
    tree = ProviderTree()
    tree.new_root(node, root_uuid(node))
    tree.update_inventory(
        node, {name: _record(n) for name, n in ROOT_INVENTORY.items()}
    )
    if kind == 'pool':
        providers.update(tree, node, pools, in_use=lambda provider: False)
        return tree
    for address in hosts.A100_ADDRESSES:
        name = f'{node}_{address}'
        tree.new_child(name, node)
        tree.update_inventory(name, {CUSTOM[kind]: _record(1)})
        tree.update_traits(
            name,
            [os_traits.COMPUTE_MANAGED_PCI_DEVICE, os_traits.OWNER_NOVA],
        )
    return tree


def _record(total: int) -> dict[str, float]:
    return {
        'total': total, 'reserved': 0, 'min_unit': 1, 'max_unit': total,
        'step_size': 1, 'allocation_ratio': 1.0,
    }  # fmt: skip


def fill(connection: Any, kind: str, count: int) -> None:
    """Write the providers of all hosts in bulk."""
    with tempfile.TemporaryDirectory(dir=measure.ram_folder()) as root:
        tracker = host_tracker(hosts.a100_board(FakeSysfs(root)))
        pools = tracker.view().pools
    classes = _ids(connection, models.ResourceClass)
    traits = _ids(connection, models.Trait)
    rows: dict[Any, list[dict[str, Any]]] = {}
    ids: dict[str, int] = {}
    for number in range(count):
        tree = _tree(kind, f'node{number}', pools)
        (root_uuid,) = (root.uuid for root in tree.roots)
        for provider_uuid in tree.get_provider_uuids():
            data = tree.data(provider_uuid)
            ids[data.uuid] = len(ids) + 1
            rows.setdefault(models.ResourceProvider, []).append(
                {
                    'id': ids[data.uuid],
                    'uuid': data.uuid,
                    'name': data.name,
                    'generation': 1,
                    'root_provider_id': ids[root_uuid],
                    'parent_provider_id': ids.get(data.parent_uuid),
                }
            )
            rows.setdefault(models.Inventory, []).extend(
                {
                    'resource_provider_id': ids[data.uuid],
                    'resource_class_id': classes[name],
                    **record,
                }
                for name, record in data.inventory.items()
            )
            for name in data.traits:
                if name not in traits:
                    traits[name] = connection.execute(
                        models.Trait.__table__.insert().values(name=name)
                    ).inserted_primary_key[0]
                rows.setdefault(models.ResourceProviderTrait, []).append(
                    {
                        'resource_provider_id': ids[data.uuid],
                        'trait_id': traits[name],
                    }
                )
    for model, records in rows.items():
        connection.execute(model.__table__.insert(), records)


def _ids(connection: Any, model: Any) -> dict[str, int]:
    table = model.__table__
    return {row.name: row.id for row in connection.execute(table.select())}


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
