"""What a study is to do: its cells, what of them is known and what is missing, what that needs and takes.

    made = plan("downsampler", results="results", work="runs")
    made.todo, made.costs               # what has no record that counts
    made.check()                        # that all of it can be measured, to the last score
    made.seconds                        # how long each cell is likely to take
    executor("ray").measure(made)       # see bench.studies.executors

Making a plan imports no torch and writes nothing. Looking at networks does import it (`check`, `seconds`,
`groups`), where something is to be measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench import records, studies
from bench.metrics.scores import select
from bench.records.schema import CostRequest, Quality, QualityRequest, Record
from bench.studies import Study
from bench.studies.cells import (
    Cell,
    Records,
    by_run,
    cells,
    cost_request,
    expected_seconds,
    has_scores,
    keeping_scores,
    known,
    missing,
    missing_costs,
    reference_digest,
)
from bench.studies.cells import shard as shard_of
from bench.studies.jobs import Group, Job, Task
from bench.studies.staleness import stale_records
from bench.training import protocols
from bench.training.protocols import Protocol
from bench.utils.text import texts
from registry.errors import UsageError

if TYPE_CHECKING:
    from bench.studies.checking import Checker


@dataclass(frozen=True)
class Plan:
    """A study under a protocol; made by `plan`.

    Attributes:
        study, protocol: what is measured, and how.
        cells: of every row, seed by seed.
        wanted: those that were asked for, of some rows or of one machine.
        records: those of its cells and of its rows' costs, by file, as far as they are there.
        outdated: why some of them are stale, by file.
        todo: cells to be measured.
        costs: requests for costs to be counted, by label.
        results, work: folders of records and of training runs.
        data_options: of the dataset.
        reference: file that samples are compared with; None: the dataset trained on.
        fresh: train from the start, whatever the work folder holds.
        added: names of scores that `todo`, cells with a record, get besides; nothing is trained.
    """

    study: Study
    protocol: Protocol
    cells: list[Cell]
    wanted: list[Cell]
    records: Records
    outdated: dict[str, str]
    todo: list[Cell]
    costs: dict[str, CostRequest]
    results: Path
    work: Path
    data_options: dict[str, Any]
    reference: Path | None
    fresh: bool
    added: tuple[str, ...] = ()

    @property
    def reused(self) -> list[Record]:
        """Records of the cells that were asked for and are not measured again."""
        todo = {cell.file for cell in self.todo}
        files = [cell.file for cell in self.wanted if cell.file not in todo]
        return [self.records[file] for file in files if file in self.records]

    def check(self) -> None:
        """See that all of it can be measured, before anything is trained; see `Checker`.

        Raises:
            UsageError: something cannot; the row is named where it is a row's.
            CodeError: a network cannot be trained.
        """
        if self.todo or self.costs:
            _ = self._checker

    @cached_property
    def seconds(self) -> dict[str, float | None]:
        """How long each cell to be measured is likely to take, by file; see `expected_seconds`."""
        if not self.todo:
            return {}
        if self.added:  # each has a record, and nothing is trained
            spent = {cell.file: self.records[cell.file].result for cell in self.todo}
            return {
                file: (result.seconds.sample or 0) + result.seconds.eval
                for file, result in spent.items()
                if isinstance(result, Quality)
            }
        return expected_seconds(self.todo, known(self.results), self._checker.macs)

    def groups(self) -> list[Group]:
        """What is to be done, a group for each training run; what has a record is measured anew.

        Raises as `check`.
        """
        self.check()
        results, work = self.results.resolve(), self.work.resolve()
        reference = self.reference.resolve() if self.reference else None

        def common(title: str, request: CostRequest | QualityRequest) -> dict[str, Any]:
            replaces = records.file_digest(results / request.file)
            return {"title": title, "request": request, "results": results, "replaces": replaces}

        counting = [Job(**common(f"cost of {label}", asked)) for label, asked in self.costs.items()]
        found = [Group(run=None, jobs=tuple(counting))] if counting else []
        for group in by_run(self.todo):
            run = work / group[0].run
            tasks = [
                Task(
                    **common(cell.title, cell.request),
                    overrides=cell.overrides,
                    protocol=cell.protocol,
                    run=run,
                    data_options=self.data_options,
                    reference=reference,
                    add=bool(self.added),
                    fresh=self.fresh and cell is group[0],
                    last=cell is group[-1],
                )
                for cell in group
            ]
            found.append(Group(run=run, jobs=tuple(tasks)))
        return found

    @cached_property
    def _checker(self) -> Checker:
        from bench.studies.checking import Checker

        found = Checker(self.data_options)
        found.check(self.study, self.todo, self.reference)
        return found


def plan(
    study: str | Path | Study,
    *,
    protocol: str | Path | None = None,
    seeds: Sequence[int] | None = None,
    only: str | Collection[str] = (),
    shard: str | None = None,
    force: bool = False,
    stale: Literal["measure", "accept"] = "measure",
    add_scores: str | Collection[str] = (),
    data_options: Mapping[str, Any] | None = None,
    reference: str | Path | None = None,
    results: str | Path = "results",
    work: str | Path = "runs",
) -> Plan:
    """Plan a study.

    Args:
        study: a built-in name, the path of a TOML file, or a study.
        protocol, seeds: in place of the study's.
        only: labels of rows; by default all.
        shard: this machine's part, as in `3/16`.
        force: measure cost and quality again, from the start.
        stale: whether records of other code or data are measured again, or accepted.
        add_scores: names or wildcards of scores that existing records get, of samples or checkpoints that are
            in the work folder; nothing else is measured, and nothing is trained.
        data_options: of the dataset.
        reference: file that samples are compared with; by default the protocol's, or else the dataset
            trained on.
        results, work: folders of records and of training runs.

    Raises:
        UsageError: no such study, protocol, row or reference, seeds or a part that cannot be, a row that
            makes a wrong protocol, `force` beside `add_scores`, or a record of a newer version.
    """
    chosen = study if isinstance(study, Study) else studies.load(study)
    settings = protocols.load(protocol or chosen.protocol, chosen.folder)
    if seeds is not None:
        studies.check_seeds(seeds)
    labels = {chosen.row(label).label for label in texts(only)}
    file = reference or settings.evaluation.reference
    digest = reference_digest(Path(file)) if file else None
    every = cells(chosen, settings, chosen.seeds if seeds is None else seeds, digest)
    part, parts = _part(shard) if shard is not None else (1, 1)
    wanted = shard_of([cell for cell in every if not labels or cell.row.label in labels], part, parts)
    options = dict(data_options or {})
    files = {cell.file for cell in every}
    asked = {request.file for row in chosen.rows if (request := cost_request(row))}
    there = known(Path(results), files | asked)
    outdated = stale_records(there, every, chosen, options)
    usable = {
        file: record
        for file, record in there.items()
        if not force
        and (stale == "accept" or file not in outdated)
        and (file not in files or has_scores(record, chosen, settings))
    }
    todo = [keeping_scores(cell, there.get(cell.file)) for cell in missing(wanted, usable)]
    costs = missing_costs(chosen, usable) if part == 1 else {}  # the first machine counts them
    added: tuple[str, ...] = ()
    if adding := texts(add_scores):
        if force:
            raise UsageError("scores are added without training: leave out either --add-score or --force")
        added = tuple(score.name for score in select(adding))
        current = {
            file: record for file, record in there.items() if stale == "accept" or file not in outdated
        }
        todo, costs = _lacking(wanted, current, added, Path(work)), {}
        chosen = replace(chosen, columns=tuple(dict.fromkeys((*chosen.columns, *added))))
    if force and labels:
        costs = {label: request for label, request in costs.items() if label in labels}
    return Plan(
        study=chosen,
        protocol=settings,
        cells=every,
        wanted=wanted,
        records=there,
        outdated=outdated,
        todo=todo,
        costs=costs,
        results=Path(results),
        work=Path(work),
        data_options=options,
        reference=Path(file) if file else None,
        fresh=force,
        added=added,
    )


def _lacking(cells: Sequence[Cell], known: Records, scores: Sequence[str], work: Path) -> list[Cell]:
    """Cells whose record lacks scores, and whose samples or checkpoint are there; their protocol has these.

    Warns:
        UserWarning: names those without either.
    """
    found: dict[str, Cell] = {}
    lost = []
    for cell in cells:
        record = known.get(cell.file)
        if record is None or not isinstance(record.result, Quality) or cell.request.sampling is None:
            continue
        wanted = [name for name in scores if name not in record.result.scores]
        run = work / cell.run
        there = (run / "checkpoints" / f"{cell.step:08d}").is_dir() or any(
            run.glob(f"images-{Path(cell.file).stem[-12:]}.npz")
        )
        if wanted and there:
            evaluation = cell.protocol.evaluation.model_copy(
                update={"scores": tuple(wanted), "judged_by": ()}
            )
            protocol = cell.protocol.model_copy(update={"evaluation": evaluation})
            found.setdefault(cell.file, replace(cell, protocol=protocol))
        elif wanted:
            lost.append(cell.title)
    if lost:
        warnings.warn(
            f"{work} has neither samples nor the checkpoint of {len(lost)} cells, {lost[0]} first: no "
            "scores can be added to them; measure them again with --force",
            stacklevel=3,
        )
    return list(found.values())


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"a shard is PART/PARTS, such as 3/16, not {text!r}")
    return int(part), int(parts)
