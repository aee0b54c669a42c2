"""`bench flops`: what networks cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

import registry
from bench.cli.options import (
    InputSize,
    Json,
    Models,
    Overrides,
    Plugins,
    load_plugins,
    parse_models,
    parse_shared,
)
from bench.cli.output import print_json, print_table, working

if TYPE_CHECKING:
    from bench.cost import By, Convention, Cost

_COUNTS: dict[Convention, str] = {"paper": "GFLOPs (paper)", "macs": "GMACs", "flops": "GFLOPs (2·MACs)"}
_NOTE = (
    "One forward pass, batch 1, deployed form. GFLOPs (paper): multiply-accumulates plus one for each "
    "output element of an elementwise product, as the U-DiT paper's tables count. Memory: peak of live "
    "tensors besides the weights, float32."
)


def flops(
    models: Models,
    overrides: Overrides = [],  # noqa: B006
    input_size: InputSize = None,
    convention: Annotated[
        Literal["paper", "macs", "flops"] | None,
        typer.Option(help="Show this count only: the paper's, exact multiply-accumulates, or twice those."),
    ] = None,
    by: Annotated[
        Literal["stage", "module", "operator"] | None, typer.Option(help="Also break the cost down.")
    ] = None,
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Parameters, multiply-accumulates and activation memory; no weights are allocated."""
    load_plugins(plugins)
    networks = parse_models(models, parse_shared(overrides, input_size))
    with working("loading torch") as status:
        from bench.cost import measure

        costs = []
        for name, own in networks:
            status.update(f"counting {registry.label(name, own)}")
            costs.append(measure(name, **own))
    if as_json:
        print_json([cost.to_dict(by) for cost in costs])
        return
    shown: list[Convention] = [convention] if convention else list(_COUNTS)
    print_table(
        "Cost",
        ["Model", "Input", "Params (M)", "deployed (M)", *(_COUNTS[c] for c in shown), "Memory (MiB)"],
        [
            [
                registry.label(cost.model, cost.overrides),
                _size(cost),
                f"{cost.parameters / 1e6:.2f}",
                f"{cost.parameters_deployed / 1e6:.2f}",
                *(_giga(cost.count(c)) for c in shown),
                f"{cost.activation_bytes / 2**20:.1f}",
            ]
            for cost in costs
        ],
        notes=[_NOTE, *_uncounted(costs)],
    )
    if by:
        for cost in costs:
            _print_parts(cost, by, convention or "paper")


def _giga(count: float) -> str:
    """Two decimals as the papers print, more where those would be lost."""
    return f"{count / 1e9:.2f}" if count >= 1e8 else f"{count / 1e9:.4f}"


def _size(cost: Cost) -> str:
    return "×".join(map(str, (cost.input_size,) * 2 if isinstance(cost.input_size, int) else cost.input_size))


def _uncounted(costs: list[Cost]) -> list[str]:
    return [
        f"Not counted in {registry.label(cost.model, cost.overrides)}, though they may cost: "
        + ", ".join(f"{operator} ×{times}" for operator, times in cost.uncounted.items())
        for cost in costs
        if cost.uncounted
    ]


def _print_parts(cost: Cost, by: By, convention: Convention) -> None:
    columns = [by.capitalize(), _COUNTS[convention], "Share"]
    parts = cost.parts(by)
    with_parameters = by != "operator"
    if with_parameters:
        columns += ["Params (M)", "deployed (M)"] if by == "stage" else ["Params (M)"]
    if by == "stage":
        columns.append("Memory (MiB)")
    rows = []
    for part in parts:
        count = part.count(convention)
        row = [part.name, f"{count / 1e9:.4f}", f"{count / max(cost.count(convention), 1):.1%}"]
        if by == "stage":
            row.append(f"{(part.parameters or 0) / 1e6:.3f}")
        if with_parameters:
            row.append(f"{(part.parameters_deployed or 0) / 1e6:.3f}")
        if by == "stage":
            row.append(f"{(part.activation_bytes or 0) / 2**20:.2f}")
        rows.append(row)
    print_table(f"{registry.label(cost.model, cost.overrides)} by {by}", columns, rows)
