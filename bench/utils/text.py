"""Text helpers: control characters in foreign text, sections of docstrings, times in words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# Control characters, escape codes among them, ends of lines, marks that change the direction of what follows,
# and halves of characters, which no file can hold.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def texts(value: str | Iterable[str]) -> list[str]:
    """Several texts, or a single one as a list of one."""
    return [value] if isinstance(value, str) else list(value)


def hidden_character(value: Any) -> str | None:
    """The first control character or direction mark in the strings of a JSON value, as `U+001B`; or None."""
    if isinstance(value, str):
        found = _HIDDEN.search(value)
        return f"U+{ord(found[0]):04X}" if found else None
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return next(filter(None, map(hidden_character, value)), None)
    return None


def documented(doc: str, heading: str = "Attributes:") -> dict[str, str]:
    """The `Attributes:` or `Args:` of a docstring by name; a line may name several."""
    _, _, section = inspect.cleandoc(doc).partition(f"{heading}\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        indent = len(line) - len(line.lstrip())
        head, colon, rest = line.strip().partition(":")
        if indent == 4 and colon:
            names = [part.strip() for part in head.split(",")]
            found |= dict.fromkeys(names, rest.strip())
        elif indent > 4:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        elif line.strip():
            break
    return found


def leaves(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested tables."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def span(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
