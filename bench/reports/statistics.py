"""Statistics of a few training seeds: mean, deviation, significant differences, and rank correlation.

The unit is the training seed. Cells of one seed see the same data in the same order and the same noise, so a
table of rows × seeds is modelled as row + seed + residual. Effects of a seed that are equal for all rows
cancel. The residual deviation is pooled over the rows, with (rows − 1)·(seeds − 1) degrees of freedom.
Residuals are assumed to be normal with equal deviations. A row whose deviation is clearly larger is reported,
because it raises the error rate (with seven equal rows, one of them with three times the deviation: 12%
instead of 5%).

Significance is decided by Tukey's range test (J. W. Tukey, The problem of multiple comparisons, 1953). Two
means differ significantly if their difference exceeds the critical value of the studentized range for all
rows, so a table of equal rows shows no significant pair with probability 0.95. The test's simultaneous
intervals also bound Spearman's rank correlation ρ between the rows' true means and published figures. With
the same probability the true order agrees with every significant pair; the interval of ρ spans all orders
that do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, permutations

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.05  # significance level; the error rate of a whole table
MOST_ROWS = 8  # up to so many rows all orders are enumerated: 40,320

BySeed = Mapping[int, float]  # the scores of one row by seed


@dataclass(frozen=True)
class Summary:
    """Mean of a score over seeds.

    Attributes:
        deviation: standard deviation (n − 1); None for a single seed.
    """

    mean: float
    deviation: float | None


def summary(values: Sequence[float]) -> Summary | None:
    """Mean and deviation of the finite values; None if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    deviation = float(np.std(finite, ddof=1)) if len(finite) > 1 else None
    return Summary(float(np.mean(finite)), deviation)


# ---- comparing rows with each other ----


@dataclass(frozen=True)
class Comparison:
    """Which rows of a table differ significantly. Rows are given by their index.

    Attributes:
        means: mean of each row over `seeds`; for a row that is left out, over its own seeds, or NaN.
        seeds: the seeds that all compared rows have.
        deviation: standard deviation of the residuals, pooled over the compared rows; NaN if none are
            compared.
        critical: half the width of the simultaneous 95% interval of a difference: larger differences are
            significant. Infinite if no rows are compared.
        pairs: (i, j), i < j, both compared -> whether they differ significantly.
        left_out: rows that are not compared, because they lack seeds of the others.
        outlier: the row with a significantly larger deviation, by Cochran's test at 5%, or None.
    """

    means: list[float]
    seeds: tuple[int, ...] = ()
    deviation: float = math.nan
    critical: float = math.inf
    pairs: dict[tuple[int, int], bool] = field(default_factory=dict)
    left_out: list[int] = field(default_factory=list)
    outlier: int | None = None

    @property
    def best(self) -> list[int]:
        """The row with the lowest mean and those not significantly worse, by ascending mean."""
        order = sorted(self.compared, key=self.means.__getitem__)
        return [row for row in order if self.means[row] - self.means[order[0]] <= self.critical]

    @property
    def compared(self) -> list[int]:
        """The rows that are not left out."""
        return [row for row in range(len(self.means)) if row not in self.left_out]


def compare_rows(rows: Sequence[BySeed]) -> Comparison:
    """Tukey's range test over the seeds that the rows have in common, at 5% for all pairs together.

    If rows lack seeds, as many rows as possible are compared, over all seeds that these have in common, at
    least two. Values that are not finite count as missing.

    Args:
        rows: scores of each row by seed. Rows of the same records belong here once: a second one has the same
            residuals, and would count as further degrees of freedom.
    """
    rows = [{seed: value for seed, value in row.items() if math.isfinite(value)} for row in rows]
    compared: list[int] = []
    seeds: list[int] = []
    for pair in combinations(sorted(set().union(*rows)), 2):
        having = [i for i, row in enumerate(rows) if row.keys() >= {*pair}]
        if len(having) > 1:
            common = sorted(set.intersection(*(set(rows[i]) for i in having)))
            if (len(having), len(common)) > (len(compared), len(seeds)):
                compared, seeds = having, common
    means = [float(np.mean([*row.values()])) if row else math.nan for row in rows]
    left_out = [i for i in range(len(rows)) if i not in compared]
    if not compared:
        return Comparison(means, left_out=left_out)
    table = np.array([[rows[i][seed] for seed in seeds] for i in compared])
    of_rows = table.mean(axis=1, keepdims=True)
    residuals = table - of_rows - table.mean(axis=0) + table.mean()
    degrees = (len(compared) - 1) * (len(seeds) - 1)
    deviation = float(np.sqrt((residuals**2).sum() / degrees))
    critical = _studentized_range(len(compared), degrees) * deviation / math.sqrt(len(seeds))
    for i, mean in zip(compared, of_rows[:, 0], strict=True):
        means[i] = float(mean)
    pairs = {(i, j): abs(means[i] - means[j]) > critical for i, j in combinations(compared, 2)}
    spread = (residuals**2).sum(axis=1)
    widest = int(spread.argmax())
    uneven = spread[widest] > _largest_share(len(compared), len(seeds)) * spread.sum()
    outlier = compared[widest] if uneven else None
    return Comparison(means, tuple(seeds), deviation, critical, pairs, left_out, outlier)


