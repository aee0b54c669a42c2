"""Which cheap measurement orders networks as full training does.

A **target** is a figure that is known of the rows of a study from elsewhere, such as the published FID after
400K steps. A **predictor** is a number measured here (a score of samples, a held-out loss in one band of
noise levels at one checkpoint, or a cost) of which a better value should mean a better target. Their
agreement is told by Spearman's ρ and Kendall's τ between predictor and target, positive where the better is
the better, and by the pairs of rows that are decided rightly, beside the computing that a row took.

An interval says how far an agreement can be trusted: ρ over all orders of the rows that keep the pairs that
Tukey's range test tells apart (`bench.reports.statistics`); it takes two seeds.
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
from bench.records.schema import HeldOutLoss, Quality, Record
from bench.reports.select import Line, Setting, published_conditions, settings
from bench.reports.statistics import compare_rows, paired_share, rank_correlation
from bench.studies import published
from registry.errors import UsageError, suggest

LAST = 2  # checkpoints over which held-out loss is averaged
Interval = tuple[float, float]
# What costs more is better: a guess that takes no training, which a protocol must beat.
BASELINES = {name: COSTS[name] for name in ("gflops", "params")}
# Averages that were decided on before any row was measured that they judge.
AVERAGED = Quantity("held_out_averaged", f"Held-out loss, mean of {LAST} checkpoints↓", False, digits=5)
STANDARDISED = Quantity("held_out_standardised", "Mean of standardised bands↓", False)


class KnownRow(NamedTuple):
    """A row of which the target is known.

    Attributes:
        line: with its records.
        target: what is to be predicted.
        chosen_on: whether the predictor was chosen on it.
    """

    line: Line
    target: float
    chosen_on: bool


class Point(NamedTuple):
    """A predictor's values on one row.

    Attributes:
        row: with its target.
        by_seed: its values.
        seconds: of one core's computing for one seed; 0 of a cost.
    """

    row: KnownRow
    by_seed: Mapping[int, float]
    seconds: float


@dataclass(frozen=True)
class Agreement:
    """How one predictor orders the rows of a study, beside the target.

    Attributes:
        study: its name, with the published conditions where it has several.
        protocol: by which the predictor was measured; "" of a cost.
        predictor: name of the quantity.
        step: checkpoint; None of a cost.
        rows: how many have the target and the predictor.
        seeds: those that all of them have.
        rho, tau: Spearman's and Kendall's; NaN where all values are equal or fewer than three rows.
        interval: 95%, of ρ over seeds; None where no two rows have two seeds in common.
        right, pairs: pairs decided as the target decides them, of those with different targets; pairs of two
            rows that were chosen on are left out.
        right_apart, apart: likewise, of pairs that seeds tell apart.
        told_apart: the difference from which on seeds tell two rows apart, in parts of the rows' mean; None
            of fewer than two seeds, and of standardised values, whose mean is 0.
        paired: share of the variance between seeds that all rows have in common, so that differences of rows
            are free of it; None of fewer than two seeds.
        seconds: of one core's computing for a row and a seed, mean over the rows.
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
    right: int
    pairs: int
    right_apart: int
    apart: int
    told_apart: float | None
    paired: float | None
    seconds: float

    @property
    def quantity(self) -> Quantity:
        """The predictor's."""
        return PREDICTORS[self.predictor]


AT_CHECKPOINTS: dict[str, Quantity] = {
    **HELD_OUT,
    **{quantity.name: quantity for quantity in (AVERAGED, STANDARDISED, TRAINING_ERROR)},
}
PREDICTORS: Quantities[Quantity] = Quantities(lambda: AT_CHECKPOINTS | dict(MEASURED.items()) | BASELINES)


