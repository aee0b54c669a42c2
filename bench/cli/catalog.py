"""`bench list` and `bench describe`: what there is to measure."""

from __future__ import annotations

import ast
import contextlib
import pkgutil
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench.cli.options import Json, Plugins
from bench.cli.output import print_json, print_table

if TYPE_CHECKING:
    from registry.plugins import Registry

Registered = Literal["backbone", "dataset", "executor", "extractor", "objective", "sampler", "score"]
# Where the registry of a kind is.
REGISTRIES = {
    "backbone": "registry:backbones",
    "dataset": "bench.data:datasets",
    "executor": "bench.studies.executors:executors",
    "extractor": "bench.metrics.extractors:extractors",
    "objective": "bench.diffusion:objectives",
    "sampler": "bench.diffusion:samplers",
    "score": "bench.metrics.scores:scores",
}
KINDS = f"One of {', '.join(REGISTRIES)}"
# What one of a kind declares beside its options.
DECLARED = {
    "backbone": ("objective", "beta_schedule", "guided_channels"),
    "score": ("heading", "higher_is_better", "default", "recorded", "version"),
}
# How one of a kind is used.
USES = {
    "backbone": "bench flops --model {} --set KEY=VALUE",
    "dataset": "bench train --data {} --data-option KEY=VALUE",
    "executor": "bench ablate STUDY --executor {} --executor-option KEY=VALUE",
    "objective": "bench train --objective '{} KEY=VALUE'",
    "sampler": "bench sample --sampler '{} KEY=VALUE'",
}


def list_names(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Name with wildcards, such as `'udit*'`.")
    ] = "*",
    kind: Annotated[
        Literal[Registered, "protocol"], typer.Option(metavar="KIND", help=f"{KINDS}, protocol.")
    ] = "backbone",
    plugins: Plugins = [],  # noqa: B006, typer copies it
    as_json: Json = False,
) -> None:
    """List backbones with their size and cost, or with --kind datasets, samplers, scores and others.

    Examples:
        bench list 'udit*'
        bench list --kind protocol
    """
    from registry.errors import UsageError

    found: list[dict[str, Any]] = []
    if kind == "protocol":
        from bench.training import protocols

        columns = {"name": "Name", "title": "What it is"}
        known = [name for name in protocols.names() if fnmatch(name, pattern)]
        found = [{"name": name, "title": protocols.load(name).title} for name in known]
    else:
        registered = pkgutil.resolve_name(REGISTRIES[kind])
        columns = {"name": "Name", "summary": "What it is", "origin": "Defined by"}
        for name in registered.names(pattern):
            row = {"name": name, "summary": "", "paper": ""}
            try:
                entry = registered.find(name)
                row["origin"] = entry.origin
                if entry.factory or entry.registration:  # others are imported to be described
                    about = registered.describe(name)
                    row |= {"summary": about.summary, "paper": about.paper}
            except UsageError as clash:  # two packages claim the name: raised when it is used
                row["origin"] = str(clash)
            found.append(row)
    if not found:
        raise UsageError(f"no {kind} matches {pattern!r}; leave the pattern out to list all")
    if kind == "backbone":
        from bench.cost.listed import listed

        costs = listed()
        for row in found:
            cost = costs.get(row["name"])
            row["parameters"] = cost.parameters if cost else None
            row["paper_gflops"] = cost.paper_gflops if cost else None
    if as_json:
        print_json(found)
        return
    notes = ["`--protocol FILE` takes a TOML file of your own; the book explains its keys."] * (
        kind == "protocol"
    )
    if kind == "backbone":
        from bench.records.quantities import COSTS, decimals

        columns = {
            "name": "Name",
            "paper": "Paper",
            "parameters": COSTS["params"].title,
            "paper_gflops": "GFLOPs (paper)",
            "origin": "Defined by",
        }
        for row in found:
            if row["parameters"]:
                row["parameters"] = COSTS["params"].text(row["parameters"])
                row["paper_gflops"] = decimals(row["paper_gflops"], COSTS["gflops"].digits)
        notes = [
            "Parameters and GFLOPs are of the default options. `bench describe NAME` shows the options; "
            "`bench flops --model 'NAME KEY=VALUE'` counts with others."
        ]
    print_table(
        f"{len(found)} {kind}{'s' if len(found) > 1 else ''}",
        list(columns.values()),
        [[row[key] or "" for key in columns] for row in found],
        numbers={columns[key] for key in ("parameters", "paper_gflops") if key in columns},
        notes=notes,
    )


