"""Mean and covariance of features, and the Fréchet distance between two such pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.utils.progress import Progress, silent
from registry.errors import UsageError

_BLOCK_BYTES = 2**24  # of float64: enough for a fast product, small beside any set
_ROUNDING = (
    1e-5  # of the trace: float32 statistics stay below it, and so do those of fewer images than features
)


def check(features: np.ndarray, name: str, least: int = 1) -> None:
    """See that features can be scored: at least `least` rows of finite numbers.

    Args:
        features: (N, D).
        name: what the message calls them.
        least: smallest N that will do.

    Raises:
        UsageError: another shape, no numbers, NaN or infinity (the first such row is named), too few rows.
    """
    if features.ndim != 2 or features.dtype.kind not in "fiu" or features.shape[1] == 0:
        raise UsageError(
            f"{name}: real numbers (images, features) are needed, not {features.dtype} {features.shape}"
        )
    if len(features) < least:
        raise UsageError(f"{name}: {len(features)} rows are too few, at least {least} are needed")
    step = block_rows(features)
    for start in range(0, len(features), step):
        finite = np.isfinite(features[start : start + step])
        if not finite.all():
            raise UsageError(
                f"{name}: NaN or infinity, first in row {start + finite.all(axis=1).argmin()}: leave that "
                "image out, or make its features again"
            )


def check_widths(samples: int, reference: int) -> None:
    """See that two sets hold the same features.

    Raises:
        UsageError: their widths differ.
    """
    if samples != reference:
        raise UsageError(
            f"the samples have {samples} features an image, the reference has {reference}: use the same "
            "extractor for both"
        )


def block_rows(features: np.ndarray) -> int:
    """How many rows of such features take 16 MiB in float64."""
    return max(1, _BLOCK_BYTES // (8 * features.shape[1]))


def blocks(features: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive rows in float64, 16 MiB at a time, each with the number of its first row."""
    size = block_rows(features)
    for start in range(0, len(features), size):
        yield start, features[start : start + size].astype(np.float64)


@dataclass(frozen=True)
class Statistics:
    """Mean (D,) and covariance (D, D) of features, float64, with N − 1; `count` is N where it is known.

    Raises:
        UsageError: shapes that do not belong together, NaN or infinity; without `count`, a matrix that is no
            covariance. With it they were computed here.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None

    def __post_init__(self) -> None:
        mean, covariance = np.asarray(self.mean, np.float64), np.asarray(self.covariance, np.float64)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise UsageError(
                "statistics are a mean (D,) and a covariance (D, D), not of shapes "
                f"{mean.shape} and {covariance.shape}"
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise UsageError("statistics hold NaN or infinity: make them again")
        if self.count is None:
            _check_covariance(covariance)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "covariance", covariance)

    @classmethod
    def of(cls, features: np.ndarray, progress: Progress = silent, name: str = "features") -> Statistics:
        """Statistics of (N, D) features, which stream through memory in blocks of rows.

        Raises:
            UsageError: NaN or infinity, or fewer than two rows; `name` is what the message calls them.
        """
        check(features, name, least=2)
        step = block_rows(features)
        moments = Moments(features[:step].mean(axis=0, dtype=np.float64))
        for start in range(0, len(features), step):
            moments.add(features[start : start + step])
            progress(f"statistics of the {name}", min(start + step, len(features)), len(features))
        return moments.statistics()

    @cached_property
    def factor(self) -> np.ndarray:
        """F (D, rank) with F·Fᵀ = covariance: Cholesky with pivoting, which ends at the numerical rank.

        It takes a tenth of the time of an eigendecomposition, and no covariance is too singular for it.
        """
        from scipy.linalg.lapack import dpstrf

        lower, pivots, rank, _ = dpstrf(self.covariance, lower=1)
        factor = np.empty((len(pivots), rank))
        factor[pivots - 1] = np.tril(lower)[:, :rank]
        return factor

    def without(self, left_out: Moments) -> Statistics:
        """Statistics of the rows that remain when some, added up about this mean, are left out."""
        assert self.count is not None
        whole = Moments(self.mean)
        whole.count = self.count - left_out.count
        whole.total = -left_out.total
        whole.products = self.covariance * (self.count - 1) - left_out.products
        return whole.statistics()


def _check_covariance(matrix: np.ndarray) -> None:
    """See that a matrix (D, D) is symmetric and has no negative eigenvalue, but for rounding."""
    rounding = _ROUNDING * np.abs(matrix.diagonal()).sum() + np.finfo(float).tiny  # of zeros, not 0
    if np.abs(matrix - matrix.T).max(initial=0) > rounding:
        raise UsageError("the covariance is not symmetric: make the statistics again, as by np.cov")
    try:  # a tenth of the time of eigenvalues
        np.linalg.cholesky(matrix + rounding * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        raise UsageError(
            "the covariance has negative eigenvalues, which no covariance has: make the statistics again, as "
            "by np.cov"
        ) from None


class Moments:
    """Sums from which statistics follow, added up in float64 about a point near the mean.

    Such sums can be added and taken apart; about that point nothing cancels that matters.

    Args:
        about: (D,) the point.
    """

    def __init__(self, about: np.ndarray) -> None:
        self.about, self.count = about, 0
        self.total = np.zeros(len(about))
        self.products = np.zeros((len(about), len(about)))

    def add(self, rows: np.ndarray) -> None:
        """Add (n, D) rows."""
        rows = rows - self.about
        self.count += len(rows)
        self.total += np.ones(len(rows)) @ rows
        self.products += rows.T @ rows  # NumPy computes one half of this product

    def statistics(self) -> Statistics:
        """What the sums say so far; two rows are needed."""
        offset = self.total / self.count
        covariance = (self.products - np.outer(self.total, offset)) / (self.count - 1)
        return Statistics(self.about + offset, covariance, self.count)


def frechet_distance(samples: Statistics, reference: Statistics) -> float:
    """Squared Fréchet distance of two normal distributions, |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½).

    With Σ₂ = F·Fᵀ the product Σ₁Σ₂ has the eigenvalues of FᵀΣ₁F besides zeros, and that matrix is
    symmetric: its eigenvalues are real and accurate, also where covariances are singular, and it is
    only as wide as the lower rank of the two. Heusel et al. 2017 (arXiv 1706.08500), equation 6.

    Raises:
        UsageError: widths that differ.
    """
    width = len(samples.mean)
    check_widths(width, len(reference.mean))
    # The reference's factor is kept and serves again, unless the samples' is clearly smaller.
    first, second = reference, samples
    if (samples.count or width) < min(reference.count or width, width):
        first, second = samples, reference
    product = first.factor.T @ second.covariance @ first.factor
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(product), 0))
    difference = samples.mean - reference.mean
    traces = np.trace(samples.covariance) + np.trace(reference.covariance)
    return max(0.0, float(difference @ difference + traces - 2 * roots.sum()))
