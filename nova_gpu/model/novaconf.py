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

"""What nova.conf has to say for GPUs: with nova-gpu, or with Nova alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from nova_gpu.model.device import Card
from nova_gpu.model.inventory import Use
from nova_gpu.model.profile import token

COMPUTE, SCHEDULER, API = 'compute', 'scheduler', 'api'
ROLES = {
    COMPUTE: 'Each compute node with such GPUs',
    SCHEDULER: 'Each nova-scheduler',
    API: 'Each nova-api and nova-conductor',
}
#: How options take more than one value: not at all, all on a line with
#: commas between them, or on a line each.
ONE, LIST, LINES = 'one', 'list', 'lines'
DRIVER = 'gpu.GpuLibvirtDriver'
#: The default of Nova in all releases from 29 to 34.
FILTERS = (
    'ComputeFilter', 'ComputeCapabilitiesFilter', 'ImagePropertiesFilter',
    'ServerGroupAntiAffinityFilter', 'ServerGroupAffinityFilter',
)  # fmt: skip
_FILTER_MODULE = 'nova.scheduler.filters.all_filters'
_WEIGHER_MODULE = 'nova.scheduler.weights.all_weighers'
_WEIGHERS = ('GpuWeigher', 'GpuAvoidWeigher')


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """What an option has to hold; what it holds besides may stay.

    :param values: those that have to be there
    :param default: those that Nova has if the option isn't set, and that go
        on being needed once it is
    :param form: how more than one value is written
    """

    role: str
    section: str
    option: str
    values: tuple[str, ...]
    form: str = ONE
    default: tuple[str, ...] = ()
    comment: str = ''

    def lines(self, values: Sequence[str]) -> list[str]:
        """The option as nova.conf has it."""
        if self.form == LIST:
            values = [','.join(values)]
        return [f'{self.option} = {value}' for value in values]


def ours(
    uses: Iterable[Use], rules: Sequence[str], extra: Sequence[str] = ()
) -> list[Setting]:
    """The settings with nova-gpu.

    :param rules: rules as JSON, the operator's own
    :param extra: rules that follow from what the operator asks for
    """
    found = '\n'.join(_told(use) for use in uses) or 'No GPU was found here.'
    settings = [
        Setting(COMPUTE, 'DEFAULT', 'compute_driver', (DRIVER,), comment=found)
    ]
    if texts := (*rules, *extra):
        settings.append(Setting(COMPUTE, 'gpu', 'rule', texts, LINES))
    return [
        *settings,
        *_filters('nova_gpu.scheduler.filter.GpuFilter'),
        Setting(
            SCHEDULER, 'filter_scheduler', 'weight_classes',
            tuple(f'nova_gpu.scheduler.weigher.{name}' for name in _WEIGHERS),
            LIST, (_WEIGHER_MODULE,),
        ),
    ]  # fmt: skip


def _filters(name: str) -> list[Setting]:
    """The settings that enable a filter, given with its module."""
    module, _, short = name.rpartition('.')
    available = Setting(
        SCHEDULER, 'filter_scheduler', 'available_filters', (name,), LINES,
        (_FILTER_MODULE,),
    )  # fmt: skip
    enabled = Setting(
        SCHEDULER, 'filter_scheduler', 'enabled_filters', (short,), LIST,
        FILTERS,
    )  # fmt: skip
    return [available, enabled] if module else [enabled]


def _told(use: Use) -> str:
    what = use.mechanism or f'not used: {use.reason}'
    return f'{use.card.address} {use.card.name}: {what}'


def native(uses: Iterable[Use]) -> list[Setting]:
    """The settings with which Nova itself hands out the same cards."""
    used = [use for use in uses if use.mechanism and not use.reason]
    passed = [use for use in used if use.mechanism in ('whole', 'vf')]
    settings = [
        Setting(
            COMPUTE, 'pci', 'device_spec', tuple(_device_specs(passed)), LINES
        ),
        *(
            Setting(role, 'pci', 'alias', tuple(_aliases(passed)), LINES,
                    comment='The same on all of them.')
            for role in (COMPUTE, API)
        ),
        *_mdev_types([use for use in used if use.mechanism == 'mdev']),
    ]  # fmt: skip
    if passed:
        settings += _filters('PciPassthroughFilter')
    return [setting for setting in settings if setting.values]


def _device_specs(uses: Iterable[Use]) -> Iterator[str]:
    for use in uses:
        for address in _handed_out(use):
            yield json.dumps({'address': address})


def _handed_out(use: Use) -> list[str]:
    card = use.card
    if use.mechanism == 'vf':
        return [str(vf.address) for vf in card.vfs if vf.problem is None]
    return [str(card.address)]


def _aliases(uses: Iterable[Use]) -> Iterator[str]:
    """An alias a model, with the type that libvirt's capabilities imply.

    A card that could have virtual functions is a type-PF even if it has
    none: Nova asks libvirt, which lists the capability with its maxCount.
    """
    seen = set()
    for use in uses:
        card = use.card
        kind = 'type-PF' if card.total_vfs else 'type-PCI'
        product: int | None = card.product_id
        if use.mechanism == 'vf':
            kind, product = 'type-VF', card.vf_product_id
        if (alias := (card.vendor_id, product, kind)) in seen:
            continue
        seen.add(alias)
        yield json.dumps(
            {
                'vendor_id': f'{card.vendor_id:04x}',
                'product_id': f'{product or 0:04x}',
                'device_type': kind,
                'name': _alias_name(card, kind),
                'numa_policy': 'preferred',
            }
        )


def _alias_name(card: Card, kind: str) -> str:
    name = token(card.model).lower().replace('_', '-')
    return f'{name}-vf' if kind == 'type-VF' else name


def _mdev_types(uses: Iterable[Use]) -> Iterator[Setting]:
    """One type for each parent, which is all that Nova can do.

    The first that the card offers now; the operator chooses another.
    """
    parents: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    for use in uses:
        free = [o for o in use.offers if o.type_id and (o.free or o.used)]
        if not free:
            continue
        kind = str(free[0].type_id)
        parents.setdefault(kind, []).extend(map(str, use.card.parents))
        others[kind] = [f'{o.type_id} ({o.name})' for o in free]
    if not parents:
        return
    yield Setting(
        COMPUTE, 'devices', 'enabled_mdev_types', tuple(parents), LIST,
        comment='\n'.join(
            f'Instead of {kind} also: {", ".join(names)}'
            for kind, names in others.items()
        ),
    )  # fmt: skip
    for kind, devices in parents.items():
        yield Setting(
            COMPUTE, f'mdev_{kind}', 'device_addresses', tuple(devices), LIST
        )


def missing(
    settings: Iterable[Setting],
    there: Mapping[str, Mapping[str, Sequence[str]]],
) -> list[tuple[Setting, list[str], list[str]]]:
    """What a nova.conf lacks.

    :param there: the values of a file, by section and option
    :returns: each setting with what is there now and what has to be there
    """
    lacking = []
    for setting in settings:
        now = list(there.get(setting.section, {}).get(setting.option, ()))
        if setting.form == LIST:
            now = [v.strip() for text in now for v in text.split(',') if v]
        last = now[-1:] if setting.form == ONE else now
        if not all(_has(last, value) for value in setting.values):
            kept = () if setting.form == ONE else now or setting.default
            wanted = [*kept]
            wanted += [v for v in setting.values if not _has(wanted, v)]
            lacking.append((setting, now, wanted))
    return lacking


def overridden(
    settings: Iterable[Setting],
    later: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]],
) -> Iterator[str]:
    """What files say otherwise that nova-compute reads later.

    :param later: what each file sets, by its name, in their order
    """
    for setting in settings:
        having = [
            path
            for path, there in later.items()
            if setting.option in there.get(setting.section, {})
        ]
        # What may be given again adds up over all files.
        if setting.role != COMPUTE or setting.form == LINES or not having:
            continue
        for _, now, _ in missing([setting], later[having[-1]]):
            line = setting.lines(now)[-1]
            yield f'{having[-1]} sets {line}, and wins: set it there'


def _has(values: Iterable[str], wanted: str) -> bool:
    """Whether a value is there, JSON by what it means."""
    return any(_meaning(value) == _meaning(wanted) for value in values)


def _meaning(text: str) -> object:
    try:
        return json.loads(text) if text.startswith('{') else text
    except ValueError:
        return text


def render(settings: Iterable[Setting]) -> str:
    """The parts of nova.conf, by who reads them."""
    return _render(
        (s, (), [*s.default, *(v for v in s.values if v not in s.default)])
        for s in settings
    )


def render_missing(
    lacking: Iterable[tuple[Setting, list[str], list[str]]],
) -> str:
    """The same for what a file lacks, with what it has now."""
    return _render(lacking)


def _render(
    found: Iterable[tuple[Setting, Sequence[str], Sequence[str]]],
) -> str:
    lines: list[str] = []
    role = section = ''
    for setting, now, wanted in found:
        if setting.role != role:
            role, section = setting.role, ''
            lines += (
                ['', f'# {ROLES[role]}'] if lines else [f'# {ROLES[role]}']
            )
        if setting.section != section:
            section = setting.section
            lines += ['', f'[{section}]']
        lines += [f'# {line}' for line in setting.comment.splitlines()]
        if now:
            lines += [f'# now: {line}' for line in setting.lines(now)]
        lines += setting.lines(wanted)
    return '\n'.join(lines) + '\n' if lines else ''
