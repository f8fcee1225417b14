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
"""``nova-gpu simulate``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from cliff import lister

from nova_gpu.cli import error
from nova_gpu.model.expected import dump, mix
from nova_gpu.model.fragmentation import Mix
from nova_gpu.simulate import hosts, tables
from nova_gpu.simulate.cloud import Outcome
from nova_gpu.simulate.plot import accepted, get_ready, plot, sizes
from nova_gpu.simulate.policies import (
    POLICIES,
    Make,
    Weights,
    in_milli,
    kinds,
)
from nova_gpu.simulate.runs import Setting, interval

#: nova-gpu with the defaults, and what Nova does without it.
DEFAULT_POLICIES = ('nova-gpu', 'nova', 'stacking')
_MULTIPLIER = re.compile(r'(gpu|ram|cpu)=(-?\d+(?:\.\d+)?)')


class Simulate(lister.Lister):
    """Try weights and policies on a list of requests and a list of hosts.

    The requests come in random order, and more like them, until as many GPUs
    have been asked for as there are; the table shows which share of them was
    given, for each policy and by the number of GPUs that a request asks for.
    Scores are those of the scheduler's weigher.

    A policy is nova-gpu (the scores and Nova's own CPU and RAM weighers, all
    with their default multipliers), nova (the latter alone), stacking (they
    with -1.0), multipliers of your own as in gpu=100,ram=1,cpu=-1, or for
    comparison score (the score alone), fgd, packing, best-fit and random.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            '--trace',
            required=True,
            metavar='FILE',
            help=(
                'the requests: a CSV file with the columns cpu_milli, '
                'memory_mib, num_gpu, gpu_milli (of each GPU, 1000 is all of '
                'it) and, if you like, gpu_spec (models, with | between them)'
            ),
        )
        parser.add_argument(
            '--hosts',
            required=True,
            metavar='FILE',
            help=(
                'the hosts: a CSV file with the columns cpu_milli, '
                'memory_mib, gpu and, if you like, model'
            ),
        )
        parser.add_argument(
            '--policy',
            action='append',
            type=_policy,
            metavar='POLICY',
            help=(
                'what chooses the host; give it again for more (default: '
                f'{", ".join(DEFAULT_POLICIES)})'
            ),
        )
        parser.add_argument(
            '--seeds',
            type=_positive(int),
            default=3,
            metavar='N',
            help='how many orders of requests and hosts (default: 3)',
        )
        parser.add_argument(
            '--load',
            type=_positive(float),
            default=1.0,
            metavar='SHARE',
            help='of all GPUs, what is asked for (default: 1.0)',
        )
        parser.add_argument(
            '--churn',
            action='store_true',
            help='let servers go again, so that the load is that at any time',
        )
        parser.add_argument(
            '--profiles',
            type=_profiles,
            default=hosts.PROFILES,
            metavar='N,N,...',
            help=(
                'into how many vGPUs of one size a card can be cut, or any '
                'for shares of any size on a card (default: '
                f'{",".join(map(str, hosts.PROFILES))})'
            ),
        )
        parser.add_argument(
            '--expected-request',
            action='append',
            metavar='JSON',
            help=(
                'as in [gpu] expected_request, or default for what is '
                'expected if nothing is there; give it again for more '
                '(default: what the trace asks for)'
            ),
        )
        parser.add_argument(
            '--kinds',
            type=_positive(int),
            metavar='N',
            help=(
                'only print the N most common kinds of requests, as lines '
                'for section [gpu] of nova.conf'
            ),
        )
        parser.add_argument(
            '--plot',
            type=pathlib.Path,
            metavar='DIRECTORY',
            help=(
                'write fill.png and sizes.png there (needs pip install '
                'nova-gpu[plot])'
            ),
        )
        return parser

    def get_epilog(self) -> str:
        # Cliff's reads the file list of every installed distribution.
        return ''

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        requests = tables.read_requests(parsed_args.trace)
        if parsed_args.kinds:
            return _kinds(requests, parsed_args.kinds)
        setting = Setting(
            requests,
            tables.read_hosts(parsed_args.hosts),
            _expected(requests, parsed_args.expected_request),
            parsed_args.profiles,
            parsed_args.load,
            parsed_args.churn,
        )
        if parsed_args.plot:
            # Now, and not when all is simulated.
            with _plotting(parsed_args.plot):
                get_ready(parsed_args.plot)
        chosen = parsed_args.policy or list(map(_policy, DEFAULT_POLICIES))
        found = {
            name: _run(setting, name, make, parsed_args.seeds)
            for name, make in dict(chosen).items()
        }
        if parsed_args.plot:
            with _plotting(parsed_args.plot):
                plot(found, parsed_args.plot)
        return _table(found)


