"""`bench show`: one record for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import Json, Plugins, Results
from bench.cli.output import console, print_json


def show(
    record: Annotated[str, typer.Argument(metavar="RECORD", help="File of a record, or a part of its name.")],
    results: Results = Path("results"),
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Show a record: what was measured, how and where, and whether the code has changed since then.

    Examples:
        bench show results/cost-udit-b-7c8e6bd4d0f5.json
    """
    from bench import records
    from bench.reports.record import tables
    from bench.reports.render import terminal
    from bench.studies.staleness import compared, outdated

    found = records.read_file(records.find(record, results))
    why, looked = outdated(found), compared(found)
    if as_json:
        print_json({"file": found.file, **found.dump(), "outdated": why, "compared": looked})
        return
    for table in tables(found, why, looked):
        terminal.table(table, console())
        console().print()
