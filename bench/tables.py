"""Tables 1 to 6 of the U-DiT paper: published figures beside what is measured here.

Cost is measured when a table is built; speed is read from records, where there are any. Measured quality
has its columns and no values yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

from bench import published
from bench.published import QUALITY, PublishedRow

if TYPE_CHECKING:
    import pandas as pd

    from bench.cost import Cost

_HEADINGS = {
    "training_steps": "Steps",
    "cfg_scale": "CFG",
    "gflops": "GFLOPs",
    "fid": "FID↓",
    "sfid": "sFID↓",
    "inception_score": "IS↑",
    "precision": "Prec.↑",
    "recall": "Rec.↑",
}


@dataclass(frozen=True)
class TableRow:
    """A published row and the cost measured for the backbone it stands for."""

    published: PublishedRow
    cost: Cost

    @property
    def agrees(self) -> bool | None:
        """Whether the measured GFLOPs print as the published ones do; None where none are printed."""
        printed = self.published.printed["gflops"]
        return f"{self.cost.paper_gflops:.2f}" == printed if printed else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        cost, row = self.cost, self.published
        measured = {
            "parameters": cost.parameters,
            "parameters_deployed": cost.parameters_deployed,
            "macs": cost.macs,
            "flops": cost.flops,
            "paper_gflops": cost.paper_gflops,
        }
        return {
            "table": row.table,
            "row": row.label,
            "model": row.model,
            "overrides": row.overrides,
            "published": row.values,
            "measured": measured | dict.fromkeys(QUALITY),
        }


def build(table: int | None = None, progress: Callable[[str], None] | None = None) -> list[TableRow]:
    """The rows of one table or of all, each network measured once.

    Args:
        table: 1 … 6, or None for all.
        progress: told the name of each network before it is measured.

    Raises:
        UsageError: no such table.
    """
    from bench.cost import measure

    known: dict[str, Cost] = {}
    found = []
    for row in published.rows(table):
        variant = f"{row.model} {row.overrides}"
        if variant not in known:
            if progress:
                progress(row.label)
            known[variant] = measure(row.model, **row.overrides)
        found.append(TableRow(row, known[variant]))
    return found


@dataclass(frozen=True)
class Speed:
    """Images per second of the rows that have a record, all measured in one way on one device."""

    how: str  # mode, arithmetic, batch and device, in words
    figures: dict[str, float]  # variant -> images per second


def speeds(rows: Sequence[TableRow], folder: Path) -> list[Speed]:
    """What the throughput records of a folder say of these rows; nothing where there is no folder.

    Warns:
        UserWarning: names each damaged record; it is left out.
    """
    from bench import records

    wanted = {_variant(row.cost.model, row.cost.overrides): row.cost.input_size for row in rows}
    found: dict[str, dict[str, float]] = {}
    for record in records.read(folder) if folder.is_dir() else []:
        asked, values = record["asked"], record["values"]
        variant = _variant(asked["model"], asked.get("overrides", {}))
        if asked["measure"] == "throughput" and wanted.get(variant) == asked["input_size"]:
            found.setdefault(_how(record), {})[variant] = values["images_per_second"]
    return [Speed(how, found[how]) for how in sorted(found)]


def _variant(model: str, overrides: dict[str, Any]) -> str:
    return json.dumps([model, overrides], sort_keys=True)


def _how(record: dict[str, Any]) -> str:
    asked, values, where = record["asked"], record["values"], record["environment"]
    options = ["compiled"] * (values["compiled"] == "yes") + ["channels last"] * asked["channels_last"]
    threads = [f"{where['threads']} threads"] * (asked["device"] == "cpu")
    mode = "training" if asked["train"] else "inference"
    return ", ".join(
        [mode, asked["dtype"], f"batch {values['batch_size']}", *options, asked["device_name"], *threads]
    )


def frame(rows: Sequence[TableRow], measured: Sequence[Speed] = ()) -> pd.DataFrame:
    """One table as pandas: rows by published label, columns (published | measured, figure).

    Published figures are text, as printed; columns that the table does not print are left out. Each way
    in which speed was measured is one column, with a letter that `notes` explains.
    """
    import pandas as pd

    columns: dict[tuple[str, str], list[Any]] = {}
    for figure, heading in _HEADINGS.items():
        printed = [row.published.printed[figure] for row in rows]
        if figure == "training_steps":
            steps = [int(text) // 1000 for text in printed]
            if len(set(steps)) == 1:
                continue
            printed = [f"{k // 1000}M" if k >= 1000 else f"{k}K" for k in steps]
        if figure == "cfg_scale" and set(printed) == {"1.0"}:
            continue
        if any(printed):
            columns["published", heading] = printed
    columns["measured", "Params (M)"] = [f"{row.cost.parameters / 1e6:.2f}" for row in rows]
    columns["measured", "deployed (M)"] = [f"{row.cost.parameters_deployed / 1e6:.2f}" for row in rows]
    columns["measured", "GFLOPs"] = [f"{row.cost.paper_gflops:.2f}" for row in rows]
    for letter, speed in zip(ascii_lowercase, measured, strict=False):
        figures = [speed.figures.get(_variant(row.cost.model, row.cost.overrides)) for row in rows]
        columns["measured", f"Images/s [{letter}]"] = ["" if v is None else _three(v) for v in figures]
    for figure in QUALITY:
        columns["measured", _HEADINGS[figure]] = ["" for _ in rows]
    return pd.DataFrame(columns, index=pd.Index([row.published.label for row in rows], name="Model"))


def _three(value: float) -> str:
    """Three significant figures, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def notes(rows: Sequence[TableRow]) -> list[tuple[tuple[str, ...], str]]:
    """Footnotes of one table: the known ones, and one for each row that disagrees without a remark."""
    number = rows[0].published.table
    known = published.footnotes(number)
    explained = {label for labels, _ in known for label in labels}
    for row in rows:
        if row.agrees is False and row.published.label not in explained:
            text = f"Prints {row.published.printed['gflops']}, measured {row.cost.paper_gflops:.4f}."
            known.append(((row.published.label,), text))
    return known


