"""What `bench ablate` prints: the plan of a study, which records it reuses, and its results."""

from __future__ import annotations

from bench import studies
from bench.metrics.scores import MEASURED, SCORES
from bench.records import NOT_IN_THE_PACKAGE
from bench.records.quantities import HELD_OUT
from bench.records.schema import Quality
from bench.reports import tables
from bench.reports.findings import phrase
from bench.reports.page import Column, Entry, Table
from bench.reports.select import Line, Selection, Setting, lines, settings
from bench.reports.statistics import compare_rows, detectable
from bench.studies.cells import Cell
from bench.studies.executors import Executor
from bench.studies.plan import Plan
from bench.utils.text import span


def measured(plan: Plan, *, again: bool = True) -> tuple[list[Line], Selection | None]:
    """The rows of a study with the records of a plan's cells.

    Args:
        again: read the folder of records again, with those of speed; else they are as when it was planned.
    """
    if not plan.results.is_dir():
        return lines(plan.study, None), None
    selection = Selection(plan.results, plan.data_options, None if again else plan.records.values())
    return lines(plan.study, selection, cells=plan.cells), selection


def results(plan: Plan, rows: list[Line]) -> list[Table]:
    """Published figures, measured cost, and quality as mean ± standard deviation over the seeds.

    Args:
        rows: those of `measured`.
    """
    protocol = plan.protocol
    words = f"Here: {protocol.title} ({protocol.name}); mean ± standard deviation over seeds."
    remarks = [words, *_unmeasured(plan), *_sizes(plan), *_left_out(plan)]
    shown: list[Setting | None] = [*settings(rows)]
    return [tables.summary_table(plan.study, rows, each, remarks) for each in shown or [None]]


def reused(plan: Plan) -> str:
    """How many cells are to be measured, how many are reused, and when these were measured."""
    parts, known = [], plan.reused
    if known:
        dates = sorted(record.environment.date[:10] for record in known)
        days = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
        parts.append(f"{len(known)} cells reused, measured {days}")
    if plan.todo:
        parts.append(
            f"{len(plan.todo)} cells to measure under {plan.protocol.name}; records go to {plan.results}, "
            f"training runs to {plan.work}"
        )
    again = [plan.outdated[cell.file] for cell in plan.todo if cell.file in plan.outdated]
    if again:
        parts.append(f"{len(again)} of them again, since {', '.join(sorted(set(again)))}")
    shown = {plan.outdated[record.file] for record in known if record.file in plan.outdated}
    if shown:
        parts.append(f"stale records are shown: {', '.join(sorted(shown))}")
    text = "; ".join(parts) or "nothing is measured under this protocol"
    stop = ["Stop at any moment: the same command resumes."] if plan.todo else []
    return " ".join([f"{text}.", *_not_here(plan), *stop])


def _not_here(plan: Plan) -> list[str]:
    """Where the records of a built-in study are, if there is no folder of records."""
    missing = plan.study.name in studies.names() and not plan.results.is_dir()
    hint = "`--dry-run` shows what would be trained."
    return [f"There is no folder {plan.results}: {NOT_IN_THE_PACKAGE}. {hint}"] if missing else []


def plan_table(plan: Plan, executor: Executor) -> Table:
    """Each cell of a plan: whether it is measured, and how long it is likely to take.

    Args:
        executor: by which it would be measured.
    """
    headings = ["Row", "Seed", "State", "Expected"]
    rows = [list(map(Entry, _row(plan, cell))) for cell in plan.wanted]
    at_once, times = executor.at_once(len(plan.groups())), list(plan.seconds.values())
    if None in times:
        total = "in unknown time, because some have no record to estimate it from"
    else:
        total = f"expected to take {_time(sum(t or 0 for t in times) / (at_once or 1)) or 'no time'}"
        total += " in one process" if at_once is None else f" with {at_once} at once" if at_once > 1 else ""
    return Table(
        [Column(heading, number=i > 0) for i, heading in enumerate(headings)],
        rows,
        f"{plan.study.title}: cells under {plan.protocol.name}",
        remarks=[
            f"{len(plan.todo)} of {len(plan.wanted)} cells are to be measured, {total}.",
            *_not_here(plan),
            *_power(plan),
            *_unmeasured(plan),
            *_sizes(plan),
            *_left_out(plan),
        ],
    )


def _row(plan: Plan, cell: Cell) -> list[str]:
    state = "to do" if cell.file in plan.seconds else "measured"
    if cell.file in plan.outdated:
        state += f", {plan.outdated[cell.file]}"
    return [cell.row.label, str(cell.seed), state, _time(plan.seconds.get(cell.file, 0))]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return span(seconds) if seconds else ""


def _power(plan: Plan) -> list[str]:
    """The smallest difference that the study detects, by the residual variance of its records."""
    quantity = MEASURED[plan.protocol.evaluation.judges[0]]
    cells: dict[str, dict[int, str]] = {}
    for cell in plan.cells:
        cells.setdefault(cell.row.label, {})[cell.seed] = cell.file
    of_row = {  # rows of the same records are one
        tuple(files.values()): {
            seed: value
            for seed, file in files.items()
            if (record := plan.records.get(file))
            and isinstance(record.result, Quality)
            and (value := record.result.value(quantity.name)) is not None
        }
        for files in cells.values()
    }
    count = len({cell.seed for cell in plan.cells})
    if len(of_row) < 2:
        return []
    if count < 2:
        return ["With one seed no difference is significant: use two or more."]
    found = compare_rows([*of_row.values()])
    if not found.pairs:
        return ["The detectable difference is unknown until two rows have records of two seeds."]
    least = detectable(found.deviation, len(of_row), count)
    return [
        f"With {count} seeds a true difference in {phrase(quantity)} of {quantity.text(least)} between two "
        f"of the {len(of_row)} rows is detected with a probability of 0.8 (by the residual variance in the "
        "records)."
    ]


def _unmeasured(plan: Plan) -> list[str]:
    """Columns that the study asks for and the protocol does not measure."""
    evaluation = plan.protocol.evaluation
    lacking = [
        phrase(MEASURED[name])
        for name in plan.study.columns
        if (name in SCORES or name in HELD_OUT) and name not in (*evaluation.measured, *plan.added)
    ]
    return [f"{plan.protocol.name} does not measure: {', '.join(lacking)}."] if lacking else []


def _sizes(plan: Plan) -> list[str]:
    """Rows at their own size under a protocol that trains narrow versions of others."""
    name = plan.protocol.name
    rows = {cell.row.label: cell for cell in plan.cells}
    own = []
    for label, cell in rows.items():
        scaled = cell.protocol.overrides(cell.model)
        kept = any(cell.row.overrides.get(option, value) != value for option, value in scaled.items())
        if name not in (cell.row.scale or {}) and (kept or not scaled):
            own.append(label)
    if not own or not any(cell.protocol.overrides(cell.model) for cell in rows.values()):
        return []
    return [
        f"{name} trains narrow versions of networks, but not of: {'; '.join(own)}. To compare at about equal "
        f"cost, give these rows a `scale.{name}`."
    ]


def _left_out(plan: Plan) -> list[str]:
    name = plan.protocol.name
    left = [row.label for row in plan.study.rows if row.model and not row.measured_under(name)]
    return [f"Not measured under {name}: {'; '.join(left)}."] if left else []
