"""`bench ablate`: a study measured and printed; `bench studies`: those that are built in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bench.cli.options import (
    DataOptions,
    Json,
    Plugins,
    Results,
    Work,
    parse_numbers,
    parse_overrides,
)
from bench.cli.output import console, print_json, print_table, working

if TYPE_CHECKING:
    from bench.studies.executors import Executor
    from bench.studies.plan import Plan


def ablate(
    study: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="Study by name (see `bench studies`), or a TOML file.")
    ],
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="How rows are trained, sampled and scored; see `bench list --kind protocol`. Default: the "
            "study's.",
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1,…", help="Seeds, separated by commas. Default: the study's.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Cells (a row with a seed) measured at the same time. Default: one per GPU, or per core "
            "without a GPU, or as many as the cluster runs.",
        ),
    ] = None,
    executor: Annotated[
        str,
        typer.Option(metavar="NAME", help="Where cells are measured: `local`, `ray` or `slurm`."),
    ] = "local",
    executor_options: Annotated[
        list[str],
        typer.Option(
            "--executor-option",
            metavar="KEY=VALUE",
            help="Option of the executor, such as `gpus=1`; see `bench describe --kind executor NAME`. "
            "Repeatable.",
        ),
    ] = [],  # noqa: B006
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Measure nothing: show what is missing and how long it would take."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Measure cost and quality again, even if recorded.")
    ] = False,
    stale: Annotated[
        Literal["measure", "accept"],
        typer.Option(
            help="Stale records, whose code or data has changed: measure again, or accept and mark them."
        ),
    ] = "measure",
    add_scores: Annotated[
        list[str],
        typer.Option(
            "--add-score",
            metavar="NAME",
            help="Add this score to existing records, from their samples or checkpoints; nothing is trained. "
            "Repeatable.",
        ),
    ] = [],  # noqa: B006
    only: Annotated[
        list[str], typer.Option(metavar="ROW", help="Measure only the row with this label. Repeatable.")
    ] = [],  # noqa: B006
    shard: Annotated[
        str | None,
        typer.Option(metavar="PART/PARTS", help="Measure only one part of several, as in `3/16`."),
    ] = None,
    data_options: DataOptions = [],  # noqa: B006
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Reference that samples are compared with, such as an .npz of the ADM suite. Default: the "
            "protocol's, or else the dataset.",
        ),
    ] = None,
    results: Results = Path("results"),
    work: Work = Path("runs"),
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Measure a study and print its table: each row is trained, sampled and scored with each seed.

    Rows that have a record are not measured again, unless their code or data has changed. You can stop it at
    any time; the same command resumes. `CUDA_VISIBLE_DEVICES` selects the GPUs that are used.

    Examples:
        bench ablate downsampler --protocol smoke --seeds 0 --dry-run
        bench ablate my_study.toml --plugin my_net.py --jobs 2
    """
    from bench.reports import ablation, tables
    from bench.reports.render import terminal
    from bench.studies.executors import executor as executor_of
    from bench.studies.plan import plan
    from registry.errors import UsageError

    if dry_run and as_json:
        raise UsageError("--dry-run shows the plan as a table: leave --json out")
    made = plan(
        study,
        protocol=protocol,
        seeds=parse_numbers(seeds),
        only=only,
        shard=shard,
        force=force,
        stale=stale,
        add_scores=add_scores,
        data_options=parse_overrides(data_options, "--data-option"),
        reference=reference,
        results=results,
        work=work,
    )
    options = parse_overrides(executor_options, "--executor-option") | (
        {} if jobs is None else {"jobs": jobs}
    )
    measurer = executor_of(executor, **options).for_plan(made)
    with working("looking at what is to be measured"):
        made.check()
        table = ablation.plan_table(made, measurer) if dry_run else None
    if table:
        terminal.table(table, console())
        return
    typer.echo(ablation.reused(made), err=True)
    missing = bool(made.todo or made.costs)
    failed = _measure(made, measurer, plugins) if missing else {}
    rows, selection = ablation.measured(made, again=missing or as_json)
    if as_json:
        print_json(tables.values(rows, selection))
    else:
        for table in ablation.results(made, rows):
            terminal.table(table, console())
    for title, why in failed.items():
        typer.secho("failed: ", fg="red", bold=True, err=True, nl=False)
        typer.echo(f"{title}: {why}", err=True)
    if failed:
        typer.echo(f"The output of the processes is in {work}/worker-*.log.", err=True)
        raise typer.Exit(1)


def _measure(made: Plan, measurer: Executor, plugins: list[str]) -> dict[str, str]:
    """Measure what a plan has left, under the live table; titles of what failed, and why."""
    from bench.cli.watch import View
    from bench.studies.watching import Watcher

    ended: dict[str, str | None] = {}  # by title: why it failed, or None
    with working("estimating the time"):
        times = {cell.title: made.seconds[cell.file] for cell in made.todo}
        steps = {cell.title: float(cell.step) for cell in made.todo}
    # Costs take seconds: to count them beside cells would promise an early end.
    jobs = {title: times[title] or 1.0 for title in steps} if all(times.values()) else steps
    jobs = jobs or dict.fromkeys((f"cost of {label}" for label in made.costs), 1.0)
    with View(jobs, ended, Watcher(made.results, made.work, made.todo)):
        return measurer.measure(made, plugins=plugins, ended=ended.__setitem__)


def list_studies(as_json: Json = False) -> None:
    """List the built-in studies: the tables of papers that `bench ablate` measures.

    Examples:
        bench studies
    """
    from bench import studies

    found = [studies.load(name) for name in studies.names()]
    if as_json:
        print_json(
            [
                {"name": s.name, "title": s.title, "rows": [r.label for r in s.rows], "protocol": s.protocol}
                for s in found
            ]
        )
        return
    rows = [[study.name, study.title, str(len(study.rows)), study.protocol] for study in found]
    print_table("Studies", ["Study", "About", "Rows", "Protocol"], rows, numbers=False)
