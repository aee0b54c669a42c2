"""From two paths to scores and notes on how they were computed; used by `bench eval`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.metrics.beside import Beside
from bench.metrics.extractors import Extractor, create, extractors
from bench.metrics.features import (
    check_fits,
    feature_folder,
    features_of,
    fitting_extractor,
    made_features,
    own_device,
)
from bench.metrics.images import FeatureSet, ImageSet, content_digest, open_set, size_text
from bench.metrics.scores import SCORES, Features, Inputs, Score, scored_alone, select
from bench.metrics.scores.fid import FID, FIDInfinity
from bench.metrics.scores.inception_score import SPLIT
from bench.metrics.scores.kid import KID, SUBSET_SIZE
from bench.metrics.scores.mind import MIND
from bench.metrics.scores.precision_recall import Precision, Recall
from bench.records.schema import Balance, ScoredSet
from bench.utils import distributed
from bench.utils.frames import Framed, Row
from bench.utils.precision import tf32
from bench.utils.progress import Progress, silent
from bench.utils.text import texts
from registry.errors import CodeError, UsageError

GROUPS = 20  # that confidence intervals are made from
PUBLISHED = 50_000  # samples in the papers' FID
FOR_INFINITY = 3  # samples a feature, below which the line through FIDs of subsets bends


@dataclass(frozen=True)
class FeatureScores:
    """Scores of features, by name in the order of the table.

    Attributes:
        values: value of each score that could be computed.
        intervals: 95% confidence intervals; see `bench.metrics.resampling`.
        missing: reason for each score that could not be computed.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    missing: dict[str, str]


def evaluate(
    samples: Features,
    reference: Features,
    *,
    scores: str | Sequence[str] = (),
    extractor: str | None = None,
    half_distances: bool = False,
    intervals: int = 0,
    progress: Progress = silent,
    device: str = "cpu",
) -> FeatureScores:
    """All scores that the features allow.

    Args:
        samples: of generated images.
        reference: of real ones, by the same extractor.
        scores: names, see `bench.metrics.scores`; by default those with `default`.
        extractor: whose features they are, if it has scores of its own, such as `dinov2`.
        half_distances: neighbours by float16 distances, as the ADM suite computes them.
        intervals: 95% confidence intervals from so many groups of samples (20 is usual); 0 for none.
        progress: see `bench.utils.progress`.
        device: where distances are computed, such as `cuda`.

    Raises:
        UsageError: no such score, NaN or infinity, widths that differ, too few images, a number of groups
            that makes no sense.
        CodeError: a score that is no finite number.

    Example:
        >>> found = evaluate(Features(pool=of_samples), Features(pool=of_images))
        >>> found.values["fid"], found.missing["sfid"]
    """
    entries = select(texts(scores), extractor)
    samples.count("samples")
    reference.count("reference")
    inputs = Inputs(
        samples, reference, half_distances=half_distances, groups=intervals, device=device, progress=progress
    )
    found = FeatureScores({}, {}, {})
    with tf32(False, device):  # distances of rounded features would move precision and recall
        for score in entries:
            reason = inputs.lacking(score.needs)
            if score.extractor != extractor:
                reason = f"it is a score of {score.extractor or 'Inception'} features"
            if reason is not None:
                found.missing[score.name] = reason
                continue
            value = found.values[score.name] = score.compute(inputs)
            if not math.isfinite(value):
                raise CodeError(f"the score {score.name!r} is {value}, not a finite number", score)
            if intervals and (interval := score.interval(inputs)) is not None:
                found.intervals[score.name] = interval
    return found


