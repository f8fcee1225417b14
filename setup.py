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

import setuptools
from setuptools.command import editable_wheel


class EditableWheel(editable_wheel.editable_wheel):
    """An editable install leaves the package ``nova.virt.gpu`` out.

    With it, setuptools would declare ``nova`` a namespace package, and that
    hides a Nova which is itself installed editable, as in DevStack: none of
    Nova's services would start.
    """

    def run(self):
        self.distribution.packages.remove('nova.virt.gpu')
        del self.distribution.package_dir['nova.virt.gpu']
        super().run()


# By name and not as setup(cmdclass=...), which pbr replaces by its own.
editable_wheel.editable_wheel = EditableWheel

setuptools.setup(setup_requires=['pbr>=7.0.0'], pbr=True)
