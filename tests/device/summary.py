"""What was found, as Markdown: what passed, what failed, and the figures, all from the files of DIR."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import registry
from bench import records
from bench.records.schema import Quality, Record, Speed
from tests.device.journal import passed, verdict

Entries = dict[str, dict[str, Any]]


def page(stages: dict[str, Entries], folder: Path) -> str:
    """The summary of all stages and records."""
    found = records.read(folder) if folder.is_dir() else []
    parts = [
        "# On the device",
        _where(stages),
        _items(stages),
        *_first(stages),
        *_speeds(found),
        *_compiled(found),
        *_released(stages),
        *_profiles(stages),
        *_quality(found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _where(stages: dict[str, Entries]) -> str:
    """The devices and versions of all items."""
    told = {
        f"{e['device']}, {e['cpu']} ({e['cores']} cores), torch {e['torch']}, CUDA {e['cuda']}, "
        f"cuDNN {e['cudnn']}, Python {e['python']}, commit {e['commit']}, {e['date'][:10]}"
        for entries in stages.values()
        for entry in entries.values()
        if (e := entry.get("environment"))
    }
    return "\n".join(f"- {line}" for line in sorted(told))


def _items(stages: dict[str, Entries]) -> str:
    """How many items of each stage ended well, and all others by name."""
    rows, failures = [], []
    for stage, entries in stages.items():
        judged = [entry["found"] for entry in entries.values() if "bound" in entry.get("found", {})]
        share = max((found["error"] / found["bound"] for found in judged if found["bound"]), default=None)
        well = sum(map(passed, entries.values()))
        minutes = sum(entry["seconds"] for entry in entries.values()) / 60
        rows.append(
            [stage, f"{well} of {len(entries)}", "" if share is None else f"{share:.2g}", f"{minutes:.1f}"]
        )
        failures += [
            f"- {stage}, {name}: {verdict(entry)}" for name, entry in entries.items() if not passed(entry)
        ]
    head = "## Stages\n\n" + _table(["stage", "ended well", "worst error / bound", "minutes"], rows)
    return head + ("\n\n" + "\n".join(failures) if failures else "")


def _first(stages: dict[str, Entries]) -> list[str]:
    """What each item of the first stage has found, in a line."""
    lines = []
    for name, entry in stages.get("first", {}).items():
        told = {key: value for key, value in entry.get("found", {}).items() if key not in ("error", "bound")}
        if told:
            lines.append(f"- {name} ({entry['seconds']:.0f} s): {_figures(told)}")
    return ["## First\n\n" + "\n".join(lines)] if lines else []


def _figures(value: Any) -> str:
    """Nested figures in words, numbers in three digits."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {_figures(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, list):
        return ", ".join(map(_figures, value))
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _speeds(found: Iterable[Record]) -> list[str]:
    """Images a second by network, a column for each way of running, a table for each mode and batch."""
    speeds = [record.result for record in found if isinstance(record.result, Speed)]
    tables = []
    for mode, batch in dict.fromkeys((s.request.mode, s.request.batch_size) for s in speeds):
        here = [s for s in speeds if (s.request.mode, s.request.batch_size) == (mode, batch)]
        ways = sorted({_way(s) for s in here})
        networks: dict[str, dict[str, Speed]] = {}
        for one in here:
            networks.setdefault(registry.label(one.request.model, one.request.config), {})[_way(one)] = one
        rows = [
            [label, *(_speed(of[way]) if way in of else "" for way in ways)] for label, of in networks.items()
        ]
        heading = f"## {mode.capitalize()}, batch {batch}: images/s (MiB"
        heading += ", batch)" if batch == "auto" else ")"
        tables.append(heading + "\n\n" + _table(["network", *ways], rows))
    return tables


