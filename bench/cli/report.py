"""`bench report`: tables and pictures from studies and records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.output import console


def report(
    formats: Annotated[
        str, typer.Option("--format", metavar="LIST", help="Some of md, html, latex, csv, with commas.")
    ] = "md,csv",
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("reports"),
    results: Annotated[Path, typer.Option(help="Folder of records.")] = Path("results"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit status 1 if a file is not what it would be.")
    ] = False,
    costs: Annotated[
        bool, typer.Option("--costs", help="First measure the cost of every row anew, and record it.")
    ] = False,
) -> None:
    """Write the page of each built-in study: what is published beside what records say.

    Needs the records alone: nothing is measured, unless asked for.
    """
    from bench import report as made

    asked = [name.strip() for name in formats.split(",") if name.strip()]
    if costs:
        from bench import tables
        from bench.cli.output import working

        with working("loading torch") as status:
            tables.record_costs(results, progress=lambda label: status.update(f"counting {label}"))
    if not check:
        for path in made.write(out, results, asked):
            console().print(f"wrote {path}", soft_wrap=True)
        return
    complaints = made.check(out, results, asked)
    for complaint in complaints:
        typer.echo(complaint, err=True)
    if complaints:
        typer.echo("run `bench report` to bring the report up to date with the records", err=True)
        raise typer.Exit(1)
    console().print(f"{out} is what {results} says", soft_wrap=True)
