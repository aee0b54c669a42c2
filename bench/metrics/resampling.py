"""How far scores can be trusted: confidence intervals, and FID extrapolated to infinitely many samples.

Every interval is of 95% and is of the expected score: the mean over draws of as many samples from the
generator. The score of one more draw varies about that mean, and falls outside in more than 5% of cases. The
reference stays as it is, for rivals are compared with the same one; of recall alone the interval is over
draws of the references. The bias of a score at this number of samples is no part of its interval; for FID see
`fid_infinity`.

- FID, sFID and Inception score: jackknife that leaves out one group of samples after another
  (Kott 2001, "The delete-a-group jackknife"; Efron and Stein 1981). A bootstrap would repeat images, which
  shrinks the covariance and raises every FID; leaving out repeats none, and since the sums behind a mean
  and a covariance can be taken apart, it costs one more pass over the features.
- Precision and recall are shares of images, with Wilson's intervals (1927), which the bootstrap of
  such shares approaches. Precision resamples the samples. Recall resamples the references instead and
  holds the neighbourhoods of the samples fixed.
- KID: normal, from the influence of each sample on the kernel means and the spread over its subsets; see
  `bench.metrics.scores.kid`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bench.metrics.statistics import (
    Moments,
    Statistics,
    block_rows,
    check,
    check_widths,
    frechet_distance,
)
from bench.utils.progress import Progress, silent
from registry.errors import UsageError

BY_GROUPS = "by leaving out each of {groups} groups of samples"  # see `Score.interval_by`
_FEWEST_GROUPS = 5
POINTS = 15  # of FID∞, as Chong and Forsyth
_LEAST = 5000  # smallest subset of FID∞, likewise


def grouping(count: int, groups: int) -> np.ndarray:
    """The group of each sample, (count,) from 0 to groups − 1: drawn by chance, of equal sizes.

    Raises:
        UsageError: too few groups for an interval, or fewer than two samples in each.
    """
    from bench.utils.randomness import permutation

    if groups < _FEWEST_GROUPS:
        raise UsageError(
            f"intervals take {_FEWEST_GROUPS} groups of samples or more (20 is usual), not {groups}"
        )
    if count < 2 * groups:
        raise UsageError(f"{count} samples are too few for intervals from {groups} groups of 2 or more")
    return permutation(0, "groups", count) % groups


def jackknife_interval(score: float, left_out: Sequence[float]) -> tuple[float, float]:
    """From the score of all samples and those without each group, with Student's t."""
    from scipy.stats import t

    groups = len(left_out)
    spread = np.var(left_out) * (groups - 1)  # (G − 1)/G times the sum of squares
    reach = float(t.ppf(0.975, groups - 1)) * math.sqrt(spread)
    return score - reach, score + reach


def normal_interval(score: float, error: float) -> tuple[float, float]:
    """From a score and its standard error."""
    from scipy.stats import norm

    reach = float(norm.ppf(0.975)) * error
    return score - reach, score + reach


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's interval of a share of `count` images."""
    from scipy.stats import binomtest

    found = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def frechet_interval(
    features: np.ndarray,
    samples: Statistics,
    reference: Statistics,
    groups: int,
    progress: Progress = silent,
) -> tuple[float, float]:
    """Interval of the Fréchet distance: (N, D) features and their statistics, those of the reference.

    Raises:
        UsageError: see `grouping`.
    """
    group = grouping(len(features), groups)
    left_out = []
    for index in range(groups):
        moments = _moments(features, np.flatnonzero(group == index), samples.mean)
        left_out.append(frechet_distance(samples.without(moments), reference))
        progress("confidence interval", index + 1, groups)
    low, high = jackknife_interval(frechet_distance(samples, reference), left_out)
    return max(0.0, low), high


def fid_infinity(
    samples: np.ndarray,
    reference: np.ndarray | Statistics,
    seed: int = 0,
    *,
    progress: Progress = silent,
) -> float:
    """FID∞ of Chong and Forsyth 2020 (arXiv 1911.07023): what FID tends to as samples are added.

    The bias of FID is nearly linear in 1/N, so a line is fitted to the FIDs of 15 subsets, of 5,000
    samples (where there are fewer than 10,000: of half of them) to all, and read at 1/N = 0. Each subset
    is drawn by chance, without replacement.

    Args:
        samples: (N, D); a few times more images than features, or the line bends.
        reference: (M, D) features or their statistics; its own bias stays.
        seed: of the draws.
        progress: see `bench.utils.progress`.

    Raises:
        UsageError: NaN or infinity, widths that differ, fewer than 30 samples.
    """
    from bench.utils.randomness import permutation

    check(samples, "samples", least=2 * POINTS)
    target = reference if isinstance(reference, Statistics) else Statistics.of(reference, name="reference")
    check_widths(samples.shape[1], len(target.mean))
    count = len(samples)
    sizes = np.linspace(min(_LEAST, count // 2), count, POINTS).astype(int)
    distances = []
    for index, size in enumerate(sizes):
        subset = permutation(seed, "fid-infinity", count, step=index)[:size]
        distances.append(frechet_distance(_moments(samples, subset, target.mean).statistics(), target))
        progress("FID of subsets", index + 1, POINTS)
    return float(np.polynomial.Polynomial.fit(1 / sizes, distances, 1)(0.0))


def _moments(features: np.ndarray, rows: np.ndarray, about: np.ndarray) -> Moments:
    """Sums over the chosen rows, which are read in the order they lie in."""
    moments = Moments(about)
    rows = np.sort(rows)
    step = block_rows(features)
    for start in range(0, len(rows), step):
        moments.add(features[rows[start : start + step]].astype(np.float64))
    return moments
