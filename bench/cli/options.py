"""Options that several commands take, and what their text stands for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        metavar="'NAME [KEY=VALUE …]'",
        help="Backbone or wildcard, overrides of its own behind it: `U-DiT-B`, `'udit* rope=false'`; "
        "repeatable.",
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override of the network; repeatable."),
]
InputSize = Annotated[
    str | None,
    typer.Option(help="Input grid: `32`, or `32x48` (height x width). Default: the network's own."),
]
Dtype = Annotated[Literal["fp32", "tf32", "bf16", "fp16"], typer.Option(help="Arithmetic; tf32 is for CUDA.")]
Plugins = Annotated[
    list[str],
    typer.Option("--plugin", metavar="FILE|MODULE", help="Python file or module that registers backbones."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def load_plugins(plugins: list[str]) -> None:
    """Import files and modules, so that the backbones they register are known.

    Raises:
        UsageError: a file or module that is not there or fails on import.
    """
    import importlib
    import importlib.util
    import sys

    from registry.errors import UsageError

    for plugin in plugins:
        path = Path(plugin)
        try:
            if path.suffix == ".py":
                if not path.is_file():
                    raise UsageError(f"no such plugin file: {plugin}")
                spec = importlib.util.spec_from_file_location(path.stem, path)
                assert spec is not None and spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                sys.modules[path.stem] = module
                spec.loader.exec_module(module)
            else:
                importlib.import_module(plugin)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"plugin {plugin} fails on import: {type(error).__name__}: {error}") from error


def parse_models(texts: list[str], shared: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """`["udit-t ffn=mlp rope=false"]` -> [("udit-t", {"ffn": "mlp", "rope": False})].

    Args:
        texts: names or wildcards, each with overrides of its own behind it.
        shared: overrides of all of them; a network's own come before these.

    Returns:
        Registered names and overrides, in the order given, each pair once.

    Raises:
        UsageError: a name or pattern that fits nothing, or an item behind it without `=`.
    """
    import registry

    found: list[tuple[str, dict[str, Any]]] = []
    for text in texts:
        words = text.split()
        length = next((i for i, word in enumerate(words) if "=" in word), len(words))
        name = " ".join(words[:length])  # `DiT XL/2` is a name too
        if not name:
            raise registry.UsageError(f"--model takes a name, with KEY=VALUE behind it or not: {text!r}")
        names = [name]
        if any(wildcard in name for wildcard in "*?["):
            names = registry.names(name)
            if not names:
                raise registry.UsageError(f"no backbone matches {name!r}; `bench list` shows all names")
        overrides = shared | parse_overrides(words[length:], "--model")
        pairs = [(registry.backbones.find(name).name, overrides) for name in names]
        found += [pair for pair in pairs if pair not in found]
    return found


def parse_shared(overrides: list[str], input_size: str | None) -> dict[str, Any]:
    """What `--set` and `--input-size` ask of every network, as overrides."""
    size = parse_size(input_size)
    return parse_overrides(overrides) | ({} if size is None else {"input_size": size})


def parse_overrides(texts: list[str], option: str = "--set") -> dict[str, Any]:
    """`["cosine=false", "depth=1,1,2,1,1"]` -> {"cosine": False, "depth": [1, 1, 2, 1, 1]}.

    Raises:
        UsageError: an item without `=`.
    """
    from registry.errors import UsageError

    overrides = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.strip()):
            raise UsageError(f"{option} takes KEY=VALUE, not {text!r}")
        overrides[name.strip()] = _value(value.strip())
    return overrides


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return [_value(item) for item in text.split(",")] if "," in text else text


def parse_size(text: str | None) -> int | tuple[int, int] | None:
    """`"32"` -> 32, `"32x48"` -> (32, 48).

    Raises:
        UsageError: neither a whole number nor two of them.
    """
    from registry.errors import UsageError

    if text is None:
        return None
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() for side in sides):
        raise UsageError(f"--input-size takes 32 or 32x48 (height x width), not {text!r}")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
