"""What changed between two folders of records, and which changes are for the worse.

If nothing really changed, a comparison reports a change with probability 0.05, however many records there
are: each interval has the level 1 − 0.05 / (number of intervals), so that all hold together with
probability 0.95 (Bonferroni). Scores are compared over the seeds that both folders have, with the errors of
`bench.reports.statistics.standard_errors`. The error of a speed is estimated from the spread over the rounds
of both runs, that of scores of other samples from their intervals, if both records have them. Costs are
exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Literal

from bench import records
from bench.metrics.scores import SCORES
from bench.records.quantities import COSTS, HELD_OUT, SPEEDS, Quantities, Quantity
from bench.records.schema import Quality, Record, Scored, Speed
from bench.reports.page import Column, Entry, Page, Section, Table
from bench.reports.statistics import LEVEL, standard_errors
from registry.errors import UsageError

# Quantities compared, by kind of record.
COMPARED: dict[str, Mapping[str, Quantity]] = {
    "cost": COSTS,
    "speed": SPEEDS,
    "quality": Quantities(lambda: {**dict(SCORES.items()), **HELD_OUT}),
    "scored": SCORES,
}
QUARTILES = 1.349  # distance of a normal distribution's quartiles, in standard deviations
HALF_INTERVAL = 1.96  # half the width of its 95% interval, in standard deviations
FREEDOM = 38  # degrees of freedom of intervals from 20 groups of samples before and after

Verdict = Literal["worse", "better", "within the tolerance", "not significant", "one seed", "no interval"]


@dataclass(frozen=True)
class Judgement:
    """A value of a backbone before and after, over all seeds that both folders have.

    Attributes:
        subject: model, overrides, protocol and step, in words.
        quantity: the quantity.
        before, after: means; None if one of the values is not finite.
        seeds: number of seeds; 0 for quantities without seeds.
        change: (after − before) / |before|, or divided by |after| if before is 0; None without both.
        interval: interval of the change; all intervals of the comparison hold together at 95%. None if the
            quantity is exact or has too few seeds.
        verdict: worse or better if the whole interval lies beyond the tolerance.
    """

    subject: str
    quantity: Quantity
    before: float | None
    after: float | None
    seeds: int
    change: float | None
    interval: tuple[float, float] | None
    verdict: Verdict


@dataclass(frozen=True)
class Differences:
    """Differences of two folders.

    Attributes:
        compared: number of records in both.
        removed, added: files of records in only one folder.
        incomparable: why scores of samples in both are not judged, a sentence for each pair of records.
        judgements: judgements of the values that changed, by subject.
        tolerance: how much worse a value may become, as a fraction of its earlier value.
    """

    compared: int
    removed: Sequence[str]
    added: Sequence[str]
    incomparable: Sequence[str]
    judgements: Sequence[Judgement]
    tolerance: float

    @property
    def regressions(self) -> list[Judgement]:
        """Judgements of values that became worse."""
        return [each for each in self.judgements if each.verdict == "worse"]


def differences(before: str | Path, after: str | Path, tolerance: float = 0.0) -> Differences:
    """Compare the records of two folders that have the same requests.

    Args:
        before, after: folders of records.
        tolerance: how much worse a value may become, as a fraction of its earlier value.

    Raises:
        UsageError: there is no such folder, the tolerance is negative, or the folders share no request.
    """
    if not tolerance >= 0:
        raise UsageError(f"--tolerance is a fraction of 0 or more, not {tolerance:g}")
    old, new = ({record.file: record for record in records.read(folder)} for folder in (before, after))
    common = sorted(old.keys() & new.keys())
    if not common:
        raise UsageError(f"{before} and {after} have no record in common: there is nothing to compare")
    pairs = [(old[file], new[file]) for file in common]
    reasons = [_unlike(*pair) for pair in pairs]
    return Differences(
        len(common),
        sorted(old.keys() - new),
        sorted(new.keys() - old),
        [reason for reason in reasons if reason],
        judgements([pair for pair, reason in zip(pairs, reasons, strict=True) if not reason], tolerance),
        tolerance,
    )


def _unlike(before: Record, after: Record) -> str:
    """Why scores of samples from any source do not compare; empty if they do, and of other records."""
    old, new = before.result, after.result
    if not (isinstance(old, Scored) and isinstance(new, Scored)):
        return ""
    what = {
        "samples": (old.samples.count, new.samples.count),
        "weights of the extractor": (before.fingerprints.extractor, after.fingerprints.extractor),
        "labels": (old.labels, new.labels),
    }
    told = [f"{name} {one} and {other}" for name, (one, other) in what.items() if one != other]
    return f"Not compared: {_title(before)}: {', '.join(told)}." if told else ""


# ---- judging ----


@dataclass(frozen=True)
class _Pairs:
    """Values of one quantity of one subject, before and after, seed by seed."""

    subject: str
    table: str  # the protocol; deviations are pooled within it
    quantity: Quantity
    records: tuple[Record, Record]  # records of the first seed
    values: Sequence[tuple[float | None, float | None]]

    @property
    def whole(self) -> bool:
        """Whether all values are finite."""
        return all(before is not None and after is not None for before, after in self.values)

    @property
    def means(self) -> tuple[float | None, float | None]:
        """Means before and after; None if a value is missing."""
        before, after = zip(*self.values, strict=True)
        return (None if None in before else mean(before), None if None in after else mean(after))

    @property
    def changes(self) -> list[float]:
        """Relative change of each seed, if `whole`."""
        before, after = self.means
        scale = abs(before or 0.0) or abs(after or 0.0) or 1.0
        return [((new or 0.0) - (old or 0.0)) / scale for old, new in self.values]


def judgements(pairs: Sequence[tuple[Record, Record]], tolerance: float) -> list[Judgement]:
    """Judgements of what changed between pairs of records, by subject; see the module for the method.

    Subjects whose results are all equal are skipped: they were not measured again.
    """
    every = _paired(pairs)
    errors = _errors(every)
    level = LEVEL / 2 / max(len(errors), 1)
    return [
        _judge(each, errors.get(i), level, tolerance)
        for i, each in enumerate(every)
        if any(before != after for before, after in each.values)
    ]


def _paired(pairs: Sequence[tuple[Record, Record]]) -> list[_Pairs]:
    groups: dict[tuple[str, str], list[tuple[Record, Record]]] = {}
    for old, new in pairs:
        # Scores are grouped if they differ only in the seed; records of other kinds are not grouped.
        score = old.request.kind == "quality"
        alike = old.request.model_dump_json(exclude={"seed"}) if score else old.file
        groups.setdefault((_title(old), alike), []).append((old, new))
    found = []
    for (subject, _), group in sorted(groups.items()):
        if all(old.result == new.result for old, new in group):
            continue
        first, _ = group[0]
        for quantity in COMPARED.get(first.request.kind, {}).values():
            values = [(_number(old, quantity), _number(new, quantity)) for old, new in group]
            if known := [pair for pair in values if pair != (None, None)]:
                found.append(_Pairs(subject, first.context.protocol or "", quantity, group[0], known))
    return found


def _errors(every: Sequence[_Pairs]) -> dict[int, tuple[float, float]]:
    """Standard errors of the mean changes and their degrees of freedom, by index, where they are known."""
    tables: dict[tuple[str, str], list[int]] = {}
    found: dict[int, tuple[float, float]] = {}
    for i, each in enumerate(every):
        old, new = (record.result for record in each.records)
        if each.whole and isinstance(old, Quality):
            tables.setdefault((each.table, each.quantity.name), []).append(i)
        elif isinstance(old, Speed) and isinstance(new, Speed) and each.quantity.name == "images_per_second":
            spreads = [(run.quartiles[1] - run.quartiles[0]) / QUARTILES for run in (old, new)]
            rounds = len(old.seconds_per_image) + len(new.seconds_per_image)
            found[i] = math.hypot(*spreads) / old.images_per_second, rounds - 2
        elif isinstance(old, Scored) and isinstance(new, Scored) and each.whole:
            intervals = [of.intervals.get(each.quantity.name) for of in (old, new)]
            if all(intervals):
                halves = [(high - low) / 2 for low, high in filter(None, intervals)]
                scale = abs(each.means[0] or 0.0) or abs(each.means[1] or 0.0) or 1.0
                found[i] = math.hypot(*halves) / HALF_INTERVAL / scale, FREEDOM
    for places in tables.values():
        estimated = standard_errors([every[i].changes for i in places])
        found |= {i: error for i, error in zip(places, estimated, strict=True) if error[1]}
    return found


def _judge(pairs: _Pairs, error: tuple[float, float] | None, level: float, tolerance: float) -> Judgement:
    before, after = pairs.means
    result = pairs.records[0].result
    seeds = len(pairs.values) if isinstance(result, Quality) else 0
    found = Judgement(pairs.subject, pairs.quantity, before, after, seeds, None, None, "one seed")
    if before is None or after is None:
        return replace(found, verdict="worse" if after is None else "better")
    change = mean(pairs.changes)
    found = replace(found, change=change)
    if error is None and isinstance(result, Quality | Scored):
        return replace(found, verdict="one seed" if isinstance(result, Quality) else "no interval")
    interval = (change, change)
    if error is not None:
        from scipy.special import stdtrit

        half = float(-stdtrit(error[1], level)) * error[0]
        interval = (change - half, change + half)
        found = replace(found, interval=interval)
    worst, best = interval if pairs.quantity.higher_is_better else (-interval[1], -interval[0])
    if best < -tolerance:
        return replace(found, verdict="worse")
    if worst > tolerance:
        return replace(found, verdict="better")
    within = -tolerance <= worst and best <= tolerance
    return replace(found, verdict="within the tolerance" if within else "not significant")


def _number(record: Record, quantity: Quantity) -> float | None:
    result = record.result
    if isinstance(result, Quality | Scored):
        value = result.value(quantity.name)
    else:
        value = getattr(result, quantity.field or quantity.name)
    return value if value is not None and math.isfinite(value) else None


def _title(record: Record) -> str:
    words = [record.request.label]
    if record.context.protocol:
        words.append(f"protocol {record.context.protocol}")
    if isinstance(record.result, Quality):
        words.append(f"step {record.result.request.step}")
    if isinstance(record.result, Scored):
        request = record.result.request
        words.append(f"({request.extractor}, reference {request.reference})")
    return " ".join(words)


# ---- reporting ----


def summary_page(found: Differences) -> Page:
    """A page for reviewers: worse values first, changes that may be chance last."""
    order: Mapping[Verdict, str] = {
        "worse": "Worse",
        "better": "Better",
        "within the tolerance": f"Changed within the tolerance of {found.tolerance:.2%}",
        "one seed": "Changed, with too few seeds for a test",
        "no interval": "Changed, without intervals for a test (bench eval --intervals)",
        "not significant": "Changed, but not significantly",
    }
    groups = {verdict: [each for each in found.judgements if each.verdict == verdict] for verdict in order}
    counts = ", ".join(f"{len(each)} {verdict}" for verdict, each in groups.items() if each)
    text = f"{found.compared} records compared, {len(found.added)} added, {len(found.removed)} removed. " + (
        f"Changed values (scores: means over seeds): {counts}." if counts else "No value changed."
    )
    remarks = [
        "Worse or better: the whole interval lies beyond the tolerance. All intervals hold together with "
        "probability 0.95 (Bonferroni; Student's t over seeds, variances pooled over the rows of the "
        "protocol; speeds by the spread of their rounds, scores of samples from any source by their own "
        "intervals). Costs are exact and have none."
    ]
    sections = [Section(text=[text, *found.incomparable], remarks=remarks if found.judgements else [])]
    sections += [Section(order[verdict], table=_table(each)) for verdict, each in groups.items() if each]
    return Page("differences", "What changed in the records", sections)


def _table(judgements: Sequence[Judgement]) -> Table:
    columns = [Column("Backbone", number=False), Column("Value", number=False)]
    columns += [Column("Before"), Column("After"), Column("Change"), Column("95% interval"), Column("Seeds")]
    rows = []
    for each in judgements:
        figures = [
            "none" if value is None else each.quantity.text(value) for value in (each.before, each.after)
        ]
        change = "" if each.change is None else _percent(each.change)
        interval = " to ".join(map(_percent, each.interval)) if each.interval else ""
        rows.append([each.subject, each.quantity.title, *figures, change, interval, str(each.seeds or "")])
    return Table(columns, [list(map(Entry, row)) for row in rows])


def _percent(change: float) -> str:
    return f"{change:+.2%}".replace("-", "−")