def markdown(rows: Sequence[TableRow], measured: Sequence[Speed] = ()) -> str:
    """One table as a Markdown page with its footnotes and how its numbers were obtained."""
    import pandas as pd

    number = rows[0].published.table
    table = frame(rows, measured)
    remarks = notes(rows)
    marks = {label: f" [{i}]" for i, (labels, _) in enumerate(remarks, 1) for label in labels}
    table.index = table.index.map(lambda label: label.replace("*", "\\*") + marks.get(label, ""))
    table.columns = pd.Index([f"{column[1]}, {column[0]}" for column in table.columns])
    alignment = ("left", *["right"] * len(table.columns))
    lines = [
        f"# Table {number}: {published.title(number)}",
        "",
        table.reset_index().to_markdown(index=False, disable_numparse=True, colalign=alignment),
        "",
        *(f"{i}. {text}" for i, (_, text) in enumerate(remarks, 1)),
        *([""] if remarks else []),
        *(f"- [{letter}] {speed.how}" for letter, speed in zip(ascii_lowercase, measured, strict=False)),
        *([""] if measured else []),
        f"Published: {published.source()}. {provenance()}",
    ]
    return "\n".join(lines) + "\n"


def provenance() -> str:
    """How the measured columns were obtained, in words, with the versions that counted."""
    from importlib.metadata import version

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "fvcore", "denoiser-bench"))
    return (
        "Measured: parameters trained and deployed (merged for inference); GFLOPs in the paper's convention "
        "(multiply-accumulates, plus one for each output element of an elementwise product), one forward "
        f"pass, batch 1, 4×32×32, deployed; counted on shapes alone with {versions}. "
        "Quality is not measured yet."
    )
