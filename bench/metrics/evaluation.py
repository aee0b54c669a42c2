"""From two paths to the scores, and what has to be said beside them: all that `bench eval` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.metrics.extractors import create, extractors
from bench.metrics.features import check_fits, feature_folder, features_of, fitting_extractor, own_device
from bench.metrics.images import FeatureSet, ImageSet, open_set, size_text
from bench.metrics.resampling import check_groups
from bench.metrics.scores import SCORES, Features, Inputs, select
from bench.metrics.scores.inception_score import SPLIT
from bench.utils import distributed
from bench.utils.precision import tf32
from bench.utils.progress import Progress, silent
from bench.utils.text import texts
from registry.errors import UsageError

GROUPS = 20  # that confidence intervals are made from
PUBLISHED = 50_000  # samples in the papers' FID


@dataclass(frozen=True)
class FeatureScores:
    """Scores of features, each by its name in the order of the table.

    Attributes:
        values: those that can be computed.
        intervals: 95% confidence intervals; see `bench.metrics.resampling`.
        missing: why one cannot be computed.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    missing: dict[str, str]


def evaluate(
    samples: Features,
    reference: Features,
    *,
    scores: str | Sequence[str] = (),
    half_distances: bool = False,
    intervals: int = 0,
    progress: Progress = silent,
    device: str = "cpu",
) -> FeatureScores:
    """All scores that the features allow.

    Args:
        samples: of generated images.
        reference: of real ones, by the same extractor.
        scores: names, see `bench.metrics.scores`; by default those that are marked so.
        half_distances: neighbours by float16 distances, as the ADM suite computes them.
        intervals: 95% confidence intervals from so many groups of samples (20 is usual); 0 for none.
        progress: see `bench.utils.progress`.
        device: where distances are computed, such as `cuda`.

    Raises:
        UsageError: no such score, NaN or infinity, widths that differ, too few images, a number of groups
            that makes no sense.

    Example:
        >>> found = evaluate(Features(pool=of_samples), Features(pool=of_images))
        >>> found.values["fid"], found.missing["sfid"]
    """
    entries = select(texts(scores))
    count = samples.count("samples")
    reference.count("reference")
    if intervals:
        check_groups(intervals, count)
    inputs = Inputs(
        samples, reference, half_distances=half_distances, groups=intervals, device=device, progress=progress
    )
    found = FeatureScores({}, {}, {})
    with tf32(False, device):  # distances of rounded features would move precision and recall
        for score in entries:
            reason = inputs.lacking(score.needs)
            if reason is not None:
                found.missing[score.name] = reason
                continue
            found.values[score.name] = score.compute(inputs)
            if intervals and (interval := score.interval(inputs)) is not None:
                found.intervals[score.name] = interval
    return found


