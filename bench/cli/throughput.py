"""`bench throughput`: how fast networks run, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    from bench.records.schema import Speed


def throughput(
    models: Models,
    overrides: Overrides = [],  # noqa: B006
    input_size: InputSize = None,
    device: Device = None,
    dtype: Dtype = "fp32",
    batch_size: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Images per call. `auto`: the largest of 1, 2, 3, 4, 6, 8, 12, … that fits.",
        ),
    ] = "8",
    compiled: Annotated[bool, typer.Option("--compile", help="Run networks through torch.compile.")] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Use the channels-last memory format.")
    ] = False,
    train: Annotated[
        bool, typer.Option("--train", help="Time training steps instead of forward passes.")
    ] = False,
    sampling: Annotated[
        bool, typer.Option("--sampling", help="Also time whole sampling loops, with and without guidance.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps of a sampling loop.")] = 250,
    repeats: Annotated[int, typer.Option(min=6, help="Number of rounds; each times every network.")] = 30,
    plugins: Plugins = [],  # noqa: B006
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder that records are written to.")] = Path(
        "results"
    ),
    as_json: Json = False,
) -> None:
    """Time networks side by side: images per second, latency, memory, and what limits them.

    All networks are compared with the first. Rounds are interleaved, so background load affects all networks
    equally. Name a network twice to see the noise of the comparison.

    Examples:
        bench throughput --model dit-s-2 --model udit-s --repeats 10
        bench throughput --model udit-s --batch-size 1 --sampling --steps 50
    """
    shared = parse_shared(overrides, input_size)
    networks = [pair for text in models for pair in parse_models([text], shared)]
    batch = _batch_size(batch_size)
    if train and sampling:
        raise registry.UsageError("--sampling times inference: leave --train or --sampling out")
    with working("loading torch"):
        from bench import records
        from bench.records.schema import Context
        from bench.speed.throughput import Settings, measure
        from bench.studies.staleness import fingerprints
        from bench.utils import distributed

        device = device or distributed.device()
        settings = Settings(
            device=device,
            dtype=dtype,
            batch_size=batch,
            mode="training" if train else "inference",
            compile=compiled,
            channels_last=channels_last,
            num_inference_steps=steps if sampling else None,
        )
    with bar() as progress:
        results = measure(networks, settings, repeats=repeats, progress=progress)
    for result in results:
        context = Context(against=None if result is results[0] else results[0].request.label, repeats=repeats)
        made_by = fingerprints(result.request)
        records.write(result, out, context=context, fingerprints=made_by, device=device)
    if as_json:
        print_json([result.model_dump(mode="json") for result in results])
    else:
        _print(results, device, repeats)
        console().print(f"records written to {out}")


def _batch_size(text: str) -> int | Literal["auto"]:
    from registry.errors import UsageError

    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size takes a number of images (at least 1) or auto, not {text!r}")
    return int(text)


def _print(results: list[Speed], device: str, repeats: int) -> None:
    from bench.records.quantities import SPEEDS
    from bench.utils.load import load_note

    compared = len(results) > 1
    rate, peak = SPEEDS["images_per_second"], SPEEDS["peak_bytes"]
    columns = ["Model", "Batch", rate.title, "Spread", peak.title, "Of peak FLOP/s"]
    rows = []
    for result in results:
        low, high = result.quartiles
        row = [
            result.request.label,
            str(result.batch_size),
            _figures(result.images_per_second),
            f"±{(high - low) / 2 / result.images_per_second:.1%}",
            peak.text(result.peak_bytes),
            f"{result.peak_share:.1%}",
        ]
        if compared:
            row += ["1", ""] if result.interval is None else [f"{result.ratio:.3f}", _span(result.interval)]
        rows.append(row)
    where, request = results[0].device, results[0].request
    busy = load_note(where.other_load)
    threads = f"{where.threads} thread{'s' if where.threads > 1 else ''}"
    clock = f", {where.clock_mhz:.0f} MHz" if where.clock_mhz else ""
    nominal = f", nominally {where.nominal_flops / 1e9:.0f}" if where.nominal_flops else ""
    print_table(
        f"{request.mode.capitalize()}, {request.dtype}, on {device}",
        columns + (["Times as fast", "95% interval"] if compared else []),
        rows,
        notes=[
            *(line for result in results for line in _notes(result)),
            f"{where.name}, {threads}{clock}: {_figures(where.peak_flops / 1e9)} GFLOP/s in a matrix "
            f"product{_sustained(where.sustained_flops)}{nominal}, {where.bandwidth / 1e9:.1f} GB/s in a "
            f"copy{_sustained(where.sustained_bandwidth)}. Median of {repeats} rounds; spread: half "
            "the range of the middle half of them."
            + (" Ratios to the first network, paired by round." if compared else ""),
            *([busy] if busy else []),
        ],
    )


def _notes(result: Speed) -> list[str]:
    parts = []
    if result.latency_ms:
        p50, p95 = result.latency_ms
        parts.append(f"one image takes {_figures(p50)} ms (p95 {_figures(p95)})")
    parts += [
        f"{_figures(result.flops_per_second / 1e9)} GFLOP/s",
        f"{_figures(result.intensity)} FLOP/byte, the ridge is at {_figures(result.ridge)}: "
        f"{result.bound}-bound",
    ]
    if result.launch_share is not None:
        parts.append(f"launching its operators takes {result.launch_share:.0%} of the time")
    if result.nominal_share is not None:
        parts.append(f"{result.nominal_share:.1%} of the nominal peak")
    if result.compile_seconds is not None:
        parts.append(f"compiled in {_figures(result.compile_seconds)} s")
    elif result.compiled != "no":
        parts.append(result.compiled)
    if result.request.batch_size == "auto":
        parts.append(f"batch {result.batch_size} because {result.batch_reason}")
    if result.training:
        forward, backward, optimizer = (
            _figures(1e3 * spent) for spent in result.training.model_dump().values()
        )
        parts.append(f"a step takes {forward} ms forward, {backward} backward, {optimizer} in the optimizer")
    if result.sampling:
        loop = result.sampling
        text = f"sampling in {loop.steps} steps {_figures(loop.images_per_second)} images/s"
        if loop.guided_images_per_second is not None:
            text += f", with guidance {_figures(loop.guided_images_per_second)}"
        parts.append(text)
    return [f"{result.request.label}: {'; '.join(parts)}."]


def _sustained(rate: float | None) -> str:
    """What a rate in GFLOP/s or GB/s comes to for seconds on end."""
    return "" if rate is None else f" ({_figures(rate / 1e9)} sustained)"


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3f}–{interval[1]:.3f}"


def _figures(value: float) -> str:
    """Three significant figures, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"
