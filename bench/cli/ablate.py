"""`bench ablate`: a study measured and printed; `bench studies`: those that are built in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench.cli.options import Json, Plugins, load_plugins, parse_overrides
from bench.cli.output import console, print_json, print_table, span, working

if TYPE_CHECKING:
    from bench.studies import Study
    from bench.studies.cells import Cell, Records
    from bench.studies.watching import Usage
    from bench.training.protocols import Protocol


def ablate(
    study: Annotated[str, typer.Argument(metavar="NAME|FILE", help="See `bench studies`; or a TOML file.")],
    protocol: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="In place of the study's; `bench list --kind protocol`."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1,…", help="In place of the study's, with commas.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Cells measured at once; by default one for each GPU, or core where there is none, or what "
            "a cluster has room for.",
        ),
    ] = None,
    executor: Annotated[
        str,
        typer.Option(metavar="NAME", help="`local`, `ray` or `slurm`; see `bench list --kind executor`."),
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster, such as `auto` or `HOST:6379`.")
    ] = None,
    executor_options: Annotated[
        list[str],
        typer.Option(
            "--executor-option",
            metavar="KEY=VALUE",
            help="Option of the executor, such as `gpus=1`; see `bench describe --kind executor NAME`.",
        ),
    ] = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is measured and how long the rest takes.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Measure cost and quality again, from the start.")
    ] = False,
    stale: Annotated[
        Literal["measure", "accept"],
        typer.Option(help="Records of other code or data: measure again, or show them with a mark."),
    ] = "measure",
    only: Annotated[
        list[str], typer.Option(metavar="ROW", help="Measure only the row of this label; repeatable.")
    ] = [],  # noqa: B006
    shard: Annotated[
        str | None,
        typer.Option(metavar="PART/PARTS", help="Measure only this machine's part, as in `3/16`."),
    ] = None,
    data_options: Annotated[
        list[str],
        typer.Option("--data-option", metavar="KEY=VALUE", help="Option of the dataset, such as `root=DIR`."),
    ] = [],  # noqa: B006
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What samples are compared with, such as the ADM suite's .npz; see the protocol.",
        ),
    ] = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Folder of records.")] = Path("results"),
    work: Annotated[Path, typer.Option(metavar="DIR", help="Folder of training runs.")] = Path("runs"),
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Measure a study: train, sample and score each row with each seed, then print the table.

    What has a record is not measured again, unless the code or the data that made it have changed. Stop it at
    any moment: the same command goes on where it was.
    """
    load_plugins(plugins)
    from bench import studies
    from bench.studies import executors
    from bench.studies.cells import (
        cells,
        expected_seconds,
        has_scores,
        known,
        missing,
        missing_costs,
        reference_digest,
    )
    from bench.studies.cells import shard as shard_of
    from bench.studies.staleness import of_another_time
    from bench.training import protocols
    from bench.utils.files import make_folders

    chosen = studies.load(study)
    folder = Path(study).parent if study.endswith(".toml") else None
    settings = protocols.load(protocol or chosen.protocol, folder)
    labels = {chosen.row(label).label for label in only}
    if reference is None and settings.evaluation.reference:
        reference = Path(settings.evaluation.reference)
    digest = reference_digest(reference) if reference else None
    every = cells(chosen, settings, _seeds(seeds) if seeds is not None else chosen.seeds, digest)
    planned = [cell for cell in every if not labels or cell.row.label in labels]
    part, parts = _shard(shard) if shard is not None else (1, 1)
    wanted = shard_of(planned, part, parts)
    options = parse_overrides(data_options, "--data-option")
    where = parse_overrides(executor_options, "--executor-option")
    where |= {} if jobs is None else {"jobs": jobs}
    where |= {} if address is None else {"address": address}
    processes = max((cell.protocol.training.processes for cell in wanted), default=1)
    measurer = executors.executor(executor, **where).for_runs(len({cell.run for cell in wanted}), processes)
    records = known(results)
    outdated = of_another_time(records, every, chosen, options)
    files = {cell.file for cell in every}
    usable: Records = {
        file: record
        for file, record in records.items()
        if (stale == "accept" or file not in outdated)
        and (file not in files or has_scores(record, chosen.columns))
    }
    todo = missing(wanted, {} if force else usable)
    costs = missing_costs(chosen, {} if force else usable)
    if part > 1:  # the first machine counts costs
        costs = {}
    if force and labels:
        costs = {label: request for label, request in costs.items() if label in labels}
    memory = {}
    if todo or costs:
        with working("loading torch") as status:
            from bench.studies.checking import Checker

            checker = Checker(options)
            checker.check(chosen, todo, reference)
            checker.check_disk(todo, work)
            if dry_run or measurer.at_once(len(todo)) != 1:
                status.update("estimating memory")
                memory = checker.memory(todo)
    groups = executors.groups(
        todo,
        costs,
        results=results,
        work=work,
        data_options=options,
        reference=reference,
        fresh=force,
        memory=memory,
    )
    if dry_run:
        tokens, expected = {}, {}
        if todo:
            with working("counting tokens and operations"):
                tokens = checker.attention_tokens(wanted)
                expected = expected_seconds(todo, records, checker.macs)
        at_once = measurer.at_once(len(groups))
        titles = {job.title for group in groups if measurer.lacks_memory(group) for job in group.jobs}
        large = [cell.title for cell in todo if cell.title in titles]
        _print_plan(
            chosen, settings, planned, wanted, expected, records, at_once, outdated, tokens, memory, large
        )
        if groups and (script := measurer.plan(groups, work)):
            typer.echo(script)
        return
    reused = [records[cell.file] for cell in wanted if cell.file in records and cell not in todo]
    typer.echo(_reuse(settings, todo, reused, outdated, results, work), err=True)
    failed: dict[str, str] = {}
    if groups:
        from bench.cli.watch import View
        from bench.studies.watching import Meter, Watcher

        make_folders(work, results)  # or hours of work could not be written down
        planned_files = {job.title: job.record.name for group in groups for job in group.jobs}
        failures: dict[str, str | None] = {}  # of the jobs that ended, by the files of their records
        watcher = Watcher(results, work, todo)
        meter = Meter(results, {cell.file: cell.run for cell in todo})

        def ended(title: str, failure: str | None) -> None:
            failures[planned_files[title]] = failure

        def usage() -> Usage:
            return meter.usage([file for file, failure in list(failures.items()) if failure is None])

        # Costs take seconds: to count them beside cells would promise an early end.
        counted = {cell.file for cell in todo} or set(planned_files.values())
        with View(len(counted), lambda: sum(file in failures for file in counted), watcher, usage):
            failed = measurer.run(groups, work=work, plugins=plugins, ended=ended)
    _print(chosen, settings, results, options, as_json=as_json)
    for title, why in failed.items():
        typer.secho("failed: ", fg="red", bold=True, err=True, nl=False)
        typer.echo(f"{title}: {why}", err=True)
    if failed:
        typer.echo(f"Output of the processes is in {work}.", err=True)
        raise typer.Exit(1)


