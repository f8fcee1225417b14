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

"""Make the services' users and the catalog: ``register.py RUN``."""

from __future__ import annotations

import pathlib
import sys

from lab.cloud.client import connect
from lab.cloud.settings import CATALOG, REGION, Settings, url


def main() -> None:
    settings = Settings.load(pathlib.Path(sys.argv[1]))
    cloud = connect(settings)
    identity = cloud.identity
    roles = [identity.find_role('admin'), identity.find_role('service')]
    project = identity.create_project(name='service', domain_id='default')
    for name, (kind, _) in CATALOG.items():
        user = identity.create_user(
            name=name,
            password=settings.passwords[name],
            domain_id='default',
        )
        for role in roles:
            identity.assign_project_role_to_user(project, user, role)
        service = identity.create_service(name=name, type=kind)
        identity.create_endpoint(
            service_id=service.id,
            region_id=REGION,
            interface='public',
            url=url(name),
        )


if __name__ == '__main__':
    main()
