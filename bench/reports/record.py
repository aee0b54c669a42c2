"""One record as tables: results, breakdowns, request, and environment."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import registry
from bench.metrics.scores import SCORES
from bench.records.quantities import COSTS, HELD_OUT, LOSS, SPEEDS, Quantity
from bench.records.schema import (
    OBJECTIVE_FIELDS,
    HeldOutLoss,
    ProfileRequest,
    Quality,
    QualityRequest,
    Record,
    Scored,
    ScoredRequest,
    SpeedRequest,
)
from bench.reports.page import Column, Entry, Table
from bench.utils.text import leaves
from registry.values import format_value, split_options

# Quantities by the names of their fields in results.
_QUANTITIES = {each.field or each.name: each for each in (*COSTS.values(), *SPEEDS.values(), LOSS)}
# Of parts of a network, likewise.
_OF_PARTS: dict[str, Quantity] = {
    **{COSTS[name].field: COSTS[name] for name in ("macs", "params", "params_deployed", "memory")},
    "paper": Quantity("paper", "GFLOPs", False, scale=1e-9),
    "seconds": Quantity("seconds", "Time", False, unit="ms", scale=1e3),
    "time_share": Quantity("time_share", "Share of time", None, digits=1, unit="%", scale=100),
    "macs_share": Quantity("macs_share", "Share of MACs", None, digits=1, unit="%", scale=100),
    "ratio": Quantity("ratio", "Share of time / share of MACs", None),
}
_CURRENT = "Not stale: its code is that of today, or gives equal results."
_NOT_COMPARED = (
    "Whether it is stale is unknown: its backbone is not registered here. --plugin names its code."
)
MOST = 8  # entries of a list that are shown in a line
# Fields of a request by the heading that they stand under; the others are the heading "Request".
_SECTIONS = {
    "Network": ("model", "config"),
    "Training": ("data", "data_options", "training", "step", "seed"),
    "Sampling": ("sampling",),
    "Evaluation": ("extractor", "reference", "held_out"),
}
_OPTIONS = ("config.", "data_options.")  # whose names stay as one sets them


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
    "peak_bytes": _Plain("Peak memory", "MiB", 2**-20),
    "flops_per_second": _Plain("Arithmetic", "GFLOP/s", 1e-9),
    "peak_share": _Plain("Share of the device's peak", "%", 100),
    "intensity": _Plain("Arithmetic intensity", "FLOP/byte"),
    "ridge": _Plain("Intensity from which the device is compute-bound", "FLOP/byte"),
    "bound": _Plain("Limited by"),
    "launch_share": _Plain("Share of time spent launching operators", "%", 100),
    "ratio": _Plain("Times as fast as the network it was timed with", "×"),
    "interval": _Plain("95% interval of that ratio", "×"),
    "compile_seconds": _Plain("First compiled call", "s"),
    "seconds_per_image": _Plain("Time of one image in each round", "ms", 1e3),
    "seconds": _Plain("Forward pass of the batch", "ms", 1e3),
    "overhead": _Plain("Stages in sum longer than that by", "%", 100),
    "device.name": _Plain("Device"),
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
    "flops": _Plain("FLOPs, two for each multiply-accumulate", "G", 1e-9),
    "scores.inception_score": _Plain("Inception Score↑"),
    "scores.precision": _Plain("Precision↑"),
    "scores.recall": _Plain("Recall↑"),
    "scores.density": _Plain("Density↑"),
    "scores.coverage": _Plain("Coverage↑"),
    "sample_count": _Plain("Samples scored"),
    "reference_count": _Plain("Reference images"),
    # of requests
    "model": _Plain("Backbone"),
    "data": _Plain("Dataset"),
    "step": _Plain("Weights after step"),
    "beta_schedule": _Plain("β schedule"),
    "prediction_type": _Plain("Prediction type"),
    "min_snr_gamma": _Plain("Min-SNR γ"),
    "zero_terminal_snr": _Plain("Zero-terminal SNR"),
    "warmup": _Plain("Warm-up steps"),
    "guided_channels": _Plain("Guided channels (0: all)"),
    "clip": _Plain("Largest gradient norm"),
    "ema_decay": _Plain("EMA decay"),
    "ema_width": _Plain("EMA width"),
    "posthoc_ema": _Plain("Widths of stored EMAs"),
    "flip": _Plain("Half of the images mirrored"),
    "tf32": _Plain("TF32"),
    "cfg_scale": _Plain("Guidance scale"),
    "num": _Plain("Samples"),
    "labels": _Plain("Class labels"),
    "images": _Plain("Images of the held-out loss"),
    "dtype": _Plain("Number format"),
    "device_name": _Plain("Device"),
    "num_inference_steps": _Plain("Denoising steps"),
    # of the environment
    "against": _Plain("Timed against"),
    "repeats": _Plain("Rounds"),
    "cpu": _Plain("CPU"),
    "denoiser-bench": _Plain("denoiser-bench"),
    "torch": _Plain("PyTorch"),
    "diffusers": _Plain("diffusers"),
    "clean": _Plain("Checkout without changes"),
}


def tables(record: Record, outdated: str | None = None, compared: bool = True) -> list[Table]:
    """Tables of the result, its breakdowns, the request, the environment and the fingerprints.

    Args:
        record: any record.
        outdated: why it is stale; see `bench.studies.staleness`.
        compared: whether its code could be compared; see there.
    """
    whole = record.dump()
    result, request = whole["result"], whole["request"]
    curve = _curve(record.result.held_out) if isinstance(record.result, Quality) else []
    result.pop("held_out", None)  # a table of its own
    parts = {name: value for name, value in result.items() if _is_breakdown(value)}
    values = {name: value for name, value in result.items() if name not in parts}
    del request["kind"]  # which the title says
    if isinstance(record.request, QualityRequest):
        training = record.request.training
        if split_options(training.objective or "ddpm")[0] != "ddpm":  # which has all of them
            for option in set(OBJECTIVE_FIELDS) - training.objective_options.keys():
                del request["training"][option]
    title = f"{record.request.label}: {record.request.kind}"
    found = {heading: _fields(request, names) for heading, names in _SECTIONS.items()}
    sections = found | {
        "Request": request,
        "Environment": whole["context"] | whole["environment"],
        "Fingerprints": whole["fingerprints"],
    }
    state = f"Stale: {outdated} since." if outdated else _CURRENT
    if not compared:
        state = _NOT_COMPARED
    elif whole["fingerprints"].get("data"):
        state += " Its data were not compared."
    return [
        _pairs("Measured", values, title, [state]),
        *curve,
        *(_breakdown(name, entries) for name, entries in parts.items()),
        *(_pairs(heading, section) for heading, section in sections.items() if section),
    ]


def _fields(request: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Takes fields out of a request; nested settings stand among the others, but for options."""
    found: dict[str, Any] = {}
    for name in names:
        value = request.pop(name, None)
        if isinstance(value, dict) and f"{name}." not in _OPTIONS:
            found |= value
        else:
            found[name] = value
    return {name: value for name, value in found.items() if value not in (None, [], {})}


