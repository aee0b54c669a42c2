"""What changed between two folders of records, and what of it became worse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

import registry
from bench import records
from bench.metrics.scores import SCORES
from bench.records.quantities import COSTS, HELD_OUT, SPEEDS, Quantity
from bench.records.schema import Quality, Record, Speed
from bench.reports.page import Column, Entry, Page, Section, Table
from registry.errors import UsageError

# Quantities compared, by kind of record.
COMPARED: dict[str, dict[str, Quantity]] = {
    "cost": COSTS,
    "speed": SPEEDS,
    "quality": {**SCORES, **HELD_OUT},
}


@dataclass(frozen=True)
class Change:
    """A value that is not what it was.

    Attributes:
        file: the record.
        title: model, overrides and seed, in words.
        before, after: None where there is no finite number.
        relative: (after − before) / |before|; None where that is not defined.
        regression: whether it became worse by more than the tolerance, or is no number any more.
    """

    file: str
    title: str
    value: str
    before: float | None
    after: float | None
    relative: float | None
    regression: bool


Verdict = Literal["worse", "better", "not separable", "one seed", "within the tolerance"]


@dataclass(frozen=True)
class Judgement:
    """A value of a backbone over all seeds that both folders have, of which some are not what they were.

    Attributes:
        subject: model, overrides, protocol and step, in words.
        quantity: what is judged.
        before, after: means; None where one of the values is no finite number.
        seeds: how many; 0 of what has none.
        verdict: of scores, by a paired t test over seeds at 5%, which takes two; of speeds, whether quartiles
            overlap; of costs, as they are.
    """

    subject: str
    quantity: Quantity
    before: float | None
    after: float | None
    seeds: int
    verdict: Verdict


@dataclass(frozen=True)
class Differences:
    """Of two folders, record by record.

    Attributes:
        compared: records in both.
        removed, added: files of records in one alone.
        changes: by file.
        judgements: by subject.
        tolerance: how much worse a value could be, as a fraction of what it was.
    """

    compared: int
    removed: Sequence[str]
    added: Sequence[str]
    changes: Sequence[Change]
    judgements: Sequence[Judgement]
    tolerance: float

    @property
    def regressions(self) -> list[Change]:
        """What became worse."""
        return [change for change in self.changes if change.regression]


def differences(before: str | Path, after: str | Path, tolerance: float = 0.0) -> Differences:
    """Compare the records of two folders that answer the same questions.

    Args:
        before, after: folders of records.
        tolerance: how much worse a value may be, as a fraction of what it was.

    Raises:
        UsageError: no such folder, a negative tolerance, or no question that both answer.
    """
    if not tolerance >= 0:
        raise UsageError(f"--tolerance is a fraction of 0 or more, not {tolerance:g}")
    old, new = ({record.file: record for record in records.read(folder)} for folder in (before, after))
    common = sorted(old.keys() & new.keys())
    if not common:
        raise UsageError(f"{before} and {after} have no record in common: there is nothing to compare")
    changes = [change for file in common for change in _changes(old[file], new[file], tolerance)]
    return Differences(
        len(common),
        sorted(old.keys() - new),
        sorted(new.keys() - old),
        changes,
        _judgements([(old[file], new[file]) for file in common], tolerance),
        tolerance,
    )


def summary_page(found: Differences) -> Page:
    """What changed, for people who review it: what is worse first, and what cannot be told apart last."""
    order: Mapping[Verdict, str] = {
        "worse": "Worse",
        "better": "Better",
        "within the tolerance": f"Within the tolerance of {found.tolerance:.6g} of what it was",
        "one seed": "Changed, with one seed to judge by",
        "not separable": "Changed, but not separable",
    }
    groups = {verdict: [each for each in found.judgements if each.verdict == verdict] for verdict in order}
    counts = ", ".join(f"{len(each)} {verdict}" for verdict, each in groups.items() if each) or "none changed"
    text = (
        f"{found.compared} records compared, {len(found.added)} added, {len(found.removed)} removed. "
        f"Of their values, over seeds: {counts}."
    )
    remarks = [
        "Scores: worse or better where a paired t test over the seeds that both have says so at 5%, each by "
        "itself; speeds: where the quartiles do not overlap; costs: as they are."
    ]
    sections = [Section(text=[text], remarks=remarks if found.judgements else [])]
    sections += [Section(order[verdict], table=_table(each)) for verdict, each in groups.items() if each]
    return Page("differences", "What changed in the records", sections)


def _table(judgements: Sequence[Judgement]) -> Table:
    columns = [Column("Backbone", number=False), Column("Value", number=False)]
    columns += [Column("Before"), Column("After"), Column("Change"), Column("Seeds")]
    rows = []
    for each in judgements:
        figures = [each.before, each.after]
        change = ""
        if each.before and each.after is not None:
            change = f"{(each.after - each.before) / abs(each.before):+.2%}".replace("-", "−")
        texts = ["none" if value is None else each.quantity.text(value) for value in figures]
        rows.append([each.subject, each.quantity.title, *texts, change, str(each.seeds or "")])
    return Table(columns, [list(map(Entry, row)) for row in rows])


def _judgements(pairs: Sequence[tuple[Record, Record]], tolerance: float) -> list[Judgement]:
    groups: dict[tuple[str, str], list[tuple[Record, Record]]] = {}
    for old, new in pairs:
        # Scores that differ in nothing but the seed; of other kinds each record stands alone.
        score = old.request.kind == "quality"
        alike = old.request.model_dump_json(exclude={"seed"}) if score else old.file
        groups.setdefault((_title(old, seed=False), alike), []).append((old, new))
    found = []
    for (subject, _), group in sorted(groups.items()):
        for quantity in COMPARED.get(group[0][0].request.kind, {}).values():
            values = [(_number(old, quantity), _number(new, quantity)) for old, new in group]
            known = [pair for pair in values if pair != (None, None)]
            if any(before != after for before, after in known):
                found.append(_judge(subject, quantity, group, known, tolerance))
    return found


def _judge(
    subject: str,
    quantity: Quantity,
    group: Sequence[tuple[Record, Record]],
    values: Sequence[tuple[float | None, float | None]],
    tolerance: float,
) -> Judgement:
    seeds = len(values) if isinstance(group[0][0].result, Quality) else 0
    befores, afters = ([pair[side] for pair in values if pair[side] is not None] for side in (0, 1))
    before, after = (
        mean(each) if len(each) == len(values) else None  # type: ignore[type-var]
        for each in (befores, afters)
    )
    verdict: Verdict
    if before is None or after is None:
        verdict = "worse" if after is None else "better"
    else:
        gain = (after - before) * (1 if quantity.higher_is_better else -1)
        verdict = "better" if gain > 0 else "worse"
        if abs(gain) <= tolerance * abs(before):
            verdict = "within the tolerance"
        elif seeds == 1:
            verdict = "one seed"
        elif not _apart(group[0], quantity, [b - a for a, b in values if a is not None and b is not None]):
            verdict = "not separable"
    return Judgement(subject, quantity, before, after, seeds, verdict)


def _apart(records: tuple[Record, Record], quantity: Quantity, differences: Sequence[float]) -> bool:
    """Whether a change is more than chance."""
    old, new = (record.result for record in records)
    if isinstance(old, Speed) and isinstance(new, Speed):
        low, high = sorted((old.quartiles, new.quartiles))
        return quantity.name != "images_per_second" or low[1] < high[0]
    if not isinstance(old, Quality):
        return True
    from scipy.stats import t

    error = stdev(differences) / math.sqrt(len(differences))
    return abs(mean(differences)) > float(t.ppf(0.975, len(differences) - 1)) * error


def _changes(old: Record, new: Record, tolerance: float) -> list[Change]:
    found = []
    for name, quantity in COMPARED.get(old.request.kind, {}).items():
        before, after = (_number(record, quantity) for record in (old, new))
        if before == after:
            continue
        relative, regression = None, after is None
        if before is not None and after is not None:
            relative = (after - before) / abs(before) if before else None
            worse = before - after if quantity.higher_is_better else after - before
            regression = worse > tolerance * abs(before)
        value = quantity.field or name
        found.append(Change(old.file, _title(old), value, before, after, relative, regression))
    return found


def _number(record: Record, quantity: Quantity) -> float | None:
    result = record.result
    if isinstance(result, Quality):
        value = result.value(quantity.name)
    else:
        value = getattr(result, quantity.field or quantity.name)
    return value if value is not None and math.isfinite(value) else None


def _title(record: Record, seed: bool = True) -> str:
    request = record.request
    words = [registry.label(request.model, request.config)]
    if record.context.protocol:
        words.append(f"protocol {record.context.protocol}")
    keys = ("step", "seed") if seed else ("step",)
    words += [f"{key} {getattr(request, key)}" for key in keys if hasattr(request, key)]
    return " ".join(words)
