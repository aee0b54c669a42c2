"""The scores of generated images beside a reference, on features that an extractor has made of both.

FID, sFID, Inception score, precision and recall equal those of the ADM evaluation suite, KID those of
torch-fidelity. Features may be memory-mapped; they stream through memory in blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from bench.metrics import resampling
from bench.metrics.neighbours import precision_recall
from bench.metrics.statistics import (
    Progress,
    Statistics,
    blocks,
    check,
    check_widths,
    frechet_distance,
)
from registry.errors import UsageError

SPLIT = 5000  # images in a split of the Inception score
KID_SUBSETS, KID_SUBSET_SIZE, KID_SEED = 100, 1000, 2020  # torch-fidelity's


@dataclass(frozen=True)
class Features:
    """What an extractor made of a set of images, each array float32 and in the same order of images.

    Attributes:
        pool: (N, D), for FID, precision, recall and KID. None: only statistics are known.
        spatial: (N, S), for sFID.
        logits: (N, K) logits of classes, for the Inception score.
        statistics: take the place of pool's, where a file brings those of a larger set.
        spatial_statistics: likewise for spatial.
    """

    pool: np.ndarray | None
    spatial: np.ndarray | None = None
    logits: np.ndarray | None = None
    statistics: Statistics | None = None
    spatial_statistics: Statistics | None = None


@dataclass(frozen=True)
class Scores:
    """What `evaluate` found; None where it could not be, or was not asked for.

    Attributes:
        fid: lower is better, biased upward by up to D/N or so for N samples.
        sfid: the Fréchet distance of spatial features.
        inception_score: higher is better; knows nothing of the reference.
        precision: share of samples among the reference, 0 to 1.
        recall: share of the reference among the samples, 0 to 1.
        kid: lower is better, unbiased, hence below zero at times.
        fid_infinity: FID extrapolated to infinitely many samples.
        intervals: score -> 95% confidence interval, see `bench.metrics.resampling`.
        missing: score -> why it is None.
    """

    fid: float | None = None
    sfid: float | None = None
    inception_score: float | None = None
    precision: float | None = None
    recall: float | None = None
    kid: float | None = None
    fid_infinity: float | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def evaluate(
    samples: Features,
    reference: Features,
    *,
    half_distances: bool = False,
    kid: bool = False,
    intervals: int = 0,
    fid_infinity: bool = False,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Scores:
    """All scores that the features allow.

    Args:
        samples: of generated images.
        reference: of real ones, by the same extractor.
        half_distances: precision and recall with float16 distances, as the ADM suite computes them.
        kid: also KID. Of sets smaller than torch-fidelity's subsets, subsets of the smaller set's size.
        intervals: 95% confidence intervals from so many groups of samples (20 is usual); 0 for none.
        fid_infinity: also FID∞.
        progress: told what is done, how much of it, and how much there is.
        device: where distances are computed, such as `cuda`.

    Raises:
        UsageError: NaN or infinity, widths that differ, too few images, a number of groups that makes no
            sense.

    Example:
        >>> scores = evaluate(Features(pool=of_samples), Features(pool=of_images))
        >>> scores.fid, scores.precision, scores.missing["sfid"]
    """
    count = _count(samples, "samples")
    _count(reference, "reference")
    if intervals:
        resampling.check_groups(intervals, count)
    values: dict[str, float] = {}
    spans: dict[str, tuple[float, float]] = {}
    missing: dict[str, str] = {}

    for score, ours, theirs in (
        (
            "fid",
            _Part("samples", samples.pool, samples.statistics),
            _Part("reference", reference.pool, reference.statistics),
        ),
        (
            "sfid",
            _Part("samples (spatial)", samples.spatial, samples.spatial_statistics),
            _Part("reference (spatial)", reference.spatial, reference.spatial_statistics),
        ),
    ):
        lacking = [part.name for part in (ours, theirs) if part.width is None]
        if ours.width is None or theirs.width is None:
            missing[score] = f"no features of the {' and the '.join(lacking)}"
            continue
        check_widths(ours.width, theirs.width)
        known, target = ours.statistics(progress), theirs.statistics(progress)
        values[score] = frechet_distance(known, target)
        if intervals and ours.features is not None and ours.given is None:
            spans[score] = resampling.frechet_interval(
                ours.features, known, target, intervals, progress=progress
            )
        if fid_infinity and score == "fid" and ours.features is not None:
            values["fid_infinity"] = resampling.fid_infinity(ours.features, target, progress=progress)
    if fid_infinity and "fid_infinity" not in values:
        missing["fid_infinity"] = "needs features of the samples and at least statistics of the reference"

    if samples.logits is None:
        missing["inception_score"] = "no logits of the samples"
    else:
        values["inception_score"] = inception_score(samples.logits, progress=progress)
        if intervals:
            spans["inception_score"] = _inception_interval(samples.logits, intervals)

    if samples.pool is None or reference.pool is None:
        reason = f"of the {'samples' if samples.pool is None else 'reference'} there are statistics only"
        missing |= dict.fromkeys(["precision", "recall", *(["kid"] if kid else [])], reason)
    else:
        sets = (samples.pool, reference.pool)
        shares = precision_recall(*sets, half=half_distances, device=device, progress=progress)
        values |= dict(zip(("precision", "recall"), shares, strict=True))
        if intervals:
            for name, share, features in zip(("precision", "recall"), shares, sets, strict=True):
                spans[name] = resampling.share_interval(share, len(features))
        if kid:
            size = min(KID_SUBSET_SIZE, *map(len, sets))
            values["kid"], error = _kid(*sets, KID_SUBSETS, size, KID_SEED, progress)
            if intervals:
                spans["kid"] = resampling.normal_interval(values["kid"], error)
    return Scores(**values, intervals=spans, missing=missing)


@dataclass(frozen=True)
class _Part:
    """What there is of one set for a Fréchet distance; `given` statistics take the features' place."""

    name: str
    features: np.ndarray | None
    given: Statistics | None

    @property
    def width(self) -> int | None:
        """Features an image; None where nothing is known."""
        if self.given is not None:
            return len(self.given.mean)
        return None if self.features is None else self.features.shape[-1]

    def statistics(self, progress: Progress | None) -> Statistics:
        if self.given is not None:
            return self.given
        assert self.features is not None
        return Statistics.of(self.features, progress, self.name)


