"""`bench profile`: where the time goes, beside where the multiply-accumulates go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import registry
from bench.cli.options import (
    Dtype,
    InputSize,
    Json,
    Models,
    Overrides,
    Plugins,
    load_plugins,
    parse_models,
    parse_shared,
)
from bench.cli.output import console, print_json, print_table, working

if TYPE_CHECKING:
    from bench.speed.profile import Profile, Row


def profile(
    models: Models,
    overrides: Overrides = [],  # noqa: B006
    input_size: InputSize = None,
    device: Annotated[str, typer.Option(help="Device to run on: `cpu`, `cuda`, `cuda:1`.")] = "cpu",
    dtype: Dtype = "fp32",
    batch_size: Annotated[int, typer.Option(help="Images a forward pass.")] = 8,
    repeats: Annotated[int, typer.Option(help="Forward passes, of which the median counts.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Draw the shares into this folder, PNG and SVG.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write a Chrome trace of one pass here.")] = None,
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Share of time beside share of multiply-accumulates, by stage and by operator."""
    from registry.errors import UsageError

    load_plugins(plugins)
    networks = parse_models(models, parse_shared(overrides, input_size))
    if trace is not None and len(networks) > 1:
        raise UsageError(f"--trace takes one model, not {len(networks)}: each would write over the last")
    with working("loading torch") as status:
        import torch

        from bench.speed import profile as profiling

        found = []
        for name, own in networks:
            status.update(f"profiling {registry.label(name, own)}")
            torch.manual_seed(0)
            network = registry.create(name, **own)
            found.append(
                profiling.profile(
                    network, device=device, dtype=dtype, batch_size=batch_size, repeats=repeats, trace=trace
                )
            )
    if as_json:
        print_json([one.to_dict() for one in found])
    else:
        for one in found:
            _print(one)
    written = [trace] if trace is not None else []
    if out is not None:
        written += profiling.draw(found, out)
    if not as_json:
        for path in written:
            console().print(f"wrote {path}")


def _print(found: Profile) -> None:
    where = f"{found.device}, batch {found.batch_size}, {found.dtype}"
    _print_rows(f"{found.title} by stage: {where}", "Stage", found.stages)
    _print_rows(f"{found.title} by operator", "Operator", found.operators)
    note = (
        f"A forward pass takes {found.seconds * 1e3:.2f} ms, {found.overhead:+.1%} when its stages are "
        f"timed; under the profiler its operators take {found.operator_seconds * 1e3:.2f} ms. GMACs are of "
        "one sample. Time/MACs: share of time over share of multiply-accumulates."
    )
    console().print(found.finding, style="bold")
    console().print(note, style="dim")
    if found.floor:
        console().print(found.floor, style="dim")
    if abs(found.overhead) > 0.1:
        console().print("The two differ by more than 10%: the machine is busy, or the stages are too short.")
    console().print()


def _print_rows(title: str, kind: str, rows: list[Row]) -> None:
    print_table(
        title,
        [kind, "ms", "Time", "GMACs", "MACs", "Time/MACs"],
        [
            [
                row.name,
                f"{row.seconds * 1e3:.3f}",
                f"{row.time_share:.1%}",
                f"{row.macs / 1e9:.4f}",
                f"{row.macs_share:.1%}",
                "" if row.ratio is None else f"{row.ratio:.2f}",
            ]
            for row in rows
        ],
    )
