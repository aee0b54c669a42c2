"""One record as tables for people: what was measured, its parts, the request, and where it was."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import registry
from bench.metrics.scores import SCORES
from bench.records.quantities import COSTS, HELD_OUT, LOSS, SPEEDS, Quantity
from bench.records.schema import HeldOutLoss, Quality, QualityRequest, Record, SpeedRequest
from bench.reports.page import Column, Entry, Table
from registry.values import format_value

# Of a result's fields, by the names that they have there.
_QUANTITIES: dict[str, Quantity] = {
    **{quantity.field or name: quantity for name, quantity in {**COSTS, **SPEEDS, LOSS.name: LOSS}.items()},
}
MOST = 8  # entries of a list that are shown in a line


def tables(record: Record, outdated: str | None = None) -> list[Table]:
    """A table of the result, one of each of its breakdowns, one of the request and of the environment.

    Args:
        record: any.
        outdated: why it is not what would be measured now; see `bench.studies.staleness`.
    """
    whole = record.dump()
    result, request = whole["result"], whole["request"]
    curve = _curve(record.result.held_out) if isinstance(record.result, Quality) else []
    result.pop("held_out", None)  # a table of its own
    parts = {name: value for name, value in result.items() if _is_breakdown(value)}
    values = {name: value for name, value in result.items() if name not in parts}
    origin = {name: whole[name] for name in ("context", "fingerprints")} | whole["environment"]
    title = f"{registry.label(record.request.model, record.request.config)}: {record.request.kind}"
    return [
        _pairs(title, "Measured", values, [f"Of another time: {outdated} now."] if outdated else []),
        *curve,
        *(_breakdown(name, entries) for name, entries in parts.items()),
        _pairs("", "Request", request),
        _pairs("", "Where", origin),
    ]


def command(record: Record, place: tuple[str, str] | None = None) -> str:
    """What measures a record again, for a shell; "" of quality that no known study asks for.

    Args:
        record: any.
        place: study and label of the row that quality belongs to.
    """
    request, context = record.request, record.context
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
        shown = quantity.text(value) if quantity and value is not None else _text(value)
        rows.append([Entry(quantity.title if quantity else name), Entry(shown)])
    return Table(columns, rows, title, remarks=remarks)


def _curve(held_out: Sequence[HeldOutLoss]) -> list[Table]:
    """Held-out loss, whole and by band, at each checkpoint; no table where it was not measured."""
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
    """A row for each part; columns that say nothing are left out."""
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
