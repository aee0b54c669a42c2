"""`bench report`: tables and pictures from studies and records."""

from __future__ import annotations

import atexit
import gc
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import Json, Plugins, Results
from bench.cli.output import console, print_json, working


def _end() -> None:
    """Spares Python its last look for cycles among all records. Without it Triton prints that it leaks."""
    if "triton" not in sys.modules:
        gc.freeze()


def report(
    context: typer.Context,
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|FILE", help="Studies by name or file. Default: all of `bench studies`."),
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", metavar="LIST", help="Formats, separated by commas: md, latex, csv.")
    ] = "md,csv",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the report.")] = Path("reports"),
    site: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a site here instead, of the given studies or all."),
    ] = None,
    protocols: Annotated[
        list[str],
        typer.Option(
            "--protocol",
            metavar="FILE",
            help="Show records under this protocol too, besides those that the study names. Repeatable.",
        ),
    ] = [],  # noqa: B006
    results: Results = Path("results"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; the exit status is 1 if a file is out of date.")
    ] = False,
    costs: Annotated[
        bool, typer.Option("--costs", help="First count the cost of every row again, and record it.")
    ] = False,
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Write a page for each study from its records, with published and measured figures side by side.

    Examples:
        bench report --site site
        bench report downsampler --format md,latex,csv
    """
    atexit.register(_end)
    from registry.errors import UsageError

    for name, option in (("formats", "--format"), ("out", "--out")):
        source = context.get_parameter_source(name)
        if site and source and source.name == "COMMANDLINE":
            raise UsageError(f"{option} does not go with --site, which writes HTML: leave one of them out")
    if check and costs:
        raise UsageError("--costs writes records, and --check writes nothing: leave one of them out")
    from bench.reports import report as writer
    from bench.reports import site as pages

    wanted = [name.strip() for name in formats.split(",") if name.strip()]
    if costs:
        with working("loading torch") as status:
            from bench.studies.measuring import record_costs

            record_costs(results, lambda label, done, total: status.update(f"counting {label}"))
    folder, chosen = site or out, studies or []
    with working(f"{'checking' if check else 'writing'} the {'site' if site else 'report'}"):
        made = (
            pages.files(results, chosen, protocols)
            if site
            else writer.files(results, wanted, chosen, protocols).items()
        )
        if check:
            files = dict(made)
            complaints = writer.check(folder, files.items()) + (pages.left_over(site, files) if site else [])
        else:
            paths = writer.write(folder, made)
    if not check:
        if as_json:
            print_json({"written": [str(path) for path in paths]})
        elif site:
            console().print(f"wrote {len(paths)} files; open {site / 'index.html'}", soft_wrap=True)
        else:
            for path in paths:
                console().print(f"wrote {path}", soft_wrap=True)
        return
    if as_json:
        print_json({"current": not complaints, "complaints": complaints})
    else:
        for complaint in complaints:
            typer.echo(complaint, err=True)
        if complaints:
            again = shlex.join(["bench", *(word for word in sys.argv[1:] if word != "--check")])
            typer.echo(f"run `{again}` to bring it up to date", err=True)
        else:
            console().print(f"{folder} is up to date with {results}", soft_wrap=True)
    if complaints:
        raise typer.Exit(1)