@lru_cache
def _studentized_range(rows: int, degrees: int) -> float:
    """Upper 5% point of the studentized range, within 1e-9 of scipy's, whose import takes longer than this.

    It is the range of standard normal values divided by an independent estimate of their deviation. Both
    integrands vanish at the ends of their grids, so sums over the grids are accurate.
    """
    from scipy.special import ndtr

    least = np.linspace(-8, 8, 200)  # the smallest of the values
    density = np.exp(-(least**2) / 2)
    reach = math.sqrt(36 / degrees)
    estimate = np.exp(np.linspace(-reach - 18 / degrees, reach, 200))  # deviation, 1 in truth
    weight = np.exp(degrees * (np.log(estimate) - estimate**2 / 2 + 0.5))
    density, weight = density / density.sum(), weight / weight.sum()
    low, high = 0.0, 1000.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        others = ndtr(least) - ndtr(least - middle * estimate[:, None])
        if rows * weight @ others ** (rows - 1) @ density < 1 - LEVEL:
            low = middle
        else:
            high = middle
    return high


@lru_cache
def _largest_share(rows: int, seeds: int) -> float:
    """Upper 5% point of Cochran's C, the ratio of the largest variance to the sum of all variances."""
    from scipy.special import fdtri

    return float(1 / (1 + (rows - 1) / fdtri(seeds - 1, (rows - 1) * (seeds - 1), 1 - LEVEL / rows)))


def paired_share(rows: Sequence[BySeed]) -> float | None:
    """Share of the variance between seeds that is common to all rows: 1 − residual/between.

    It is the share of variance that common seeds remove from a difference of two rows. Such a difference has
    twice the residual variance with common seeds, and twice the variance between seeds with different ones.
    Both variances are pooled over the rows. The estimate is negative if the variance between seeds happens to
    be the smaller one.

    Returns:
        None if no two rows have two seeds in common, or if all seeds give the same scores.
    """
    comparison = compare_rows(rows)
    if not comparison.pairs:
        return None
    compared = [[rows[i][seed] for seed in comparison.seeds] for i in comparison.compared]
    between = float(np.mean(np.var(compared, axis=1, ddof=1)))
    return 1 - comparison.deviation**2 / between if between else None


def detectable(deviation: float, rows: int, seeds: int, power: float = 0.8) -> float:
    """The smallest true difference that `compare_rows` finds significant with probability `power`.

    The difference of two means divided by its standard error follows a noncentral t distribution; this solves
    for its noncentrality.

    Args:
        deviation: residual deviation, that of a `Comparison` of records.
        rows: number of rows of the whole table.
        seeds: number of seeds of each row.
        power: probability that the difference is significant and has the right sign.

    Returns:
        A difference in the unit of the deviation; infinite for fewer than two rows or seeds.
    """
    if rows < 2 or seeds < 2:
        return math.inf
    from scipy.special import nctdtrinc

    degrees = (rows - 1) * (seeds - 1)
    noncentrality = nctdtrinc(degrees, 1 - power, _studentized_range(rows, degrees) / math.sqrt(2))
    return float(noncentrality) * deviation * math.sqrt(2 / seeds)


# ---- one row before and after ----


