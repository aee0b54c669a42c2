"""From two paths to the five scores, and what has to be said beside them: all that `bench eval` does."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.metrics.extractors import create, extractors
from bench.metrics.features import check_fits, features_of, fitting_extractor, own_device
from bench.metrics.images import FeatureSet, ImageSet, open_set
from bench.metrics.scores import SPLIT, Features, Scores, evaluate
from bench.metrics.statistics import Progress
from bench.utils import distributed
from registry import UsageError

GROUPS = 20  # that confidence intervals are made from
USUAL = 50_000  # samples in the papers' FID
TITLES = {
    "fid": "FID",
    "sfid": "sFID",
    "inception_score": "Inception score",
    "precision": "Precision",
    "recall": "Recall",
    "kid": "KID",
    "fid_infinity": "FID∞",
}


@dataclass(frozen=True)
class Comparison:
    """Scores with the protocol they were obtained by.

    Attributes:
        scores: the five, and those asked for besides.
        samples: what was scored.
        reference: what it was compared with.
        sample_count: N.
        reference_count: N of the reference's features; None where it has statistics only.
        extractor: its name.
        weights: the first 12 digits of its weights' SHA-256; None where statistics do not tell theirs.
        statistics: which of the reference's entered FID and sFID, in words.
        half_distances: whether precision and recall are of float16 distances.
        notes: all of that and what else a reader should know, a sentence or two each.
    """

    scores: Scores
    samples: str
    reference: str
    sample_count: int
    reference_count: int | None
    extractor: str
    weights: str | None
    statistics: str
    half_distances: bool
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the scores and all else, on one level."""
        told = asdict(self)
        return told.pop("scores") | told


def compare(
    samples: str | Path,
    reference: str | Path,
    *,
    extractor: str | None = None,
    weights: str | Path | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    half_distances: bool = False,
    kid: bool = False,
    intervals: bool = False,
    fid_infinity: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Comparison | None:
    """The scores of the samples at one path beside the reference at another; see `open_set` for both.

    FID and sFID use the statistics stored in the reference's file, where there are any, as the ADM
    suite does, and always the samples' features themselves.

    Args:
        samples: images or features.
        reference: images, features or statistics.
        extractor: its name; by default that of a feature file, `digits` for images of at most 16 pixels
            a side, and `inception` for others.
        weights: its weights' file.
        batch_size: images a pass of the extractor.
        device: where it runs and where distances are computed.
        half_distances, kid, intervals, fid_infinity: see `bench.metrics.evaluate`.
        cache: the folder in which features are kept.
        progress: is told how far it is.

    Returns:
        The comparison; None in all but the main one of several processes.

    Raises:
        UsageError: sets that cannot be read or compared; the message names the file.
    """
    where = own_device(device)
    ours, theirs = open_set(samples, progress), open_set(reference, progress)
    if isinstance(ours, FeatureSet) and not ours.features:
        raise UsageError(f"{ours.path} holds statistics alone, which can be a reference but not samples")
    name, why = (extractor, "as asked") if extractor else fitting_extractor(ours, theirs)
    network = None
    if isinstance(ours, FeatureSet) and isinstance(theirs, FeatureSet):
        name, digest = extractors.find(name).name if extractor else name, ours.digest or theirs.digest
        check_fits(ours, name, digest, {})
        check_fits(theirs, name, digest, ours.widths)
    else:
        network = create(name, weights)
        name, digest = network.name, network.digest
    made = [
        features_of(images, network, batch_size=batch_size, device=device, cache=cache, progress=progress)
        for images in (ours, theirs)
    ]
    if not distributed.is_main():
        return None
    try:
        scores = evaluate(
            replace(made[0], statistics=None, spatial_statistics=None),
            made[1],
            half_distances=half_distances,
            kid=kid,
            intervals=GROUPS if intervals else 0,
            fid_infinity=fid_infinity,
            progress=progress,
            device=str(where),
        )
    except UsageError as error:  # which knows of features only
        raise UsageError(f"{samples} against {reference}: {error}") from None
    assert ours.count is not None
    statistics = _statistics_told(theirs, made[1])
    return Comparison(
        scores=scores,
        samples=str(ours.path),
        reference=str(theirs.path),
        sample_count=ours.count,
        reference_count=theirs.count,
        extractor=name,
        weights=digest,
        statistics=statistics,
        half_distances=half_distances,
        notes=[
            f"Samples: {_told(ours)}. Reference: {_told(theirs)}.",
            f"Features of {name}{f' (weights {digest})' if digest else ''}, {why}; scores of another "
            "extractor are not comparable.",
            f"FID and sFID: reference statistics {statistics}. Inception score: mean over "
            f"splits of {SPLIT:,} in file order. Precision and recall: k = 3, distances in "
            + ("float16 where finite, as the ADM suite's." if half_distances else "float32."),
            *_cautions(scores, ours, theirs, made[1]),
        ],
    )


def _told(images: ImageSet | FeatureSet) -> str:
    if isinstance(images, ImageSet):
        return f"{images.path}, {images.count:,} images of {images.size[0]}×{images.size[1]}"
    return f"{images.path}, {f'features of {images.count:,} images' if images.count else 'statistics alone'}"


def _statistics_told(reference: ImageSet | FeatureSet, features: Features) -> str:
    if features.statistics is None:
        return f"of its {reference.count:,} images"
    if isinstance(reference, FeatureSet) and reference.origin:
        return reference.origin
    return f"stored in {reference.path.name}"


def _cautions(
    scores: Scores, samples: ImageSet | FeatureSet, reference: ImageSet | FeatureSet, features: Features
) -> list[str]:
    cautions = [*samples.notes, *reference.notes]
    if reference.statistics and features.statistics is None:
        cautions.append(
            f"The statistics stored in {reference.path.name} are by custom Inception's and were not used."
        )
    missing: dict[str, list[str]] = {}
    for score, reason in scores.missing.items():
        missing.setdefault(reason, []).append(TITLES[score])
    cautions += [f"No {' or '.join(lacking)}: {reason}." for reason, lacking in missing.items()]
    if scores.intervals:
        cautions.append(
            f"95% intervals: FID, sFID and Inception score by leaving out each of {GROUPS} groups of "
            "samples, precision and recall by Wilson's formula for shares."
        )
    if (samples.count or 0) < USUAL:
        cautions.append(
            f"Warning: with fewer than {USUAL:,} samples FID and sFID are biased upward: compare them only "
            "with those of equally many samples."
        )
    return cautions