@contextlib.contextmanager
def _plotting(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (ImportError, OSError) as exc:
        raise error.NotPlotted(folder, str(exc)) from exc


def _run(setting: Setting, name: str, make: Make, seeds: int) -> list[Outcome]:
    """All seeds, with progress on the standard error, if somebody looks."""
    watched = sys.stderr.isatty()

    def tell(seed: int, share: float) -> None:
        text = f'{name}: seed {seed + 1} of {seeds}, {share:.0%}'
        sys.stderr.write(f'\r{text:<60}' if watched else f'{text}\n')
        sys.stderr.flush()

    outcomes = []
    for seed in range(seeds):
        last = [0.0]

        def progress(share: float, seed: int = seed, last: Any = last) -> None:
            if watched and share - last[0] >= 0.01:
                last[0] = share
                tell(seed, share)

        outcomes.append(setting.run(make, seed, progress))
        tell(seed, 1.0)
    if watched:
        sys.stderr.write('\r' + ' ' * 60 + '\r')
    return outcomes


def _table(
    found: dict[str, list[Outcome]],
) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    numbers = sizes(found)
    columns = ['Policy', 'Accepted %', '+/-', 'Given %']
    columns += ['Parts %' if not n else f'{n} GPU %' for n in numbers]
    rows = []
    for name, outcomes in found.items():
        mean, wide = interval([100 * o.acceptance for o in outcomes])
        given, _ = interval([100 * o.allocated for o in outcomes])
        rows.append(
            (
                name,
                round(mean, 2),
                # With one seed nothing is known of others.
                round(wide, 2) if wide == wide else None,
                round(given, 2),
                *(
                    None if share is None else round(100 * share, 1)
                    for share in (accepted(outcomes, n) for n in numbers)
                ),
            )
        )
    return columns, rows


def _expected(
    requests: Sequence[tables.Request], texts: list[str] | None
) -> Mix:
    if texts is None:
        return Mix(kinds(requests))
    return in_milli(mix(tuple(text for text in texts if text != 'default')))


def _kinds(
    requests: Sequence[tables.Request], most: int
) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    lines = (
        dump(dataclasses.replace(kind, vcpus=kind.vcpus / 1000))
        for kind in kinds(requests)[:most]
    )
    return ('Line',), [(f'expected_request = {line}',) for line in lines]


def _policy(text: str) -> tuple[str, Make]:
    if text in POLICIES:
        return text, POLICIES[text]
    multipliers = {}
    for part in text.split(','):
        match = _MULTIPLIER.fullmatch(part.strip())
        if match is None:
            raise argparse.ArgumentTypeError(
                f'{text!r} is none of {", ".join(POLICIES)}, and no '
                'multipliers as gpu=100,ram=1,cpu=1'
            )
        multipliers[match[1]] = float(match[2])
    return text, lambda mix, *_: Weights(mix, **multipliers)


def _profiles(text: str) -> tuple[int, ...]:
    if text == 'any':
        return ()
    parse = _positive(int)
    return tuple(sorted({parse(part) for part in text.split(',')}))


def _positive(kind: type[int] | type[float]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not 0 < value < 1e9:
            raise argparse.ArgumentTypeError(f'{text!r} is not above 0')
        return value

    return parse
