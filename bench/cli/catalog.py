"""`bench list` and `bench describe`: what there is to measure."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.options import Json, Plugins, load_plugins
from bench.cli.output import print_json, print_table


def list_names(
    pattern: Annotated[str, typer.Argument(help="Wildcard, such as `udit*`.")] = "*",
    plugins: Plugins = [],  # noqa: B006, typer copies it
    as_json: Json = False,
) -> None:
    """List the registered backbones; nothing is imported for it."""
    import registry

    load_plugins(plugins)
    names = registry.names(pattern)
    if not names:
        raise registry.UsageError(f"no backbone matches {pattern!r}; `bench list` shows all names")
    origins = {name: _origin(name) for name in names}
    if as_json:
        print_json([{"name": name, "origin": origin} for name, origin in origins.items()])
        return
    print_table(
        f"{len(names)} backbones",
        ["Name", "Defined by"],
        [[name, origin] for name, origin in origins.items()],
        numbers=False,
        notes=["`bench describe NAME` shows a network's overrides."],
    )


def _origin(name: str) -> str:
    import registry

    try:
        return registry.backbones.find(name).origin
    except registry.UsageError as clash:  # told here, and raised when the name is used
        return str(clash)


def describe(
    name: Annotated[str, typer.Argument(help="Backbone name; case and separators are forgiven.")],
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Show what a backbone is and the overrides it takes."""
    from dataclasses import asdict

    import registry

    load_plugins(plugins)
    description = registry.describe(name)
    if as_json:
        print_json(asdict(description))
        return
    also = f" (also {', '.join(description.aliases)})" if description.aliases else ""
    print_table(
        f"{description.name}{also}, defined by {description.origin}\n{description.summary}",
        ["Override", "Default", "Type"],
        [[key, str(option.default), option.type] for key, option in description.options.items()],
        numbers=False,
        notes=[f"bench flops --model {description.name} --set KEY=VALUE"],
    )
