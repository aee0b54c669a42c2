"""Fingerprints of code, and which of them are equivalent.

A fingerprint is a hash of the code of a class or function and of all code that it refers to, read from
source. When code is rewritten its fingerprint changes, although its results may not. `equivalent.toml` lists
fingerprints that `python -m tests.equivalent` found equivalent by comparing results bit for bit.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from registry.source import Source, is_idle

EQUIVALENT = Path(__file__).parent / "equivalent.toml"
# Code that finds definitions of its module, or modules of its package, by names that are computed.
_LOOKUPS = {"globals", "eval", "exec", "sys.modules"}
_IMPORTS = {"importlib.import_module", "import_module", "__import__"}


@functools.cache
def _changes() -> list[dict[str, Any]]:
    changes: list[dict[str, Any]] = tomllib.loads(EQUIVALENT.read_text("utf-8"))["change"]
    return changes


@functools.cache
def _classes() -> dict[str, set[str]]:
    """For each fingerprint, all fingerprints with the same results, itself included."""
    found: dict[str, set[str]] = {}
    for change in _changes():
        for pair in change["fingerprints"].values():
            whole = set().union(*(found.get(fingerprint, {fingerprint}) for fingerprint in pair))
            found |= dict.fromkeys(whole, whole)
    return found


def equivalent(one: str, other: str) -> bool:
    """Whether two fingerprints have the same results: equal, or equivalent by `equivalent.toml`."""
    return one == other or other in _classes().get(one, ())


@functools.cache
def added_options(backbone: str) -> dict[str, Any]:
    """Options that were added to a backbone, with the values that equal its earlier behaviour.

    At these values they are omitted from its canonical configuration, so that older records stay valid.
    """
    found = [change.get("added", {}).get(backbone, "{}") for change in _changes()]
    return {option: value for text in found for option, value in json.loads(text).items()}


def fingerprint(source: Source, name: str, defaults: Iterable[str] = ()) -> str:
    """12 hexadecimal digits of a hash of the code of a class or function and of all that it refers to.

    References are followed within the module, to the user's other modules, and to those parts of `registry`
    that affect results. Of other libraries only names count. Where code looks names up when it runs, all that
    it may find counts. Comments, docstrings, layout, the order of definitions and `register` itself have no
    effect.

    Args:
        source: the module.
        name: the definition in that module; "" for the whole module.
        defaults: further text to hash.
    """
    lines = {f"default {text}" for text in defaults}
    seen: set[tuple[Path, str]] = set()
    waiting = [(source, name)] if name else _whole(source)
    while waiting:
        source, name = waiting.pop()
        root = source.name.partition(".")[0]
        if (source.path, name) in seen:
            continue
        seen.add((source.path, name))
        if name and root != "registry":
            # Statements that define no name, and definitions that are noted for a lookup by name.
            waiting += [(source, ""), *((source, noted) for noted in source.noted)]
        for statement in source.statements.get(name, []) if name else source.effects:
            text, references = _code(source, statement)
            lines.add(text)
            for reference in references:
                waiting += _followed(source, reference.split("."), lines)
            if references & _LOOKUPS:
                waiting += _whole(source)
            # This program imports libraries and commands by computed names, none that compute results.
            if references & _IMPORTS and root not in ("registry", "bench"):
                waiting += [each for module in source.package() for each in _whole(module)]
        if name not in source.statements:
            waiting += _followed(source, [name], lines)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:12]


def _whole(source: Source) -> list[tuple[Source, str]]:
    return [(source, name) for name in (*source.statements, *source.imports, "")]


def _followed(source: Source, chain: list[str], lines: set[str]) -> list[tuple[Source, str]]:
    """The definitions of a dotted name that are hashed too; adds the name's origins to `lines`."""
    name, *rest = chain
    bound = name in source.statements
    found = [(source, name)] if bound else []
    if name in source.imports:
        for module, attribute in source.origins[name]:
            found += _imported(source, name, module, attribute, rest, set() if bound else lines)
    elif not bound:
        stars = [source.related(module, computing=True) for module, _ in source.origins.get("*", ())]
        found += [
            (other, name) for other in stars if other and {name, "*"} & {*other.statements, *other.origins}
        ]
    return found


def _imported(
    source: Source, name: str, module: str, attribute: str | None, rest: list[str], lines: set[str]
) -> list[tuple[Source, str]]:
    """The definitions of a name that is imported from a module, with attributes of it."""
    path = [attribute, *rest] if attribute else rest
    other = source.related(module, computing=True)
    while path and (inner := source.related(f"{module}.{path[0]}", computing=True)):
        module, other, path = f"{module}.{path[0]}", inner, path[1:]
    if other is None:
        lines.add(f"{name} = {module}.{attribute or ''}")
        return []
    if not path:
        return _whole(other)
    if path[0] == attribute != name:
        lines.add(f"{name} = {attribute}")
    return [(other, path[0])]


@functools.cache
def _code(source: Source, statement: ast.stmt) -> tuple[str, frozenset[str]]:
    """A statement as text without comments and layout, and the dotted names that it refers to."""
    references: set[str] = set()

    def text(node: Any) -> str:
        if isinstance(node, list):
            items = [item for item in node if not (is_idle(item) or source.registers(item))]
            return f"[{','.join(map(text, items))}]"
        if not isinstance(node, ast.AST):
            return repr(node)
        dotted = _dotted(node)
        if dotted:
            references.add(dotted)
            return dotted
        fields = [
            f"{key}={text(value)}"
            for key, value in ast.iter_fields(node)
            if value is not None and value != [] and key not in ("ctx", "kind", "type_comment")
        ]
        return f"{type(node).__name__}({','.join(fields)})"

    return text(statement), frozenset(references)


def _dotted(node: ast.AST) -> str:
    """`a.b.c` for such an expression, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (inner := _dotted(node.value)):
        return f"{inner}.{node.attr}"
    return ""
