"""Records of samples from any source: from a comparison to records, and beside published figures."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import registry
from bench import records
from bench.metrics.beside import Beside
from bench.metrics.references import REFERENCES
from bench.metrics.scores import SCORES
from bench.records.schema import LABEL_LENGTH, WORDS_LENGTH, Balance, Record, Scored, ScoredRequest
from bench.studies import published
from bench.studies.published import field
from bench.studies.staleness import fingerprints
from bench.utils.text import hidden_character
from registry.errors import UsageError, suggest

if TYPE_CHECKING:
    from bench.metrics.evaluation import Comparison

FIGURES = published.QUALITY  # what published rows have
SAMPLES = 50_000  # behind published figures
PRECISION_IMAGES = 10_000  # that published precision and recall compare with
PRECISION_IMAGES_512 = 1_000  # likewise, at 512 pixels


@dataclass(frozen=True)
class Declared:
    """What a user declares of samples.

    Attributes:
        label: what was sampled and how, such as `EDM2-S, guidance 1.4`; None where nothing is recorded.
        model: the registered backbone that made them; None where none is named.
        provenance: where they come from, in words.
        labels: whether their classes are balanced or drawn; None: as the labels in their file say.
        published: name of the published rows to set them beside.
        record: whether a record is wanted.

    Raises:
        UsageError: a record without a label or the other way round, something else for a record that is not
            wanted, an unknown backbone or published row; a text that is empty, too long or holds control
            characters.
    """

    label: str | None = None
    model: str | None = None
    provenance: str = ""
    labels: Balance | None = None
    published: str | None = None
    record: bool = False

    def __post_init__(self) -> None:
        if self.record != (self.label is not None):
            raise UsageError(
                "a record takes a label, and a label a record: give both --label and --record, or neither"
            )
        for name in ("model", "provenance", "labels"):
            shown = name == "labels" and self.published  # beside published rows
            if getattr(self, name) and not (self.record or shown):
                raise UsageError(
                    f"--{name} is for a record, and none is wanted: add --record and --label, or leave it out"
                )
        for name, most in (
            ("label", LABEL_LENGTH),
            ("provenance", WORDS_LENGTH),
            ("published", LABEL_LENGTH),
        ):
            text = getattr(self, name)
            if text is None:
                continue
            if hidden := hidden_character(text):
                raise UsageError(f"--{name} holds the control character {hidden}: leave it out")
            if len(text) > most:
                raise UsageError(f"--{name} has {len(text):,} characters; a record takes {most:,}")
            object.__setattr__(self, name, text.strip())
        if self.label == "":
            raise UsageError("--label is empty: say what was sampled and how, such as 'EDM2-S, guidance 1.4'")
        if self.model is not None:
            object.__setattr__(self, "model", registry.backbones.find(self.model).name)
        if self.published is not None:
            named(self.published)


def results(found: Comparison, told: Declared) -> list[Scored]:
    """A result for each extractor of a comparison.

    Raises:
        UsageError: labels are declared to be what the labels in the samples' file are not.
    """
    if told.labels and found.balance not in ("unknown", told.labels):
        raise UsageError(
            f"--labels {told.labels}: the labels in {found.samples} (arr_1) are {found.balance}; leave the "
            "option out"
        )
    made = []
    for extractor, reference in found.reference_sets.items():
        own = [name for name in found.scores if (SCORES[name].extractor or found.extractor) == extractor]
        made.append(
            Scored(
                request=ScoredRequest(
                    label=told.label or "samples",
                    extractor=extractor,
                    reference=reference.digest,
                    half_distances=found.half_distances,
                ),
                scores={name: found.scores[name] for name in own},
                intervals={name: found.intervals[name] for name in own if name in found.intervals},
                samples=_readable(found.sample_set),
                reference=_readable(reference),
                labels=told.labels or found.balance,
                labels_from="declaration" if told.labels else None if found.balance == "unknown" else "file",
                model=told.model,
                provenance=told.provenance,
                published=told.published,
            )
        )
    return made


def _readable(told: Any) -> Any:
    """A set whose file's name has no character that a record cannot hold."""
    file = "".join("�" if hidden_character(character) else character for character in told.file)
    return told.model_copy(update={"file": file})


