"""Values of options: as JSON holds them, and as text on the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from registry.errors import UsageError


def plain(value: Any) -> Any:
    """A value in JSON's types: tuples become lists, whole floats integers, other objects their names."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", str(value))


def parse_value(text: str) -> Any:
    """Parse JSON, else a list with commas, else text: "false" -> False, "1,2" -> [1, 2], "mlp" -> "mlp"."""
    try:
        return json.loads(text)
    except ValueError:  # also a number of thousands of digits
        return [parse_value(item) for item in text.split(",")] if "," in text else text


def split_options(text: str) -> tuple[str, dict[str, Any]]:
    """Split a name and the options after it: `"ddim eta=0.5"` -> ("ddim", {"eta": 0.5}).

    The name may contain spaces.

    Raises:
        UsageError: a word after the first option has no `=`.
    """
    words = text.split()
    length = next((i for i, word in enumerate(words) if "=" in word), len(words))
    options = {}
    for word in words[length:]:
        option, equals, value = word.partition("=")
        if not (option and equals):
            raise UsageError(f"{text!r} is not NAME KEY=VALUE …: {word!r} is no KEY=VALUE")
        options[option] = parse_value(value)
    return " ".join(words[:length]), options


def join_options(name: str, options: Mapping[str, Any]) -> str:
    """The inverse of `split_options`: a name and options as text."""
    return " ".join([name, *(f"{option}={format_value(value)}" for option, value in options.items())])


def format_value(value: Any) -> str:
    """A value as text without spaces, from which `parse_value` makes `plain(value)`."""
    value = plain(value)
    short = _short(value)
    if short and not any(character.isspace() for character in short) and _same(parse_value(short), value):
        return short
    return json.dumps(value, separators=(",", ":")).replace(" ", "\\u0020")


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_short, value))
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal and of the same types: True is not 1."""
    return json.dumps(a) == json.dumps(b)
