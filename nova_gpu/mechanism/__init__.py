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

"""Ways of handing GPUs out, loaded from ``nova_gpu.mechanism``."""

from __future__ import annotations

from collections.abc import Mapping

import stevedore
from stevedore import extension

from nova_gpu import exception
from nova_gpu.mechanism.base import Mechanism

NAMESPACE = 'nova_gpu.mechanism'
#: A card with vGPU types is cut up; what no other mechanism wants is passed
#: through whole. Those of others come between.
FIRST, LAST = 'mdev', 'whole'


def load() -> tuple[Mechanism, ...]:
    """All installed mechanisms, in the order in which cards are offered.

    :raises MissingMechanism: ours are not among them
    """

    def fail(manager: object, entry: object, exc: BaseException) -> None:
        raise exc

    manager: extension.ExtensionManager[Mechanism] = (
        stevedore.ExtensionManager(
            NAMESPACE, invoke_on_load=True, on_load_failure_callback=fail
        )
    )
    return order({e.name: e.obj for e in manager if e.obj is not None})


def order(found: Mapping[str, Mechanism]) -> tuple[Mechanism, ...]:
    """Mechanisms in the order in which cards are offered to them.

    :raises MissingMechanism: ours are not among them
    """
    if not {FIRST, LAST} <= found.keys():
        raise exception.MissingMechanism((FIRST, LAST), found)
    middle = sorted(found.keys() - {FIRST, LAST})
    return tuple(found[name] for name in (FIRST, *middle, LAST))
