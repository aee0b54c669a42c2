"""Reads a module's syntax tree without importing it.

`registrations` finds the names that the modules of a package register. `Registration` reads the signature and
the attributes of what is registered. `registry.fingerprints` follows the references in its code.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import is_user_file

ROOT = Path(__file__).parents[1]
# Parts of the registry that affect a network's numbers. Fingerprints follow no others.
_COMPUTING = (
    "registry.backbone",
    "registry.layers",
    "registry.networks",
    "registry.schedules",
    "registry.variables",
    "registry.wrapping",
)
_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class UnreadableError(Exception):
    """The source is not enough; the module must be imported."""


@dataclass(frozen=True)
class Signature:
    """The signature and description of a class or function.

    Attributes:
        options: its keyword arguments; annotations are types, or text if they cannot be evaluated.
        free: whether it also takes other keyword arguments.
        summary: first line of its docstring.
        paper: the first paper in its docstring or else in its module's, as `arXiv 2405.02730`; or empty.
    """

    options: dict[str, inspect.Parameter]
    free: bool
    summary: str
    paper: str = ""


def paper(*docstrings: str | None) -> str:
    """The first paper that any of the docstrings names, as `arXiv 2405.02730`; empty if there is none."""
    found = re.search(r"arXiv[: ]\d{4}\.\d{4,5}", "\n".join(filter(None, docstrings)))
    return found[0].replace(":", " ") if found else ""


@dataclass(frozen=True)
class Registration:
    """A statement `register("name", aliases=[…], key=value, **CONSTANT)(Target)`, or the equal decorator.

    Attributes:
        name, aliases: as written.
        source: the module of the statement.
        target: the name of the registered class or function in that module.
        keywords: the new defaults.
    """

    name: str
    aliases: tuple[str, ...]
    source: Source
    target: str
    keywords: tuple[ast.keyword, ...] = ()

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """The new defaults of the target's arguments."""
        found: dict[str, Any] = {}
        for keyword in self.keywords:
            value = self.source.evaluate(keyword.value)
            found |= {keyword.arg: value} if keyword.arg else value
        return found

    @functools.cached_property
    def signature(self) -> Signature:
        """The signature of the target, with the new defaults.

        Raises:
            UnreadableError: some arguments or a base class are known only after an import.
        """
        source, definition = self.source.definition(self.target)
        docstring = ast.get_docstring(definition)
        told = (docstring or "").partition("\n")[0], paper(docstring, ast.get_docstring(source.tree))
        if isinstance(definition, ast.ClassDef):
            try:
                source, found = source.member(definition, "__init__")
            except AttributeError:
                return Signature({}, False, *told)
            if not isinstance(found, ast.FunctionDef):
                raise UnreadableError(self.target)
            arguments = found.args
        else:
            arguments = definition.args
        plain = [*arguments.posonlyargs, *arguments.args]
        defaults: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
        pairs = list(zip(plain, [*defaults, *arguments.defaults], strict=True))
        pairs = pairs[len(arguments.posonlyargs) or isinstance(definition, ast.ClassDef) :]
        pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        empty = inspect.Parameter.empty
        options = {
            argument.arg: inspect.Parameter(
                argument.arg,
                inspect.Parameter.KEYWORD_ONLY,
                default=empty if default is None else source.evaluate(default),
                annotation=empty if argument.annotation is None else source.annotation(argument.annotation),
            )
            for argument, default in pairs
        }
        for name, value in self.defaults.items():
            if name in options:
                options[name] = options[name].replace(default=value)
        return Signature(options, arguments.kwarg is not None, *told)

    def attribute(self, name: str) -> Any:
        """A class attribute of the target.

        Raises:
            AttributeError: there is no such attribute.
            UnreadableError: its value is known only after an import.
        """
        source, definition = self.source.definition(self.target)
        if not isinstance(definition, ast.ClassDef):
            raise AttributeError(name)
        source, found = source.member(definition, name)
        if not isinstance(found, ast.Assign | ast.AnnAssign) or found.value is None:
            raise UnreadableError(name)
        return source.evaluate(found.value)


