"""`bench tables`: Tables 1 to 6 of the U-DiT paper beside what is measured here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import Json, Results
from bench.cli.output import console, print_json, working


def tables(
    table: Annotated[
        int | None, typer.Option(min=1, max=6, help="Only this table. Default: all six.")
    ] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Print Tables 1 to 6 of the U-DiT paper with costs counted now and speeds from records.

    `bench report` writes them from records only, with scores and charts.

    Examples:
        bench tables --table 6
    """
    from bench import studies
    from bench.records.quantities import COSTS
    from bench.reports import tables as builder
    from bench.reports.render import terminal
    from bench.reports.select import Measured, Selection, lines
    from bench.studies import published

    wanted = {row.table for row in published.rows(table)}
    chosen = [studies.load(name) for name, number in builder.NUMBERS.items() if number in wanted]
    with working("loading torch") as status:
        from bench.records.environment import environment
        from bench.studies.measuring import count_costs

        costs = count_costs(
            [row for study in chosen for row in study.rows],
            lambda label, done, total: status.update(f"counting {label}"),
        )
    if as_json:
        counted = {quantity.field for quantity in COSTS.values()} | {"flops"}
        print_json(
            [
                {"table": row.published.table, "row": row.published.label, "model": row.model}
                | {"overrides": row.overrides, "published": row.published.values}
                | {
                    "measured": costs[row.label].model_dump(include=counted)
                    | dict.fromkeys(published.QUALITY)
                }
                for study in chosen
                for row in study.rows
                if row.published
            ]
        )
        return
    here = environment()
    measured = {label: Measured(cost, here) for label, cost in costs.items()}
    selection = Selection(results) if results.is_dir() else None
    for study in chosen:
        found = lines(study, selection, measured)
        terminal.table(builder.overview(study, found, selection, title=builder.page_title(study)), console())
        console().print()
