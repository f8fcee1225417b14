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

"""Wait for a nova-compute and map it: ``discover.py RUN HOST``."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time

import openstack

from lab.cloud.client import connect
from lab.cloud.settings import Settings

PATIENCE = 400


def main() -> None:
    run, host = pathlib.Path(sys.argv[1]), sys.argv[2]
    cloud = connect(Settings.load(run))
    before = updated(cloud, host)
    deadline = time.monotonic() + PATIENCE
    # What the one before it has reported doesn't count.
    while updated(cloud, host) in (None, before):
        if time.monotonic() > deadline:
            sys.exit(f'no nova-compute of {host} within {PATIENCE} s')
        time.sleep(1)
    manage = pathlib.Path(sys.executable).with_name('nova-manage')
    subprocess.run(
        [manage, '--config-file', run / 'etc/nova.conf', 'cell_v2',
         'discover_hosts', '--by-service'],
        check=True,
    )  # fmt: skip


def updated(cloud: openstack.connection.Connection, host: str) -> str | None:
    """When a nova-compute that is up has reported last."""
    for service in cloud.compute.services(binary='nova-compute', host=host):
        if service.state == 'up':
            return str(service.updated_at)
    return None


if __name__ == '__main__':
    main()