@dataclass(eq=False)
class Source:
    """One module as a syntax tree. What takes long to find in it is found when it is asked for.

    Attributes:
        name, path: name and file of the module.
        tree: all of it.
    """

    name: str
    path: Path
    tree: ast.Module

    @functools.cached_property
    def origins(self) -> dict[str, list[tuple[str, str | None]]]:
        """For each imported name, all (module, attribute or None) that it is imported as, in order.

        Imports in branches and functions count too. Modules of `from module import *` stand under `*`.
        """
        found: dict[str, list[tuple[str, str | None]]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for name, origin in self._imported(node):
                    origins = found.setdefault(name, [])
                    if origin not in origins:
                        origins.append(origin)
        return found

    @functools.cached_property
    def imports(self) -> dict[str, tuple[str, str | None]]:
        """For each imported name, the first (module, attribute or None)."""
        return {name: origins[0] for name, origins in self.origins.items() if name != "*"}

    @functools.cached_property
    def statements(self) -> dict[str, list[ast.stmt]]:
        """For each name of the module, the statements that bind or change it."""
        found: dict[str, list[ast.stmt]] = {}
        for statement in self._body:
            for name in {name for node in _own_scope(statement) for name in _bound(node)}:
                found.setdefault(name, []).append(statement)
        return found

    @functools.cached_property
    def effects(self) -> list[ast.stmt]:
        """Statements that bind no name."""
        binding = {id(statement) for statements in self.statements.values() for statement in statements}
        return [
            statement
            for statement in self._body
            if id(statement) not in binding
            and not is_idle(statement)
            and not any(isinstance(node, ast.Import | ast.ImportFrom) for node in _own_scope(statement))
            and not any(self.registers(call) for call, _ in _registered(statement))
        ]

    @property
    def _body(self) -> list[ast.stmt]:
        return [statement for statement in self.tree.body if not _is_main_guard(statement)]

    def registers(self, node: Any) -> bool:
        """Whether an expression is a call of this program's `register`."""
        return is_register(node) and self._of_this_program(_root(node))

    @functools.cached_property
    def noted(self) -> list[str]:
        """Definitions with a decorator that may note them in a table, where other code finds them by name.

        It is one of the user's own, or one of a library that is named so, such as `register_model`.
        """
        return [
            statement.name
            for statement in self.tree.body
            if isinstance(statement, _Definition) and any(map(self._notes, statement.decorator_list))
        ]

    def _notes(self, decorator: ast.expr) -> bool:
        root = _root(decorator)
        if self._of_this_program(root):
            return False
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if root in self.statements or "register" in ast.unparse(called):
            return True
        return root in self.imports and self.related(self.imports[root][0]) is not None

    def _of_this_program(self, name: str) -> bool:
        module, _ = self.imports.get(name, (self.name, None))
        return module.partition(".")[0] in ("registry", "bench")

    def _imported(self, node: ast.Import | ast.ImportFrom) -> list[tuple[str, tuple[str, str | None]]]:
        """The names that an import binds, each with what it stands for."""
        if isinstance(node, ast.Import):
            roots = [alias.name.partition(".")[0] for alias in node.names]
            return [
                (alias.asname or root, (alias.name if alias.asname else root, None))
                for alias, root in zip(node.names, roots, strict=True)
            ]
        module = self._absolute(node)
        return [(alias.asname or alias.name, (module, alias.name)) for alias in node.names]

    def _absolute(self, node: ast.ImportFrom) -> str:
        """The module that a statement imports from, without leading dots."""
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        depth = len(parts) - node.level + (self.path.name == "__init__.py")
        return ".".join([*parts[:depth], *([node.module] if node.module else [])])

    # ---- other modules ----

    def related(self, module: str, *, computing: bool = False) -> Source | None:
        """A module of the same package, of `registry`, or of the user; None for a library's.

        Args:
            computing: of `registry`, only modules that affect a network's numbers.
        """
        root = module.partition(".")[0]
        if root == "registry":
            if computing and module != root and not module.startswith(_COMPUTING):
                return None
            return read(module, file(ROOT, module))
        if root == self.name.partition(".")[0]:
            return read(module, file(self._folder, module))
        if root in sys.stdlib_module_names:
            return None
        loaded = getattr(sys.modules.get(module), "__file__", None)
        path = Path(loaded) if loaded else file(self._folder, module)
        return read(module, path) if path and is_user_file(str(path), module) else None

    def package(self) -> list[Source]:
        """The modules of its package, or those beside a module without one."""
        inside = self._folder / self.name.partition(".")[0]
        paths = sorted(inside.rglob("*.py") if inside.is_dir() else self._folder.glob("*.py"))
        names = [".".join(path.relative_to(self._folder).with_suffix("").parts) for path in paths]
        found = (read(name.removesuffix(".__init__"), path) for name, path in zip(names, paths, strict=True))
        return [source for source in found if source]

    @property
    def _folder(self) -> Path:
        """The folder from which it is imported."""
        return self.path.parents[len(self.name.split(".")) - (self.path.name != "__init__.py")]

    # ---- values ----

    def evaluate(self, expression: ast.expr) -> Any:
        """The value of an expression of literals, constants of the module, and the standard library.

        Raises:
            UnreadableError: the expression contains anything else.
        """
        if isinstance(expression, ast.Constant):
            return expression.value
        code = compile(ast.Expression(expression), str(self.path), "eval")
        try:
            return eval(code, {}, _Constants(self))
        except UnreadableError:
            raise
        except Exception as error:
            raise UnreadableError(ast.unparse(expression)) from error

    def annotation(self, expression: ast.expr) -> Any:
        """The type of an annotation, which may be written as text.

        Raises:
            UnreadableError: as for `evaluate`.
        """
        value = self.evaluate(expression)
        return self.evaluate(ast.parse(value, mode="eval").body) if isinstance(value, str) else value

    def value(self, name: str) -> Any:
        """The value of a module-level constant, or of a name imported from the standard library.

        Raises:
            KeyError: the module does not bind the name.
            UnreadableError: the name is bound to something else.
        """
        if name in self.imports:
            module, attribute = self.imports[name]
            if module.partition(".")[0] in sys.stdlib_module_names:
                found = importlib.import_module(module)
                return getattr(found, attribute) if attribute else found
            other = self.related(module) if attribute else None
            if other and attribute in other.statements | other.imports:
                return other.value(attribute)
            raise UnreadableError(name)
        statement, *more = self.statements[name]
        if more or not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            raise UnreadableError(name)
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if not all(isinstance(target, ast.Name) for target in targets):
            raise UnreadableError(name)
        return self.evaluate(statement.value)

    def definition(self, name: str) -> tuple[Source, _Definition]:
        """The class or function of a name, and the module that defines it.

        Raises:
            UnreadableError: no definition can be found in source.
        """
        for statement in self.statements.get(name, []):
            if isinstance(statement, _Definition):
                return self, statement
        module, attribute = self.imports.get(name, ("", None))
        other = self.related(module) if attribute else None
        if not other or not attribute:
            raise UnreadableError(name)
        return other.definition(attribute)

    def member(self, definition: ast.ClassDef, name: str) -> tuple[Source, ast.stmt]:
        """The statement that defines the attribute `name`, in the class or in the first base class with one.

        Raises:
            AttributeError: neither the class nor a base class has it.
            UnreadableError: a base class cannot be found in source.
        """
        for statement in reversed(definition.body):
            if name in _bound(statement):
                return self, statement
        for base in definition.bases:
            base = base.value if isinstance(base, ast.Subscript) else base  # Sampler[DDPM]
            text = ast.unparse(base)
            library = self.imports.get(text, ("", None))[0].partition(".")[0]
            if text == "object" or library in sys.stdlib_module_names:
                continue  # ABC, Protocol, Generic
            if text in ("nn.Module", "torch.nn.Module") and not name.startswith("__"):
                continue
            if not isinstance(base, ast.Name):
                raise UnreadableError(text)
            source, found = self.definition(text)
            if isinstance(found, ast.ClassDef):
                try:
                    return source.member(found, name)
                except AttributeError:
                    continue
        raise AttributeError(name)


class _Constants(Mapping[str, Any]):
    """Values of the names of a module that can be read from its source."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, name: str) -> Any:
        return self.source.value(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.source.statements)

    def __len__(self) -> int:
        return len(self.source.statements)


def read(name: str, path: Path | None) -> Source | None:
    """The module `name`, read from a file; None if there is no such file, or it is not Python."""
    try:
        return _read(name, path, path.stat().st_mtime_ns) if path else None
    except (OSError, SyntaxError, ValueError):
        return None


@functools.cache
def _read(name: str, path: Path, _changed: int) -> Source:
    return Source(name, path, ast.parse(path.read_bytes()))


def file(folder: Path, module: str) -> Path | None:
    """The file of a module that is imported from `folder`; None if there is none."""
    path = folder.joinpath(*module.split("."))
    candidates = (path.with_name(path.name + ".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def registrations(package: str, kind: str) -> list[Registration]:
    """The names that the modules of a package register, in order of the modules' names.

    These are calls of `register` and of `{kind}s.register` at the top level of a module.

    Raises:
        ValueError: a name or alias is not a literal.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ValueError(f"no package {package}")
    found = []
    for folder in map(Path, spec.submodule_search_locations):
        for path in sorted(folder.glob("*.py")):
            if path.name == "__init__.py" or b"register(" not in path.read_bytes():
                continue
            source = read(f"{package}.{path.stem}", path)
            if source is None:
                raise ValueError(f"{path} cannot be parsed")
            for statement in source.tree.body:
                for call, target in _registered(statement):
                    if ast.unparse(call.func) in ("register", f"{kind}s.register"):
                        found.append(_registration(source, call, target))
    return found


def _registration(source: Source, call: ast.Call, target: str) -> Registration:
    aliases = [keyword.value for keyword in call.keywords if keyword.arg == "aliases"]
    try:
        (name,) = map(ast.literal_eval, call.args)
        others = tuple(alias for value in aliases for alias in ast.literal_eval(value))
    except ValueError:
        raise ValueError(f"{source.path}, line {call.lineno}: names and aliases must be literals") from None
    keywords = tuple(keyword for keyword in call.keywords if keyword.arg != "aliases")
    return Registration(name, others, source, target, keywords)


def _registered(statement: ast.stmt) -> list[tuple[ast.Call, str]]:
    """The calls of `register` in a statement or its decorators, with the name of what each registers."""
    if isinstance(statement, _Definition):
        # Decorators apply from the last to the first.
        return [(call, statement.name) for call in reversed(statement.decorator_list) if is_register(call)]  # type: ignore[misc]
    match statement:
        case ast.Expr(ast.Call(ast.Call() as call, [ast.Name(target)])) if is_register(call):
            return [(call, target)]
    return []


def _root(expression: ast.AST) -> str:
    """The leftmost name of an expression: `a` of `a.b(c)`."""
    while inner := getattr(expression, "func", getattr(expression, "value", None)):
        expression = inner
    return getattr(expression, "id", "")


def is_register(node: ast.AST) -> bool:
    """Whether an expression is a call of `register`, of any registry."""
    if not isinstance(node, ast.Call):
        return False
    return getattr(node.func, "attr", getattr(node.func, "id", "")) == "register"


def _own_scope(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a statement that run in its own scope, without bodies of classes and functions."""
    yield node
    if not isinstance(node, _Definition | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _own_scope(child)


def _bound(node: ast.AST) -> list[str]:
    """Names that a node binds or changes: `x = …`, `x.y = …`, `x[0] = …`, `def x()`."""
    if isinstance(node, _Definition):
        return [node.name]
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.For | ast.NamedExpr):
        targets = [node.target]
    elif isinstance(node, ast.withitem):
        targets = [node.optional_vars] if node.optional_vars else []
    else:
        return []
    while any(isinstance(target, ast.Attribute | ast.Subscript | ast.Starred) for target in targets):
        targets = [getattr(target, "value", target) for target in targets]
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def is_idle(statement: ast.AST) -> bool:
    """Whether a statement does nothing: `pass`, a docstring, `…`."""
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(statement, ast.Pass)


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'"