@dataclass(frozen=True)
class Comparison(Framed):
    """Scores with the way they were obtained.

    Attributes:
        scores: by name, in the order of the table; None where one cannot be computed.
        intervals: 95% confidence intervals by name; see `bench.metrics.resampling`.
        missing: why a score is None.
        samples: path of what was scored.
        reference: path of what it was compared with; several, for several extractors, with commas.
        sample_count: N.
        reference_count: N of the reference's features; None where it has statistics only.
        extractor: its name; of several the one whose scores do not name it.
        weights: the first 12 digits of its weights' SHA-256; None where a file of statistics lacks it.
        extractors: all of them with the digests of their weights.
        statistics: which of the reference's entered FID and sFID, in words.
        half_distances: whether neighbours are by float16 distances.
        left_out: how many files of which kind were left out of the folders of `samples` and `reference`.
        notes: how the scores were computed, and limits, as sentences.
        sample_set: the samples, with the digest of their content.
        reference_sets: what each extractor compared them with, likewise.
        balance: of the samples' classes, where their file has labels.
        published: rows that the scores are set beside; see `bench.studies.scored`.
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
    extractors: dict[str, str | None]
    statistics: str
    half_distances: bool
    left_out: dict[str, dict[str, int]]
    notes: list[str]
    sample_set: ScoredSet
    reference_sets: dict[str, ScoredSet]
    balance: Balance = "unknown"
    published: list[Beside] = field(default_factory=list)

    def rows(self) -> list[Row]:
        """A row for each score, in the unit that its name gives: KID times 1,000."""
        rows = []
        for name, value in self.scores.items():
            score = SCORES[name]
            row: Row = {"Score": score.full_name, "Value": None if value is None else value * score.scale}
            ends = (end * score.scale for end in self.intervals.get(name, ()))
            rows.append(row | dict(zip(("95% low", "95% high"), ends, strict=False)))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        references = {name: each.model_dump(mode="json") for name, each in self.reference_sets.items()}
        samples = self.sample_set.model_dump(mode="json", exclude={"statistics"})
        return asdict(self) | {"sample_set": samples, "reference_sets": references}


@dataclass
class _Side:
    """An extractor, with what it is given."""

    name: str
    scores: list[Score]
    reference: ImageSet | FeatureSet
    network: Extractor | None
    digest: str | None


def compare(
    samples: str | Path,
    reference: str | Path | Sequence[str | Path],
    *,
    scores: str | Sequence[str] = (),
    extractor: str | None = None,
    weights: str | Path | Mapping[str, str | Path] | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    half_distances: bool = False,
    intervals: bool = False,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Comparison | None:
    """Scores of the samples at one path against the reference at another; see `open_set` for both.

    FID and sFID use the statistics stored in the reference's file if there are any, as in the ADM suite. For
    samples they always use the features.

    Args:
        samples: images or features.
        reference: images, features or statistics; several where extractors have files of their own.
        scores: see `evaluate`; those of several extractors are made of one pass over the images.
        extractor: of the scores that name none; by default that of a feature file, `digits` for images of at
            most 16 pixels a side, and `inception` for others. One that has scores of its own, such as
            `dinov2`, gives those by default.
        weights: file of the extractor's weights, or files by extractor.
        batch_size: images a pass of the extractor.
        device: where it runs and where distances are computed.
        half_distances: see `evaluate`.
        intervals: also 95% confidence intervals.
        cache: the folder in which features are stored; by default one in the user's cache, or where that
            cannot be written to a temporary one.
        progress: see `bench.utils.progress`.

    Returns:
        The comparison; None in all but the main one of several processes.

    Raises:
        UsageError: sets that cannot be read or compared; the message names the file.
    """
    names = texts(scores)
    select(names)  # a name that is wrong is told before files are opened
    place = own_device(device)
    ours = open_set(samples, progress)
    paths = [reference] if isinstance(reference, str | Path) else list(reference)
    others = [open_set(path, progress) for path in paths]
    if isinstance(ours, FeatureSet) and not ours.features:
        raise UsageError(f"{ours.path} holds statistics alone, which can be a reference but not samples")
    for each in others:
        if ours.size and each.size and ours.size != each.size:
            raise UsageError(
                f"{ours.path} holds images of {size_text(ours.size)} and {each.path} of "
                f"{size_text(each.size)}: scores compare images of one size; resize one of the sets"
            )
    if extractor:
        name, why = extractors.find(extractor).name, "as requested"
    else:  # files of extractors with scores of their own stand beside another's
        usual = [each for each in others if isinstance(each, ImageSet) or not scored_alone(each.extractor)]
        name, why = fitting_extractor(ours, *(usual or others))
    entries = _entries(names, name)
    given = weights if isinstance(weights, Mapping) else {} if weights is None else {name: weights}
    sides, lacking = _sides(entries, name, ours, others, given, names)
    with feature_folder(cache) as (folder, cache_notes):
        made = _features(sides, ours, folder, batch_size=batch_size, device=device, progress=progress)
    if not distributed.is_main():
        return None
    found = FeatureScores({}, {}, lacking)
    for side, pair in zip(sides, made, strict=True):
        try:
            one = evaluate(
                *pair,
                scores=[score.name for score in side.scores],
                extractor=scored_alone(side.name),
                half_distances=half_distances,
                intervals=GROUPS if intervals else 0,
                progress=progress,
                device=str(place),
            )
        except UsageError as error:  # which knows of features only
            raise UsageError(f"{samples} against {side.reference.path}: {error}") from None
        found.values.update(one.values)
        found.intervals.update(one.intervals)
        found.missing.update(one.missing)
    assert ours.count is not None
    first, (_, features) = sides[0], made[0]
    statistics = _statistics(first.reference, features)
    used = list({id(side.reference): side.reference for side in sides}.values())
    used_scores = {score.name for side in sides for score in side.scores}
    return Comparison(
        scores={
            score: found.values.get(score) for score in SCORES if score in used_scores or score in lacking
        },
        intervals=found.intervals,
        missing=found.missing,
        samples=str(ours.path),
        reference=", ".join(str(each.path) for each in used),
        sample_count=ours.count,
        reference_count=first.reference.count,
        extractor=first.name,
        weights=first.digest,
        extractors={side.name: side.digest for side in sides},
        statistics=statistics,
        half_distances=half_distances,
        left_out={
            side: images.left_out
            for side, images in (("samples", ours), ("reference", first.reference))
            if isinstance(images, ImageSet) and images.left_out
        },
        notes=[
            f"Samples: {_described(ours)}. Reference: {'; '.join(map(_described, used))}.",
            *(_whose(side, why if side.name == name else "which its scores name") for side in sides),
            *_methods(sides, [of for _, of in made], found.values, half_distances),
            *_cautions(
                found, ours, [(side.reference, of) for side, (_, of) in zip(sides, made, strict=True)]
            ),
            *(
                note
                for side, pair in zip(sides, made, strict=True)
                for score in side.scores
                if score.name in found.values and (note := _of_few(score, *pair))
            ),
            *(cache_notes if any(side.network for side in sides) else ()),
        ],
        sample_set=_told(ours),
        reference_sets={
            side.name: _told(side.reference, _statistics(side.reference, of))
            for side, (_, of) in zip(sides, made, strict=True)
        },
        balance=ours.balance if isinstance(ours, ImageSet) else "unknown",
    )


def _told(images: ImageSet | FeatureSet, statistics: str | None = None) -> ScoredSet:
    """A set as a record tells of it."""
    return ScoredSet(
        file=images.path.resolve().name,
        digest=content_digest(images)[:12],
        count=images.count,
        size=images.size,
        statistics=statistics,
    )


def _entries(names: Sequence[str], extractor: str) -> list[Score]:
    """The scores that are asked for; a wildcard leaves out those of Inception where others are asked for.

    Raises:
        UsageError: such a one is named, or wildcards match no others.
    """
    own = scored_alone(extractor)
    entries = select(names, own)
    if own is None:
        return entries
    fitting = ", ".join(score.name for score in select((), own))
    for score in entries:
        if score.extractor is None and score.name in names:
            raise UsageError(
                f"{score.name} is a score of Inception features, not of {own}'s, which has its own: {fitting}"
            )
    entries = [score for score in entries if score.extractor is not None]
    if not entries:
        raise UsageError(f"{own} has no score that matches {' or '.join(names)}; it has {fitting}")
    return entries


def _sides(
    entries: Sequence[Score],
    extractor: str,
    samples: ImageSet | FeatureSet,
    references: Sequence[ImageSet | FeatureSet],
    weights: Mapping[str, str | Path],
    names: Sequence[str],
) -> tuple[list[_Side], dict[str, str]]:
    """The extractors that scores need, the one whose scores do not name it first; and what is missing.

    Raises:
        UsageError: no score uses one of the references; an extractor cannot be had, or a set is of another;
            where only a wildcard asks for it, its scores are missing.
    """
    needed: dict[str, list[Score]] = {}
    for score in sorted(entries, key=lambda score: score.extractor is not None):
        needed.setdefault(score.extractor or extractor, []).append(score)
    for name in weights:
        if name not in needed:
            raise UsageError(f"weights are given for {name}, which no requested score uses")
    images = [each for each in references if isinstance(each, ImageSet)]
    chosen = {}
    for name in needed:
        fitting = [each for each in references if isinstance(each, FeatureSet) and each.extractor == name]
        chosen[name] = (*fitting, *images, *references)[0]
    for each in references:
        if sum(other.path == each.path for other in references) > 1:
            raise UsageError(f"the reference {each.path} is given twice")
        if not any(each is used for used in chosen.values()):
            others = ", ".join(dict.fromkeys(str(used.path) for used in chosen.values()))
            raise UsageError(
                f"no requested score uses the reference {each.path}, but {others}: leave one out, or name a "
                "score of its extractor with --score"
            )
    sides: list[_Side] = []
    missing: dict[str, str] = {}
    failure = None
    for name, wanted in needed.items():
        reference = chosen[name]
        for score in wanted:
            if score.name in names:
                _check_reference(score, reference)
        try:
            sides.append(_side(name, wanted, samples, reference, weights.get(name)))
        except UsageError as error:
            if name == extractor or any(score.name in names for score in wanted):
                raise
            failure = error
            missing |= {score.name: str(error) for score in wanted}
    if not sides and failure:
        raise failure
    return sides, missing


def _check_reference(score: Score, reference: ImageSet | FeatureSet) -> None:
    """See that a score that is named can be computed against a file of statistics alone."""
    alone = isinstance(reference, FeatureSet) and not reference.features
    if alone and any(need.side == "reference" and not need.statistics for need in score.needs):
        raise UsageError(
            f"{reference.path} holds statistics alone, and {score.full_name} compares with the features of "
            "images: name a file that has them; `bench references` lists those of papers"
        )


def _side(
    name: str,
    scores: list[Score],
    samples: ImageSet | FeatureSet,
    reference: ImageSet | FeatureSet,
    weights: str | Path | None,
) -> _Side:
    if isinstance(samples, FeatureSet) and isinstance(reference, FeatureSet):
        digest = samples.digest or reference.digest
        check_fits(samples, name, digest, {})
        check_fits(reference, name, digest, samples.widths)
        return _Side(name, scores, reference, None, digest)
    for each in (samples, reference):
        if isinstance(each, FeatureSet):  # before 1 GB of weights is read
            check_fits(each, name, None, {})
    network = create(name, weights)
    return _Side(network.name, scores, reference, network, network.digest)


def _features(
    sides: Sequence[_Side], samples: ImageSet | FeatureSet, folder: Path, **options: Any
) -> list[tuple[Features, Features]]:
    """Features of samples and references by each extractor, in one pass over each set of images."""
    found: list[dict[int, Features]] = [{} for _ in sides]
    for images in {id(each): each for each in (samples, *(side.reference for side in sides))}.values():
        own = [i for i, side in enumerate(sides) if images is samples or images is side.reference]
        networks = [network for i in own if (network := sides[i].network) is not None]
        if isinstance(images, FeatureSet):
            features_of(images, networks, folder)
            made = [made_features(images.features, images.statistics)] * len(own)
        else:
            made = features_of(images, networks, folder, **options)
        for i, features in zip(own, made, strict=True):
            found[i][id(images)] = features
    return [
        (
            replace(of[id(samples)], statistics=None, spatial_statistics=None),
            of[id(side.reference)],
        )
        for side, of in zip(sides, found, strict=True)
    ]


def _whose(side: _Side, why: str) -> str:
    by = f" (weights {side.digest})" if side.digest else ""
    return f"Features of {side.name}{by}, {why}; scores of another extractor are not comparable."


def _methods(
    sides: Sequence[_Side], references: Sequence[Features], computed: Collection[str], half_distances: bool
) -> list[str]:
    """How the scores that could be computed were."""
    distances = "float16 where finite, as the ADM suite's." if half_distances else "float32."
    parts = []
    for side, reference in zip(sides, references, strict=True):
        scores = [score for score in side.scores if score.name in computed]
        if distant := [score for score in scores if isinstance(score, FID | FIDInfinity)]:
            statistics = _statistics(side.reference, reference)
            parts.append(f"Reference of {_listed(distant)}: the statistics {statistics}.")
        if any(score.name == "inception_score" for score in scores):
            parts.append(f"Inception score: mean over splits of up to {SPLIT:,} samples in file order.")
        if shares := [score for score in scores if isinstance(score, Precision | Recall)]:
            listed = _listed(shares)
            parts.append(f"{listed[0].upper()}{listed[1:]}: k = {shares[0].k}, distances in {distances}")
    return [" ".join(parts)] if parts else []


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
    found: FeatureScores,
    samples: ImageSet | FeatureSet,
    references: Sequence[tuple[ImageSet | FeatureSet, Features]],
) -> list[str]:
    cautions = list(samples.notes)
    for reference in {id(reference): reference for reference, _ in references}.values():
        cautions += reference.notes
        if content_digest(reference) == content_digest(samples):
            cautions.append(
                f"Warning: {samples.path} and {reference.path} have the same content: scores of a set beside "
                "itself tell nothing of a network."
            )
        made = [features for other, features in references if other is reference]
        if reference.statistics and all(features.statistics is None for features in made):
            cautions.append(
                f"The statistics stored in {reference.path.name} are by custom Inception's and were not used."
            )
    missing: dict[str, list[str]] = {}
    for score, reason in found.missing.items():
        missing.setdefault(reason, []).append(SCORES[score].full_name)
    cautions += [f"No {' or '.join(lacking)}: {reason}." for reason, lacking in missing.items()]
    if found.intervals:
        methods: dict[str, list[Score]] = {}
        for name in found.intervals:
            methods.setdefault(SCORES[name].interval_by.format(groups=GROUPS), []).append(SCORES[name])
        told = ", ".join(f"{_listed(scores)} {method}" for method, scores in methods.items())
        recall = any(isinstance(SCORES[name], Recall) for name in found.intervals)
        cautions.append(
            f"95% intervals: {told}. They are of the expected score of as many samples from one network"
            f"{' (of recall, over draws of the references)' * recall}. The score of another draw falls "
            "outside more often than in 5% of cases, and training seeds are not covered."
        )
    if "inception_score" in found.values:
        cautions += _of_splits(samples)
    biased = [SCORES[name] for name in found.values if isinstance(SCORES[name], FID)]
    if biased and (samples.count or 0) < PUBLISHED:
        are, them, those = ("is", "it", "that") if len(biased) == 1 else ("are", "them", "those")
        cautions.append(
            f"Warning: with fewer than {PUBLISHED:,} samples {_listed(biased)} {are} biased upward: compare "
            f"{them} only with {those} of equally many samples."
        )
    return cautions


def _of_splits(samples: ImageSet | FeatureSet) -> list[str]:
    """What makes the Inception score's splits differ from those of papers."""
    if not samples.count or samples.count == SPLIT:
        return []
    if samples.count < SPLIT:
        return [
            f"Warning: with fewer than {SPLIT:,} samples the Inception score is biased downward: compare it "
            "only with that of equally many samples."
        ]
    cautions = []
    if isinstance(samples, ImageSet) and samples.order:
        cautions.append(
            f"Warning: the Inception score is too low where its splits of {SPLIT:,} consecutive images hold "
            f"few of the classes. Those of {samples.path} {samples.order}: put them into one folder under "
            "random names, or into an .npz in random order."
        )
    if last := samples.count % SPLIT:
        cautions.append(
            f"Warning: the last split of the Inception score has {last:,} of {SPLIT:,} images and weighs as "
            f"much as the others: score a multiple of {SPLIT:,} images."
        )
    return cautions