def _compiled(found: Iterable[Record]) -> list[str]:
    """How many times as fast what is compiled runs, as CUDA graphs where nothing is trained."""
    speeds = [record.result for record in found if isinstance(record.result, Speed)]

    def question(one: Speed) -> str:
        return one.request.model_dump_json(exclude={"compile"})

    eager = {question(one): one for one in speeds if not one.request.compile}
    rows = []
    for one in speeds:
        plain = eager.get(question(one))
        if one.compiled != "yes" or plain is None:
            continue
        ratios = [one.images_per_second / plain.images_per_second]
        if one.sampling and plain.sampling:
            ratios.append(one.sampling.images_per_second / plain.sampling.images_per_second)
        request = one.request
        label = registry.label(request.model, request.config)
        rows.append(
            [label, request.mode, f"{request.dtype} {request.batch_size}"]
            + [f"{ratio:.2f}" for ratio in ratios]
            + [""] * (2 - len(ratios))
            + [f"{one.compile_seconds:.0f}"]
        )
    if not rows:
        return []
    faster = sum(float(row[3]) > 1 for row in rows)
    heading = ["network", "mode", "batch", "times as fast", "whole loops", "seconds to compile"]
    text = f"## Compiled beside eager\n\nCompiled is faster in {faster} of {len(rows)} cases."
    return [text + "\n\n" + _table(heading, rows)]


def _way(speed: Speed) -> str:
    request = speed.request
    extra = [name for name in ("compile", "channels_last") if getattr(request, name)]
    return " ".join([request.dtype, *extra, *(["sampling"] if request.num_inference_steps else [])])


def _speed(speed: Speed) -> str:
    text = f"{speed.images_per_second:,.0f} ({speed.peak_bytes / 2**20:,.0f}"
    text += f", {speed.batch_size})" if speed.request.batch_size == "auto" else ")"
    return text + (" eager" if speed.compiled not in ("no", "yes") else "")


def _released(stages: dict[str, Entries]) -> list[str]:
    """Ours beside the authors' code."""
    rows = []
    for name, entry in stages.get("released", {}).items():
        found = entry.get("found", {})
        if "ratio" in found:
            low, high = found["interval"]
            rates = [f"{found[side]:,.0f}" for side in ("released", "ours")]
            rows.append([name, *rates, f"{found['ratio']:.2f}", f"{low:.2f}–{high:.2f}"])
    heading = ["network", "released, images/s", "ours, images/s", "times as fast", "95% interval"]
    return ["## Beside the authors' code\n\n" + _table(heading, rows)] if rows else []


def _profiles(stages: dict[str, Entries]) -> list[str]:
    rows = []
    for name, entry in stages.get("profile", {}).items():
        if found := entry.get("found"):
            top = ", ".join(f"{part['name']} {part['time_share']:.0%}" for part in found["operators"][:4])
            rows.append([name, f"{found['seconds'] * 1e3:.2f}", top])
    return ["## Where the time goes\n\n" + _table(["network", "ms", "most of it"], rows)] if rows else []


def _quality(found: Iterable[Record]) -> list[str]:
    """Held-out loss, or training loss where there is none: mean ± standard deviation over seeds."""
    by_row: dict[str, list[Quality]] = {}
    for record in found:
        if isinstance(record.result, Quality):
            request = record.result.request
            by_row.setdefault(registry.label(request.model, request.config), []).append(record.result)
    rows = []
    for label, results in sorted(by_row.items()):
        losses = [result.held_out[-1].loss if result.held_out else result.loss for result in results]
        spread = f" ± {statistics.stdev(losses):.5f}" if len(losses) > 1 else ""
        rate = statistics.median(result.images_per_second.train for result in results)
        rows.append([label, str(len(results)), f"{statistics.mean(losses):.5f}{spread}", f"{rate:,.0f}"])
    heading = ["network", "seeds", "loss", "images/s in training"]
    return ["## Quality\n\n" + _table(heading, rows)] if rows else []


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, [":--", *["--:"] * (len(heading) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
