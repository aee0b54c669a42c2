"""Reports: tables and pictures from studies and records. Nothing here imports torch.

    bench.reports.write("reports", "results", ["md", "csv"])
    bench.reports.check("reports", "results", ["md", "csv"])      # [] where the files are current
    bench.reports.site.write("site", "results")                   # the same to click on

A row and its records become a `Line` (`select`), lines a `Table` (`tables`), and a table is rendered in many
ways (`render`). Names are imported when they are asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.reports import site
    from bench.reports.report import check, files, write

__all__ = ["check", "files", "site", "write"]


def __getattr__(name: str) -> Any:
    if name == "site":
        return importlib.import_module("bench.reports.site")
    if name in __all__:
        from bench.reports import report

        return getattr(report, name)
    raise AttributeError(f"module 'bench.reports' has no attribute {name!r}")