def _count(features: Features, name: str) -> int:
    """How many images there are features of: 0 where statistics are all there is."""
    arrays = {"pool": features.pool, "spatial": features.spatial, "logits": features.logits}
    counts = {kind: len(array) for kind, array in arrays.items() if array is not None}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} rows of {kind}" for kind, count in counts.items())
        raise UsageError(f"{name}: {told}: features of the same images are needed")
    return next(iter(counts.values()), 0)


def fid(samples: np.ndarray, reference: np.ndarray) -> float:
    """Fréchet (Inception) distance of (N, D) and (M, D) features, Heusel et al. 2017 (arXiv 1706.08500).

    sFID (Nash et al. 2021, arXiv 2103.03841) is the same of spatial features.

    Raises:
        UsageError: NaN or infinity, widths that differ, fewer than two rows.
    """
    return frechet_distance(
        Statistics.of(samples, name="samples"), Statistics.of(reference, name="reference")
    )


def inception_score(logits: np.ndarray, split: int = SPLIT, *, progress: Progress | None = None) -> float:
    """exp of the mean divergence of an image's class probabilities from their mean over its split.

    Salimans et al. 2016 (arXiv 1606.03498). Splits are of `split` consecutive images, as in the ADM suite;
    the score is the plain mean over them, a short last one included.

    Args:
        logits: (N, K).
        split: images in a split.
        progress: told how many of the images are done.

    Raises:
        UsageError: NaN or infinity, no rows.
    """
    sums = _class_sums(logits, split, np.zeros(len(logits), np.int64), 1, progress)
    return _inception_score(*(part[:, 0] for part in sums))


def _class_sums(
    logits: np.ndarray, split: int, group: np.ndarray, groups: int, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the score follows from, for each split and group of images.

    Returns:
        How many images (S, G), their sum of Σ p log p (S, G), and their sum of p (S, G, K), in float64.
    """
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
            if progress:
                progress("Inception score", first + start + len(block), len(logits))
    return counts, certainty, sums


def _inception_score(counts: np.ndarray, certainty: np.ndarray, sums: np.ndarray) -> float:
    """From how many images (S,), their Σ p log p (S,) and sum of p (S, K) in each split."""
    kept = counts > 0  # a split may be left out whole
    counts, mean = counts[kept], torch.from_numpy(sums[kept] / counts[kept, None])
    entropy = torch.special.entr(mean).sum(dim=1).numpy()
    return float(np.exp(certainty[kept] / counts + entropy).mean())


def _inception_interval(logits: np.ndarray, groups: int) -> tuple[float, float]:
    """Interval of the Inception score; every split stays, less the images left out."""
    sums = _class_sums(logits, SPLIT, resampling.grouping(len(logits), groups), groups)
    whole = [part.sum(axis=1) for part in sums]
    left_out = [
        _inception_score(*(total - part[:, index] for total, part in zip(whole, sums, strict=True)))
        for index in range(groups)
    ]
    return resampling.jackknife_interval(_inception_score(*whole), left_out)


def kid(
    samples: np.ndarray,
    reference: np.ndarray,
    subsets: int = KID_SUBSETS,
    size: int = KID_SUBSET_SIZE,
    seed: int = KID_SEED,
    *,
    progress: Progress | None = None,
) -> float:
    """Kernel Inception distance, Binkowski et al. 2018 (arXiv 1801.01401), as torch-fidelity computes it.

    The mean over subsets of the unbiased squared maximum mean discrepancy with the kernel (x·y/D + 1)³.
    Subsets are torch-fidelity's, given the same seed.

    Args:
        samples: (N, D).
        reference: (M, D).
        subsets: how many pairs of subsets.
        size: images in each.
        seed: of NumPy's legacy generator, which draws them.
        progress: told how many of the subsets are done.

    Raises:
        UsageError: NaN or infinity, widths that differ, fewer than `size` images in a set.
    """
    return _kid(samples, reference, subsets, size, seed, progress)[0]


def _kid(
    samples: np.ndarray, reference: np.ndarray, subsets: int, size: int, seed: int, progress: Progress | None
) -> tuple[float, float]:
    """KID and its standard error over draws of the samples.

    To first order the discrepancy is twice the mean over samples x of E k(x, samples) − E k(x, reference)
    (Gretton et al. 2012, section 6), so its variance is four times that function's over N; what remains
    between subsets that do not hold all images comes on top, over their number.
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
        if progress:
            progress("KID", index + 1, subsets)
    error = 4 * influence.mean() / len(samples) + found.var() / subsets
    return float(found.mean()), math.sqrt(error)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x·y/D + 1)³, in float64 from a product in float32: (n, D), (m, D) -> (n, m)."""
    linear = (x @ y.T).astype(np.float64) / x.shape[1] + 1
    return linear * linear * linear
