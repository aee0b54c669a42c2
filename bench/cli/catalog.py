"""`bench list` and `bench describe`: what there is to measure."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bench.cli.options import Json, Plugins, load_plugins
from bench.cli.output import print_json, print_table

if TYPE_CHECKING:
    from registry.plugins import Registry


Kind = Annotated[
    Literal["backbone", "dataset", "extractor", "protocol"], typer.Option(help="What kind of thing.")
]


def list_names(
    pattern: Annotated[str, typer.Argument(help="Wildcard, such as `udit*`.")] = "*",
    kind: Kind = "backbone",
    plugins: Plugins = [],  # noqa: B006, typer copies it
    as_json: Json = False,
) -> None:
    """List the registered backbones, or datasets and so on; nothing is imported for it."""
    from registry.errors import UsageError

    load_plugins(plugins)
    if kind == "protocol":
        from bench.training import protocols

        told = {name: protocols.load(name).title for name in protocols.names() if fnmatch(name, pattern)}
    else:
        found = _registry(kind)
        told = {name: _origin(found, name) for name in found.names(pattern)}
    if not told:
        raise UsageError(f"no {kind} matches {pattern!r}; leave the pattern out to see all")
    if as_json:
        key = "title" if kind == "protocol" else "origin"
        print_json([{"name": name, key: text} for name, text in told.items()])
        return
    print_table(
        f"{len(told)} {kind}{'s' if len(told) > 1 else ''}",
        ["Name", "What it is" if kind == "protocol" else "Defined by"],
        [[name, text] for name, text in told.items()],
        numbers=False,
        notes=["`bench describe NAME` shows a network's overrides."] if kind == "backbone" else [],
    )


def describe(
    name: Annotated[str, typer.Argument(help="Name; case and separators are forgiven.")],
    kind: Annotated[
        Literal["backbone", "dataset", "extractor"], typer.Option(help="What kind of thing.")
    ] = "backbone",
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Show what a backbone, dataset or extractor is and what can be set about it."""
    from dataclasses import asdict

    load_plugins(plugins)
    found = _registry(kind)
    description = found.describe(name)
    if as_json:
        print_json(asdict(description))
        return
    also = f" (also {', '.join(description.aliases)})" if description.aliases else ""
    rows = [[key, str(option.default), option.type] for key, option in description.options.items()]
    use = {
        "backbone": "bench flops --model {} --set KEY=VALUE",
        "dataset": "bench train --data {} --data-option KEY=VALUE",
    }
    print_table(
        f"{description.name}{also}, defined by {description.origin}\n{description.summary}",
        [found.argument.capitalize(), "Default", "Type"],
        rows,
        numbers=False,
        notes=[use[kind].format(description.name)] if kind in use and rows else [],
    )


def _registry(kind: str) -> Registry:
    if kind == "dataset":
        from bench.data import datasets

        return datasets
    if kind == "extractor":
        from bench.metrics.extractors import extractors

        return extractors
    from registry import backbones

    return backbones


def _origin(registry: Registry, name: str) -> str:
    from registry.errors import UsageError

    try:
        return registry.find(name).origin
    except UsageError as clash:  # told here, and raised when the name is used
        return str(clash)
