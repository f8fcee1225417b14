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


"""Comparing whole XML documents, and checking them by libvirt's schema."""

from __future__ import annotations

import functools
import pathlib
import shutil

import testtools
from lxml import etree

#: Comes with libvirt's client tools, as virt-xml-validate does.
SCHEMA = pathlib.Path('/usr/share/libvirt/schemas/domain.rng')


@functools.cache
def _schema() -> etree.RelaxNG:
    return etree.RelaxNG(file=str(SCHEMA))


def pretty(document: str) -> str:
    """A document with its elements one a line, attributes in order."""
    parser = etree.XMLParser(remove_blank_text=True)
    root = etree.fromstring(document, parser)
    etree.indent(root)
    return etree.tostring(root, method='c14n').decode()


class DocumentTest(testtools.TestCase):
    """Assertions on a domain's XML."""

    maxDiff = None

    def assert_document(self, expected: str, found: str) -> None:
        """Both are the same XML, and libvirt takes it.

        A machine without libvirt has no schema to check it by.
        """
        self.assertEqual(pretty(expected), pretty(found))
        if not SCHEMA.exists():
            self.assertIsNone(
                shutil.which('virt-xml-validate'),
                f'libvirt is installed, but {SCHEMA} is missing',
            )
            return
        schema = _schema()
        valid = schema.validate(etree.fromstring(found))
        self.assertTrue(valid, f'{schema.error_log}\n{found}')