def _of_few(score: Score, samples: Features, reference: Features) -> str:
    """What so few images do to scores other than FID and the Inception score; empty if they do nothing."""
    count = samples.count("samples")
    fewest = min(count, reference.count("reference"))
    if isinstance(score, KID) and fewest < SUBSET_SIZE:
        return (
            f"Warning: {score.full_name} is of subsets of {fewest:,} images, not of {SUBSET_SIZE:,}: compare "
            "it only with that of equally many."
        )
    if isinstance(score, MIND) and fewest < PUBLISHED:
        return (
            f"Warning: {score.full_name} is of {fewest:,} images of each set and biased upward: compare it "
            "only with that of equally many."
        )
    if isinstance(score, FIDInfinity):
        assert samples.pool is not None
        if count < FOR_INFINITY * (width := samples.pool.shape[1]):
            return (
                f"Warning: {score.full_name} from {count:,} samples of {width:,} features is unreliable and "
                f"may be negative: use {FOR_INFINITY * width:,} samples or more."
            )
    return ""


def _listed(scores: Sequence[Score]) -> str:
    """`FID, sFID and Inception score`."""
    *others, last = (
        score.full_name.replace("Precision", "precision").replace("Recall", "recall") for score in scores
    )
    return f"{', '.join(others)} and {last}" if others else last