def list_studies(
    watch: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Show how far a study is, wherever it is measured."),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="With --watch, as of `bench ablate`.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1,…", help="With --watch, as of `bench ablate`.")
    ] = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="With --watch: folder of records.")] = Path(
        "results"
    ),
    work: Annotated[Path, typer.Option(metavar="DIR", help="With --watch: folder of training runs.")] = Path(
        "runs"
    ),
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """The built-in studies; with --watch, what of one is measured and what is under way, until all is."""
    from bench import studies

    load_plugins(plugins)
    if watch is not None:
        _watch(watch, protocol, seeds, results, work, as_json=as_json)
        return
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


def _watch(
    study: str, protocol: str | None, seeds: str | None, results: Path, work: Path, *, as_json: bool
) -> None:
    """Look at the folder of records until all cells of a study are measured; with `as_json` once."""
    import time
    from dataclasses import asdict

    from bench.cli.watch import View
    from bench.studies import load
    from bench.studies.cells import cells
    from bench.studies.watching import Meter, Watcher
    from bench.training import protocols

    chosen = load(study)
    settings = protocols.load(protocol or chosen.protocol, chosen.folder)
    every = cells(chosen, settings, _seeds(seeds) if seeds is not None else chosen.seeds)
    runs = {cell.file: cell.run for cell in every}
    watcher, meter = Watcher(results, work, every), Meter(results, runs)

    def measured() -> list[str]:
        return [file for file in runs if (results / file).exists()]

    def done() -> int:
        return len(measured())

    def usage() -> Usage:
        return meter.usage(measured())

    if as_json:
        activities = [asdict(each) for each in watcher.look()]
        print_json(
            {"cells": len(runs), "measured": done(), "usage": asdict(usage()), "under_way": activities}
        )
        return
    view = View(len(runs), done, watcher, usage)
    if done() < len(runs):
        with view:
            while done() < len(runs):
                time.sleep(1)
    console().print(view.summary(watcher.look()))


