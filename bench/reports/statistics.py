"""What few training seeds can say: mean and spread, which rows can be told apart, and whether an order holds.

The training seed is the unit. Cells of one seed see the same data in the same order and the same noise, so a
table of rows × seeds is read as row + seed + residual: what a seed does to all rows alike cancels, and the
residual deviation is pooled over the rows, with (rows − 1)·(seeds − 1) degrees of freedom. Residuals are
taken as normal and of one deviation; a row that plainly spreads more than the others is named, for it makes
errors more frequent (of seven equal rows, one with three times the deviation: 12% instead of 5%).

Pairs of rows are told apart by Tukey's range test (J. W. Tukey, The problem of multiple comparisons, 1953):
two means differ where they lie further apart than the studentized range of all rows allows, so that a table
of equal rows shows no pair at all with probability 0.95. Its simultaneous intervals of the differences also
bound Spearman's rank correlation between the rows' true means and published figures: with the same
probability the true order respects every pair that is told apart, and the interval is the least and the
greatest ρ of the orders that do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, permutations

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.05  # of significance; the error of a whole table
MOST_ROWS = 8  # whose orders are counted one by one: 40,320

BySeed = Mapping[int, float]  # a score of one row


@dataclass(frozen=True)
class Summary:
    """Mean of a score over seeds.

    Attributes:
        deviation: standard deviation (n − 1); None of a single seed.
        count: seeds.
    """

    mean: float
    deviation: float | None
    count: int


def summary(values: Sequence[float]) -> Summary | None:
    """Of finite values, at least one; None of none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    deviation = float(np.std(finite, ddof=1)) if len(finite) > 1 else None
    return Summary(float(np.mean(finite)), deviation, len(finite))


# ---- rows against each other ----


@dataclass(frozen=True)
class Comparison:
    """Which rows of a table can be told apart. Rows are named by their place.

    Attributes:
        means: of each row over `seeds`; of a row left out over its own, NaN where it has no value.
        seeds: those that all compared rows have.
        deviation: of the residuals, pooled over the compared rows; NaN where no rows are compared.
        degrees: its degrees of freedom, (rows − 1)·(seeds − 1).
        critical: half the width of the simultaneous 95% interval of a pair's difference: further apart than
            this, two means can be told apart. Infinite where no rows are compared.
        pairs: (i, j), i < j, both compared -> whether they can be told apart.
        left_out: rows of which nothing is said, for lack of seeds that the others have.
        outlier: the row whose residuals spread too far for one deviation, by Cochran's test at 5%, or None.
    """

    means: list[float]
    seeds: tuple[int, ...] = ()
    deviation: float = math.nan
    degrees: int = 0
    critical: float = math.inf
    pairs: dict[tuple[int, int], bool] = field(default_factory=dict)
    left_out: list[int] = field(default_factory=list)
    outlier: int | None = None

    def groups(self) -> list[list[int]]:
        """Largest groups of compared rows in which no two can be told apart, by ascending mean.

        Groups overlap where a row cannot be told apart from rows that differ from each other.
        """
        compared = [row for row in range(len(self.means)) if row not in self.left_out]
        order = sorted(compared, key=self.means.__getitem__)
        groups: list[list[int]] = []
        for start, first in enumerate(order):
            group = [first]
            for row in order[start + 1 :]:
                if self.pairs[min(first, row), max(first, row)]:
                    break
                group.append(row)
            if not groups or group[-1] != groups[-1][-1]:  # else it is part of the group before
                groups.append(group)
        return groups


def compare_rows(rows: Sequence[BySeed]) -> Comparison:
    """Tukey's range test over the seeds that the rows have in common, at 5% for all pairs together.

    Where rows lack seeds, as many rows as possible are compared, over all seeds that these have in common,
    at least two. Values that are not finite count as missing.
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
    return Comparison(means, tuple(seeds), deviation, degrees, critical, pairs, left_out, outlier)


@lru_cache
def _studentized_range(rows: int, degrees: int) -> float:
    """Its upper 5% point, by the trapezium rule: within 1e-9 of scipy's, whose import alone takes longer.

    The range of normal values over a deviation estimated apart from them; both integrands vanish at the ends.
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
    """Upper 5% point of Cochran's C, the largest variance's share in the sum of all."""
    from scipy.special import fdtri

    return float(1 / (1 + (rows - 1) / fdtri(seeds - 1, (rows - 1) * (seeds - 1), 1 - LEVEL / rows)))


