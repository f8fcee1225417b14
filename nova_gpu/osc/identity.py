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

"""What Keystone says of projects, and the quotas that it keeps for Nova."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from nova_gpu.model.capacity import may_be_gpu
from nova_gpu.osc import error

#: Nova's name of the limit of a resource class.
CLASS = 'class:'


@dataclasses.dataclass(frozen=True, slots=True)
class Quota:
    """The quota of a class: that of one project, and of those without.

    ``limit`` is None if the project has none of its own; -1 is no limit.
    """

    resource_class: str
    default: int
    limit: int | None = None


class Identity:
    """Projects and unified limits.

    :param connection: an :class:`openstack.connection.Connection`
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def project(self) -> str:
        """The ID of the user's own project."""
        return self._own()[0]

    def _own(self) -> tuple[str, str]:
        """The ID and the name of the user's own project, by his token."""
        session = self._connection.session
        with error.asking('Keystone', 'see your project'):
            token = session.auth.get_access(session)
        if token.project_id is None:
            raise error.NotFound(
                'project', '', (), 'your token has none: set OS_PROJECT_NAME'
            )
        return token.project_id, token.project_name

    def find_project(self, name: str) -> str:
        """The ID of a project by its name or ID.

        Who may not see projects can still name his own.
        """
        try:
            with error.asking('Keystone', 'see the projects'):
                found = self._connection.identity.find_project(name)
        except error.NotAllowed:
            if name not in self._own():
                raise
            return self.project
        if found is None:
            raise error.NotFound(
                'project',
                name,
                sorted(self.project_names().values()),
                'see "openstack project list"',
            )
        found_id: str = found.id
        return found_id

    def project_names(self) -> dict[str, str]:
        """The names of projects by ID: his own, if the user sees no others."""
        try:
            with error.asking('Keystone', 'see the projects'):
                found = self._connection.identity.projects()
                return {project.id: project.name for project in found}
        except error.NotAllowed:
            return dict([self._own()])

    def quotas(self, project: str, region: str | None) -> list[Quota]:
        """The quotas of all classes that may be those of GPUs."""
        service = self._nova()
        with error.asking('Keystone', 'see the quotas'):
            identity = self._connection.identity
            defaults = {
                limit.resource_name: limit.default_limit
                for limit in identity.registered_limits(service_id=service)
                if limit.region_id == region
            }
            own = {
                limit.resource_name: limit.resource_limit
                for limit in identity.limits(
                    service_id=service, project_id=project
                )
                if limit.region_id == region
            }
        names = (
            (name, name.removeprefix(CLASS))
            for name in sorted(defaults)
            if name.startswith(CLASS)
        )
        return [
            Quota(resource_class, defaults[name], own.get(name))
            for name, resource_class in names
            if may_be_gpu(resource_class)
        ]

    def set_default(
        self, resource_class: str, limit: int, region: str | None
    ) -> None:
        """Set the quota of all projects that have none of their own."""
        identity = self._connection.identity
        self._set(
            identity.registered_limits,
            identity.create_registered_limit,
            identity.update_registered_limit,
            'default_limit',
            resource_class,
            limit,
            region,
        )

    def set_limit(
        self, project: str, resource_class: str, limit: int, region: str | None
    ) -> None:
        """Set the quota of one project.

        :raises NoDefaultLimit: Keystone wants a default to be there
        """
        identity = self._connection.identity
        defaults = self.quotas(project, region)
        if resource_class not in {q.resource_class for q in defaults}:
            raise error.NoDefaultLimit(resource_class)
        self._set(
            identity.limits,
            identity.create_limit,
            identity.update_limit,
            'resource_limit',
            resource_class,
            limit,
            region,
            project_id=project,
        )

    def _set(
        self,
        find: Callable[..., Any],
        create: Callable[..., Any],
        update: Callable[..., Any],
        field: str,
        resource_class: str,
        limit: int,
        region: str | None,
        **of: str,
    ) -> None:
        key = {
            'service_id': self._nova(),
            'resource_name': f'{CLASS}{resource_class}',
            **of,
        }
        with error.asking('Keystone', 'set quotas'):
            there = [f for f in find(**key) if f.region_id == region]
            if there:
                update(there[0].id, **{field: limit})
                return
            if region is not None:
                key['region_id'] = region
            create(**key, **{field: limit})

    def _nova(self) -> str:
        """The ID of the service that the quotas are Nova's."""
        with error.asking('Keystone', 'see the catalog'):
            catalog = self._connection.service_catalog
        for service in catalog:
            if service['type'] == 'compute':
                found: str = service['id']
                return found
        raise error.NoAnswer(
            'Nova', 'see the quotas', 'there is no compute in the catalog'
        )
