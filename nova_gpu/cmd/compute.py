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

"""nova-compute for installations where the driver's shim isn't seen.

Nova looks for drivers below ``nova.virt`` only. Where Nova is installed in
another directory than nova-gpu (editable, or by a distribution) the file that
our wheel puts there is not found: this command registers it by hand, then is
nova-compute.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run nova-compute with ``gpu.GpuLibvirtDriver`` known."""
    # oslo.config reads nova-compute.conf for a program of that name.
    sys.argv[0] = 'nova-compute'
    # Nova decides on eventlet while this is imported: nothing comes before.
    try:
        from nova.cmd import compute
    except ModuleNotFoundError as exc:
        # Our own nova/virt/gpu makes a "nova" without anything else in it.
        if exc.name not in ('nova', 'nova.cmd'):
            raise
        sys.exit(
            f'error: {sys.executable} has no Nova: install nova-gpu with the '
            f'pip of the Python that runs nova-compute, and start the '
            f'nova-gpu-compute which that makes'
        )

    from nova_gpu.virt import driver

    sys.modules.setdefault('nova.virt.gpu', driver)
    compute.main()


if __name__ == '__main__':
    main()