def command(record: Record, place: tuple[str, str] | None = None) -> str:
    """The shell command that measures a record again; empty for quality that no known study requests.

    Of a reference file the record has only the digest: FILE stands for its path.

    Args:
        record: any record.
        place: for quality, the study as commands take it, and the label of its row.
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
        words += [str(request.seed), *(["--reference", "FILE"] if request.reference else [])]
        return shlex.join(words)
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
    if isinstance(request, ProfileRequest):
        words += ["--dtype", request.dtype, "--batch-size", str(request.batch_size)]
    return shlex.join(words)


def _pairs(heading: str, values: dict[str, Any], title: str = "", remarks: Sequence[str] = ()) -> Table:
    """Names and values in words; what is not set is left out, but for a score that could not be computed."""
    columns = [Column(heading, number=False), Column("", number=False)]
    rows = []
    for name, value in leaves(values):
        quantity = _QUANTITIES.get(name, SCORES.get(name.removeprefix("scores.")))
        plain = _PLAIN.get(name)
        if heading == "Measured" and quantity and not (plain and plain.unit):
            words = plain.words if plain else quantity.title
            rows.append([Entry(words), Entry("none" if value is None else quantity.text(value))])
        elif value not in (None, [], {}):
            plain = plain or _Plain(_words(name))
            backbone = value if name == "model" else ""
            rows.append([Entry(plain.words), Entry(_with_unit(value, plain), model=backbone)])
    return Table(columns, rows, title, remarks=remarks)


def _words(name: str) -> str:
    """`batch_size` as `Batch size`; names of options stay as one sets them."""
    for options in _OPTIONS:
        if name.startswith(options):
            return name.removeprefix(options)
    words = name.replace("_", " ").replace(".", ": ")
    return words[:1].upper() + words[1:]


def _with_unit(value: Any, plain: _Plain) -> str:
    if not plain.unit:
        return _text(value)
    values = value if isinstance(value, list) else [value]
    ends = values if len(values) < 3 else [min(values), max(values)]
    shown = " to ".join(f"{each * plain.scale:,.4g}" for each in ends)
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


def _is_breakdown(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _breakdown(name: str, entries: list[dict[str, Any]]) -> Table:
    """A row for each part; empty columns are left out."""
    keys = [key for key in entries[0] if any(entry[key] is not None for entry in entries)]
    first = Column(name.removesuffix("s").capitalize(), number=False)
    columns = [first, *(Column(_OF_PARTS[key].title) for key in keys[1:])]
    rows = [
        [Entry(entry["name"]), *(Entry(_OF_PARTS[key].text(entry[key])) for key in keys[1:])]
        for entry in entries
    ]
    return Table(columns, rows, name.capitalize())


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) if len(value) <= MOST else f"{len(value)} values"
    return str(value)
