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


"""The part of nova.conf that the commands heed."""

from __future__ import annotations

import dataclasses
import glob
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from nova_gpu import claimsfile, linksfile, putaside
from nova_gpu.cli import error
from nova_gpu.model.rule import Rule

LOG = logging.getLogger('nova_gpu.cli')
#: Here nova-compute finds its files when it is given none.
NOVA_ETC = '/etc/nova'

#: What a file sets, by section and option.
Sections = Mapping[str, Mapping[str, Sequence[str]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What ``[gpu]`` says; ``nova_owns`` are Nova's own options for GPUs.

    ``files`` are those that were read, ``rule_texts`` the rules as they are
    written. ``compute_driver`` is Nova's, None if no file was read, and
    ``driver_file`` the one that sets it. ``looked_for`` are files of which
    none could be read, ``unknown`` names in ``[gpu]`` of which there is no
    option, with their file.
    """

    files: tuple[str, ...] = ()

    host_root: str = '/'
    put_aside_dir: str = putaside.FOLDER
    claims_file: str = claimsfile.PATH
    fabric_manager: str = ''
    fmpm: str = ''
    links_file: str = linksfile.PATH
    rules: tuple[Rule, ...] = ()
    rule_texts: tuple[str, ...] = ()
    nova_owns: tuple[str, ...] = ()
    compute_driver: str | None = None
    driver_file: str | None = None
    looked_for: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def read_settings(rules: Sequence[str], files: Sequence[str]) -> Settings:
    """The settings from rules as text, or from configuration files.

    :raises UnusableSettings: a file can't be read
    :raises nova_gpu.exception.InvalidRule: a rule is wrong
    """
    settings, texts = _read(files) if files else (Settings(), rules)
    if not texts:
        return settings
    # Not above: jsonschema takes longer to import than all the rest does.
    from nova_gpu.rules import parse_rules

    return dataclasses.replace(
        settings, rules=parse_rules(texts), rule_texts=tuple(texts)
    )


def novas_settings() -> Settings:
    """The settings of this host's nova-compute.

    :raises UnusableSettings: a file is wrong
    :raises nova_gpu.exception.InvalidRule: a rule is wrong
    """
    if files := novas_files():
        return read_settings((), files)
    return Settings(looked_for=tuple(_novas_names()))


def novas_places() -> list[str]:
    """Where nova-compute on this host looks for files, later ones win.

    Those of oslo.config for a program of that name: Debian's and Ubuntu's
    packages set ``compute_driver`` in the second.
    """
    names = _novas_names()
    more = [sorted(glob.glob(f'{name}.d/*.conf')) for name in names]
    return [*names, *itertools.chain(*more)]


def novas_files() -> list[str]:
    """The files that nova-compute on this host reads, if there are any."""
    found = []
    for path in novas_places():
        try:
            with open(path, 'rb'):
                found.append(path)
        except FileNotFoundError:
            continue
        except OSError as exc:
            LOG.warning(
                'what nova.conf says is not heeded, run this as root: %s', exc
            )
            return []
    return found


def _novas_names() -> list[str]:
    return [f'{NOVA_ETC}/{name}.conf' for name in ('nova', 'nova-compute')]


def _read(files: Sequence[str]) -> tuple[Settings, Sequence[str]]:
    # Not above: most calls name no file, and oslo.config is slow to import.
    from oslo_config import cfg

    conf = _options()
    try:
        conf(
            args=[],
            project='nova-gpu',
            default_config_files=list(files),
            default_config_dirs=[],
        )
        there = {path: read_sections(path) for path in files}
        _check_values(conf, there)
        settings = Settings(
            files=tuple(files),
            host_root=conf.gpu.host_root,
            put_aside_dir=conf.gpu.put_aside_dir,
            claims_file=conf.gpu.claims_file,
            fabric_manager=conf.gpu.fabric_manager,
            fmpm=conf.gpu.fmpm,
            links_file=conf.gpu.links_file,
            nova_owns=tuple(
                f'[{group}] {name} is set'
                for group, name in (
                    ('pci', 'device_spec'),
                    ('devices', 'enabled_mdev_types'),
                )
                if conf[group][name]
            ),
            compute_driver=conf.compute_driver,
            driver_file=_file_of(there, 'DEFAULT', 'compute_driver'),
            unknown=tuple(
                f'{name} in {path}'
                for path, sections in there.items()
                for name in sections.get('gpu', ())
                if name not in conf.gpu
            ),
        )
        return settings, conf.gpu.rule
    except UnicodeDecodeError:
        for path in files:
            read_sections(path)  # fails, and names the file
        raise
    except (cfg.Error, OSError) as exc:
        raise error.UnusableSettings(str(exc)) from exc


def _options() -> Any:
    """The options that count here: ours, and some of Nova's."""
    from oslo_config import cfg

    from nova_gpu import conf as gpu_conf

    conf = cfg.ConfigOpts()
    gpu_conf.register_opts(conf)
    # Nova's own, which give cards to Nova's own ways of handing them out,
    # with the older names that it takes as well.
    conf.register_opt(
        cfg.MultiStrOpt(
            'device_spec',
            default=[],
            deprecated_opts=[
                cfg.DeprecatedOpt('passthrough_whitelist', group='pci'),
                cfg.DeprecatedOpt(
                    'pci_passthrough_whitelist', group='DEFAULT'
                ),
            ],
        ),
        group='pci',
    )
    conf.register_opt(
        cfg.ListOpt(
            'enabled_mdev_types',
            default=[],
            deprecated_name='enabled_vgpu_types',
        ),
        group='devices',
    )
    conf.register_opt(cfg.StrOpt('compute_driver', default=''))
    return conf


def read_sections(path: str) -> Sections:
    """What a file sets.

    :raises UnusableSettings: it can't be read
    """
    # Not above, as in _read().
    from oslo_config import cfg, iniparser

    sections: dict[str, dict[str, Any]] = {}
    try:
        cfg.ConfigParser(path, sections).parse()
    except (OSError, iniparser.ParseError, UnicodeDecodeError) as exc:
        raise error.UnusableSettings(f'{path}: {exc}') from exc
    return sections


def _check_values(conf: Any, there: Mapping[str, Sections]) -> None:
    """Look at every option: oslo.config looks at no value until it is asked.

    :raises UnusableSettings: one has a value that it doesn't take
    """
    from oslo_config import cfg

    for name in conf.gpu:
        try:
            conf.gpu[name]
        except cfg.ConfigFileValueError as exc:
            # Nova takes [GPU] for [gpu].
            where = _file_of(there, 'gpu', name) or ', '.join(there)
            raise error.UnusableSettings(
                f'{where}: [gpu] {name}: {exc.__context__}'
            ) from exc


def _file_of(
    there: Mapping[str, Sections], section: str, option: str
) -> str | None:
    """The file that sets an option last.

    oslo.config tells only which has its section last.
    """
    having = [p for p, s in there.items() if option in s.get(section, ())]
    return having[-1] if having else None
