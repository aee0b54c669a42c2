"""`bench runs`: the training runs in a folder, and which of them no record needs any more."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import Json, Plugins, Results, Work
from bench.cli.output import console, print_json, print_table, working

SHOWN = 1000  # runs in a table for people


def runs(
    work: Work = Path("runs"),
    results: Results = Path("results"),
    clean: Annotated[
        bool, typer.Option("--clean", help="Delete the runs whose scores are recorded.")
    ] = False,
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """List training runs: their step, size, age, and whether their scores are recorded.

    Examples:
        bench runs
        bench runs --work runs --clean
    """
    with working("loading torch"):
        from bench import records
        from bench.studies import runs as training_runs
        from bench.utils.files import delete_folder

        known = records.read(results) if results.is_dir() else []
        found = training_runs.summaries(work, known)
    deleted = [run for run in found if clean and run.state == "recorded"]
    for run in deleted:
        delete_folder(run.folder)
    gone = {run.folder for run in deleted}
    if as_json:
        print_json(
            [asdict(run) | {"folder": str(run.folder), "deleted": run.folder in gone} for run in found]
        )
        return
    newest = sorted(found, key=lambda run: run.age)[:SHOWN]
    shown = sorted(newest, key=lambda run: run.folder)
    rows = [
        [
            run.folder.name,
            run.title,
            f"{run.step:,} of {run.steps:,}",
            f"{run.size / 2**20:.1f}",
            _age(run.age),
            "deleted" if run.folder in gone else run.state,
        ]
        for run in shown
    ]
    total = sum(run.size for run in found if run.folder not in gone)
    left_out = (
        [f"Only the {SHOWN:,} written last are shown; `--json` lists all."] if len(found) > SHOWN else []
    )
    print_table(
        f"{len(found)} training runs in {work}",
        ["Run", "Network", "Step", "MiB", "Written", "State"],
        rows,
        notes=[
            f"{total / 2**20:,.0f} MiB in all. `recorded`: the scores are in {results}, and `--clean` "
            "deletes the run.",
            *left_out,
        ],
    )
    console().print()


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
