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

"""The real ``openstack`` client against the cloud of one process."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from typing import Any
from unittest import mock

import fixtures
from openstackclient import shell
from placement import deploy

from tests.fixtures import identity
from tests.functional import base

#: The project of Nova's fixture, in which servers are booted.
PROJECT = '6f70656e737461636b20342065766572'
OTHER_PROJECT = '0123456789abcdef0123456789abcdef'


class OscTest(base.GpuServersTest):
    """Base of the tests of ``openstack gpu …``.

    The shell of python-openstackclient is real: it loads the plugin by its
    entry point, asks for a token, and finds Nova and Placement in the
    catalog. Users are ``admin``, and ``member`` of the same project.
    """

    def setUp(self) -> None:
        super().setUp()
        # No configuration of whoever runs the tests.
        self.useFixture(fixtures.TempHomeDir())
        placement = deploy.loadapp(self.placement.fixture.conf_fixture.conf)
        self.keystone = self.useFixture(
            identity.KeystoneFixture(
                {
                    'compute': (identity.NOVA, self.api_fixture.app()),
                    'placement': (identity.PLACEMENT, placement),
                },
                {PROJECT: 'demo', OTHER_PROJECT: 'other'},
            )
        )
        self.keystone.add_user('admin', PROJECT, 'admin', 'member', 'reader')
        self.keystone.add_user('member', PROJECT, 'member', 'reader')
        self.keystone.add_user('stranger', OTHER_PROJECT, 'member', 'reader')

    def openstack(
        self, *args: str, user: str = 'admin'
    ) -> tuple[int, str, str]:
        """Run the command ``openstack``: code, stdout, stderr."""
        project = OTHER_PROJECT if user == 'stranger' else PROJECT
        settings = {
            'OS_AUTH_TYPE': 'password',
            'OS_AUTH_URL': f'{identity.KEYSTONE}/v3',
            'OS_USERNAME': user,
            'OS_PASSWORD': identity.PASSWORD,
            'OS_PROJECT_ID': project,
            'OS_USER_DOMAIN_ID': identity.DOMAIN['id'],
            'OS_REGION_NAME': identity.REGION,
        }
        out, err = io.StringIO(), io.StringIO()
        # The client leaves its handlers there.
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        try:
            root.handlers.clear()
            with (
                mock.patch.dict(os.environ, settings),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
            ):
                code = shell.main([*args])
        except SystemExit as exc:  # of argparse
            code = exc.code
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
        return code, out.getvalue(), err.getvalue()

    def openstack_json(self, *args: str, user: str = 'admin') -> Any:
        """What a command prints with ``-f json``."""
        code, out, err = self.openstack(*args, '-f', 'json', user=user)
        self.assertEqual((0, ''), (code, err), out)
        return json.loads(out)

    def openstack_told(self, *args: str, user: str = 'member') -> Any:
        """What a command prints with ``-f json``, and what it warns of."""
        code, out, err = self.openstack(*args, '-f', 'json', user=user)
        self.assertEqual(0, code, err)
        return json.loads(out), err

    def openstack_error(self, *args: str, user: str = 'admin') -> str:
        """The one line that a command fails with."""
        code, out, err = self.openstack(*args, user=user)
        self.assertGreater(code, 0, out)
        self.assertEqual('', out)
        line, end, rest = err.partition('\n')
        self.assertEqual(('\n', ''), (end, rest), err)
        return line
