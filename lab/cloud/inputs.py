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

"""What the cloud is made of, and where each part is cached."""

from __future__ import annotations

import pathlib
import sys

from lab.guest.inputs import CACHE as LAB_CACHE
from lab.guest.inputs import LAB, PROJECT, part

#: Run in place, so not newer than what the host's C library serves.
SUITE = 'bookworm'
#: That suite's own.
C_LIBRARY = '2.36'
PACKAGES = ('rabbitmq-server', 'mariadb-server-core', 'memcached')
CONSTRAINTS = (PROJECT / 'constraints.txt', LAB / 'cloud/constraints.txt')
REQUIREMENTS = (
    'keystone', 'openstack-placement', 'glance', 'neutron', 'nova',
    'openstacksdk', 'waitress', 'PyMySQL', 'pymemcache', 'python-memcached',
    # Neutron imports it, and doesn't say so.
    'pyroute2',
)  # fmt: skip
INSIDE = LAB / 'cloud/inside'


def debian() -> pathlib.Path:
    """RabbitMQ, MariaDB and memcached, as a tree of files."""
    return part('cloud/debian', SUITE, *PACKAGES)


def venv() -> pathlib.Path:
    """The services and their libraries, from PyPI."""
    return part(
        'cloud/venv', sys.version, str(LAB_CACHE), *REQUIREMENTS, *CONSTRAINTS
    )


def project() -> pathlib.Path:
    """This tree's nova-gpu, installed."""
    sources = sorted((PROJECT / 'nova_gpu').rglob('*.py'))
    return part('cloud/project', PROJECT / 'pyproject.toml', *sources)


def database() -> pathlib.Path:
    """MariaDB's files, with the tables of every service in them."""
    return part(
        'cloud/database',
        debian().name,
        venv().name,
        LAB / 'cloud/database.py',
    )


def run() -> pathlib.Path:
    """What belongs to the cloud that runs: one at a time."""
    return LAB_CACHE / 'cloud/run'
