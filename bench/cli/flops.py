"""`bench flops`: what networks cost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import registry
from bench.cli.options import (
    InputSize,
    Json,
    Models,
    Overrides,
    Plugins,
    parse_models,
    parse_shared,
)
from bench.cli.output import print_json, print_table, working

if TYPE_CHECKING:
    from bench.records.schema import By, Convention, Cost

_COUNTS: dict[Convention, str] = {"paper": "GFLOPs (paper)", "macs": "GMACs", "flops": "GFLOPs (2·MACs)"}
_FORWARD = "One forward pass, batch 1, of the deployed network (merged for inference)."
_PAPER = (
    "GFLOPs (paper): the U-DiT paper's convention, multiply-accumulates plus one for each output element of "
    "an elementwise product, an affine norm or a pooling."
)
_MEMORY = "Memory: peak of live tensors without the weights, float32."


def flops(
    models: Models,
    overrides: Overrides = [],  # noqa: B006
    input_size: InputSize = None,
    convention: Annotated[
        Literal["paper", "macs", "flops"] | None,
        typer.Option(
            help="Show only this count: the U-DiT paper's, exact multiply-accumulates, or twice those."
        ),
    ] = None,
    by: Annotated[
        Literal["stage", "module", "operator"] | None, typer.Option(help="Also show the cost of each part.")
    ] = None,
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Count the parameters, multiply-accumulates and activation memory of networks.

    Networks are traced by shapes only, so even the largest takes seconds and no memory for its weights.

    Examples:
        bench flops --model udit-b --by stage
        bench flops --model 'udit-t ffn=mlp' --input-size 64
    """
    from bench.records.quantities import COSTS, decimals

    networks = parse_models(models, parse_shared(overrides, input_size))
    with working("loading torch") as status:
        from bench.cost import measure

        costs = []
        for name, own in networks:
            status.update(f"counting {registry.label(name, own)}")
            costs.append(measure(name, **own))
    if as_json:
        print_json([_json(cost, by) for cost in costs])
        return
    shown: list[Convention] = [convention] if convention else list(_COUNTS)
    parameters, deployed, memory = (COSTS[name] for name in ("params", "params_deployed", "memory"))
    print_table(
        "Cost",
        ["Model", "Input", parameters.title, deployed.title, *(_COUNTS[c] for c in shown), memory.title],
        [
            [
                cost.request.label,
                cost.columns().get("Input", ""),
                parameters.text(cost.parameters),
                deployed.text(cost.parameters_deployed),
                *(decimals(cost.count(c) / 1e9, COSTS["gflops"].digits) for c in shown),
                memory.text(cost.activation_bytes),
            ]
            for cost in costs
        ],
        notes=[
            " ".join([_FORWARD, *[_PAPER] * ("paper" in shown), _MEMORY]),
            *itertools.chain.from_iterable(map(_remarks, costs)),
        ],
    )
    if by:
        for cost in costs:
            _print_parts(cost, by, convention or "paper")


def _json(cost: Cost, by: By | None) -> dict[str, Any]:
    """A cost without its breakdowns, or with one of them as `parts`."""
    values = cost.model_dump(mode="json", exclude={"stages", "modules", "operators"})
    return values | ({"parts": [part.model_dump(mode="json") for part in cost.parts(by)]} if by else {})


def _remarks(cost: Cost) -> Iterator[str]:
    """What a reader must know of a network's counts."""
    for note in cost.notes:
        yield f"{cost.request.label}: {note}"
    if cost.uncounted:
        operators = ", ".join(f"{operator} ×{times}" for operator, times in cost.uncounted.items())
        yield f"{cost.request.label}: not counted, because their cost is not known: {operators}"


def _print_parts(cost: Cost, by: By, convention: Convention) -> None:
    """One row a part: its count, its share of the whole, and what else is known of such parts."""
    from bench.records.quantities import COSTS, decimals

    columns = [by.capitalize(), _COUNTS[convention], "Share"]
    names = {"stage": ["params", "params_deployed", "memory"], "module": ["params_deployed"], "operator": []}
    quantities = [COSTS[name] for name in names[by]]
    rows = [
        [
            part.name,
            decimals(part.count(convention) / 1e9, 4),
            f"{part.count(convention) / max(cost.count(convention), 1):.1%}",
            *(decimals((getattr(part, q.field) or 0) * q.scale, 3) for q in quantities),
        ]
        for part in cost.parts(by)
    ]
    print_table(f"{cost.request.label} by {by}", columns + [q.title for q in quantities], rows)
