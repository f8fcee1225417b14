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

"""What the scheduler's log tells of hosts that were refused.

Each host has a line of its own at DEBUG. At INFO a request has one line, with
the reasons, how many hosts each holds for, and some of their names. If no
host is left, and a "No valid host" follows, each has its line at INFO too,
up to :data:`MOST_HOSTS`: the log of a cloud of ten thousand hosts has to stay
readable, and the reasons are few.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

#: Hosts with a line of their own at INFO.
MOST_HOSTS = 20
#: Reasons in the summary, and hosts that are named for each.
MOST_REASONS = 5
MOST_NAMES = 3


def tell_refused(
    log: logging.Logger | logging.LoggerAdapter[Any],
    spec_obj: Any,
    refused: Mapping[str, str],
    passed: int,
) -> None:
    """Log which hosts were refused, and why.

    :param refused: the reason by host
    :param passed: how many hosts were not
    """
    if not refused:
        return
    for number, (host, reason) in enumerate(refused.items()):
        level = logging.DEBUG
        if not passed and number < MOST_HOSTS:
            level = logging.INFO
        log.log(level, 'Host %s is refused: %s', host, reason)
    log.info(
        'Refused %d of %d hosts for instance %s, flavor %s: %s',
        len(refused),
        len(refused) + passed,
        spec_obj.instance_uuid,
        spec_obj.flavor.name,
        _summary(refused),
    )


def _summary(refused: Mapping[str, str]) -> str:
    """The reasons, those of most hosts first."""
    hosts: dict[str, list[str]] = {}
    for host, reason in refused.items():
        hosts.setdefault(reason, []).append(host)
    ordered = sorted(hosts.items(), key=lambda item: -len(item[1]))
    parts = [
        f'{reason} ({_some(names, MOST_NAMES)})'
        for reason, names in ordered[:MOST_REASONS]
    ]
    left = len(ordered) - len(parts)
    return '; '.join([*parts, *([f'{left} other reasons'] if left else [])])


def _some(names: list[str], most: int) -> str:
    left = len(names) - most
    shown = ', '.join(names[:most])
    return f'{shown} and {left} more' if left > 0 else shown
