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


"""The flavors of a cloud, as Nova has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from openstack import exceptions as sdk_exceptions

from nova_gpu.model.flavor import UNCHECKED, Flavor
from nova_gpu.osc import error

#: From 2.86 on Nova checks extra specs. It refuses those that it has no
#: validator for in its own namespaces, though its driver reads some of them.
CHECKED, UNCHECKED_VERSION = '2.86', '2.61'


class Flavors:
    """Reads and changes flavors."""

    def __init__(self, connection: Any) -> None:
        self._compute = connection.compute

    def all(self) -> list[Flavor]:
        """The flavors that the user sees, by name."""
        with error.asking('Nova', 'see the flavors'):
            found = [from_record(f) for f in self._listed()]
        return sorted(found, key=lambda flavor: flavor.name)

    def _listed(self) -> Iterable[Any]:
        found: Iterable[Any] = self._compute.flavors(get_extra_specs=True)
        return found

    def find(self, names: Iterable[str]) -> list[Flavor]:
        """The flavors of these names or IDs.

        :raises NotFound: one isn't there
        """
        there = self.all()
        found = []
        for name in names:
            matches = [f for f in there if f.id == name]
            matches += [f for f in there if f.name == name]
            if not matches:
                raise error.NotFound(
                    'flavor', name, [f.name for f in there],
                    'see "openstack flavor list --all"',
                )  # fmt: skip
            found.append(matches[0])
        return found

    def create(self, flavor: Flavor, public: bool, description: str | None,
               ) -> Flavor:  # fmt: skip
        """Make a flavor with its extra specs, or none."""
        attributes: dict[str, Any] = {
            'name': flavor.name, 'vcpus': flavor.vcpus, 'ram': flavor.ram,
            'disk': flavor.disk, 'ephemeral': flavor.ephemeral,
            'swap': flavor.swap, 'is_public': public,
        }  # fmt: skip
        if description:
            attributes['description'] = description
        with error.changing('Nova', f'make the flavor {flavor.name}'):
            made = self._compute.create_flavor(**attributes)
        try:
            self.add(made.id, flavor.name, flavor.extra_specs)
        except Exception:
            self._compute.delete_flavor(made.id)
            raise
        return from_record(made, flavor.extra_specs)

    def add(self, flavor_id: str, name: str, specs: Mapping[str, str]) -> None:
        """Give a flavor extra specs."""
        for version, checked in ((CHECKED, True), (UNCHECKED_VERSION, False)):
            some = {
                k: v for k, v in specs.items() if checked != (k in UNCHECKED)
            }
            if some:
                with error.changing('Nova', f'change the flavor {name}'):
                    response = self._compute.post(
                        f'/flavors/{flavor_id}/os-extra_specs',
                        json={'extra_specs': some},
                        microversion=version,
                    )
                    sdk_exceptions.raise_from_response(response)

    def remove(self, flavor_id: str, name: str, keys: Iterable[str]) -> None:
        """Take extra specs from a flavor."""
        for key in keys:
            with error.changing('Nova', f'change the flavor {name}'):
                self._compute.delete_flavor_extra_specs_property(
                    flavor_id, key
                )


def from_record(
    record: Any, extra_specs: Mapping[str, str] | None = None
) -> Flavor:
    """A flavor of the SDK as one of the model."""
    return Flavor(
        name=str(record.name),
        vcpus=record.vcpus or 0,
        ram=record.ram or 0,
        disk=record.disk or 0,
        ephemeral=record.ephemeral or 0,
        swap=record.swap or 0,
        extra_specs=dict(record.extra_specs or extra_specs or {}),
        id=str(record.id or ''),
    )
