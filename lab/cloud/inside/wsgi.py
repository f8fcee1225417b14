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

"""Serve a WSGI application: ``wsgi.py MODULE ADDRESS PORT``."""

from __future__ import annotations

import importlib
import sys

import waitress


def main() -> None:
    module, address, port = sys.argv[1:]
    # The services read their own command line.
    del sys.argv[1:]
    application = importlib.import_module(module).application
    if module.startswith('neutron'):
        _map_all_models()
    waitress.serve(
        application, host=address, port=int(port), threads=8, ident=None
    )


def _map_all_models() -> None:
    """Without agents nothing else imports some that others refer to."""
    from neutron.db.migration.models import head  # noqa: F401
    from sqlalchemy import orm

    orm.configure_mappers()


if __name__ == '__main__':
    main()