def _seeds(text: str) -> list[int]:
    from registry.errors import UsageError

    seeds = [seed.strip() for seed in text.split(",")]
    right = all(seed.isdecimal() and int(seed) < 2**63 for seed in seeds)
    if not right or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds takes different whole numbers below 2⁶³ with commas between, not {text!r}")
    return [int(seed) for seed in seeds]


def _shard(text: str) -> tuple[int, int]:
    from registry.errors import UsageError

    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"--shard takes a machine's number and how many there are, as in 3/16, not {text!r}")
    return int(part), int(parts)


# ---- while it runs ----


def _reuse(
    protocol: Protocol,
    todo: Sequence[Cell],
    reused: Sequence[Any],
    outdated: dict[str, str],
    results: Path,
    work: Path,
) -> str:
    """How many cells are measured and how many are reused, and since when these are known."""
    parts = []
    if reused:
        dates = sorted(record.environment.date[:10] for record in reused)
        days = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
        parts.append(f"{len(reused)} cells reused, measured {days}")
    if todo:
        parts.append(
            f"{len(todo)} cells to measure under {protocol.name}; records go to {results}, training runs to "
            f"{work}"
        )
    again = [outdated[cell.file] for cell in todo if cell.file in outdated]
    if again:
        reasons = ", ".join(sorted(set(again)))
        parts.append(f"{len(again)} of them again, since {reasons}")
    shown = {outdated[record.file] for record in reused if record.file in outdated}
    if shown:
        parts.append(f"some of another time are shown: {', '.join(sorted(shown))}")
    text = "; ".join(parts) or "nothing is measured under this protocol"
    return f"{text}. Stop at any moment: the same command goes on where it was." if todo else f"{text}."


# ---- what is printed ----


def _print_plan(
    study: Study,
    protocol: Protocol,
    planned: Sequence[Cell],
    wanted: Sequence[Cell],
    expected: dict[str, float | None],
    records: Records,
    at_once: int | None,
    outdated: dict[str, str],
    tokens: dict[str, dict[str, int]],
    memory: dict[str, int],
    large: Sequence[str],
) -> None:
    rows = []
    for cell in wanted:
        state = "to do" if cell.file in expected else "measured"
        if cell.file in outdated:
            state += f", {outdated[cell.file]}"
        need = _memory(cell, memory) if cell.file in expected else ""
        rows.append([cell.row.label, str(cell.seed), state, _time(expected.get(cell.file, 0)), need])
    times = list(expected.values())
    if None in times:
        total = "for some of them there is no record to expect a time from"
    else:
        total = f"expected to take {_time(sum(t or 0 for t in times) / (at_once or 1)) or 'no time'}"
        total += " of one process" if at_once is None else f" with {at_once} at once" if at_once > 1 else ""
    print_table(
        f"{study.title}: cells under {protocol.name}",
        ["Row", "Seed", "State", "Expected", "Memory (GiB)"],
        rows,
        notes=[
            f"{len(expected)} of {len(wanted)} cells are to be measured, {total}.",
            *_memory_notes(memory, large),
            *_attention(tokens),
            *_power(protocol, planned, records),
            *_left_out(study, protocol),
        ],
    )