def describe(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Its name; case and separators do not matter: `U-DiT-B`.")
    ],
    kind: Annotated[Registered, typer.Option(metavar="KIND", help=f"{KINDS}.")] = "backbone",
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Show what a backbone, dataset, sampler or score is, and its options with their defaults.

    Examples:
        bench describe udit-b
        bench describe ddim --kind sampler
    """
    from dataclasses import asdict

    from registry.errors import UsageError

    registry = pkgutil.resolve_name(REGISTRIES[kind])
    try:
        registry.find(name)
    except UsageError:
        if others := _kinds(name):
            commands = ", ".join(f"`bench describe {name} --kind {other}`" for other in others)
            raise UsageError(f"{name!r} is no {kind}, but a {' and a '.join(others)}: {commands}") from None
        raise
    description = registry.describe(name)
    declared = {attribute: _declared(kind, name, attribute) for attribute in DECLARED.get(kind, ())}
    if as_json:
        print_json(asdict(description) | declared)
        return
    also = f" (also {', '.join(description.aliases)})" if description.aliases else ""
    lines = [f"{description.name}{also}, defined by {description.origin}", description.summary]
    if description.paper:
        lines.append(description.paper)
    if declared:
        words = {True: "yes", False: "no"}
        lines.append(
            ", ".join(
                f"{key.replace('_', ' ')} {words[value] if isinstance(value, bool) else value}"
                for key, value in declared.items()
                if value is not None
            )
        )
    if kind == "backbone" and (wrapped := _wrapped(name)):
        lines.append(wrapped)
    meanings = _meanings(registry, name)
    rows = []
    for key, option in description.options.items():
        default = "(required)" if option.required else str(option.default)
        rows.append([key, default, option.type.replace("pathlib.", ""), meanings.get(key, "")])
    print_table(
        "\n".join(lines),
        ["Option", "Default", "Type", "Meaning"],
        rows,
        numbers=False,
        notes=[" --plugin ".join([USES[kind].format(description.name), *plugins])]
        if kind in USES and rows
        else [],
    )


def _kinds(name: str) -> list[str]:
    """The kinds that have a name."""
    from registry.errors import UsageError

    found = []
    for kind, registry in REGISTRIES.items():
        with contextlib.suppress(UsageError):
            pkgutil.resolve_name(registry).find(name)
            found.append(kind)
    return found


def _meanings(registry: Registry, name: str) -> dict[str, str]:
    """What docstrings say of each option, read from source where that is enough."""
    from bench.utils.text import documented
    from registry.plugins import unwrapped
    from registry.source import UnreadableError

    entry = registry.find(name)
    if entry.factory or not entry.registration:
        factory = unwrapped(registry.factory(name))
        docs = [factory.__doc__, factory.__init__.__doc__]
    else:
        source, definition = entry.registration.source.definition(entry.registration.target)
        docs = [ast.get_docstring(definition)]
        if isinstance(definition, ast.ClassDef):
            with contextlib.suppress(AttributeError, UnreadableError):
                _, init = source.member(definition, "__init__")
                docs.append(ast.get_docstring(init) if isinstance(init, ast.FunctionDef) else None)
    return {key: text for doc in docs for key, text in documented(doc or "", "Args:").items()}


def _wrapped(name: str) -> str:
    """What a network of `registry.wrap` is declared to be; empty of others."""
    from registry import backbones, example
    from registry.errors import reason

    entry = backbones.find(name)
    if entry.module.startswith("registry."):
        return ""
    network = example(entry.name, backbones.factory(name))
    if not hasattr(network, "described"):
        return ""
    try:
        described: str = network.described()
    except Exception as error:
        return f"wrapped: {network.own}; it cannot be called on shapes alone ({reason(error)})"
    return described


def _declared(kind: str, name: str, attribute: str) -> Any:
    """What a score declares, or a backbone, those that a user's function makes included."""
    if kind == "backbone":
        from registry import declared

        return declared(name, attribute)
    from bench.metrics.scores import SCORES, scores

    return getattr(SCORES[scores.find(name).name], attribute)
