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

"""What nova-compute holds, told to who audits or watches the host.

No database: nova-compute writes it anew when it starts, and reads of it only
since when it holds what it holds, which it does nothing with but tell it on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from nova_gpu.model.address import parse_address
from nova_gpu.model.claim import Claim
from nova_gpu.model.claimtimes import ClaimTimes, told_state
from nova_gpu.model.inventory import Unit

PATH = '/var/lib/nova/gpu/claims.json'
VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What was written; ``node`` is the UUID of the host's provider.

    ``running`` says whether the process that wrote it still runs, ``times``
    since when the claims are as they are.
    """

    node: str
    running: bool
    claims: tuple[Claim, ...]
    times: ClaimTimes = dataclasses.field(default_factory=ClaimTimes)


class ClaimsFile:
    """The file, which is replaced as a whole at every change.

    :param clock: tells the seconds since the epoch
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = os.fspath(path)
        self._clock = clock
        self._lock: int | None = None
        self._times: ClaimTimes | None = None

    def write(self, node: str, claims: Iterable[Claim]) -> None:
        """Tell of all claims.

        :raises OSError: it can't be written
        """
        claims = tuple(claims)
        before = self._times or self._earlier()
        self._times = times = before.then(claims, self._clock())
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        if self._lock is None:
            # Held until this process ends, however that happens.
            self._lock = os.open(
                f'{self._path}.lock',
                os.O_CREAT | os.O_RDWR | os.O_CLOEXEC,
                mode=0o644,
            )
        # Each time: who reads holds it for a moment.
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        content = {
            'version': VERSION,
            'node': node,
            'settled': times.settled,
            'settled_seconds': round(times.seconds, 3),
            'abandoned': times.abandoned,
            'claims': [_record(claim, times) for claim in claims],
        }
        with open(f'{self._path}.new', 'w', encoding='utf-8') as file:
            json.dump(content, file, indent=1)
        os.replace(f'{self._path}.new', self._path)

    def read(self) -> Told | None:
        """What was told last, if anything was.

        :raises OSError: it can't be read
        :raises ValueError: it isn't such a file
        """
        try:
            with open(self._path, encoding='utf-8') as file:
                text = file.read()
        except FileNotFoundError:
            return None
        try:
            content = json.loads(text)
            if content['version'] != VERSION:
                raise ValueError(f'version {content["version"]}')
            claims = tuple(map(_claim, content['claims']))
            return Told(
                node=content['node'],
                running=self.running(),
                claims=claims,
                times=_times(content, claims),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise ValueError(
                f'{self._path} is not of this release: {exc}'
            ) from exc

    def _earlier(self) -> ClaimTimes:
        """What a process before told of the claims; its counts have ended."""
        try:
            told = self.read()
        except (OSError, ValueError):
            told = None
        return ClaimTimes(told.times.since if told else {})

    def running(self) -> bool:
        """Whether the process that writes the file runs."""
        try:
            lock = os.open(f'{self._path}.lock', os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False


def _times(content: dict[str, Any], claims: Iterable[Claim]) -> ClaimTimes:
    """The times, which earlier releases didn't tell."""
    return ClaimTimes(
        since={
            claim.consumer: (told_state(claim), float(record['since']))
            for claim, record in zip(claims, content['claims'], strict=True)
            if 'since' in record
        },
        settled=int(content.get('settled', 0)),
        seconds=float(content.get('settled_seconds', 0)),
        abandoned=int(content.get('abandoned', 0)),
    )


def _record(claim: Claim, times: ClaimTimes) -> dict[str, Any]:
    return {
        'consumer': claim.consumer,
        'state': claim.state,
        'since': round(times.since[claim.consumer][1], 3),
        'guest': claim.guest,
        'units': [
            {
                'mechanism': unit.mechanism,
                'pool': unit.pool,
                'class': unit.resource_class,
                'card': str(unit.card),
                'device': unit.device,
                'partition': unit.partition,
                'stuck': unit in claim.stuck,
                'uncounted': unit.device in claim.uncounted,
            }
            for unit in claim.units
        ],
    }


def _claim(record: dict[str, Any]) -> Claim:
    units = [
        Unit(
            mechanism=unit['mechanism'],
            pool=unit['pool'],
            resource_class=unit['class'],
            card=parse_address(unit['card']),
            device=unit['device'],
            partition=unit.get('partition'),
        )
        for unit in record['units']
    ]
    marked = list(zip(units, record['units'], strict=True))
    return Claim(
        consumer=record['consumer'],
        units=tuple(units),
        state=record['state'],
        stuck=tuple(u for u, said in marked if said['stuck']),
        guest=record['guest'],
        uncounted=frozenset(u.device for u, s in marked if s['uncounted']),
    )
