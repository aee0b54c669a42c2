"""The command `bench`: parse, call, print. Every decision about a number is made elsewhere.

A command imports what it needs when it runs, so that `bench --help` is instant.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

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
    new,
    profile,
    proxy,
    references,
    report,
    runs,
    sample,
    show,
    tables,
    throughput,
    train,
    weights,
)

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="With --traceback any command shows the whole traceback of an error.",
)
app.command("list")(catalog.list_names)
app.command("describe")(catalog.describe)
app.command("ablate")(ablate.ablate)
app.command("studies")(ablate.list_studies)
app.command("check")(check.check)
app.command("diff")(diff.diff)
app.command("encode")(encode.encode)
app.command("eval")(eval.evaluate)
app.command("export")(export.export_dataset)
app.command("features")(features.features)
app.command("flops")(flops.flops)
app.command("new")(new.new)
app.command("profile")(profile.profile)
app.command("proxy")(proxy.proxy)
app.command("references")(references.references)
app.command("report")(report.report)
app.command("runs")(runs.runs)
app.command("sample")(sample.sample)
app.command("show")(show.show)
app.command("tables")(tables.tables)
app.command("throughput")(throughput.throughput)
app.command("train")(train.train)
app.command("weights")(weights.weights)

RESUMABLE = {"ablate", "encode", "eval", "export", "features", "sample"}


def _version(wanted: bool) -> None:
    if wanted:
        from bench.version import __version__

        typer.echo(f"denoiser-bench {__version__}")
        raise typer.Exit


@app.callback()
def bench(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Cost, speed and image quality of diffusion backbones, beside the published figures."""


def main() -> None:
    """Run the command line.

    Exit status 2 and one line for wrong input; 1 and the place in the user's file for a mistake in their
    code; 130 or 143 and one line after SIGINT or SIGTERM. A mistake of this program shows its traceback.
    """
    from bench.utils.process import keep_memory
    from registry.errors import CodeError, UsageError

    if sys.stdout is None:  # `>&-`
        sys.exit(_fail(ValueError(), "standard output is closed: there is nowhere to print to", False, 2))
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    keep_memory()
    arguments = [argument for argument in sys.argv[1:] if argument != "--traceback"]
    whole = len(arguments) < len(sys.argv) - 1
    received: list[int] = []

    def stop(number: int, _frame: Any) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without × or → must not lose what was computed
            stream.reconfigure(errors="replace")
    before = signal.signal(signal.SIGTERM, stop)
    try:
        try:
            app(arguments, prog_name="bench")
        finally:
            sys.stdout.flush()  # where a full disk may show only now
    except SystemExit as end:
        interrupt = getattr(end.__context__, "__cause__", None)
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        goes_on = bool(arguments) and arguments[0] in RESUMABLE
        advice = "the same command goes on where it was" if goes_on else "run it again"
        typer.echo(f"stopped: {advice}", err=True)
        sys.exit(128 + (received or [signal.SIGINT])[0])
    except UsageError as error:
        sys.exit(_fail(error, str(error), whole, 2))
    except CodeError as error:
        sys.exit(_fail(error, str(error), whole, 1))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EPIPE) and not error.filename:
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # or Python writes again at its end
            if error.errno == errno.EPIPE:  # as of `| head`, which has read enough
                sys.exit(1)
            sys.exit(_fail(error, f"cannot write the output: {error.strerror}", whole, 2))
        place = _place(error)
        if place is None:
            raise
        sys.exit(_fail(error, place, whole, 1))
    finally:
        signal.signal(signal.SIGTERM, before)


def _place(error: Exception) -> str | None:
    """The error and where in the user's own file it arose, or None where no such file is involved."""
    from registry.errors import reason, user_frame

    frame = user_frame(error)
    if frame is None:
        return None
    line = f": {frame.line}" if frame.line else ""
    return f"{reason(error)}\n  {frame.filename}, line {frame.lineno}, in {frame.name}{line}"


def _fail(error: Exception, message: str, whole: bool, status: int) -> int:
    """Print an error; the exit status."""
    if whole:
        traceback.print_exception(error)
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(message, err=True)
    if status == 1 and not whole:
        typer.echo("  --traceback shows all of it", err=True)
    return status
