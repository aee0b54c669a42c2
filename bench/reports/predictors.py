"""Which cheap measurement orders networks as full training does.

A **target** is a published or otherwise known figure of the rows of a study, such as the FID after 400K
steps. A **predictor** is a number measured here: a score of samples, a held-out loss in one band of noise
levels at one checkpoint, or a cost. A better predictor should mean a better target. Their agreement is
Spearman's ρ and Kendall's τ, positive if better goes with better, and the number of pairs of rows in the
right order. The computing time of a row is given beside it.

The 95% interval of ρ spans all orders that agree with the significant pairs (Tukey's range test, see
`bench.reports.statistics`). It needs two seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from bench.metrics.scores import MEASURED, SCORES
from bench.records.quantities import COSTS, HELD_OUT, LOSS, TRAINING_ERROR, Quantities, Quantity
from bench.records.schema import Quality, Record
from bench.reports.select import Line, Setting, published_conditions, settings
from bench.reports.statistics import compare_rows, paired_share, rank_correlation
from bench.studies import published
from registry.errors import UsageError, suggest

LAST = 2  # number of checkpoints over which held-out loss is averaged
Interval = tuple[float, float]
# Baselines without training, which a protocol must beat: the more expensive network is better.
BASELINES = {name: COSTS[name] for name in ("gflops", "params")}
# Averages that were defined before any of the rows that they judge was measured.
AVERAGED = Quantity("held_out_averaged", f"Held-out loss, mean of {LAST} checkpoints↓", False, digits=5)
STANDARDISED = Quantity("held_out_standardised", "Mean of standardised bands↓", False)


class KnownRow(NamedTuple):
    """A row with a known target.

    Attributes:
        line: the row and its records.
        target: the figure to predict.
        chosen_on: whether the predictor was selected on this row.
    """

    line: Line
    target: float
    chosen_on: bool


class Point(NamedTuple):
    """A predictor's values on one row.

    Attributes:
        row: the row and its target.
        by_seed: the values by seed.
        seconds: core-seconds for one seed; 0 for a cost.
    """

    row: KnownRow
    by_seed: Mapping[int, float]
    seconds: float


@dataclass(frozen=True)
class Agreement:
    """How the order of rows by a predictor agrees with their order by the target.

    Attributes:
        study: name of the study, with the published conditions if it has several.
        protocol: protocol under which the predictor was measured; "" for a cost.
        predictor: name of the quantity.
        step: checkpoint; None for a cost.
        rows: number of rows with target and predictor.
        seeds: the seeds that all of these rows have.
        rho, tau: Spearman's ρ and Kendall's τ; NaN if all values are equal or there are fewer than three
            rows.
        interval: 95% interval of ρ; None if no two rows have two seeds in common.
        correct, pairs: number of pairs in the target's order, and of all pairs with different targets. Pairs
            of two rows that the predictor was selected on are left out.
        significant_correct, significant: the same numbers for pairs that differ significantly.
        critical_difference: smallest significant difference of two rows, relative to the mean of all rows;
            None for fewer than two seeds, and for standardised values, whose mean is 0.
        shared_seed_variance: share of the variance between seeds that all rows have in common, which cancels
            in differences of rows; None for fewer than two seeds.
        seconds: core-seconds for a row and a seed, mean over the rows.
    """

    study: str
    protocol: str
    predictor: str
    step: int | None
    rows: int
    seeds: tuple[int, ...]
    rho: float
    tau: float
    interval: Interval | None
    correct: int
    pairs: int
    significant_correct: int
    significant: int
    critical_difference: float | None
    shared_seed_variance: float | None
    seconds: float

    @property
    def quantity(self) -> Quantity:
        """The quantity of the predictor."""
        return PREDICTORS[self.predictor]


AT_CHECKPOINTS: dict[str, Quantity] = {
    **HELD_OUT,
    **{quantity.name: quantity for quantity in (AVERAGED, STANDARDISED, TRAINING_ERROR)},
}
PREDICTORS: Quantities[Quantity] = Quantities(lambda: AT_CHECKPOINTS | dict(MEASURED.items()) | BASELINES)


def agreements(
    study: str, rows: Sequence[Line], target: str = "fid", chosen_on: Sequence[Line] = ()
) -> list[Agreement]:
    """Agreements of every predictor on the rows of a study, by protocol and checkpoint.

    Rows are compared only if their published scores are comparable in objective and guidance. Each such group
    has agreements of its own, with its conditions after the study's name. Rows without a backbone are left
    out.

    Args:
        study: name of the study.
        rows: lines of the study.
        target: the published figure to predict.
        chosen_on: if the predictor is selected on another study, the lines of that study.

    Raises:
        UsageError: there is no such figure, or fewer than three rows have it.
    """
    if target not in published.QUALITY:
        known = list(published.QUALITY)
        raise UsageError(
            f"unknown target {target!r}.{suggest(target, known)} It is one of {', '.join(known)}."
        )
    before = {line.variant for line in chosen_on}
    known_rows = [
        KnownRow(line, value, line.variant in before)
        for line in rows
        if line.row.model and not line.row.extra and (value := _target(line, target)) is not None
    ]
    groups: dict[str, list[KnownRow]] = {}
    for row, conditions in zip(
        known_rows, published_conditions([row.line for row in known_rows]), strict=True
    ):
        groups.setdefault(conditions, []).append(row)
    most = max(map(len, groups.values()), default=0)
    if most < 3:
        alike = " under the same conditions" if len(groups) > 1 else ""
        raise UsageError(
            f"study {study} has {most} rows with a published {SCORES[target].heading}{alike}; an order takes "
            'three: give rows published = "TABLE/LABEL" or known = { fid = … }'
        )
    sign = -1 if SCORES[target].higher_is_better else 1  # lower is better from here on
    return [
        agreement
        for conditions, group in groups.items()
        if len(group) >= 3
        for agreement in _agreements(f"{study} ({conditions})" if conditions else study, group, sign)
    ]


def _agreements(study: str, rows: Sequence[KnownRow], sign: int) -> list[Agreement]:
    """Agreements on rows whose targets are comparable."""
    found = []
    for setting in settings([row.line for row in rows]):
        for name, step, points in _measured(rows, setting):
            found.append(_agreement(study, setting.protocol, name, step, points, sign))
    # Costs are compared on the same rows as predictors.
    measured = [row for row in rows if row.line.quality]
    rows = measured if len(measured) >= 3 else rows
    for name, quantity in BASELINES.items():
        costs = [row.line.cost.cost for row in rows if row.line.cost]
        if len(costs) == len(rows):
            values = [float(getattr(cost, quantity.field)) for cost in costs]
            points = [Point(row, {0: value}, 0.0) for row, value in zip(rows, values, strict=True)]
            found.append(_agreement(study, "", name, None, points, sign))
    return found


def _target(line: Line, target: str) -> float | None:
    """The known or published figure of a row; None if there is none."""
    if target in line.row.known:
        return line.row.known[target]
    text = line.row.published.printed.get(target) if line.row.published else ""
    return float(text) if text else None


def _measured(rows: Sequence[KnownRow], setting: Setting) -> Iterable[tuple[str, int, list[Point]]]:
    """Predictors measured in a setting: name, checkpoint and the values of each row."""
    found = [(row, row.line.quality[setting]) for row in rows if setting in row.line.quality]
    if len(found) < 3:
        return
    steps = sorted(set.intersection(*(_steps(record) for _, records in found for record in records)))
    for number, step in enumerate(steps):
        of_bands: list[list[Point]] = []
        for name, quantity in PREDICTORS.items():
            if name in BASELINES or (name not in AT_CHECKPOINTS and step != steps[-1]):
                continue
            if quantity is STANDARDISED:
                points = _standardised(of_bands) if of_bands else []
            elif quantity is AVERAGED:
                averaged = steps[max(0, number + 1 - LAST) : number + 1]
                points = [_point(row, records, "held_out", averaged) for row, records in found]
                points = points if len(averaged) == LAST else []
            else:
                points = [_point(row, records, name, [step]) for row, records in found]
            if points and all(point.by_seed for point in points):
                if name in HELD_OUT and name != "held_out":
                    of_bands.append(points)
                yield quantity.name, step, points


def _steps(record: Record) -> set[int]:
    """Checkpoints at which something was measured."""
    result = record.result
    assert isinstance(result, Quality)
    return {each.step for each in result.held_out} | {result.request.step}


def _point(row: KnownRow, records: Sequence[Record], name: str, steps: Sequence[int]) -> Point:
    """The values of a predictor on a row; a held-out loss is averaged over the given checkpoints."""
    by_seed: dict[int, float] = {}
    seconds = []
    for record in records:
        result = record.result
        assert isinstance(result, Quality)
        seed, spent = result.request.seed, result.seconds
        value: float | None = None
        if name in AT_CHECKPOINTS:
            losses = [each for each in result.held_out if each.step in steps]
            values = [
                each.training_error if name == TRAINING_ERROR.name else each.value(name) for each in losses
            ]
            known = [value for value in values if value is not None]
            took = max((each.seconds for each in losses), default=0.0)
            if len(known) == len(steps):
                value = float(np.mean(known))
                if name in HELD_OUT:
                    took += sum(each.eval_seconds for each in losses)
        else:
            value = result.value(name)
            took = spent.train + (0.0 if name == LOSS.name else (spent.sample or 0.0) + spent.eval)
        if value is not None and math.isfinite(value):
            by_seed[seed] = value
            seconds.append(took * record.environment.threads)
    return Point(row, by_seed, float(np.mean(seconds)) if seconds else 0.0)


def _standardised(bands: Sequence[Sequence[Point]]) -> list[Point]:
    """Mean over bands that are each scaled to mean 0 and standard deviation 1 over the rows.

    Mean and deviation are those of the rows' means over the seeds that all rows have. The weight of a band
    then does not depend on the size of its losses.

    Args:
        bands: points of the same rows in each band.
    """
    seeds = sorted(set.intersection(*(set(point.by_seed) for points in bands for point in points)))
    if not seeds:
        return []
    # (bands, rows, seeds)
    losses = np.array([[[point.by_seed[seed] for seed in seeds] for point in points] for points in bands])
    level = losses.mean(axis=(1, 2), keepdims=True)
    spread = losses.mean(axis=2, keepdims=True).std(axis=1, ddof=1, keepdims=True)
    if not spread.all():
        return []  # all rows are equal in some band
    means = ((losses - level) / spread).mean(axis=0).tolist()
    return [
        Point(point.row, dict(zip(seeds, of_seeds, strict=True)), point.seconds)
        for point, of_seeds in zip(bands[0], means, strict=True)
    ]


def _agreement(
    study: str, protocol: str, name: str, step: int | None, points: Sequence[Point], sign: int
) -> Agreement:
    """Compare the values over the seeds that all rows have with the targets."""
    # For a cost, more predicts better. A score declares its direction.
    higher = PREDICTORS[name].higher_is_better or name in BASELINES
    towards = -1 if higher else 1
    seeds = sorted(set.intersection(*(set(point.by_seed) for point in points)))
    by_seed = [{seed: towards * point.by_seed[seed] for seed in seeds} for point in points]
    means = [float(np.mean([*each.values()])) if each else math.nan for each in by_seed]
    level = 0.0 if name == STANDARDISED.name else abs(float(np.mean(means)))
    targets = [sign * point.row.target for point in points]
    comparison = compare_rows(by_seed)
    different = [(i, j) for i, j in combinations(range(len(points)), 2) if targets[i] != targets[j]]
    correct = {(i, j) for i, j in different if (means[i] - means[j]) * (targets[i] - targets[j]) > 0}
    significant = {pair for pair in different if comparison.pairs.get(pair)}
    judged = {(i, j) for i, j in different if not (points[i].row.chosen_on and points[j].row.chosen_on)}
    ranks = rank_correlation(by_seed, targets) if seeds else None
    return Agreement(
        study=study,
        protocol=protocol,
        predictor=name,
        step=step,
        rows=len(points),
        seeds=tuple(seeds),
        rho=ranks.rho if ranks else math.nan,
        tau=_tau(means, targets) if ranks else math.nan,
        interval=ranks.interval if ranks else None,
        correct=len(correct & judged),
        pairs=len(judged),
        significant_correct=len(correct & significant & judged),
        significant=len(significant & judged),
        critical_difference=comparison.critical / level if comparison.pairs and level else None,
        shared_seed_variance=paired_share(by_seed),
        seconds=float(np.mean([point.seconds for point in points])),
    )


def _tau(values: Sequence[float], targets: Sequence[float]) -> float:
    """Kendall's τ_b."""
    ours, others = (np.sign(np.subtract.outer(each, each)).ravel() for each in (values, targets))
    scale = math.sqrt((ours @ ours) * (others @ others))
    return float(ours @ others) / scale if scale else 0.0


