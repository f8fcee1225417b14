#!/usr/bin/env python3
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

"""Let Nova's functional tests find etc/nova in a virtual environment.

They look beside the package ``nova``, as in a checkout of it; its wheel
installs the files below the environment's prefix.
"""

import os
import pathlib
import sys
import sysconfig

site_packages = pathlib.Path(sysconfig.get_path('purelib'))
link = site_packages / 'etc'
if not link.is_symlink():
    prefix_etc = pathlib.Path(sys.prefix, 'etc')
    link.symlink_to(os.path.relpath(prefix_etc, site_packages))
if not (link / 'nova' / 'api-paste.ini').exists():
    sys.exit(f'{link}: no nova/api-paste.ini in it')
