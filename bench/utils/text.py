"""Text helpers: control characters in foreign text, times in words, one text or several."""

from __future__ import annotations

import re
from collections.abc import Iterable
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


def span(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