def standard_errors(rows: Sequence[Sequence[float]]) -> list[tuple[float, int]]:
    """Standard errors of the mean changes of a table's rows over few seeds, with their degrees of freedom.

    Variances are pooled over the rows, as in `compare_rows`. A row with a larger variance keeps its own. In
    simulations, 3 to 4 of 100 comparisons of equal records claim a change. If the logarithms of the rows'
    deviations have a standard deviation of 0.5, it is 10 to 16 of 100.

    Args:
        rows: for each row its changes, one for each seed.

    Returns:
        For each row (standard error of its mean, degrees of freedom); (NaN, 0) without two seeds.
    """
    squares = [float(np.var(row)) * len(row) for row in rows]
    degrees = sum(len(row) - 1 for row in rows)
    if not degrees:
        return [(math.nan, 0)] * len(rows)
    own = (square / max(len(row) - 1, 1) for row, square in zip(rows, squares, strict=True))
    variances = (max(sum(squares) / degrees, each) for each in own)
    return [(math.sqrt(each / len(row)), degrees) for row, each in zip(rows, variances, strict=True)]


# ---- comparing the order of rows with a published order ----


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ between two orders of the same rows.

    Attributes:
        rho: ρ between the means measured here and the published figures.
        rows: number of rows.
        interval: 95% interval of ρ between the rows' true means, assumed to be all different, and the
            published figures; None if no two rows have two seeds in common.
        chance: probability of a ρ at least as high if all orders were equally likely; None for more than
            eight rows.
        least: the smallest possible value of `chance` with this number of rows.
    """

    rho: float
    rows: int
    interval: tuple[float, float] | None
    chance: float | None
    least: float


def rank_correlation(rows: Sequence[BySeed], published: Sequence[float]) -> RankCorrelation | None:
    """Rank correlation between the means measured here and published figures.

    Rows without a value are left out. For the interval, a row that lacks the others' seeds may have any rank.

    Args:
        rows: scores of each row by seed.
        published: the published figure of each row.

    Returns:
        None for fewer than three rows, or if all values are equal.
    """
    known = [i for i, row in enumerate(rows) if any(map(math.isfinite, row.values()))]
    comparison = compare_rows([rows[i] for i in known])
    count = len(known)
    found, others = ranked(comparison.means), ranked([published[i] for i in known])
    found, others = found - found.mean(), others - others.mean()
    scale = math.sqrt((found @ found) * (others @ others))
    if count < 3 or not scale:
        return None
    rho = float(found @ others) / scale
    order = sorted(range(count), key=comparison.means.__getitem__)
    below = [pair for pair in combinations(order, 2) if comparison.pairs.get((min(pair), max(pair)))]
    chance = None
    if count <= MOST_ROWS:
        orders = _orders(count)
        chance = float(np.mean(found[orders] @ others >= (rho - 1e-9) * scale))
    interval = None
    if comparison.pairs:
        if count <= MOST_ROWS:
            sums = orders[np.all([orders[:, i] < orders[:, j] for i, j in below], axis=0)] @ others
            extremes = sums.min(), sums.max()
        else:
            extremes = _bounds(others, below)
        scale = math.sqrt(count * (count**2 - 1) / 12 * (others @ others))
        least, most = (float(extreme) / scale for extreme in extremes)
        # With equal means, or by rounding, ρ itself may lie outside.
        interval = (max(-1.0, min(least, rho)), min(1.0, max(most, rho)))
    return RankCorrelation(rho, count, interval, chance, 1 / math.factorial(count))


def ranked(values: ArrayLike) -> np.ndarray:
    """Ranks along the last axis, from 1; equal values get the mean of their ranks."""
    values = np.asarray(values)
    others, each = values[..., None, :], values[..., :, None]
    return ((others < each).sum(-1) + (others <= each).sum(-1) + 1) / 2


@lru_cache
def _orders(count: int) -> np.ndarray:
    return np.array(list(permutations(range(count))))


def _bounds(weights: np.ndarray, below: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Bounds of Σ rank·weight over all orders in which the first row of each pair is below the second.

    Each row may take any rank that leaves room for the rows known to be below and above it. This can only
    widen the bounds.

    Args:
        weights: (rows,), with sum 0, so that ranks may start anywhere.
        below: pairs of rows.
    """
    from scipy.optimize import linear_sum_assignment

    ranks = np.arange(len(weights))
    lowest, highest = np.zeros(len(weights)), np.full(len(weights), len(weights) - 1)
    for low, high in below:
        lowest[high] += 1
        highest[low] -= 1
    room = (ranks >= lowest[:, None]) & (ranks <= highest[:, None])
    costs = weights[:, None] * ranks
    least, most = (
        costs[linear_sum_assignment(np.where(room, sign * costs, np.inf))].sum() for sign in (1, -1)
    )
    return float(least), float(most)
