"""TOML files by built-in name or by path, for protocols and studies."""

from __future__ import annotations

import math
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError

from bench.utils.text import hidden_character
from registry.errors import UsageError, suggest

Validated = TypeVar("Validated", bound=BaseModel)


def built_in(package: str) -> list[str]:
    """Names of a package's TOML files, sorted."""
    found = resources.files(package).iterdir()
    return sorted(Path(item.name).stem for item in found if item.name.endswith(".toml"))


def read(kind: str, package: str, name: str | Path) -> dict[str, Any]:
    """The table of a file: of the package where that has one of the name, else at the path.

    Args:
        kind: what such a file is, for messages.
        package: where the built-in ones lie.
        name: a built-in name, or a path that ends in `.toml`.

    Raises:
        UsageError: no such name or file, or no valid TOML.
    """
    known = built_in(package)
    source: Any = Path(name)
    if source.suffix != ".toml":
        if str(name) not in known:
            raise UsageError(
                f"unknown {kind} {str(name)!r}.{suggest(str(name), known)} It is one of {', '.join(known)}, "
                "or a .toml file."
            )
        source = resources.files(package) / f"{name}.toml"
    try:
        table = tomllib.loads(source.read_text(encoding="utf-8-sig"))
        character = hidden_character(table)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the {kind} {name}: {getattr(error, 'strerror', None) or error}"
        ) from None
    except (ValueError, RecursionError) as error:  # of TOML, of a number's length, of nested lists
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"{kind} {name} is no valid TOML: {why}") from None
    if character:
        raise UsageError(f"{kind} {name} holds the control character {character} in a text: take it out")
    return table


def is_plain(value: Any) -> bool:
    """Whether JSON and the command line can hold a value too: no date, infinity or integer over 64 bits."""
    if isinstance(value, list):
        return all(map(is_plain, value))
    if isinstance(value, int):
        return abs(value) < 2**63
    return isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))


def validated(model: type[Validated], table: dict[str, Any]) -> Validated:
    """A model from a table.

    Raises:
        UsageError: a key or value that is not right, named.
    """
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise UsageError(_first(model, error)) from None


def _first(model: Any, error: ValidationError) -> str:
    """The first complaint in one line, with the key it is about."""
    # A key that is not known explains why another is missing.
    complaint = min(error.errors(), key=lambda complaint: complaint["type"] != "extra_forbidden")
    *tables, key = [str(part) for part in complaint["loc"]] or [""]
    if tables:
        model = model.model_fields.get(tables[0], Field()).annotation
    where = f"[{'.'.join(tables)}] " if tables else ""
    if complaint["type"] == "extra_forbidden":
        return f"{where}has no key {key!r}.{suggest(key, list(model.model_fields))}"
    if complaint["type"] == "missing":
        return f"{where}needs the key {key!r}"
    message = complaint["msg"].removeprefix("Value error, ")
    if complaint["type"] == "value_error":  # of a whole table
        return f"[{'.'.join([*tables, key])}] {message}"
    field = getattr(model, "model_fields", {}).get(key)
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)] if field else []
    return (
        f"{where}{key} = {_short(complaint['input'])}: {message[0].lower() + message[1:]}"
        f"{suggest(str(complaint['input']), choices).rstrip()}"
    )


def _short(value: Any) -> str:
    """A value as TOML writes it, cut to the length of a line."""
    text = repr(value) if isinstance(value, str | int | float | list | dict) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
