"""TOML files by built-in name or by path, for protocols and studies."""

from __future__ import annotations

import math
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from bench.utils.text import hidden_character
from registry.errors import UsageError, suggest


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
    """Whether JSON and the command line can hold a value too: no date, nor infinity."""
    if isinstance(value, list):
        return all(map(is_plain, value))
    return isinstance(value, bool | str) or (isinstance(value, int | float) and math.isfinite(value))
