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
"""Pictures of simulations; needs matplotlib, from the extra ``plot``."""

from __future__ import annotations

import importlib
import pathlib
import statistics
from collections.abc import Mapping, Sequence

from nova_gpu.simulate.cloud import Outcome


def get_ready(folder: pathlib.Path) -> None:
    """Make the folder, and see whether there is what plots.

    :raises ImportError: there is no matplotlib
    :raises OSError: the folder can't be made
    """
    importlib.import_module('matplotlib.figure')
    folder.mkdir(parents=True, exist_ok=True)


def plot(found: Mapping[str, Sequence[Outcome]], folder: pathlib.Path) -> None:
    """Write ``fill.png``, if anything has filled, and ``sizes.png``.

    :param folder: is there, see :func:`get_ready`
    :raises OSError: the folder can't be written to
    """
    import matplotlib.figure

    if all(outcome.curve for each in found.values() for outcome in each):
        figure = matplotlib.figure.Figure(figsize=(7, 5), layout='constrained')
        axes = figure.subplots()
        for name, outcomes in found.items():
            # Curves of seeds have their points at the same shares.
            points = list(zip(*(o.curve for o in outcomes), strict=False))
            axes.plot(
                [100 * statistics.fmean(x for x, _ in p) for p in points],
                [100 * statistics.fmean(y for _, y in p) for p in points],
                label=name,
            )
        axes.set_xlabel('GPUs asked for so far, % of all')
        axes.set_ylabel('GPUs in use, % of all')
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(folder / 'fill.png')
    figure = matplotlib.figure.Figure(figsize=(7, 5), layout='constrained')
    axes = figure.subplots()
    names = sizes(found)
    width = 0.8 / len(found)
    for number, (name, outcomes) in enumerate(found.items()):
        axes.bar(
            [at + number * width for at in range(len(names))],
            [100 * (accepted(outcomes, size) or 0.0) for size in names],
            width,
            label=name,
        )
    axes.set_xticks(
        [at + 0.4 - width / 2 for at in range(len(names))],
        ['part of one' if not size else str(size) for size in names],
    )
    axes.set_xlabel('GPUs of a request')
    axes.set_ylabel('accepted, %')
    axes.grid(axis='y', alpha=0.3)
    axes.legend()
    figure.savefig(folder / 'sizes.png')


def sizes(found: Mapping[str, Sequence[Outcome]]) -> list[int]:
    """The sizes of requests that have come."""
    return sorted(
        {s for each in found.values() for o in each for s in o.asked}
    )


def accepted(outcomes: Sequence[Outcome], size: int) -> float | None:
    """The share of requests of a size that was accepted, over all seeds."""
    asked = sum(outcome.asked[size] for outcome in outcomes)
    if not asked:
        return None
    return sum(outcome.accepted[size] for outcome in outcomes) / asked
