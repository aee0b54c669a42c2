"""The page of samples from any source: a table for each extractor and reference, with published rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench.metrics.scores import SCORES
from bench.records.schema import Record, Scored
from bench.reports.page import Column, Entry, Page, Section, Table
from bench.studies.scored import beside
from bench.studies.staleness import outdated
from registry.errors import UsageError

FILE = "scored"
TITLE = "Scored samples"


def page(found: Iterable[Record]) -> Page | None:
    """The page; None without records of scored samples.

    Args:
        found: records of any kind.
    """
    groups: dict[tuple[Any, ...], list[tuple[Record, Scored]]] = {}
    for record in found:
        if isinstance(result := record.result, Scored):
            groups.setdefault(_conditions(record, result), []).append((record, result))
    if not groups:
        return None
    text = (
        "Samples from any source, scored by `bench eval --record`. Scores are comparable only within a "
        "table: the same extractor and weights, the same reference, the same number of samples."
    )
    sections = [Section(text=[text]), *(_section(groups[key]) for key in sorted(groups, key=str))]
    return Page(FILE, TITLE, sections)


def values(found: Iterable[Record]) -> list[dict[str, Any]]:
    """For each record, its values for CSV."""
    rows = []
    for record in found:
        if isinstance(result := record.result, Scored):
            told = {"extractor": result.request.extractor, "weights": record.fingerprints.extractor}
            rows.append(
                {
                    "label": result.request.label,
                    **told,
                    "reference": result.reference.file,
                    "reference digest": result.reference.digest,
                    "samples digest": result.samples.digest,
                    "samples": result.samples.count,
                    "references": result.reference.count,
                    "half distances": result.request.half_distances,
                    "labels": result.labels,
                    "backbone": result.model,
                    "provenance": result.provenance,
                    **result.scores,
                    "record": record.file,
                }
            )
    return rows


def _conditions(record: Record, result: Scored) -> tuple[Any, ...]:
    """The conditions that comparable scores have in common."""
    request = result.request
    weights = record.fingerprints.extractor
    reference = result.reference
    return request.extractor, weights, reference.digest, result.samples.count, request.half_distances


def _section(group: Sequence[tuple[Record, Scored]]) -> Section:
    first, result = group[0]
    request, reference = result.request, result.reference
    title = f"{request.extractor}, {reference.file}, {result.samples.count:,} samples"
    scores = [score for name, score in SCORES.items() if any(name in each.scores for _, each in group)]
    columns = [Column("Samples", number=False), Column("Labels", number=False)]
    columns += [Column(score.title) for score in scores]
    rows, notes = [], []
    for record, each in sorted(group, key=lambda pair: pair[1].request.label):
        texts = [score.text(each.scores.get(score.name)) for score in scores]
        label = each.request.label
        rows.append([Entry(text, records=(record.file,)) for text in (label, each.labels, *texts)])
        notes += _notes(record, each)
        try:
            published = beside(each)
        except UsageError as error:  # the published row has been renamed since
            published = []
            notes.append(f"{label}: {error}")
        for other in published:
            printed = {name: figure for name, (figure, _, _) in other.scores.items()}
            name = f"published: {other.row}, {other.conditions}"
            texts = [score.text(printed.get(score.name)) for score in scores]
            rows.append([Entry(name, url=other.url), Entry(""), *map(Entry, texts)])
            notes += [f"{label} beside {other.row}: {note}" for note in other.notes]
    count = f"{reference.count:,} images" if reference.count else "statistics only"
    weights = f" (weights {first.fingerprints.extractor})" if first.fingerprints.extractor else ""
    remarks = [
        f"Features of {request.extractor}{weights}. Reference: {reference.file} (digest {reference.digest}), "
        f"{count}. Fréchet distances: reference statistics {reference.statistics}.",
        *(["Precision and recall by float16 distances."] if request.half_distances else []),
        *dict.fromkeys(notes),
    ]
    return Section(title, table=Table(columns, rows, remarks=remarks))


def _notes(record: Record, result: Scored) -> list[str]:
    """Notes on a record: backbone, provenance, staleness."""
    label = result.request.label
    notes = []
    if result.model:
        notes.append(f"{label}: made by {result.model}.")
    if result.provenance:
        notes.append(f"{label}: {result.provenance}")
    if why := outdated(record):
        notes.append(f"{label} is stale: {why}.")
    return notes