# ---- selection on one study, evaluation on others ----


class Choice(NamedTuple):
    """The best candidate on one study, and its agreements on other studies.

    Attributes:
        best: the candidate with the highest lower end of ρ's interval; ties are decided by ρ, τ, and the
            least computing.
        candidates: all candidates, the best first.
        free: costs on the first study, which need no training; the highest ρ first.
        held_back: the same predictor on the other studies.
        rivals: on the other studies, the best candidate of each other protocol.
        baselines: costs on the other studies.
    """

    best: Agreement
    candidates: list[Agreement]
    free: list[Agreement]
    held_back: list[Agreement]
    rivals: list[Agreement]
    baselines: list[Agreement]


def choose(found: Sequence[Sequence[Agreement]]) -> Choice | None:
    """Select a predictor on the first study and evaluate it on the others.

    Args:
        found: agreements, a list for each study.

    Returns:
        None if the first study has no candidate.
    """
    candidates = [each for each in found[0] if each.protocol and math.isfinite(each.rho)]
    if not candidates:
        return None
    candidates.sort(key=_certain, reverse=True)
    best = candidates[0]
    of_protocols = {each.protocol: _key(each) for each in reversed(candidates)}  # the best candidate of each
    others = [each for study in found[1:] for each in study]
    return Choice(
        best,
        candidates,
        sorted(
            (each for each in found[0] if each.predictor in BASELINES and math.isfinite(each.rho)),
            key=lambda each: -each.rho,
        ),
        [each for each in others if _key(each) == _key(best)],
        [each for each in others if _key(each) in of_protocols.values() and each.protocol != best.protocol],
        [each for each in others if each.predictor in BASELINES],
    )


def _certain(each: Agreement) -> tuple[float, ...]:
    """The order of candidates: lower end of the interval, then ρ, τ and the least computing."""
    sure = each.interval[0] if each.interval else -1.0
    return round(sure, 9), round(each.rho, 9), round(each.tau, 9), -each.seconds


def _key(each: Agreement) -> tuple[str, str, int | None]:
    return each.protocol, each.predictor, each.step
