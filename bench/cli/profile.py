"""`bench profile`: where the time goes, beside where the multiply-accumulates go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import registry
from bench.cli.options import (
    Device,
    Dtype,
    InputSize,
    Json,
    Models,
    Overrides,
    Plugins,
    parse_models,
    parse_shared,
)
from bench.cli.output import console, print_json, print_table, working
from bench.utils.bars import bar

if TYPE_CHECKING:
    from bench.records.schema import Profile, Share


def profile(
    models: Models,
    overrides: Overrides = [],  # noqa: B006
    input_size: InputSize = None,
    device: Device = None,
    dtype: Dtype = "fp32",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    repeats: Annotated[
        int, typer.Option(min=1, help="Number of forward passes; their median time is shown.")
    ] = 10,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a chart to this folder, as PNG and SVG.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a Chrome trace of one forward pass.")
    ] = None,
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Show where the time of a forward pass goes, by stage and operator, beside the multiply-accumulates.

    Examples:
        bench profile --model udit-t --batch-size 1
        bench profile --model udit-t --out figures --trace trace.json
    """
    from bench.reports.profile_figure import draw, finding
    from registry.errors import UsageError

    networks = parse_models(models, parse_shared(overrides, input_size))
    if trace is not None and len(networks) > 1:
        raise UsageError(f"--trace takes one model, not {len(networks)}: each would overwrite the file")
    with working("loading torch"):
        import torch

        from bench.speed.profile import measure
        from bench.utils import distributed

    profiles = []
    with bar() as progress:
        for name, own in networks:
            torch.manual_seed(0)
            network = registry.create(name, **own)
            profiles.append(
                measure(
                    network,
                    device=device or distributed.device(),
                    dtype=dtype,
                    batch_size=batch_size,
                    repeats=repeats,
                    trace=trace,
                    progress=progress,
                )
            )
    if as_json:
        print_json([one.model_dump(mode="json") | {"finding": finding(one)} for one in profiles])
    else:
        for one in profiles:
            _print(one)
    written = [trace] if trace is not None else []
    if out is not None:
        written += draw(profiles, out)
    if not as_json:
        for path in written:
            console().print(f"wrote {path}")


def _print(profile: Profile) -> None:
    from bench.reports.profile_figure import conditions, finding
    from bench.utils.load import load_note

    network = profile.request.label
    _print_shares(f"{network} by stage: {conditions(profile)}", "Stage", profile.stages)
    _print_shares(f"{network} by operator", "Operator", profile.operators)
    note = (
        f"A forward pass takes {profile.seconds * 1e3:.2f} ms; timing its stages changes that by "
        f"{profile.overhead:+.1%}. Its operators take {profile.operator_seconds * 1e3:.2f} ms under the "
        "profiler. GMACs are of one sample. Time/MACs: share of time divided by share of "
        "multiply-accumulates."
    )
    console().print(finding(profile), style="bold")
    console().print(note, style="dim")
    if busy := load_note(profile.other_load):
        console().print(busy)
    if abs(profile.overhead) > 0.1:
        console().print(
            "Timing the stages changes the total by more than 10%: the machine is busy, or the stages are "
            "too short to be timed."
        )
    console().print()


def _print_shares(heading: str, kind: str, shares: Sequence[Share]) -> None:
    from bench.records.quantities import decimals

    print_table(
        heading,
        [kind, "ms", "Time", "GMACs", "MACs", "Time/MACs"],
        [
            [
                share.name,
                f"{share.seconds * 1e3:.3f}",
                f"{share.time_share:.1%}",
                decimals(share.macs / 1e9, 4),
                f"{share.macs_share:.1%}",
                "" if share.ratio is None else f"{share.ratio:.2f}",
            ]
            for share in shares
        ],
    )
