"""What few training seeds can say: mean and spread, which rows can be told apart, and whether an order holds.

Two rows are told apart by Welch's interval of their difference, which allows for unequal spreads (Welch
1947). An order found here is compared with a published one by Spearman's rank correlation. Its interval
redraws each row's mean from what its seeds leave open, by the same assumption as Welch's: mean plus
standard error times Student's t with n − 1 degrees of freedom. A bootstrap would resample the seeds
themselves, and of three seeds it makes intervals that are far too narrow. Whether an order could be
chance is counted over all orders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

DRAWS = 10_000
MOST_ROWS = 8  # whose orders are counted one by one: 40,320


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


def separable(a: Summary, b: Summary) -> bool | None:
    """Whether the 95% Welch interval of the difference of two means leaves out 0; None of single seeds."""
    if a.deviation is None or b.deviation is None:
        return None
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    first, second = a.deviation**2 / a.count, b.deviation**2 / b.count
    if first + second == 0:
        return a.mean != b.mean
    freedom = (first + second) ** 2 / (first**2 / (a.count - 1) + second**2 / (b.count - 1))
    return bool(abs(a.mean - b.mean) > stdtrit(freedom, 0.975) * math.sqrt(first + second))


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ between two orders of the same rows.

    Attributes:
        rows: how many.
        interval: 95%, over what the seeds leave open; None where a row has a single seed.
        chance: probability of a ρ at least as high if all orders were equally likely; None for more than
            eight rows.
        least: the smallest value that `chance` can have with so many rows.
    """

    rho: float
    rows: int
    interval: tuple[float, float] | None
    chance: float | None
    least: float


def rank_correlation(found: Sequence[Summary], published: Sequence[float]) -> RankCorrelation | None:
    """Between means found here and published figures, row by row; None of fewer than three or all equal."""
    count = len(found)
    means = np.array([one.mean for one in found])
    if count < 3 or len(set(means)) < 2 or len(set(published)) < 2:
        return None
    rho = float(_spearman(means[None], published)[0])
    chance = None
    if count <= MOST_ROWS:
        orders = means[np.array(list(permutations(range(count))))]
        chance = float(np.mean(_spearman(orders, published) >= rho - 1e-9))
    interval = None
    if all(one.deviation is not None for one in found):
        errors = np.array([(one.deviation or 0.0) / math.sqrt(one.count) for one in found])
        # Unlike default_rng, RandomState draws the same numbers in every version of NumPy.
        noise = np.random.RandomState(0).standard_t([one.count - 1 for one in found], (DRAWS, count))
        redrawn = _spearman(means + errors * noise, published)
        low, high = np.quantile(redrawn, [0.025, 0.975], method="nearest")
        interval = (float(low), float(high))
    return RankCorrelation(rho, count, interval, chance, 1 / math.factorial(count))


def _spearman(orders: np.ndarray, published: Sequence[float]) -> np.ndarray:
    """Correlation of ranks, ties at their mean: (n, rows), (rows,) -> (n,)."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    ranks, others = rankdata(orders, axis=1), rankdata(published)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    others = others - others.mean()
    scale = np.sqrt((ranks**2).sum(axis=1) * (others**2).sum())
    return (ranks @ others) / np.where(scale > 0, scale, 1)
