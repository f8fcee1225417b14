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

"""The nova-compute in the lab's guest."""

from __future__ import annotations

import shlex
import subprocess
import time

from lab.cloud import control, inputs, services
from lab.cloud.settings import GPU_HOST, Settings
from lab.guest import agent
from lab.guest.inputs import run as guest_run

LOG = '/var/log/nova-compute.log'
_PID = '/run/nova-compute.pid'
_START = f"""
mkdir -p /var/lib/nova/instances /run/lock
export OS_NOVA_DISABLE_EVENTLET_PATCHING=true
setsid nova-gpu-compute --config-file /etc/nova/nova.conf \\
    </dev/null >>{LOG} 2>&1 &
echo $! >{_PID}
"""
_CONFIGURE = """
mkdir -p /etc/nova
umask 077
cp /mnt/share/nova.conf /etc/nova/nova.conf
rm /mnt/share/nova.conf
"""


def join() -> float:
    """Start the guest's nova-compute, and map it to the cell."""
    if control.status()['state'] != 'up':
        raise control.CloudError('the cloud is not up')
    began = time.monotonic()
    if running():
        # Of a cloud that is gone.
        kill()
    configure()
    start()
    _discover()
    return time.monotonic() - began


def configure() -> None:
    """Give the guest its configuration; its passwords are this cloud's."""
    settings = Settings.load(inputs.run())
    text = (settings.run / 'etc/guest.conf').read_text()
    share = guest_run() / 'share/nova.conf'
    share.touch(mode=0o600)
    share.write_text(text)
    _execute(_CONFIGURE)


def start() -> None:
    if not running():
        _execute(_START)


def running() -> bool:
    return agent.execute(f'kill -0 $(cat {_PID})')[0] == 0


def kill() -> None:
    """End nova-compute as a crash does, with its privileged helpers."""
    _execute(f'kill -9 -- -$(cat {_PID}); rm {_PID}')


def log() -> str:
    return agent.execute(f'cat {LOG}')[1]


def _discover() -> None:
    settings = Settings.load(inputs.run())
    program = services.tool(
        settings, 'inside.discover', str(settings.run), GPU_HOST
    )
    done = subprocess.run(
        program.command,
        env=services.base_environment() | program.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        words = shlex.join(program.command)
        raise control.CloudError(
            f'{words} exited {done.returncode}: {done.stdout[-2000:]}; '
            f'its log ends with {log()[-2000:]}'
        )


def _execute(script: str) -> str:
    code, said = agent.execute(script)
    if code:
        raise control.CloudError(f'in the guest: {said}')
    return said
