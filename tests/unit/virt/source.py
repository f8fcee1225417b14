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


"""Names in Python source, found in its syntax trees without running it."""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import zipfile
from collections.abc import Callable, Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class Parameters:
    """A function's parameters, without ``self``."""

    positional: tuple[str, ...]
    keyword: tuple[str, ...]
    #: Those of both kinds that a caller must give.
    required: frozenset[str]
    any_positional: bool
    any_keyword: bool


def parameters(function: Function, method: bool) -> Parameters:
    """The parameters of a function or method."""
    args = function.args
    positional = [a.arg for a in (*args.posonlyargs, *args.args)]
    required = positional[: len(positional) - len(args.defaults)]
    required += [
        arg.arg
        for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
        if default is None
    ]
    static = any(
        ast.unparse(decorator) == 'staticmethod'
        for decorator in function.decorator_list
    )
    if method and not static:
        positional = positional[1:]
    return Parameters(
        tuple(positional),
        tuple(a.arg for a in args.kwonlyargs),
        frozenset(required) - {'self', 'cls'},
        args.vararg is not None,
        args.kwarg is not None,
    )


class Library:
    """The modules of a distribution, by name."""

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self._read = read
        self._modules: dict[str, ast.Module | None] = {}

    @classmethod
    def of_wheel(cls, path: pathlib.Path) -> Library:
        """A wheel's modules."""
        archive = zipfile.ZipFile(path)
        names = frozenset(archive.namelist())

        def read(name: str) -> str | None:
            return archive.read(name).decode() if name in names else None

        return cls(read)

    def module(self, name: str) -> ast.Module | None:
        """A module's tree, or None if there is no such module."""
        if name not in self._modules:
            path = name.replace('.', '/')
            text = self._read(f'{path}.py')
            if text is None:
                text = self._read(f'{path}/__init__.py')
            tree = None if text is None else ast.parse(text)
            self._modules[name] = tree
        return self._modules[name]

    def find(self, module: str, name: str) -> ast.AST | None:
        """What defines a name at the top of a module."""
        tree = self.module(module)
        if tree is None:
            return None
        return next(_definitions(tree.body, name), None)

    def find_in_class(
        self, module: str, cls: str, name: str
    ) -> ast.AST | None:
        """What defines an attribute of a class or of its base classes."""
        node = self.find(module, cls)
        if isinstance(node, ast.ImportFrom):
            return self.find_in_class(str(node.module), cls, name)
        if isinstance(node, ast.Assign):
            return _named_tuple_field(node, name)
        if not isinstance(node, ast.ClassDef):
            return None
        found = next(_definitions(node.body, name), None)
        found = found or _assigned(node, name)
        found = found or _object_field(node, name)
        if found is not None:
            return found
        for base in node.bases:
            home = self._home(module, base)
            if home is not None:
                found = self.find_in_class(*home, name)
                if found is not None:
                    return found
        return None

    def _home(self, module: str, base: ast.expr) -> tuple[str, str] | None:
        """The module and name of a base class, if it is of this library."""
        if isinstance(base, ast.Name):
            node = self.find(module, base.id)
            if isinstance(node, ast.ImportFrom):
                return str(node.module), base.id
            return module, base.id
        if isinstance(base, ast.Attribute) and isinstance(
            base.value, ast.Name
        ):
            node = self.find(module, base.value.id)
            if isinstance(node, ast.ImportFrom):
                original = next(
                    alias.name
                    for alias in node.names
                    if base.value.id in (alias.name, alias.asname)
                )
                return f'{node.module}.{original}', base.attr
        return None


def _definitions(body: list[ast.stmt], name: str) -> Iterator[ast.AST]:
    """The statements of a body that give a name its meaning."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef):
            if node.name == name:
                yield node
        elif isinstance(node, ast.Assign):
            if any(isinstance(t, ast.Name) and t.id == name
                   for t in node.targets):  # fmt: skip
                yield node
        elif isinstance(node, ast.AnnAssign):
            if isinstance(node.target, ast.Name) and node.target.id == name:
                yield node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if any(name == (a.asname or a.name) for a in node.names):
                yield node
        elif isinstance(node, ast.If | ast.Try):
            yield from _definitions(node.body, name)
            yield from _definitions(node.orelse, name)


def _assigned(cls: ast.ClassDef, name: str) -> ast.AST | None:
    """Where a class assigns an attribute of its own."""
    for node in ast.walk(cls):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            if (
                isinstance(target, ast.Attribute)
                and target.attr == name
                and isinstance(target.value, ast.Name)
                and target.value.id == 'self'
            ):
                return node
    return None


def _object_field(cls: ast.ClassDef, name: str) -> ast.AST | None:
    """The field of a versioned object."""
    for node in _definitions(cls.body, 'fields'):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for key in node.value.keys:
                if isinstance(key, ast.Constant) and key.value == name:
                    return key
    return None


def _named_tuple_field(node: ast.Assign, name: str) -> ast.AST | None:
    """The field of a named tuple, from the call that makes it."""
    for constant in ast.walk(node.value):
        if isinstance(constant, ast.Constant) and constant.value == name:
            return constant
    return None
