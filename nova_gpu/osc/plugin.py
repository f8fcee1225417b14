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

"""What python-openstackclient loads: the commands ``openstack gpu …``.

There is no GPU service: ``client_manager.gpu`` reads Placement, Nova and
Keystone, over the client's own connection.
"""

from __future__ import annotations

import argparse
from typing import Any

from osc_lib import utils

from nova_gpu.osc.cloud import Cloud

API_NAME = 'gpu'
API_VERSION_OPTION = 'os_gpu_api_version'
DEFAULT_API_VERSION = '1'
API_VERSIONS = ('1',)


def make_client(instance: Any) -> Cloud:
    """What commands find as ``client_manager.gpu``."""
    return Cloud(instance.sdk_connection)


def build_option_parser(
    parser: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add the option for the version of the commands."""
    parser.add_argument(
        '--os-gpu-api-version',
        metavar='<gpu-api-version>',
        default=utils.env('OS_GPU_API_VERSION', default=DEFAULT_API_VERSION),
        help=(
            f'version of the gpu commands, default={DEFAULT_API_VERSION} '
            f'(Env: OS_GPU_API_VERSION)'
        ),
    )
    return parser
