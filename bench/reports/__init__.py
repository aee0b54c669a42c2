"""Reports: tables and pictures from studies and records. Nothing here imports torch.

    bench.reports.write("reports", "results", ["md", "csv"])
    bench.reports.check("reports", "results", ["md", "csv"])      # [] where the files are current

A row and its records become a `Line` (`select`), lines a `Table` (`tables`), and a table is rendered in many
ways (`render`). Names are imported when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.reports.report import check, files, write

__all__ = ["check", "files", "write"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from bench.reports import report

        return getattr(report, name)
    raise AttributeError(f"module 'bench.reports' has no attribute {name!r}")