def record(found: Comparison, told: Declared, folder: str | Path, device: str = "cpu") -> list[Path]:
    """Write the records of a comparison, one for each extractor.

    Scores that were recorded before of the same samples, by the same extractor, stay, and so does what was
    declared of these samples and is not declared now.

    Args:
        found: what was compared.
        told: of the samples; its label is needed.
        folder: of records.
        device: where it was computed.

    Warns:
        UserWarning: a record of other samples under the same label is replaced; recorded scores are dropped,
            because the extractor has changed; a declaration replaces another one.

    Raises:
        UsageError: see `results`; the folder cannot be written to.
    """
    paths = []
    for result in results(found, told):
        request = result.request
        own = fingerprints(request, scores=result.scores)
        own = own.model_copy(update={"extractor": found.extractors[request.extractor]})
        if before := _before(Path(folder) / request.file):
            old, past = before.result, before.fingerprints
            assert isinstance(old, Scored)
            if old.samples.digest != result.samples.digest:
                warnings.warn(
                    f"replaced the record of other samples (digest {old.samples.digest}) that had the label "
                    f"{request.label!r} too: give each set of samples a label of its own",
                    stacklevel=2,
                )
            else:
                result = _declared(old, result)
                if (past.scorer, past.extractor) == (own.scorer, own.extractor):
                    scores, intervals = old.scores | result.scores, old.intervals | result.intervals
                    result = result.model_copy(update={"scores": scores, "intervals": intervals})
                    own = own.model_copy(update={"versions": past.versions | own.versions})
                elif dropped := [name for name in old.scores if name not in result.scores]:
                    what = "code" if past.extractor == own.extractor else "weights"
                    warnings.warn(
                        f"dropped {', '.join(dropped)} from the record of {request.label!r}: since then the "
                        f"{what} of {request.extractor} changed; compute them again to record them together",
                        stacklevel=2,
                    )
        paths.append(records.write(result, folder, fingerprints=own, device=device))
    return paths


def _declared(old: Scored, new: Scored) -> Scored:
    """A result of the same samples as an older one, with what only that one tells of them."""
    empty: dict[str, Any] = {"labels": "unknown", "provenance": "", "model": None, "published": None}
    kept = {}
    for name, nothing in empty.items():
        before, now = getattr(old, name), getattr(new, name)
        if now == nothing:
            kept[name] = before
        elif before not in (nothing, now):
            warnings.warn(
                f"the record of {old.request.label!r} had {name} {before!r}; now it has {now!r}", stacklevel=3
            )
    if "labels" in kept:
        kept["labels_from"] = old.labels_from
    return new.model_copy(update=kept)


def _before(path: Path) -> Record | None:
    """The record that was there before; None of none, and of a damaged one."""
    try:
        return records.read_file(path) if path.is_file() else None
    except UsageError:
        return None


# ---- published figures ----


@dataclass(frozen=True)
class _Row:
    """A published row, whichever table it is from."""

    name: str
    aliases: tuple[str, ...]
    resolution: int
    conditions: str
    source: str
    url: str
    figures: dict[str, float]


def _rows() -> Iterator[_Row]:
    """Every row of the field, then those of the other published tables."""
    for row in field.rows():
        short = re.sub(r" @\d+$", "", row.plain)
        steps = row.training_steps
        training = f"{int(steps):,} steps, " if steps.isdecimal() else f"{steps}, " if steps else ""
        guidance = f"guidance {row.cfg_scale}, " if row.cfg_scale not in ("", "1.0") else "no guidance, "
        yield _Row(
            row.row,
            (row.plain, short, *filter(None, [row.backbone])),
            row.resolution,
            f"{row.resolution}×{row.resolution}, {training}{guidance}{row.sampler or 'sampler not stated'}",
            row.source,
            row.source_url,
            {name: value for name in FIGURES if (value := getattr(row, name)) is not None},
        )
    for other in published.rows():
        where = other.source if not other.of_the_paper else f"Table {other.table} of {published.source()}"
        yield _Row(
            other.label,
            tuple(filter(None, [other.model])) if not other.overrides else (),
            256,
            f"256×256, {int(other.printed['training_steps']):,} steps, {', '.join(other.conditions)}",
            where,
            "",
            {name: float(text) for name in FIGURES if (text := other.printed.get(name))},
        )


