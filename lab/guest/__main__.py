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

"""``python3 -m lab.guest``: the guest from the command line."""

from __future__ import annotations

import argparse
import shlex
import sys

from lab import parts
from lab.guest import agent, build, inputs, machine


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog='python3 -m lab.guest', description=__doc__
    )
    commands = parser.add_subparsers(dest='command', required=True)
    commands.add_parser('build', help='make what is not in the cache')
    start = commands.add_parser('start', help='build and start the guest')
    start.add_argument(
        '--reach-host',
        action='store_true',
        help='let it reach this host, as 10.0.2.2',
    )
    commands.add_parser('install', help="put this tree's nova-gpu into it")
    execute = commands.add_parser('exec', help='run a command in it')
    execute.add_argument('--timeout', type=int, default=600)
    execute.add_argument('words', nargs='+', help='the command; - for stdin')
    commands.add_parser('shell', help='run each line that is typed in it')
    commands.add_parser('reboot', help='boot its kernel again')
    commands.add_parser('console', help="what its kernel has said")
    commands.add_parser('status', help='whether it runs')
    test = commands.add_parser(
        'test', help='start it anew, run the scenarios, and stop it'
    )
    test.add_argument('names', nargs='*', help='parts of their names')
    commands.add_parser('stop', help='stop it; what it wrote is gone')
    commands.add_parser('clean', help='remove what is out of date')
    args = parser.parse_args(arguments)
    try:
        return _do(args)
    except (parts.BuildError, machine.MachineError) as exc:
        print(f'lab: {exc}', file=sys.stderr)
        return 1


def _do(args: argparse.Namespace) -> int:
    if args.command == 'build':
        build.build()
    elif args.command == 'start':
        build.build()
        took = machine.start(inputs.image(), reach_host=args.reach_host)
        print(f'lab: libvirtd answers after {took:.0f} s')
    elif args.command == 'install':
        agent.install_project()
    elif args.command == 'exec':
        script = shlex.join(args.words) if len(args.words) > 1 else (
            sys.stdin.read() if args.words == ['-'] else args.words[0]
        )  # fmt: skip
        return agent.execute(script, args.timeout, sys.stdout)[0]
    elif args.command == 'shell':
        _shell()
    elif args.command == 'reboot':
        agent.reboot()
    elif args.command == 'console':
        print(machine.console())
    elif args.command == 'status':
        print('running' if machine.running() else 'stopped')
        return 0 if machine.running() else 3
    elif args.command == 'test':
        return _test(args.names)
    elif args.command == 'stop':
        machine.stop()
    elif args.command == 'clean':
        build.clean()
    return 0


def _test(names: list[str]) -> int:
    build.build()
    machine.stop()
    machine.start(inputs.image())
    try:
        agent.install_project()
        return agent.scenarios(names, sys.stdout)
    finally:
        machine.stop()


def _shell() -> None:
    """No terminal: each line is a script of its own, in the same folder."""
    folder = '/root'
    while True:
        try:
            line = input(f'lab:{folder}# ')
        except EOFError:
            print()
            return
        if not line.strip():
            continue
        script = (
            f'cd {shlex.quote(folder)}\n{line}\nstatus=$?\n'
            'pwd >/run/lab-folder\nexit $status'
        )
        agent.execute(script, out=sys.stdout)
        folder = agent.execute('cat /run/lab-folder')[1].strip() or folder


if __name__ == '__main__':
    sys.exit(main())
