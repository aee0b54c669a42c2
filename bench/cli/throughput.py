"""`bench throughput`: how fast networks run, side by side."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    from bench.speed.throughput import Settings, Throughput


def throughput(
    models: Models = [],  # noqa: B006
    tables: Annotated[
        list[int],
        typer.Option("--table", help="Also the networks of a published table, 1 to 6; repeatable."),
    ] = [],  # noqa: B006
    overrides: Overrides = [],  # noqa: B006
    input_size: InputSize = None,
    device: Annotated[str, typer.Option(help="Device to run on: `cpu`, `cuda`, `cuda:1`.")] = "cpu",
    dtype: Dtype = "fp32",
    batch_size: Annotated[
        str, typer.Option(metavar="N|auto", help="Images a call; `auto`: the largest power of two that fits.")
    ] = "8",
    compiled: Annotated[bool, typer.Option("--compile", help="Time what torch.compile makes of it.")] = False,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Channels-last memory.")] = False,
    train: Annotated[bool, typer.Option("--train", help="Time training steps: AdamW.")] = False,
    sampling: Annotated[
        bool, typer.Option("--sampling", help="Also time whole denoising loops, without and with guidance.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Steps of those loops.")] = 250,
    repeats: Annotated[int, typer.Option(help="Rounds; every round times every network.")] = 30,
    plugins: Plugins = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder for the record of each network.")] = Path("results"),
    as_json: Json = False,
) -> None:
    """Images per second, latency, memory, share of the device's peak, and what bounds it.

    The first network is what the others are compared with. Name one twice to see how far apart equals
    come out. A network of several tables, or named before, is timed once.
    """
    load_plugins(plugins)
    networks = _networks(models, tables, parse_shared(overrides, input_size))
    batch = _batch_size(batch_size)
    with working("loading torch") as status:
        from bench.speed.throughput import Settings, measure

        settings = Settings(device, dtype, batch, compiled, channels_last, train, sampling, steps)
        results = measure(networks, settings, repeats=repeats, progress=status.update)
    for result in results:
        _record(result, results[0], settings, repeats, out)
    if as_json:
        print_json([result.to_dict() for result in results])
    else:
        _print(results, settings, repeats)
        console().print(f"records written to {out}")


def _networks(
    models: list[str], tables: list[int], shared: dict[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """Those named, as often as they are, and then those of the tables that are not among them."""
    from bench.studies import published
    from registry.errors import UsageError

    found = [pair for text in models for pair in parse_models([text], shared)]
    rows = [(row.model, shared | row.overrides) for table in tables for row in published.rows(table)]
    for pair in rows:
        if pair not in found:
            found.append(pair)
    if not found:
        raise UsageError("nothing to time: name a network with --model, or a published table with --table")
    return found


def _batch_size(text: str) -> int | Literal["auto"]:
    from registry.errors import UsageError

    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise UsageError(f"--batch-size takes a whole number or auto, not {text!r}")
    return int(text)


def _record(result: Throughput, first: Throughput, settings: Settings, repeats: int, folder: Path) -> None:
    from bench import records

    asked: dict[str, Any] = {
        "measure": "throughput",
        "model": result.model,
        "overrides": result.overrides,
        "input_size": result.input_size,
        "against": None if result is first else first.model,
        "repeats": repeats,
        "device_name": result.device.name,  # a speed is that of a device
        **asdict(settings),
    }
    told = ("model", "overrides", "input_size")
    records.write(asked, {k: v for k, v in result.to_dict().items() if k not in told}, folder)


def _print(results: list[Throughput], settings: Settings, repeats: int) -> None:
    compared = len(results) > 1
    columns = ["Model", "Batch", "Images/s", "Spread", "Peak MiB", "Of peak FLOP/s"]
    rows = []
    for result in results:
        low, high = result.quartiles
        row = [
            registry.label(result.model, result.overrides),
            str(result.batch_size),
            _figures(result.images_per_second),
            f"±{(high - low) / 2 / result.images_per_second:.1%}",
            f"{result.peak_bytes / 2**20:.1f}",
            f"{result.peak_share:.1%}",
        ]
        if compared:
            row += ["1", ""] if result.interval is None else [f"{result.ratio:.3f}", _span(result.interval)]
        rows.append(row)
    where = results[0].device
    clock = f", {where.clock_mhz:.0f} MHz" if where.clock_mhz else ""
    print_table(
        f"{'Training' if settings.train else 'Inference'}, {settings.dtype}, on {settings.device}",
        columns + (["Times as fast", "95% interval"] if compared else []),
        rows,
        notes=[
            *(line for result in results for line in _notes(result)),
            f"{where.name}, {where.threads} threads{clock}: {where.peak_flops / 1e9:.0f} GFLOP/s in a matrix "
            f"product, {where.bandwidth / 1e9:.1f} GB/s in a copy. Median of {repeats} rounds; spread: half "
            "the range of the middle half of them."
            + (" Ratios to the first network, paired by round." if compared else ""),
        ],
    )


def _notes(result: Throughput) -> list[str]:
    parts = []
    if result.latency_ms:
        p50, p95 = result.latency_ms
        parts.append(f"one image takes {_figures(p50)} ms (p95 {_figures(p95)})")
    parts += [
        f"{_figures(result.flops_per_second / 1e9)} GFLOP/s",
        f"{_figures(result.intensity)} FLOP/byte, the ridge is at {_figures(result.ridge)}: "
        f"{result.bound}-bound",
    ]
    if result.compile_seconds is not None:
        parts.append(f"compiled in {_figures(result.compile_seconds)} s")
    elif result.compiled != "no":
        parts.append(result.compiled)
    if result.batch_reason != "as asked":
        parts.append(f"batch {result.batch_size} because {result.batch_reason}")
    if result.sampling:
        loop = result.sampling
        text = f"sampling in {loop.steps} steps {_figures(loop.images_per_second)} images/s"
        if loop.guided_images_per_second is not None:
            text += f", with guidance {_figures(loop.guided_images_per_second)}"
        parts.append(text)
    return [f"{registry.label(result.model, result.overrides)}: {'; '.join(parts)}."]


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3f}–{interval[1]:.3f}"


def _figures(value: float) -> str:
    """Three significant figures, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"