def _memory(cell: Cell, memory: dict[str, int]) -> str:
    """What a cell needs, of each of its processes."""
    if cell.run not in memory:
        return "unknown"
    processes = cell.protocol.training.processes
    return (f"{processes} × " if processes > 1 else "") + f"{memory[cell.run] / 2**30:.1f}"


def _memory_notes(memory: dict[str, int], large: Sequence[str]) -> list[str]:
    if not memory:
        return []
    notes = [
        "Memory, estimated: a process, weights, gradients, AdamW's moments, averages of the weights, and the "
        "activations of a training step."
    ]
    if large:
        notes.append(f"More memory than there is here is needed by: {'; '.join(large)}.")
    return notes


def _attention(tokens: dict[str, dict[str, int]]) -> list[str]:
    """How many tokens the attention of each row has to choose from, rows with the same told together."""
    alike: dict[str, list[str]] = {}
    for label, stages in tokens.items():
        told = ", ".join(f"{stage} {count}" for stage, count in stages.items()) or "no fused attention"
        alike.setdefault(told, []).append(label)
    told_of = "Tokens that a token can attend to, by stage"
    notes = [f"{told_of}: {told} ({'; '.join(labels)})." for told, labels in alike.items()]
    if any(count == 1 for stages in tokens.values() for count in stages.values()):
        notes.append(
            "Where that is 1, attention has nothing to choose from: changes to it cannot show there."
        )
    return notes


def _power(protocol: Protocol, planned: Sequence[Cell], records: Records) -> list[str]:
    """What difference in what ranks its rows the plan can see.

    From the spread between seeds in the records of its cells.
    """
    from bench.metrics.scores import MEASURED
    from bench.records.schema import Quality
    from bench.reports.findings import phrase
    from bench.reports.statistics import detectable, residual_deviation

    quantity = MEASURED[protocol.evaluation.judges[0]]
    of_row: dict[str, dict[int, float]] = {}
    for cell in planned:
        record = records.get(cell.file)
        value = record.result.value(quantity.name) if record and isinstance(record.result, Quality) else None
        of_row.setdefault(cell.row.label, {})
        if value is not None:
            of_row[cell.row.label][cell.seed] = value
    deviation = residual_deviation([seeds for seeds in of_row.values() if seeds])
    count = len({cell.seed for cell in planned})
    if len(of_row) < 2:
        return []
    if count < 2:
        return ["One seed tells no two rows apart: take two or more."]
    if deviation is None:
        return [
            "No two of its rows have records of two seeds yet, so what difference it can see is not known."
        ]
    least = detectable(deviation, len(of_row), count)
    return [
        f"With {count} seeds a true difference in {phrase(quantity)} of {least:.2g} between two of its "
        f"{len(of_row)} rows is found with probability 0.8, by the spread between seeds in the records of "
        "its cells."
    ]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return span(seconds) if seconds else ""


def _left_out(study: Study, protocol: Protocol) -> list[str]:
    left = [row.label for row in study.rows if row.model and not row.measured_under(protocol.name)]
    return [f"Not measured under {protocol.name}: {'; '.join(left)}."] if left else []


def _print(
    study: Study, protocol: Protocol, results: Path, data_options: dict[str, Any], *, as_json: bool
) -> None:
    """Published figures, measured cost, and quality as mean ± standard deviation over the seeds."""
    from bench.reports import tables
    from bench.reports.render import terminal
    from bench.reports.select import Selection, lines, settings

    selection = Selection(results, data_options) if results.is_dir() else None
    found = lines(study, selection, protocol=protocol)
    if as_json:
        print_json(tables.values(found, selection))
        return
    measured = [setting for setting in settings(found) if setting.protocol == protocol.name]
    words = f"Here: {protocol.title} ({protocol.name}); mean ± standard deviation over seeds."
    remarks = [words, *_left_out(study, protocol)]
    if not measured:
        terminal.table(tables.summary_table(study, found, None, remarks), console())
    for setting in measured:
        terminal.table(tables.summary_table(study, found, setting, remarks), console())
