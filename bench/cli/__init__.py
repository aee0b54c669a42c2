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
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from bench.cli import (
    ablate,
    catalog,
    check,
    diff,
    encode,
    eval,
    export,
    flops,
    new,
    profile,
    proxy,
    references,
    report,
    sample,
    show,
    tables,
    throughput,
    train,
    weights,
)
from bench.cli.command import Command, Group, misused

app = typer.Typer(
    name="bench",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="`bench COMMAND --help` shows the options of a command and examples. With `--traceback`, any "
    "command prints the traceback of an error.",
)
PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Measure": {
        "check": check.check,
        "flops": flops.flops,
        "throughput": throughput.throughput,
        "profile": profile.profile,
        "train": train.train,
        "sample": sample.sample,
        "eval": eval.evaluate,
        "ablate": ablate.ablate,
    },
    "Compare and report": {
        "report": report.report,
        "tables": tables.tables,
        "proxy": proxy.proxy,
        "diff": diff.diff,
        "show": show.show,
    },
    "Catalog": {
        "list": catalog.list_names,
        "describe": catalog.describe,
        "studies": ablate.list_studies,
        "references": references.references,
        "weights": weights.weights,
    },
    "Files": {
        "new": new.new,
        "encode": encode.encode,
        "export": export.export_dataset,
    },
}
for _panel, _commands in PANELS.items():
    for _name, _function in _commands.items():
        app.command(_name, cls=Command, rich_help_panel=_panel)(_function)

RESUMABLE = {"ablate", "encode", "eval", "export", "sample"}


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
    """Measure the cost, speed and image quality of diffusion backbones, beside published figures."""


def main() -> None:
    """Run the command line.

    The exit status is 2, with one line, for wrong input; 1, with the place in the user's file, for an error
    in their code; 130 or 143, with one line, after SIGINT or SIGTERM. An error of this program shows its
    traceback.
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
    again = "the same command resumes" if arguments and arguments[0] in RESUMABLE else "run it again"
    received: list[int] = []

    def stop(number: int, _frame: Any) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without × or → must not lose what was computed
            stream.reconfigure(errors="replace")
    # Where SIGINT is ignored, as in a script's background jobs, it stays so.
    signals = [signal.SIGTERM, *([signal.SIGINT] if signal.getsignal(signal.SIGINT) else [])]
    before = {number: signal.signal(number, stop) for number in signals}
    ordinary, warnings.showwarning = warnings.showwarning, _warnings_in_a_line(warnings.showwarning)
    try:
        try:
            status = app(arguments, prog_name="bench", standalone_mode=False)
        finally:
            sys.stdout.flush()  # where a full disk may show only now
        if received:
            typer.echo(f"stopped: {again}", err=True)
            status = 128 + received[0]
        sys.exit(status or 0)
    except TyperException as error:
        sys.exit(_fail(error, misused(error), whole, error.exit_code))
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
        if str(error).startswith("DataLoader worker"):  # raised wherever the command is when one dies
            told = f"a process that reads images was killed, perhaps for lack of memory: {again}"
            sys.exit(_fail(error, told, whole, 1))
        place = _place(error)
        if place is None:
            raise
        sys.exit(_fail(error, place, whole, 1))
    finally:
        warnings.showwarning = ordinary
        for number, handler in before.items():
            signal.signal(number, handler)


def _warnings_in_a_line(ordinary: Callable[..., None]) -> Callable[..., None]:
    """Prints this program's own warnings in a line and once each; `ordinary` prints all others."""
    told: set[str] = set()

    def show(message: Warning | str, category: type[Warning], filename: str, *place: Any) -> None:
        text = " ".join(str(message).split())
        if category is not UserWarning or not Path(filename).is_relative_to(Path(__file__).parents[1]):
            ordinary(message, category, filename, *place)
        elif text not in told:
            told.add(text)
            typer.secho("warning: ", fg="yellow", bold=True, err=True, nl=False)
            typer.echo(text, err=True)

    return show


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
