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

"""``python3 -m lab.cloud``: the cloud from the command line."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from lab import parts
from lab.cloud import control, inputs, join, services
from lab.cloud.settings import REGION, Settings, url
from lab.guest import agent, machine
from lab.guest import build as guest_build
from lab.guest import inputs as guest_inputs
from lab.guest.inputs import PROJECT


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog='python3 -m lab.cloud', description=__doc__
    )
    commands = parser.add_subparsers(dest='command', required=True)
    commands.add_parser('up', help='build and start the services')
    commands.add_parser('down', help='end the services; the guest stays')
    commands.add_parser('status', help='what runs, and its memory')
    commands.add_parser('join', help='make the guest a compute node of it')
    test = commands.add_parser(
        'test',
        help='start what does not run, run the scenarios, stop that again',
    )
    test.add_argument('names', nargs='*', help='parts of their names')
    logs = commands.add_parser('logs', help='what a service has said')
    logs.add_argument('name')
    commands.add_parser('shell-env', help="for a shell's eval: OS_...")
    args = parser.parse_args(arguments)
    # Files of the cloud have passwords in them.
    os.umask(0o077)
    try:
        return _do(args)
    except (
        parts.BuildError, machine.MachineError, control.CloudError,
    ) as exc:  # fmt: skip
        print(f'lab: {exc}', file=sys.stderr)
        return 1


def _do(args: argparse.Namespace) -> int:
    if args.command == 'up':
        _up()
    elif args.command == 'down':
        control.down()
    elif args.command == 'status':
        return _status()
    elif args.command == 'join':
        _start_guest()
        _join()
    elif args.command == 'test':
        return _test(args.names)
    elif args.command == 'logs':
        print(control.log(args.name), end='')
    elif args.command == 'shell-env':
        _shell_env()
    return 0


def _up() -> None:
    took = control.up()
    print(f'lab: the cloud is up after {took:.0f} s', flush=True)


def _join() -> None:
    took = join.join()
    print(f'lab: the guest has joined after {took:.0f} s', flush=True)


def _start_guest() -> None:
    guest_build.build()
    if not machine.running():
        image = guest_inputs.image()
        took = machine.start(image, reach_host=True)
        print(f'lab: the guest answers after {took:.0f} s', flush=True)
    agent.install_project()


def _status() -> int:
    found = control.status()
    print(f'{found["state"]} {found["detail"]}'.rstrip())
    if found['state'] == 'ended':
        return 3
    total = 0.0
    for name, leader in found['processes'].items():
        used = sum(control.memory_mib(pid) for pid in control.group(leader))
        print(f'{name:16} {leader:8} {used:6.0f} MiB')
        total += used
    print(f'{"all":25} {total:6.0f} MiB')
    return 0


def _test(names: list[str]) -> int:
    cloud_ran = control.status()['state'] != 'ended'
    guest_ran = machine.running()
    try:
        if not cloud_ran:
            _up()
        if not guest_ran:
            _start_guest()
        # A nova-compute of another cloud doesn't count.
        if not cloud_ran or not join.running():
            _join()
        return _scenarios(names)
    finally:
        if not guest_ran:
            machine.stop()
        if not cloud_ran:
            control.down()


def _scenarios(names: list[str]) -> int:
    settings = Settings.load(inputs.run())
    program = services.tool(settings, 'scenarios', *names)
    return subprocess.run(
        program.command,
        cwd=PROJECT,
        env=services.base_environment() | program.environment,
        check=False,
    ).returncode


def _shell_env() -> None:
    if control.status()['state'] == 'ended':
        raise control.CloudError('the cloud is not up')
    settings = Settings.load(inputs.run())
    values = {
        'AUTH_URL': f'{url("keystone")}/v3',
        'USERNAME': 'admin',
        'PASSWORD': settings.passwords['admin'],
        'PROJECT_NAME': 'admin',
        'USER_DOMAIN_ID': 'default',
        'PROJECT_DOMAIN_ID': 'default',
        'REGION_NAME': REGION,
    }
    for name, value in values.items():
        print(f'export OS_{name}={value}')


if __name__ == '__main__':
    sys.exit(main())
