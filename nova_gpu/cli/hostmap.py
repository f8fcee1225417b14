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

"""``nova-gpu host map``."""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Sequence
from typing import Any

from cliff import show

from nova_gpu.cli import survey
from nova_gpu.model import hostmap
from nova_gpu.model.inventory import pools

LOG = logging.getLogger('nova_gpu.cli')

#: Formats that carry objects; the others get text.
STRUCTURED = ('json', 'yaml')


class HostMap(show.ShowOne):
    """Print the map that schedulers have of this host's GPUs.

    As nova-compute would report it now, with the host's name, the UUID of its
    compute node, and the addresses of the cards of each pool. With -f json it
    is what "nova-gpu schedule explain" reads. Run it as root: what guests hold
    has to be read.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        survey.add_arguments(parser)
        return parser

    def get_epilog(self) -> str:
        # Cliff's reads the file list of every installed distribution.
        return ''

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Any]]:
        found = survey.survey(parsed_args)
        mechanisms = found.mechanisms.values()
        instances = len(found.guests) if found.unread is None else None
        text = hostmap.build(
            pools(found.uses), found.uses, found.units, mechanisms, instances
        ).dump()
        cards: dict[str, list[str]] = {}
        for use in found.uses:
            if use.pool is not None:
                cards.setdefault(use.pool, []).append(str(use.card.address))
        structured = parsed_args.formatter in STRUCTURED
        return ('Host', 'Node', 'Map', 'Cards'), (
            os.uname().nodename,
            _node(found),
            json.loads(text) if structured else text,
            cards if structured else json.dumps(cards),
        )


def _node(found: survey.Survey) -> str | None:
    """The UUID of the compute node, if nova-compute has told it."""
    try:
        told = found.claims.read()
    except (OSError, ValueError) as exc:
        LOG.warning('the UUID of the compute node is not known: %s', exc)
        return None
    return None if told is None else told.node
