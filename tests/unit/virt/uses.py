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


"""What nova-gpu uses of Nova, found in its own syntax trees.

nova-gpu is typed and Nova isn't: what comes from Nova is ``Any``. So a
parameter that is ``Any`` is one of Nova's objects, and so is all that is
reached from it, from a name that was imported from Nova, or from an attribute
that a class of ours has from its base in Nova.
"""

from __future__ import annotations

import ast
import dataclasses
import pathlib
from collections.abc import Iterator

from tests.unit.virt.source import Function

#: What containers and strings have: no name of Nova's.
PLAIN = frozenset(
    name for kind in (str, dict, list, set, tuple, int) for name in dir(kind)
)
#: Packages of ours that handle Nova's objects, whatever they import.
NOVA_SIDE = ('scheduler', 'virt', 'cmd')
#: Options are documented, and renamed with a warning a release ahead.
PUBLIC = ('nova.conf.CONF.',)


@dataclasses.dataclass(frozen=True, order=True)
class Use:
    """A name of Nova's that is used.

    ``owner`` is a module or ``module.Class`` where the source tells,
    otherwise it is empty.
    """

    file: str
    line: int
    owner: str
    name: str


def uses_of(path: pathlib.Path) -> Iterator[Use]:
    """All that a file of ours uses of Nova."""
    return _File(path).uses()


def classes_of(path: pathlib.Path) -> Iterator[tuple[str, ast.ClassDef]]:
    """Our classes that are Nova's as well, each with its base in Nova."""
    return _File(path).classes()


class _File:
    def __init__(self, path: pathlib.Path) -> None:
        self.tree = ast.parse(path.read_text())
        self.path = path
        #: What each imported name stands for.
        self.names: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if _is_nova(str(node.module)):
                        self.names[alias.asname or alias.name] = (
                            f'{node.module}.{alias.name}'
                        )
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if _is_nova(alias.name):
                        root = alias.name.partition('.')[0]
                        self.names[alias.asname or root] = (
                            alias.name if alias.asname else root
                        )

    def use(self, node: ast.AST, owner: str, name: str) -> Use:
        return Use(self.path.name, getattr(node, 'lineno', 0), owner, name)

    def uses(self) -> Iterator[Use]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute):
                full = self.full_name(node)
                if full and not full.startswith(PUBLIC):
                    yield self.use(node, *_split(full))
            elif isinstance(node, Function) and self.is_about_nova:
                yield from self.object_uses(node, frozenset())
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if _is_nova(str(node.module)):
                        yield self.use(node, str(node.module), alias.name)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if _is_nova(alias.name):
                        yield self.use(node, *_split(alias.name))
        for base, cls in self.classes():
            yield from self.class_uses(cls, base)

    @property
    def is_about_nova(self) -> bool:
        return bool(self.names) or self.path.parent.name in NOVA_SIDE

    def classes(self) -> Iterator[tuple[str, ast.ClassDef]]:
        ours: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    full = self.full_name(base) or ours.get(ast.unparse(base))
                    if full:
                        ours[node.name] = full
                        yield full, node

    def full_name(self, node: ast.expr) -> str | None:
        """``nova.exception.X`` for ``nova_exception.X``."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.full_name(node.value)
            return owner and f'{owner}.{node.attr}'
        return None

    def class_uses(self, cls: ast.ClassDef, base: str) -> Iterator[Use]:
        """What a class of ours uses of its base class."""
        own = members(cls)
        inherited = set()
        for node in ast.walk(cls):
            if not isinstance(node, ast.Attribute):
                continue
            if _is_super(node.value):
                yield self.use(node, base, node.attr)
            elif _is_self(node.value) and node.attr not in own:
                inherited.add(node.attr)
                yield self.use(node, base, node.attr)
        for function in cls.body:
            if isinstance(function, Function):
                yield from self.object_uses(function, frozenset(inherited))

    def object_uses(
        self, function: Function, inherited: frozenset[str]
    ) -> Iterator[Use]:
        """What is looked up on Nova's objects.

        :param inherited: attributes of ``self`` that are Nova's
        """
        args = function.args
        objects = {
            arg.arg
            for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)
            if arg.annotation is not None
            and ast.unparse(arg.annotation) in ('Any', 'Iterable[Any]')
        }

        def is_object(node: ast.AST | None) -> bool:
            if isinstance(node, ast.Name):
                return node.id in objects
            if isinstance(node, ast.Attribute):
                if _is_self(node.value):
                    return node.attr in inherited
                return _is_super(node.value) or is_object(node.value)
            if isinstance(node, ast.Call):
                return is_object(node.func)
            if isinstance(node, ast.Subscript):
                return is_object(node.value)
            return False

        before = -1
        while before != len(objects):  # what is assigned from them is too
            before = len(objects)
            for node in ast.walk(function):
                for target, value in _assignments(node):
                    if is_object(value):
                        objects |= {
                            n.id
                            for n in ast.walk(target)
                            if isinstance(n, ast.Name)
                            and isinstance(n.ctx, ast.Store)
                        }
        for node in ast.walk(function):
            if (
                isinstance(node, ast.Attribute)
                and node.attr not in PLAIN
                and not _is_super(node.value)
                and is_object(node.value)
            ):
                yield self.use(node, '', node.attr)


def members(cls: ast.ClassDef) -> set[str]:
    """The attributes that a class of ours gives a meaning."""
    names = set()
    for node in cls.body:
        if isinstance(node, Function):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(ast.unparse(target) for target in node.targets)
        elif isinstance(node, ast.AnnAssign):
            names.add(ast.unparse(node.target))
    for node in ast.walk(cls):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and _is_self(node.value)
        ):
            names.add(node.attr)
    return names


def _assignments(
    node: ast.AST,
) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield target, node.value
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
        yield node.target, node.value
    elif isinstance(node, ast.For | ast.comprehension):
        yield node.target, node.iter
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        yield node.optional_vars, node.context_expr


def _split(full: str) -> tuple[str, str]:
    owner, _, name = full.rpartition('.')
    return owner, name


def _is_nova(module: str) -> bool:
    return module == 'nova' or module.startswith('nova.')


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == 'self'


def _is_super(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == 'super'
    )
