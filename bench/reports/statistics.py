"""What few training seeds can say: mean and spread, which rows can be told apart, and whether an order holds.

Cells of one seed see the same data in the same order, the same noise in training and the same noise to
sample from, so rows are compared seed by seed: what a seed does to all of them alike cancels. Two rows are
told apart by Student's interval of their differences. An order found here is compared with a published one
by Spearman's rank correlation. Its interval redraws the means from what the seeds leave open, by the same
assumption: a multivariate t with n − 1 degrees of freedom and the seeds' covariance over n. A bootstrap
would resample the seeds themselves, and of three seeds it makes intervals that are far too narrow. Whether
an order could be chance is counted over all orders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

DRAWS = 10_000
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


def separable(a: BySeed, b: BySeed) -> bool | None:
    """Whether the 95% interval of the mean difference leaves out 0; None of fewer than two common seeds."""
    differences = summary([a[seed] - b[seed] for seed in a.keys() & b.keys()])
    if differences is None or differences.deviation is None:
        return None
    from scipy.special import stdtrit

    half = stdtrit(differences.count - 1, 0.975) * differences.deviation / math.sqrt(differences.count)
    return bool(abs(differences.mean) > half)


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ between two orders of the same rows.

    Attributes:
        rows: how many.
        interval: 95%, over what the seeds leave open; None of fewer than two seeds common to all rows.
        chance: probability of a ρ at least as high if all orders were equally likely; None for more than
            eight rows.
        least: the smallest value that `chance` can have with so many rows.
    """

    rho: float
    rows: int
    interval: tuple[float, float] | None
    chance: float | None
    least: float


def rank_correlation(found: Sequence[BySeed], published: Sequence[float]) -> RankCorrelation | None:
    """Between means found here and published figures, row by row; None of fewer than three or all equal."""
    count = len(found)
    means = np.array([np.mean([*one.values()]) for one in found])
    if count < 3 or len(set(means)) < 2 or len(set(published)) < 2:
        return None
    rho = float(_spearman(means[None], published)[0])
    chance = None
    if count <= MOST_ROWS:
        orders = means[np.array(list(permutations(range(count))))]
        chance = float(np.mean(_spearman(orders, published) >= rho - 1e-9))
    interval = None
    seeds = sorted(set.intersection(*(set(one) for one in found)))
    if (n := len(seeds)) > 1:
        values = np.array([[one[seed] for seed in seeds] for one in found])
        residuals = (values - values.mean(axis=1, keepdims=True)) / math.sqrt(n * (n - 1))
        # Unlike default_rng, RandomState draws the same numbers in every version of NumPy.
        random = np.random.RandomState(0)
        noise = random.standard_normal((DRAWS, n)) @ residuals.T
        noise /= np.sqrt(random.chisquare(n - 1, (DRAWS, 1)) / (n - 1))
        low, high = np.quantile(_spearman(means + noise, published), [0.025, 0.975], method="nearest")
        interval = (float(low), float(high))
    return RankCorrelation(rho, count, interval, chance, 1 / math.factorial(count))


def _spearman(orders: np.ndarray, published: Sequence[float]) -> np.ndarray:
    """Correlation of ranks, ties at their mean: (n, rows), (rows,) -> (n,)."""
    from scipy.stats import rankdata

    ranks, others = rankdata(orders, axis=1), rankdata(published)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    others = others - others.mean()
    scale = np.sqrt((ranks**2).sum(axis=1) * (others**2).sum())
    return (ranks @ others) / np.where(scale > 0, scale, 1)
