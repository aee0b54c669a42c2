"""Tables 1 to 6 of the U-DiT paper, with the cost of each row measured when they are built.

The pages are those of `bench.reports`, which reads cost from records instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bench.studies
from bench.reports import content
from bench.reports.page import Page
from bench.studies import Row, published
from bench.studies.cells import cost_asked
from bench.studies.published import QUALITY, PublishedRow

if TYPE_CHECKING:
    from bench.cost import Cost

Progress = Callable[[str], None]  # is told the label of each row before it is measured


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


class _Meter:
    """Measures each network once."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.known: dict[str, Cost] = {}

    def cost(self, row: PublishedRow | Row) -> Cost:
        from bench.cost import measure

        variant = f"{row.model} {row.overrides}"
        if variant not in self.known:
            if self.progress:
                self.progress(row.label)
            self.known[variant] = measure(row.model, **row.overrides)
        return self.known[variant]


def build(table: int | None = None, progress: Progress | None = None) -> list[TableRow]:
    """The rows of one table or of all, each network measured once.

    Args:
        table: 1 … 6, or None for all.
        progress: told the name of each network before it is measured.

    Raises:
        UsageError: no such table.
    """
    meter = _Meter(progress)
    return [TableRow(row, meter.cost(row)) for row in published.rows(table)]


def pages(results: Path, table: int | None = None, progress: Progress | None = None) -> list[Page]:
    """Pages as those of `bench report`, with cost as measured now and without pictures.

    Args:
        results: folder of records, for speed and quality; there may be none.
        table: 1 … 6, or None for all.
        progress: told the name of each network before it is measured.

    Raises:
        UsageError: no such table.
    """
    from bench import records

    wanted = {row.table for row in published.rows(table)}
    kept = content.Kept(results) if results.is_dir() else None
    meter, here = _Meter(progress), records.environment()

    def cost(row: Row) -> dict[str, Any]:
        return {"values": asdict(meter.cost(row)), "environment": here}

    made = []
    for name, number in content.TABLES.items():
        if number in wanted:
            study = bench.studies.load(name)
            made.append(content.page(study, content.lines(study, kept, cost), kept))
    return made


def record_costs(results: Path, progress: Progress | None = None) -> None:
    """Measure the cost of every row of every built-in study and write the records, each network's once.

    Raises:
        UsageError: the folder cannot be written to.
    """
    from bench import records
    from bench.studies.measuring import measure_cost

    rows = [row for name in bench.studies.names() for row in bench.studies.load(name).rows]
    asked = {records.name(a): (row.label, a) for row in rows for a in [cost_asked(row.model, row.overrides)]}
    for label, question in asked.values():
        if progress:
            progress(label)
        measure_cost(question, results)