@dataclass(frozen=True)
class Comparison:
    """Scores with the way they were obtained.

    Attributes:
        scores: by name, in the order of the table; None where one cannot be computed.
        intervals: 95% confidence intervals by name; see `bench.metrics.resampling`.
        missing: why a score is None.
        samples: path of what was scored.
        reference: path of what it was compared with.
        sample_count: N.
        reference_count: N of the reference's features; None where it has statistics only.
        extractor: its name.
        weights: the first 12 digits of its weights' SHA-256; None where a file of statistics lacks it.
        statistics: which of the reference's entered FID and sFID, in words.
        half_distances: whether neighbours are by float16 distances.
        left_out: how many files of which kind were left out of the folders of `samples` and `reference`.
        notes: all of that and what else a reader should know, a sentence or two each.
    """

    scores: dict[str, float | None]
    intervals: dict[str, tuple[float, float]]
    missing: dict[str, str]
    samples: str
    reference: str
    sample_count: int
    reference_count: int | None
    extractor: str
    weights: str | None
    statistics: str
    half_distances: bool
    left_out: dict[str, dict[str, int]]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare(
    samples: str | Path,
    reference: str | Path,
    *,
    scores: str | Sequence[str] = (),
    extractor: str | None = None,
    weights: str | Path | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    half_distances: bool = False,
    intervals: bool = False,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Comparison | None:
    """The scores of the samples at one path beside the reference at another; see `open_set` for both.

    FID and sFID use the statistics stored in the reference's file, where there are any, as the ADM
    suite does, and always the samples' features themselves.

    Args:
        samples: images or features.
        reference: images, features or statistics.
        scores, half_distances: see `evaluate`.
        extractor: its name; by default that of a feature file, `digits` for images of at most 16 pixels
            a side, and `inception` for others.
        weights: its weights' file.
        batch_size: images a pass of the extractor.
        device: where it runs and where distances are computed.
        intervals: also 95% confidence intervals.
        cache: the folder in which features are stored; by default one in the user's cache, or where that
            cannot be written to a temporary one.
        progress: see `bench.utils.progress`.

    Returns:
        The comparison; None in all but the main one of several processes.

    Raises:
        UsageError: sets that cannot be read or compared; the message names the file.
    """
    entries = select(texts(scores))
    place = own_device(device)
    ours, others = open_set(samples, progress), open_set(reference, progress)
    if isinstance(ours, FeatureSet) and not ours.features:
        raise UsageError(f"{ours.path} holds statistics alone, which can be a reference but not samples")
    if ours.size and others.size and ours.size != others.size:
        raise UsageError(
            f"{ours.path} holds images of {size_text(ours.size)} and {others.path} of "
            f"{size_text(others.size)}: scores compare images of one size; resize one of the sets"
        )
    name, why = (extractor, "as requested") if extractor else fitting_extractor(ours, others)
    network = None
    if isinstance(ours, FeatureSet) and isinstance(others, FeatureSet):
        name, digest = extractors.find(name).name if extractor else name, ours.digest or others.digest
        check_fits(ours, name, digest, {})
        check_fits(others, name, digest, ours.widths)
    else:
        network = create(name, weights)
        name, digest = network.name, network.digest
    with feature_folder(cache) as (folder, cache_notes):
        made = [
            features_of(images, network, folder, batch_size=batch_size, device=device, progress=progress)
            for images in (ours, others)
        ]
    if not distributed.is_main():
        return None
    try:
        found = evaluate(
            replace(made[0], statistics=None, spatial_statistics=None),
            made[1],
            scores=scores,
            half_distances=half_distances,
            intervals=GROUPS if intervals else 0,
            progress=progress,
            device=str(place),
        )
    except UsageError as error:  # which knows of features only
        raise UsageError(f"{samples} against {reference}: {error}") from None
    assert ours.count is not None
    statistics = _statistics(others, made[1])
    return Comparison(
        scores={score.name: found.values.get(score.name) for score in entries},
        intervals=found.intervals,
        missing=found.missing,
        samples=str(ours.path),
        reference=str(others.path),
        sample_count=ours.count,
        reference_count=others.count,
        extractor=name,
        weights=digest,
        statistics=statistics,
        half_distances=half_distances,
        left_out={
            side: images.left_out
            for side, images in (("samples", ours), ("reference", others))
            if isinstance(images, ImageSet) and images.left_out
        },
        notes=[
            f"Samples: {_described(ours)}. Reference: {_described(others)}.",
            f"Features of {name}{f' (weights {digest})' if digest else ''}, {why}; scores of another "
            "extractor are not comparable.",
            f"FID and sFID: reference statistics {statistics}. Inception score: mean over "
            f"splits of {SPLIT:,} in file order. Precision and recall: k = 3, distances in "
            + ("float16 where finite, as the ADM suite's." if half_distances else "float32."),
            *_cautions(found, ours, others, made[1]),
            *(cache_notes if network else ()),
        ],
    )


def _described(images: ImageSet | FeatureSet) -> str:
    if isinstance(images, ImageSet):
        return f"{images.path}, {images.count:,} images of {size_text(images.size)}"
    return f"{images.path}, {f'features of {images.count:,} images' if images.count else 'statistics alone'}"


def _statistics(reference: ImageSet | FeatureSet, features: Features) -> str:
    if features.statistics is None:
        return f"of its {reference.count:,} images"
    if isinstance(reference, FeatureSet) and reference.origin:
        return reference.origin
    return f"stored in {reference.path.name}"


def _cautions(
    found: FeatureScores, samples: ImageSet | FeatureSet, reference: ImageSet | FeatureSet, features: Features
) -> list[str]:
    cautions = [*samples.notes, *reference.notes]
    if reference.statistics and features.statistics is None:
        cautions.append(
            f"The statistics stored in {reference.path.name} are by custom Inception's and were not used."
        )
    missing: dict[str, list[str]] = {}
    for score, reason in found.missing.items():
        missing.setdefault(reason, []).append(SCORES[score].full_name)
    cautions += [f"No {' or '.join(lacking)}: {reason}." for reason, lacking in missing.items()]
    if found.intervals:
        cautions.append(
            f"95% intervals: FID, sFID and Inception score by leaving out each of {GROUPS} groups of "
            "samples, precision and recall by Wilson's formula for shares. They are over samples of one "
            "network, not over training seeds."
        )
    if (samples.count or 0) < PUBLISHED:
        cautions.append(
            f"Warning: with fewer than {PUBLISHED:,} samples FID and sFID are biased upward: compare them "
            "only with those of equally many samples."
        )
    return cautions