def named(name: str) -> list[_Row]:
    """The published rows of a name: those printed so, else those of a network of that name.

    Raises:
        UsageError: there is none.
    """
    every = [row for row in _rows() if row.figures]
    wanted = name.strip().casefold()
    found = [row for row in every if row.name.casefold() == wanted]
    found = found or [row for row in every if wanted in map(str.casefold, row.aliases)]
    if not found:
        names = list(dict.fromkeys(name for row in every for name in (row.name, *row.aliases)))
        raise UsageError(
            f"no published row is named {name!r}.{suggest(name, names)} "
            "bench/studies/published/field.csv has them"
        )
    # Several tables print some figures; the row with most of them stands for all of its name.
    found.sort(key=lambda row: -len(row.figures))
    kept: list[_Row] = []
    for row in found:
        if not any(row.name == o.name and row.figures.items() <= o.figures.items() for o in kept):
            kept.append(row)
    return kept


def beside(result: Scored) -> list[Beside]:
    """The published rows that a result names, with differences where the two compare."""
    return [_beside(row, result) for row in named(result.published)] if result.published else []


def with_published(found: Comparison, told: Declared) -> Comparison:
    """A comparison with the published rows that are named."""
    if told.published is None:
        return found
    rows = [each for result in results(found, told) for each in beside(result)]
    return replace(found, published=rows)


def _beside(row: _Row, result: Scored) -> Beside:
    refused = _refusals(row, result)
    scores: dict[str, tuple[float, float | None, float | None]] = {}
    for name, figure in row.figures.items():
        ours = result.scores.get(name)
        scores[name] = (figure, ours, None if refused or ours is None else ours - figure)
    return Beside(
        row.name, row.conditions, row.source, row.url, scores, (*refused, *_cautions(row, result, scores))
    )


def _refusals(row: _Row, result: Scored) -> list[str]:
    """Why a row and a result are not comparable."""
    found = []
    extractor, size = result.request.extractor, result.samples.size or result.reference.size
    if extractor != "inception":
        found.append(f"Not compared: published scores are of Inception features, these of {extractor}'s.")
    if size is not None and size != (row.resolution, row.resolution):
        found.append(
            f"Not compared: published at {row.resolution}×{row.resolution} pixels, these samples have "
            f"{size[0]}×{size[1]}."
        )
    return found


def _cautions(row: _Row, result: Scored, scores: Collection[str]) -> list[str]:
    """Differences of a row and a result, and what is unknown about them."""
    found = []
    if (result.samples.size or result.reference.size) is None:
        found.append(f"The resolution of these samples is unknown; the row's is {row.resolution} pixels.")
    if result.samples.count != SAMPLES:
        found.append(
            f"Published from {SAMPLES:,} samples, these are {result.samples.count:,}: fewer raise FID and "
            "sFID."
        )
    usual = [each.file for each in REFERENCES if str(row.resolution) in re.findall(r"\d+", each.data)]
    if result.reference.file in usual:
        found.append(f"By its name, the reference is {result.reference.file}; the row does not name its own.")
    else:
        found.append(
            f"Papers at this resolution use other references than {result.reference.file} "
            f"({', '.join(usual) or 'none is known'}); the row does not name its own."
        )
    images = PRECISION_IMAGES_512 if row.resolution == 512 else PRECISION_IMAGES
    if {"precision", "recall"} & {*scores} and result.reference.count not in (None, images):
        found.append(
            f"Precision and recall: published ones compare with {images:,} images, these with "
            f"{result.reference.count:,}."
        )
    found.append(
        "The row does not say which program computed its scores, nor whether its samples' classes were "
        f"balanced; the classes of these samples: {result.labels}."
    )
    return found
