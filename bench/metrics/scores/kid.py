"""Kernel Inception distance: Binkowski et al. 2018 (arXiv 1801.01401), equal to torch-fidelity's."""

from __future__ import annotations

import math

import numpy as np

from bench.metrics import resampling
from bench.metrics.scores import scores
from bench.metrics.scores.base import BOTH_POOLS, Inputs, Score
from bench.metrics.statistics import check, check_widths
from bench.utils.progress import Progress, silent
from registry.errors import UsageError

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # torch-fidelity's


def kid(
    samples: np.ndarray,
    reference: np.ndarray,
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
    seed: int = SEED,
    *,
    progress: Progress = silent,
) -> tuple[float, float]:
    """The mean over subsets of the unbiased squared maximum mean discrepancy with (x·y/D + 1)³.

    Subsets are torch-fidelity's, given the same seed. The standard error is over draws of the samples: to
    first order the discrepancy is twice the mean over samples x of E k(x, samples) − E k(x, reference)
    (Gretton et al. 2012, section 6), so its variance is four times that function's over N; what remains
    between subsets that do not hold all images comes on top, over their number.

    Args:
        samples: (N, D).
        reference: (M, D).
        subsets: how many pairs of subsets.
        size: images in each.
        seed: of NumPy's legacy generator, which draws them.
        progress: see `bench.utils.progress`.

    Returns:
        KID and its standard error.

    Raises:
        UsageError: NaN or infinity, widths that differ, fewer than `size` images in a set.
    """
    if subsets < 1 or size < 2:
        raise UsageError(f"KID takes 1 subset or more of 2 images or more, not {subsets} of {size}")
    check(samples, "samples", least=size)
    check(reference, "reference", least=size)
    check_widths(samples.shape[1], reference.shape[1])
    draws = np.random.RandomState(seed)
    found, influence = np.empty(subsets), np.empty(subsets)
    for index in range(subsets):
        x, y = (
            np.asarray(features[draws.choice(len(features), size, replace=False)], np.float32)
            for features in (samples, reference)
        )
        own, other, between = _kernel(x, x), _kernel(y, y), _kernel(x, y)
        among = (own.sum(axis=1) - own.diagonal()) / (size - 1)
        beside = between.mean(axis=1)
        others = (other.sum() - other.trace()) / (size * (size - 1))
        found[index] = among.mean() + others - 2 * beside.mean()
        influence[index] = (among - beside).var()
        progress("KID", index + 1, subsets)
    error = 4 * influence.mean() / len(samples) + found.var() / subsets
    return float(found.mean()), math.sqrt(error)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x·y/D + 1)³, in float64 from a product in float32: (n, D), (m, D) -> (n, m)."""
    linear = (x @ y.T).astype(np.float64) / x.shape[1] + 1
    return linear * linear * linear


def _both(inputs: Inputs) -> tuple[float, float]:
    """Of sets smaller than torch-fidelity's subsets, subsets of the smaller set's size."""
    sets = inputs.features("pool")
    return kid(*sets, size=min(SUBSET_SIZE, *map(len, sets)), progress=inputs.progress)


@scores.register("kid")
class KID(Score):
    """Kernel Inception distance (Binkowski et al. 2018)."""

    heading = full_name = "KID·10³"
    higher_is_better = False
    scale = 1000
    least = 2
    needs = BOTH_POOLS
    interval_by = "by its standard error"

    def compute(self, inputs: Inputs) -> float:
        return inputs.once(_both)[0]

    def interval(self, inputs: Inputs) -> tuple[float, float]:
        return resampling.normal_interval(*inputs.once(_both))
