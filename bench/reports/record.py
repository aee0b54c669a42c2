"""One record as tables: results, breakdowns, request, and environment."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import registry
from bench.metrics.scores import SCORES
from bench.records.quantities import COSTS, HELD_OUT, LOSS, SPEEDS, Quantity
from bench.records.schema import (
    HeldOutLoss,
    Quality,
    QualityRequest,
    Record,
    Scored,
    ScoredRequest,
    SpeedRequest,
)
from bench.reports.page import Column, Entry, Table
from registry.values import format_value

# Quantities by the names of their fields in results.
_QUANTITIES: dict[str, Quantity] = {
    **{quantity.field or name: quantity for name, quantity in {**COSTS, **SPEEDS, LOSS.name: LOSS}.items()},
}
MOST = 8  # maximum number of list entries shown in a line


class _Plain(NamedTuple):
    """A field in words, with its unit and the factor that converts a value to it."""

    words: str
    unit: str = ""
    scale: float = 1.0


# Fields whose names in a record's file are not plain words.
_PLAIN = {
    "batch_reason": _Plain("Why this batch size"),
    "quartiles": _Plain("Quartiles over the rounds", "images/s"),
    "latency_ms": _Plain("Latency of one image, from the median to the 95th percentile", "ms"),
    "flops_per_second": _Plain("Arithmetic", "GFLOP/s", 1e-9),
    "peak_share": _Plain("Share of the device's peak", "%", 100),
    "intensity": _Plain("Arithmetic intensity", "FLOP/byte"),
    "ridge": _Plain("Intensity from which the device is compute-bound", "FLOP/byte"),
    "bound": _Plain("Limited by"),
    "launch_share": _Plain("Share of time spent launching operators", "%", 100),
    "ratio": _Plain("Times as fast as the network it was timed with", "×"),
    "interval": _Plain("95% interval of that ratio", "×"),
    "compile_seconds": _Plain("First compiled call", "s"),
    "seconds_per_image": _Plain("Time of one image in every round", "ms", 1e3),
    "device.clock_mhz": _Plain("Device: clock", "MHz"),
    "device.peak_flops": _Plain("Device: peak arithmetic", "GFLOP/s", 1e-9),
    "device.bandwidth": _Plain("Device: memory bandwidth", "GB/s", 1e-9),
    "device.sustained_flops": _Plain("Device: sustained arithmetic", "GFLOP/s", 1e-9),
    "device.sustained_bandwidth": _Plain("Device: sustained bandwidth", "GB/s", 1e-9),
    "device.nominal_flops": _Plain("Device: nominal arithmetic", "GFLOP/s", 1e-9),
    "network.parameters": _Plain("Parameters, as trained", "M", 1e-6),
    "network.parameters_deployed": _Plain("Parameters, merged for inference", "M", 1e-6),
    "network.macs": _Plain("Multiply-accumulates of one image", "G", 1e-9),
    "network.paper_gflops": _Plain("GFLOPs (paper)"),
    "seconds.train": _Plain("Training time", "s"),
    "seconds.sample": _Plain("Sampling time", "s"),
    "seconds.eval": _Plain("Time of scoring", "s"),
    "images_per_second.train": _Plain("Training speed", "images/s"),
    "images_per_second.sample": _Plain("Sampling speed", "images/s"),
    "training.learning_rate": _Plain("Training: learning rate"),
    "commit": _Plain("Commit"),
}


def tables(record: Record, outdated: str | None = None) -> list[Table]:
    """Tables of the result, of each of its breakdowns, of the request and of the environment.

    Args:
        record: any record.
        outdated: why it is stale; see `bench.studies.staleness`.
    """
    whole = record.dump()
    result, request = whole["result"], whole["request"]
    curve = _curve(record.result.held_out) if isinstance(record.result, Quality) else []
    result.pop("held_out", None)  # a table of its own
    parts = {name: value for name, value in result.items() if _is_breakdown(value)}
    values = {name: value for name, value in result.items() if name not in parts}
    origin = {name: whole[name] for name in ("context", "fingerprints")} | whole["environment"]
    title = f"{record.request.label}: {record.request.kind}"
    return [
        _pairs(title, "Measured", values, [f"Stale: {outdated} since."] if outdated else []),
        *curve,
        *(_breakdown(name, entries) for name, entries in parts.items()),
        _pairs("", "Request", request),
        _pairs("", "Where", origin),
    ]


def command(record: Record, place: tuple[str, str] | None = None) -> str:
    """The shell command that measures a record again; empty for quality that no known study requests.

    Args:
        record: any record.
        place: for quality, the study and the label of its row.
    """
    request, context, result = record.request, record.context, record.result
    if isinstance(request, ScoredRequest):
        assert isinstance(result, Scored)
        words = ["bench", "eval", "--samples", result.samples.file, "--reference", result.reference.file]
        words += ["--extractor", request.extractor, "--half-distances"][: 3 if request.half_distances else 2]
        for name in result.scores:
            words += ["--score", name]
        words += ["--intervals"] * bool(result.intervals) + ["--label", request.label]
        words += ["--labels", result.labels] if result.labels_from == "declaration" else []
        for option in ("model", "provenance", "published"):
            if text := getattr(result, option):
                words += [f"--{option}", text]
        return shlex.join([*words, "--record"])
    network = registry.label(request.model, request.config)
    if isinstance(request, QualityRequest):
        if place is None:
            return ""
        study, row = place
        words = ["bench", "ablate", study, "--only", row, "--protocol", context.protocol or "", "--seeds"]
        return shlex.join([*words, str(request.seed)])
    if isinstance(request, SpeedRequest):
        words = ["bench", "throughput"]
        for each in filter(None, (context.against, network)):
            words += ["--model", each]
        words += ["--dtype", request.dtype, "--batch-size", str(request.batch_size)]
        words += ["--train"] * (request.mode == "training") + ["--compile"] * request.compile
        words += ["--channels-last"] * request.channels_last
        if request.num_inference_steps:
            words += ["--sampling", "--steps", str(request.num_inference_steps)]
        if context.repeats:
            words += ["--repeats", str(context.repeats)]
        return shlex.join(words)
    words = ["bench", "profile" if request.kind == "profile" else "flops", "--model", request.model]
    for option, value in registry.changed(request.model, request.config).items():
        words += ["--set", f"{option}={format_value(value)}"]
    return shlex.join(words)


def _pairs(title: str, heading: str, values: dict[str, Any], remarks: Sequence[str] = ()) -> Table:
    columns = [Column(heading, number=False), Column("", number=False)]
    rows = []
    for name, value in _flat(values):
        score = SCORES.get(name.removeprefix("scores."))
        quantity = _QUANTITIES.get(name, score) if heading == "Measured" else None
        if quantity:
            rows.append([Entry(quantity.title), Entry("none" if value is None else quantity.text(value))])
        elif heading != "Measured" or value is not None:
            plain = _PLAIN.get(name, _Plain(_words(name)))
            rows.append([Entry(plain.words), Entry(_with_unit(value, plain))])
    return Table(columns, rows, title, remarks=remarks)


def _words(name: str) -> str:
    """`training.batch_size` -> `Training: batch size`; names of options stay unchanged."""
    part, _, rest = name.partition(".")
    if part in ("config", "data_options"):
        return f"{part.replace('_', ' ').capitalize()}: {rest}"
    return name.replace("_", " ").replace(".", ": ").capitalize()


def _with_unit(value: Any, plain: _Plain) -> str:
    if not plain.unit:
        return _text(value)
    values = value if isinstance(value, list) else [value]
    if len(values) > MOST:
        return f"{len(values)} values"
    shown = " to ".join("none" if each is None else f"{each * plain.scale:,.4g}" for each in values)
    return f"{shown}{'' if plain.unit in '%×' else ' '}{plain.unit}"


def _curve(held_out: Sequence[HeldOutLoss]) -> list[Table]:
    """A table of the held-out loss and its bands at each checkpoint; none if it was not measured."""
    if not held_out:
        return []
    quantities = [HELD_OUT[name] for name in HELD_OUT if held_out[0].value(name) is not None]
    columns = [Column("Step"), *(Column(quantity.title) for quantity in quantities), Column("Seconds")]
    rows = [
        [
            Entry(f"{loss.step:,}"),
            *(Entry(quantity.text(loss.value(quantity.name))) for quantity in quantities),
            Entry(f"{loss.seconds:.0f}"),
        ]
        for loss in held_out
    ]
    return [Table(columns, rows, "Held-out loss at each checkpoint")]


def _flat(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested tables."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _is_breakdown(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _breakdown(name: str, entries: list[dict[str, Any]]) -> Table:
    """A row for each part; empty columns are left out."""
    keys = [key for key in entries[0] if any(entry[key] is not None for entry in entries)]
    columns = [Column(key, number=key != "name") for key in keys]
    columns[0] = Column(name.capitalize(), number=False)
    return Table(columns, [[Entry(_text(entry[key])) for key in keys] for entry in entries])


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) if len(value) <= MOST else f"{len(value)} values"
    return str(value) if value != {} else "none"
