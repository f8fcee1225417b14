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

"""The errors of ``openstack gpu``; the client prints each as one line.

::

    GpuError
    ├── NotAllowed         what the user's roles don't let him see or change
    ├── NoAnswer           a service that doesn't answer as it should
    ├── NotFound           a name that the cloud doesn't know
    ├── Ambiguous          a name that several things have
    ├── InvalidLimit       a quota that is no number
    ├── NoDefaultLimit     a quota of a class that has no default
    ├── Refused            what a service doesn't do, as it is asked for
    ├── UnusableInput      a file or an argument that isn't what it should be
    └── NotMoved           a server that is not resized
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from keystoneauth1 import exceptions as ksa_exceptions
from openstack import exceptions as sdk_exceptions

from nova_gpu import exception

#: The types, in the catalog, of the services that are asked.
SERVICES = {
    'Keystone': 'identity',
    'Nova': 'compute',
    'Placement': 'placement',
}
#: How many of the names that there are an error lists.
NAMES = 12


class NotAllowed(exception.GpuError):
    """``service`` doesn't let the user see or change ``what``."""

    def __init__(self, service: str, what: str) -> None:
        self.service = service
        self.what = what
        #: What is wrong, without what to do.
        self.refusal = f'{service} lets only administrators {what}'
        super().__init__(
            f'{self.refusal}: use a project in which you have the role '
            f'admin; "openstack gpu usage", "gpu profile list" and "gpu '
            f'quota show" work without it'
        )


class NoAnswer(exception.GpuError):
    """``service`` can't be asked, for the ``reason``."""

    def __init__(self, service: str, what: str, reason: str) -> None:
        self.service = service
        self.what = what
        self.reason = reason
        super().__init__(
            f'could not {what}: {service} does not answer as it should '
            f'({reason}); see "openstack catalog show {SERVICES[service]}" '
            f'and the log of that service'
        )


class NotFound(exception.GpuError):
    """The cloud has no ``kind`` called ``name``; ``there`` are those it has.

    :param remedy: what to do
    """

    def __init__(
        self, kind: str, name: str, there: Sequence[str], remedy: str
    ) -> None:
        self.kind = kind
        self.name = name
        self.there = tuple(there)
        super().__init__(
            f'there is no {kind} {name!r} (there are: {_names(there)}); '
            f'{remedy}'
        )


class Ambiguous(exception.GpuError):
    """Several things are called ``name``."""

    def __init__(
        self, kind: str, name: str, found: Sequence[str], remedy: str
    ) -> None:
        self.kind = kind
        self.name = name
        self.found = tuple(found)
        super().__init__(
            f'{name!r} can be more than one {kind}: {_names(found)}; {remedy}'
        )


class InvalidLimit(exception.GpuError):
    """``value`` can't be a quota."""

    def __init__(self, value: str) -> None:
        self.value = value
        super().__init__(
            f'{value!r} is no quota; give a number of units, or -1 for no '
            f'limit'
        )


class NoDefaultLimit(exception.GpuError):
    """A project can't have a quota of what has no default."""

    def __init__(self, resource_class: str) -> None:
        self.resource_class = resource_class
        super().__init__(
            f'{resource_class} has no quota that other projects would have; '
            f'set that first, -1 for no limit: openstack gpu quota set '
            f'--default {resource_class} -1'
        )


def _names(names: Sequence[str]) -> str:
    shown = [*names[:NAMES], '...'] if len(names) > NAMES else names
    return ', '.join(shown) or 'none'


def _not_of_discovery(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith('Failed to contact the endpoint')


@contextlib.contextmanager
def asking(service: str, what: str) -> Iterator[None]:
    """Tell what was tried when a service refuses or doesn't answer.

    :raises NotAllowed: the user may not do that
    :raises NoAnswer: the service isn't there, or is broken
    """
    # keystoneauth warns, and the error that follows says the same.
    discovery = logging.getLogger('keystoneauth.discover')
    discovery.addFilter(_not_of_discovery)
    try:
        yield
    except (
        sdk_exceptions.ForbiddenException,
        ksa_exceptions.Forbidden,
    ) as exc:
        raise NotAllowed(service, what) from exc
    except (
        sdk_exceptions.SDKException,
        ksa_exceptions.ClientException,
        ValueError,  # an answer that isn't JSON
    ) as exc:
        reason = ' '.join(str(exc).split()) or type(exc).__name__
        raise NoAnswer(service, what, reason) from exc
    finally:
        discovery.removeFilter(_not_of_discovery)


class Refused(exception.GpuError):
    """``service`` doesn't do ``what``, for the ``reason`` that it gives."""

    def __init__(self, service: str, what: str, reason: str) -> None:
        self.service = service
        self.what = what
        self.reason = reason
        super().__init__(f'{service} refuses to {what}: {reason}')


class UnusableInput(exception.GpuError):
    """``where``, a file or an argument, isn't what it should be."""

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f'{where}: {reason}')


class NotMoved(exception.GpuError):
    """``server`` doesn't have what was wanted, for the ``reason``."""

    def __init__(self, server: str, reason: str) -> None:
        self.server = server
        self.reason = reason
        super().__init__(f'server {server}: {reason}')


@contextlib.contextmanager
def changing(service: str, what: str) -> Iterator[None]:
    """Like :func:`asking`, for what a service may have reasons to refuse.

    :raises Refused: the service says why
    """
    with asking(service, what):
        try:
            yield
        except (
            sdk_exceptions.BadRequestException,
            sdk_exceptions.ConflictException,
            sdk_exceptions.NotFoundException,
        ) as exc:
            reason = ' '.join(str(exc.details or exc).split())
            raise Refused(service, what, reason) from exc
