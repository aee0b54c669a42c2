"""`bench diff`: what changed between two folders of records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import Json
from bench.cli.output import console, print_json, print_table


def diff(
    before: Annotated[Path, typer.Argument(help="Folder of records.")],
    after: Annotated[Path, typer.Argument(help="The same, later.")],
    tolerance: Annotated[
        float, typer.Option(help="How much worse a value may be: 0.05 is 5% of what it was.")
    ] = 0.0,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a summary over seeds, for a comment on a pull request.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare two folders of records; exit status 1 if a cost, speed or score became worse.

    Records that answer the same question are compared. A value that is missing
    or no number any more counts as worse; a record that only one folder has
    does not.
    """
    from dataclasses import asdict

    from bench.reports.differences import differences, summary_page

    found = differences(before, after, tolerance)
    regressions = found.regressions
    if as_json:
        judgements = [asdict(each) | {"quantity": each.quantity.name} for each in found.judgements]
        print_json(asdict(found) | {"judgements": judgements, "regressions": len(regressions)})
    elif markdown:
        from bench.reports.render import markdown as renderer

        print(renderer.page(summary_page(found)), end="")
    else:
        if found.changes:
            rows = [
                [
                    f"{change.title}: {change.value}",
                    _figures(change.before),
                    _figures(change.after),
                    "" if change.relative is None else f"{change.relative:+.2%}",
                    "worse" if change.regression else "",
                ]
                for change in found.changes
            ]
            print_table("Changed", ["Value", "Before", "After", "Change", ""], rows)
        for word, files in (("removed", found.removed), ("added", found.added)):
            for file in files:
                console().print(f"{word}: {file}", soft_wrap=True)
        console().print(
            f"{found.compared} records compared, {len(found.changes)} values changed, "
            f"{len(regressions)} worse by more than {tolerance:.2%}"
        )
    if regressions:
        raise typer.Exit(1)


def _figures(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
