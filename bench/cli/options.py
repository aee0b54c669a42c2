"""Options that several commands take, and what their text stands for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def load_plugins(plugins: list[str]) -> list[str]:
    """Import files and modules, so that what they register is known; see `registry.plugins.load_file`."""
    from registry.plugins import load_file

    for plugin in plugins:
        load_file(plugin)
    return plugins


def check_device(name: str | None) -> str | None:
    """The name of a device as it was given; see `bench.utils.device.find_device` for whether it is here.

    Raises:
        UsageError: no device has such a name.
    """
    from registry.errors import UsageError

    if name is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UsageError(f"--device takes cpu, cuda or cuda:N, not {name!r}")
    return name


Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        metavar="'NAME [KEY=VALUE …]'",
        help="Backbone by name or wildcard, with options of its own: `U-DiT-B`, `'udit* rope=false'`. "
        "Repeatable.",
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Option of all networks that have no other value behind their names. Repeatable.",
    ),
]
Options = Annotated[
    list[str],
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="Option of the network, such as `ffn=mlp`. Repeatable."
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW",
        help="Input size of networks with none behind their names: `32`, or `32x48` (height x width). "
        "Default: the network's own.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="cpu|cuda|cuda:N", callback=check_device, help="Device. Default: a GPU if there is one."
    ),
]
Dtype = Annotated[
    Literal["fp32", "tf32", "bf16", "fp16"], typer.Option(help="Number format. tf32: CUDA only.")
]
Plugins = Annotated[
    list[str],
    typer.Option(
        "--plugin",
        metavar="FILE|MODULE",
        callback=load_plugins,
        help="Python file or module that registers a backbone, dataset, score or sampler. Repeatable.",
    ),
]
DataOptions = Annotated[
    list[str],
    typer.Option(
        "--data-option", metavar="KEY=VALUE", help="Option of the dataset, such as `root=DIR`. Repeatable."
    ),
]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of records.")]
Work = Annotated[Path, typer.Option("--work", metavar="DIR", help="Folder of training runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


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
    from registry.values import split_options

    found: list[tuple[str, dict[str, Any]]] = []
    for text in texts:
        name, own = split_options(text)
        if not name:
            raise registry.UsageError(
                f"--model takes a name, then options as KEY=VALUE, as in 'udit-t rope=false', not {text!r}"
            )
        names = [name]
        if any(wildcard in name for wildcard in "*?["):
            names = registry.names(name)
            if not names:
                raise registry.UsageError(f"no backbone matches {name!r}; `bench list` shows all names")
        overrides = shared | own
        pairs = [(registry.backbones.find(name).name, overrides) for name in names]
        found += [pair for pair in pairs if pair not in found]
    return found


def parse_shared(overrides: list[str], input_size: str | None) -> dict[str, Any]:
    """The values of `--set` and `--input-size`, as overrides of every network."""
    size = parse_size(input_size)
    return parse_overrides(overrides) | ({} if size is None else {"input_size": size})


def parse_overrides(texts: list[str], option: str = "--set") -> dict[str, Any]:
    """`["cosine=false", "depth=1,1,2,1,1"]` -> {"cosine": False, "depth": [1, 1, 2, 1, 1]}.

    Raises:
        UsageError: an item without `=`.
    """
    from registry.errors import UsageError
    from registry.values import parse_value

    overrides = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.strip()):
            raise UsageError(f"{option} takes KEY=VALUE, not {text!r}")
        overrides[name.strip()] = parse_value(value.strip())
    return overrides


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


def parse_numbers(text: str | None, option: str = "--seeds") -> list[int] | None:
    """`"0,1"` -> [0, 1]; None stays.

    Raises:
        UsageError: something between the commas is no whole number.
    """
    from registry.errors import UsageError

    if text is None:
        return None
    numbers = [number.strip() for number in text.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise UsageError(f"{option} takes whole numbers separated by commas, not {text!r}")
    return list(map(int, numbers))
