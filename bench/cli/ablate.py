"""`bench ablate`: a study measured and printed; `bench studies`: those that are built in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.options import Plugins, load_plugins, parse_overrides
from bench.cli.output import bar, console, print_table, working

if TYPE_CHECKING:
    from bench.studies import Row, Study
    from bench.studies.cells import Cell
    from bench.studies.running import Event, Records
    from bench.training.protocols import Protocol


def ablate(
    study: Annotated[str, typer.Argument(metavar="NAME|FILE", help="See `bench studies`; or a TOML file.")],
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="In place of the study's: `smoke`, `micro`, …")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1,…", help="In place of the study's, with commas.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Cells measured at once; they share the cores.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what is measured and how long the rest takes.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Measure quality again where it is measured, from the start.")
    ] = False,
    only: Annotated[
        list[str], typer.Option(metavar="ROW", help="Measure only the row of this label; repeatable.")
    ] = [],  # noqa: B006
    data_options: Annotated[
        list[str],
        typer.Option("--data-option", metavar="KEY=VALUE", help="Option of the dataset, such as `root=DIR`."),
    ] = [],  # noqa: B006
    results: Annotated[Path, typer.Option(metavar="DIR", help="Folder of records.")] = Path("results"),
    work: Annotated[Path, typer.Option(metavar="DIR", help="Folder of training runs.")] = Path("runs"),
    plugins: Plugins = [],  # noqa: B006
) -> None:
    """Measure a study: train, sample and score each row with each seed, then print the table.

    What has a record is not measured again. Stop it at any moment: the same command goes on where it was.
    """
    load_plugins(plugins)
    from bench import studies
    from bench.studies import running
    from bench.studies.cells import cells, known
    from bench.training import protocols

    chosen = studies.load(study)
    how = protocols.load(protocol or chosen.protocol)
    labels = {chosen.row(label).label for label in only}
    every = cells(chosen, how, _seeds(seeds) if seeds is not None else chosen.seeds)
    wanted = [cell for cell in every if not labels or cell.row.label in labels]
    records = known(results)
    todo = running.missing(wanted, {} if force else records)
    costs = running.missing_costs(chosen, records)
    if todo or costs:
        with working("loading torch"):
            from bench.studies.checking import check

            check(chosen, todo, parse_overrides(data_options, "--data-option"))
    if dry_run:
        _print_plan(chosen, how, wanted, todo, records, jobs)
        return
    failed: dict[str, str] = {}
    if todo:
        typer.echo(
            f"{len(todo)} of {len(wanted)} cells to measure under {how.name}; records go to {results}, "
            f"training runs to {work}. Stop at any moment: the same command goes on where it was.",
            err=True,
        )
    if todo or costs:
        running.make_folders(work, results)  # or hours of work could not be written down
        lists = running.jobs(
            todo,
            costs,
            results=results,
            work=work,
            data_options=parse_overrides(data_options, "--data-option"),
            force=force,
        )
        try:
            with _view(sum(map(len, lists)), min(jobs, len(lists))) as tell:
                failed = running.run(lists, work=work, processes=jobs, plugins=plugins, tell=tell)
        except KeyboardInterrupt:
            typer.echo("stopped: the same command goes on where it was", err=True)
            raise typer.Exit(130) from None
    _print(chosen, how, every, known(results))
    for title, why in failed.items():
        typer.secho("failed: ", fg="red", bold=True, err=True, nl=False)
        typer.echo(f"{title}: {why}", err=True)
    if failed:
        typer.echo(f"What the processes printed is in {work}/worker-*.log.", err=True)
        raise typer.Exit(1)


def list_studies() -> None:
    """The built-in studies."""
    from bench import studies

    found = [studies.load(name) for name in studies.names()]
    rows = [[study.name, study.title, str(len(study.rows)), study.protocol] for study in found]
    print_table("Studies", ["Study", "About", "Rows", "Protocol"], rows, numbers=False)


def _seeds(text: str) -> list[int]:
    from registry.errors import UsageError

    seeds = [seed.strip() for seed in text.split(",")]
    if not all(seed.isdecimal() for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds takes different whole numbers with commas between, not {text!r}")
    return [int(seed) for seed in seeds]


# ---- while it runs ----


@contextmanager
def _view(count: int, workers: int) -> Iterator[Callable[[Event], None]]:
    """A bar for the study and one for each cell under way, on stderr; silent where that is no terminal."""
    with bar("{task.description}", "{task.fields[told]}") as shown:
        whole = shown.add_task("measured", total=count, told="")
        rows = [shown.add_task("starting", total=None, told="", visible=False) for _ in range(workers)]
        titles = [""] * workers

        def tell(event: Event) -> None:
            row, title = rows[event.worker], event.title
            if not event.doing:
                shown.advance(whole)
                shown.update(row, visible=False)
                return
            doing = f"{title}: {event.doing}"
            if doing != titles[event.worker]:  # the time left is that of the stage
                titles[event.worker] = doing
                shown.reset(row, description=doing, visible=True, told="")
            loss = "" if event.loss is None else f"loss {event.loss:.4f}"
            shown.update(row, completed=event.done, total=event.count or None, told=loss)

        yield tell


# ---- what is printed ----


def _print_plan(
    study: Study, protocol: Protocol, wanted: Sequence[Cell], todo: Sequence[Cell], known: Records, jobs: int
) -> None:
    from bench.studies.running import expected_seconds, sorted_by_step

    expected = dict(zip([c.file for c in sorted_by_step(todo)], expected_seconds(todo, known), strict=True))
    rows = []
    for cell in wanted:
        state = "to do" if cell.file in expected else "measured"
        rows.append([cell.row.label, str(cell.seed), state, _time(expected.get(cell.file, 0))])
    times = list(expected.values())
    if None in times:
        told = "for some of them there is no record to expect a time from"
    else:
        told = f"expected to take {_time(sum(t or 0 for t in times) / jobs) or 'no time'}"
        told += f" with {jobs} at once" if jobs > 1 else ""
    print_table(
        f"{study.title}: cells under {protocol.name}",
        ["Row", "Seed", "State", "Expected"],
        rows,
        notes=[
            f"{len(todo)} of {len(wanted)} cells are to be measured, {told}.",
            *_left_out(study, protocol),
        ],
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds else ""
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _left_out(study: Study, protocol: Protocol) -> list[str]:
    left = [row.label for row in study.rows if not row.measured_under(protocol.name)]
    return [f"Not measured under {protocol.name}: {'; '.join(left)}."] if left else []


def _print(study: Study, protocol: Protocol, every: Sequence[Cell], known: Records) -> None:
    """Published figures, measured cost, and quality as mean ± standard deviation over the seeds."""
    from bench.reports.content import COST_COLUMNS, SCORE_COLUMNS, spread
    from bench.reports.statistics import summary
    from bench.studies.cells import cost_asked
    from bench.studies.running import found_values

    of_row: dict[str, list[dict[str, Any]]] = {row.label: [] for row in study.rows}
    for cell in every:
        if cell.file in known:
            of_row[cell.row.label].append(known[cell.file]["values"])
    columns: dict[str, list[str]] = {}
    for column in study.columns:
        if column in COST_COLUMNS:
            key, heading, unit = COST_COLUMNS[column]
            costs = [found_values(cost_asked(row.model, row.overrides), known) for row in study.rows]
            here = [f"{cost[key] / unit:.2f}" if cost else "" for cost in costs]
        else:
            heading = SCORE_COLUMNS[column][0]
            found = [[values[column] for values in of_row[row.label]] for row in study.rows]
            here = [spread(column, summary([x for x in of_seeds if x is not None])) for of_seeds in found]
        columns[f"paper {heading}"] = [_published(row, column) for row in study.rows]
        columns[f"here {heading}"] = here
    columns["Seeds"] = [str(len(found) or "") for found in of_row.values()]
    shown = {heading: cells for heading, cells in columns.items() if any(cells)}
    marks = [f"{row.label} (extra)" if row.extra else row.label for row in study.rows]
    pieces = _pieces(shown, marks, console().width)
    notes = [f"Here: {protocol.title} ({protocol.name}); mean ± standard deviation over seeds."]
    if protocol.name != "paper":
        notes[0] += " Scores of a reduced protocol compare with each other, not with published ones."
    notes += _left_out(study, protocol)
    for piece in pieces:
        print_table(
            study.title,
            ["Row", *piece],
            [list(row) for row in zip(marks, *(shown[heading] for heading in piece), strict=True)],
            notes=notes if piece is pieces[-1] else [""],
        )


def _pieces(columns: dict[str, list[str]], labels: list[str], width: int) -> list[list[str]]:
    """Headings cut into tables that fit beside the labels, paper and here of a figure together."""
    pieces: list[list[str]] = []
    room = 0
    for _, group in groupby(columns, key=lambda heading: heading.partition(" ")[2]):
        headings = list(group)
        needed = sum(3 + max(map(len, [heading, *columns[heading]])) for heading in headings)
        if needed > room:
            pieces.append([])
            room = width - 3 - max(16, *map(len, labels))
        pieces[-1] += headings
        room -= needed
    return pieces


def _published(row: Row, column: str) -> str:
    return row.published.printed.get(column, "") if row.published else ""
