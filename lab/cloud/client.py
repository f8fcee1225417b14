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

"""The cloud as its administrator sees it; needs openstacksdk."""

from __future__ import annotations

import openstack

from lab.cloud.settings import REGION, Settings, url


def connect(settings: Settings) -> openstack.connection.Connection:
    return openstack.connect(
        load_envvars=False,
        load_yaml_config=False,
        auth_url=f'{url("keystone")}/v3',
        username='admin',
        password=settings.passwords['admin'],
        project_name='admin',
        user_domain_id='default',
        project_domain_id='default',
        region_name=REGION,
    )
