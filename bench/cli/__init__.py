"""The command `bench`: parse, call, print. Every decision about a number is made elsewhere.

A command imports what it needs when it runs, so that `bench --help` is instant.
"""

from __future__ import annotations

import sys

import typer

from bench.cli import (
    ablate,
    catalog,
    check,
    diff,
    encode,
    eval,
    export,
    features,
    flops,
    profile,
    report,
    sample,
    tables,
    throughput,
    train,
)

app = typer.Typer(
    name="bench",
    help="Cost, speed and image quality of diffusion backbones, beside the published figures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.command("list")(catalog.list_names)
app.command("describe")(catalog.describe)
app.command("ablate")(ablate.ablate)
app.command("studies")(ablate.list_studies)
app.command("check")(check.check)
app.command("diff")(diff.diff)
app.command("encode")(encode.encode)
app.command("eval")(eval.evaluate)
app.command("export")(export.export)
app.command("features")(features.features)
app.command("flops")(flops.flops)
app.command("profile")(profile.profile)
app.command("report")(report.report)
app.command("sample")(sample.sample)
app.command("tables")(tables.tables)
app.command("throughput")(throughput.throughput)
app.command("train")(train.train)


def main() -> None:
    """Run the command line; an error of the user's is one line on stderr and exit status 2."""
    from registry.errors import UsageError

    try:
        app()
    except UsageError as error:
        sys.exit(_fail(error))


def _fail(error: Exception) -> int:
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(str(error), err=True)
    return 2