def agreements(
    study: str, rows: Sequence[Line], target: str = "fid", chosen_on: Sequence[Line] = ()
) -> list[Agreement]:
    """Every predictor on the rows of a study, protocol by protocol and checkpoint by checkpoint.

    Rows whose published scores do not compare, for objective or guidance, are never put in one order: each
    such group has agreements of its own, and its conditions stand behind the study's name. Rows without a
    backbone have no part.

    Args:
        study: its name.
        rows: its lines.
        target: the published figure that is to be predicted.
        chosen_on: rows of the study that a predictor is chosen on, where it is another.

    Raises:
        UsageError: no such figure is published, or fewer than three rows have it.
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
    """Those of rows whose targets compare."""
    found = []
    for setting in settings([row.line for row in rows]):
        for name, step, points in _measured(rows, setting):
            found.append(_agreement(study, setting.protocol, name, step, points, sign))
    # Beside a predictor the same rows, for of others nothing is predicted.
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
    """What is known of a row from elsewhere."""
    if target in line.row.known:
        return line.row.known[target]
    text = line.row.published.printed.get(target) if line.row.published else ""
    return float(text) if text else None


def _measured(rows: Sequence[KnownRow], setting: Setting) -> Iterable[tuple[str, int, list[Point]]]:
    """Predictors that rows have in a setting: name, checkpoint and values, row by row."""
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
    """One predictor of a row; of held-out loss the mean over checkpoints."""
    by_seed: dict[int, float] = {}
    seconds = []
    for record in records:
        result = record.result
        assert isinstance(result, Quality)
        seed, spent = result.request.seed, result.seconds
        value: float | None = None
        if name in AT_CHECKPOINTS:
            losses = [each for each in result.held_out if each.step in steps]
            values = [_at_checkpoint(each, name) for each in losses]
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


def _at_checkpoint(loss: HeldOutLoss, name: str) -> float | None:
    return loss.training_error if name == TRAINING_ERROR.name else loss.value(name)


def _standardised(bands: Sequence[Sequence[Point]]) -> list[Point]:
    """Mean over the bands, in each of which the mean of the rows is 0 and their deviation 1.

    Both are those of the rows' means over the seeds that all rows have. So a band counts by how it orders
    rows and by how far apart, against the others in that band, and not by how large its losses are.

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
    """Compare values over the seeds that all rows have with the targets."""
    # A cost predicts that more is better; a score says itself which way it goes.
    higher = PREDICTORS[name].higher_is_better or name in BASELINES
    towards = -1 if higher else 1
    seeds = sorted(set.intersection(*(set(point.by_seed) for point in points)))
    by_seed = [{seed: towards * point.by_seed[seed] for seed in seeds} for point in points]
    means = [float(np.mean([*each.values()])) if each else math.nan for each in by_seed]
    level = 0.0 if name == STANDARDISED.name else abs(float(np.mean(means)))
    targets = [sign * point.row.target for point in points]
    comparison = compare_rows(by_seed)
    different = [(i, j) for i, j in combinations(range(len(points)), 2) if targets[i] != targets[j]]
    right = {pair for pair in different if _decided(means, targets, pair)}
    apart = {pair for pair in different if comparison.pairs.get(pair)}
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
        right=len(right & judged),
        pairs=len(judged),
        right_apart=len(right & apart & judged),
        apart=len(apart & judged),
        told_apart=comparison.critical / level if comparison.pairs and level else None,
        paired=paired_share(by_seed),
        seconds=float(np.mean([point.seconds for point in points])),
    )


def _decided(values: Sequence[float], targets: Sequence[float], pair: tuple[int, int]) -> bool:
    """Whether the values order a pair of rows as the targets do."""
    i, j = pair
    return (values[i] - values[j]) * (targets[i] - targets[j]) > 0


def _tau(values: Sequence[float], targets: Sequence[float]) -> float:
    """Kendall's τ_b."""
    ours, others = (np.sign(np.subtract.outer(each, each)).ravel() for each in (values, targets))
    scale = math.sqrt((ours @ ours) * (others @ others))
    return float(ours @ others) / scale if scale else 0.0


# ---- choosing on one study, judging on others ----


class Choice(NamedTuple):
    """The best of all candidates on one study, and how it fares on others.

    Attributes:
        best: of the candidates, by the lower end of ρ's interval by seeds, as far as there is one, then ρ, τ,
            and the least computing.
        candidates: all of them, the best first.
        free: costs on the first study, which take no training; the highest ρ first.
        held_back: the same predictor on the other studies.
        rivals: on the other studies, what is best in the same sense of each other protocol.
        baselines: costs on the same.
    """

    best: Agreement
    candidates: list[Agreement]
    free: list[Agreement]
    held_back: list[Agreement]
    rivals: list[Agreement]
    baselines: list[Agreement]


def choose(found: Sequence[Sequence[Agreement]]) -> Choice | None:
    """Choose a predictor on the first study and judge it on the rest; None where nothing is to choose from.

    Args:
        found: agreements, a list for each study.
    """
    candidates = [each for each in found[0] if each.protocol and math.isfinite(each.rho)]
    if not candidates:
        return None
    candidates.sort(key=_certain, reverse=True)
    best = candidates[0]
    of_protocols = {each.protocol: _key(each) for each in reversed(candidates)}  # of each the best
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
    """What is sure of an agreement first, then what is seen."""
    sure = each.interval[0] if each.interval else -1.0
    return round(sure, 9), round(each.rho, 9), round(each.tau, 9), -each.seconds


def _key(each: Agreement) -> tuple[str, str, int | None]:
    return each.protocol, each.predictor, each.step