def residual_deviation(rows: Sequence[BySeed]) -> float | None:
    """Pooled residual deviation of rows × seeds; None where no two rows have two seeds in common."""
    comparison = compare_rows(rows)
    return comparison.deviation if comparison.pairs else None


def paired_share(rows: Sequence[BySeed]) -> float | None:
    """Share of the variance between seeds that is common to all rows.

    A difference of two rows has twice the variance between seeds where their seeds differ, and twice the
    residual one where they are the same: this is what pairing removes, 1 − residual/between, both pooled over
    the rows. It is below 0 where seeds happen to differ less than residuals do.

    Returns:
        None where no two rows have two seeds in common, or seeds change nothing.
    """
    comparison = compare_rows(rows)
    if not comparison.pairs:
        return None
    compared = [row for i, row in enumerate(rows) if i not in comparison.left_out]
    between = float(np.mean([np.var([row[seed] for seed in comparison.seeds], ddof=1) for row in compared]))
    return 1 - comparison.deviation**2 / between if between else None


def detectable(deviation: float, rows: int, seeds: int, power: float = 0.8) -> float:
    """The smallest true difference of two rows that `compare_rows` will tell apart with such a probability.

    The difference of two means over its standard error follows a noncentral t distribution; this solves for
    its noncentrality.

    Args:
        deviation: of the residuals, as `residual_deviation` estimates it from records.
        rows: of the whole table.
        seeds: of each row.
        power: probability of telling the two apart, the right way round.

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

    Variances are pooled over the rows, as in `compare_rows`, but none becomes smaller by that: a row that
    spreads further is judged by its own. In simulation a whole comparison of equal records claims something
    in 3 to 4 of 100 cases, in 10 to 16 where deviations of rows differ by half (the standard deviation of
    their logarithms).

    Args:
        rows: changes, one for each seed.

    Returns:
        For each row (standard error of its mean, degrees of freedom); of those nothing is known of (NaN, 0).
    """
    squares = [float(np.var(row)) * len(row) for row in rows]
    degrees = sum(len(row) - 1 for row in rows)
    if not degrees:
        return [(math.nan, 0)] * len(rows)
    own = (square / max(len(row) - 1, 1) for row, square in zip(rows, squares, strict=True))
    variances = (max(sum(squares) / degrees, each) for each in own)
    return [(math.sqrt(each / len(row)), degrees) for row, each in zip(rows, variances, strict=True)]


# ---- the order of rows against a published one ----


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ between two orders of the same rows.

    Attributes:
        rho: between the means found here and the published figures.
        rows: how many.
        interval: 95%, of ρ between the rows' true means, no two of which are taken as equal, and the
            published figures; None where no two rows have two seeds in common.
        chance: probability of a ρ at least as high if all orders were equally likely; None for more than
            eight rows.
        least: the smallest value that `chance` can have with so many rows.
    """

    rho: float
    rows: int
    interval: tuple[float, float] | None
    chance: float | None
    least: float


def rank_correlation(rows: Sequence[BySeed], published: Sequence[float]) -> RankCorrelation | None:
    """Between means found here and published figures, row by row; None of fewer than three or all equal.

    Rows without a value are left out. A row that lacks the others' seeds may stand anywhere for the interval.
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
        # Equal means found here, or rounding, may leave ρ itself outside.
        interval = (max(-1.0, min(least, rho)), min(1.0, max(most, rho)))
    return RankCorrelation(rho, count, interval, chance, 1 / math.factorial(count))


def ranked(values: ArrayLike) -> np.ndarray:
    """Ranks along the last axis, from 1; equal values share the mean of theirs."""
    values = np.asarray(values)
    others, each = values[..., None, :], values[..., :, None]
    return ((others < each).sum(-1) + (others <= each).sum(-1) + 1) / 2


@lru_cache
def _orders(count: int) -> np.ndarray:
    return np.array(list(permutations(range(count))))


def _bounds(weights: np.ndarray, below: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Bounds of Σ rank·weight over the orders in which the first of some pairs stands below the second.

    Each row may take any rank that leaves room for those known to be below and above it, which can only widen
    the result.

    Args:
        weights: (rows,), their sum 0, so that ranks may start anywhere.
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
