"""Inception score: Salimans et al. 2016 (arXiv 1606.03498), equal to the ADM suite's."""

from __future__ import annotations

import numpy as np

from bench.metrics import resampling
from bench.metrics.scores import scores
from bench.metrics.scores.base import Inputs, Need, Score
from bench.metrics.statistics import blocks, check
from bench.utils.progress import Progress, silent
from registry.errors import UsageError

SPLIT = 5000  # images in a split


def inception_score(logits: np.ndarray, split: int = SPLIT, *, progress: Progress = silent) -> float:
    """exp of the mean divergence of an image's class probabilities from their mean over its split.

    Splits are of `split` consecutive images; the score is the plain mean over them, a short last one
    included.

    Args:
        logits: (N, K).
        split: images in a split.
        progress: see `bench.utils.progress`.

    Raises:
        UsageError: NaN or infinity, no rows.
    """
    sums = class_sums(logits, split, np.zeros(len(logits), np.int64), 1, progress)
    return _from_sums(*(part[:, 0] for part in sums))


def class_sums(
    logits: np.ndarray, split: int, group: np.ndarray, groups: int, progress: Progress = silent
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums that the score follows from, for each split and group of images.

    Returns:
        How many images (S, G), their sum of Σ p log p (S, G), and their sum of p (S, G, K), in float64.
    """
    import torch

    if split < 1:
        raise UsageError(f"a split of the Inception score takes 1 image or more, not {split}")
    check(logits, "logits of the samples")
    shape = (-(-len(logits) // split), groups)
    counts, certainty, sums = np.zeros(shape), np.zeros(shape), np.zeros((*shape, logits.shape[1]))
    for index in range(shape[0]):
        first = index * split
        for start, block in blocks(logits[first : first + split]):
            log_p = torch.log_softmax(torch.from_numpy(block), dim=1)
            p = log_p.exp()
            at = torch.from_numpy(group[first + start : first + start + len(block)])
            torch.from_numpy(sums[index]).index_add_(0, at, p)
            torch.from_numpy(certainty[index]).index_add_(0, at, (p * log_p).sum(dim=1))
            counts[index] += np.bincount(at, minlength=groups)
            progress("Inception score", first + start + len(block), len(logits))
    return counts, certainty, sums


def _from_sums(counts: np.ndarray, certainty: np.ndarray, sums: np.ndarray) -> float:
    """From how many images (S,), their Σ p log p (S,) and sum of p (S, K) in each split."""
    from scipy.special import entr

    used = counts > 0  # a split may be left out whole
    counts, mean = counts[used], sums[used] / counts[used, None]
    entropy = entr(mean).sum(axis=1)
    return float(np.exp(certainty[used] / counts + entropy).mean())


def interval(logits: np.ndarray, groups: int) -> tuple[float, float]:
    """95% interval by leaving out one group of samples after another; every split stays, less these.

    It ends at 1, the lowest score that there is.
    """
    sums = class_sums(logits, SPLIT, resampling.grouping(len(logits), groups), groups)
    whole = [part.sum(axis=1) for part in sums]
    left_out = [
        _from_sums(*(total - part[:, index] for total, part in zip(whole, sums, strict=True)))
        for index in range(groups)
    ]
    low, high = resampling.jackknife_interval(_from_sums(*whole), left_out)
    return max(1.0, low), high


@scores.register("inception_score")
class InceptionScore(Score):
    """Inception score (Salimans et al. 2016)."""

    heading, full_name = "IS", "Inception score"
    higher_is_better = True
    needs = (Need("samples", "logits"),)
    default = True
    interval_by = resampling.BY_GROUPS

    def compute(self, inputs: Inputs) -> float:
        assert inputs.samples.logits is not None
        return inception_score(inputs.samples.logits, progress=inputs.progress)

    def interval(self, inputs: Inputs) -> tuple[float, float]:
        assert inputs.samples.logits is not None
        return interval(inputs.samples.logits, inputs.groups)
