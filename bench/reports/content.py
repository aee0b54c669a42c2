"""From a study and a folder of records to a page: what is published and measured, and what it shows."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import records
from bench.reports.page import Entry, Grid, Page, Section
from bench.reports.statistics import BySeed, Summary, compare_rows, detectable, rank_correlation, summary
from bench.studies import SCORES, Row, Study, published
from bench.studies.cells import cells, cost_asked
from bench.training import protocols
from registry.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

TABLES = {
    name: i for i, name in enumerate("toy scaling guidance training-steps downsampler components".split(), 1)
}

_PUBLISHED = {
    "training_steps": "Steps",
    "cfg_scale": "CFG",
    "gflops": "GFLOPs",
    "fid": "FID↓",
    "sfid": "sFID↓",
    "inception_score": "IS↑",
    "precision": "Prec.↑",
    "recall": "Rec.↑",
}
# Column of a study -> key of a cost record, heading, and what it is divided by.
COST_COLUMNS = {
    "params": ("parameters", "Params (M)", 1e6),
    "params_deployed": ("parameters_deployed", "deployed (M)", 1e6),
    "gflops": ("paper_gflops", "GFLOPs", 1),
    "macs": ("macs", "GMACs", 1e9),
    "memory": ("activation_bytes", "Memory (MiB)", 2**20),
}
# Score -> heading, digits, and what it is multiplied by.
SCORE_COLUMNS = {
    **{score: (_PUBLISHED[score], 2, 1) for score in ("fid", "sfid", "inception_score")},
    **{score: (_PUBLISHED[score], 3, 1) for score in ("precision", "recall")},
    "kid": ("KID·10³↓", 2, 1000),
    "loss": ("Loss↓", 4, 1),
}
LEVEL = 0.05  # of significance
# What a record must tell to be shown, by measure.
_NEEDED = {
    "cost": {*(key for key, _, _ in COST_COLUMNS.values()), "stages"},
    "throughput": {"images_per_second", "batch_size", "compiled"},
    "quality": {"extractor", "samples", "reference"},
}
_HIGHER_IS_BETTER = ("inception_score", "precision", "recall")


class Setting(NamedTuple):
    """How quality was measured. Scores of two settings do not compare and never share a column."""

    protocol: str
    words: str  # the protocol's title
    extractor: str
    weights: str | None
    digest: str | None  # of the data


@dataclass(frozen=True)
class Line:
    """A row of a study and what records say of it.

    Attributes:
        cost: values and environment; None where there is no record.
        quality: records by setting, one for each seed.
    """

    row: Row
    cost: dict[str, Any] | None
    quality: dict[Setting, list[dict[str, Any]]]

    @property
    def label(self) -> str:
        """As the paper prints it, where the row stands for a published one."""
        return self.row.published.label if self.row.published else self.row.label

    def by_seed(self, setting: Setting, score: str) -> dict[int, float]:
        """Finite values of the seeds measured in that setting."""
        found = {r["asked"]["seed"]: r["values"].get(score) for r in self.quality.get(setting, [])}
        return {seed: x for seed, x in found.items() if isinstance(x, int | float) and math.isfinite(x)}

    def score(self, setting: Setting, score: str) -> Summary | None:
        """Over the seeds measured in that setting; None of none."""
        return summary([*self.by_seed(setting, score).values()])

    def trained_gflops(self, setting: Setting) -> float | None:
        """What the network costs at the size in which the setting's protocol trains it."""
        found = [record["values"].get("network", {}) for record in self.quality.get(setting, [])]
        return found[0].get("paper_gflops") if found else None


@dataclass(frozen=True)
class Speed:
    """Images per second of the rows that have a record, all measured in one way on one device."""

    how: str  # mode, arithmetic, batch and device, in words
    figures: dict[str, float]  # variant -> images per second


class Kept:
    """The records of a folder.

    Raises:
        UsageError: there is no such folder, or a record lacks values that every such record has.

    Warns:
        UserWarning: names each damaged record; it is left out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = records.read(folder)
        self._by_file = {record["file"]: record for record in self.records}
        for record in self.records:
            if lacks := _NEEDED.get(record["asked"]["measure"], set()) - record["values"].keys():
                raise UsageError(
                    f"record {folder / record['file']} lacks {', '.join(sorted(lacks))}: measure it again"
                )

    def cost(self, row: Row) -> dict[str, Any] | None:
        """What a row's backbone costs at its published size."""
        return self._by_file.get(records.name(cost_asked(row.model, row.overrides)))

    def quality(self, study: Study) -> dict[str, dict[Setting, list[dict[str, Any]]]]:
        """Records of a study's cells by row and setting, of all protocols that have any, seed by seed."""
        found: dict[str, dict[Setting, list[dict[str, Any]]]] = {}
        measured = [record["asked"] for record in self.records if record["asked"]["measure"] == "quality"]
        for name in dict.fromkeys((*protocols.names(), study.protocol)):
            protocol = protocols.load(name)
            seeds = sorted({asked["seed"] for asked in measured if asked["protocol"] == protocol.name})
            for cell in cells(study, protocol, seeds):
                if record := self._by_file.get(cell.file):
                    values = record["values"]
                    setting = Setting(
                        protocol.name,
                        protocol.title,
                        values["extractor"],
                        values.get("weights"),
                        values.get("data_digest"),
                    )
                    found.setdefault(cell.row.label, {}).setdefault(setting, []).append(record)
        return found

    @cached_property
    def speeds(self) -> list[Speed]:
        """What the throughput records say."""
        found: dict[str, dict[str, float]] = {}
        for record in self.records:
            asked, values = record["asked"], record["values"]
            if asked["measure"] == "throughput":
                variant = _variant(asked["model"], asked.get("overrides", {}))
                found.setdefault(_how(record), {})[variant] = values["images_per_second"]
        return [Speed(how, found[how]) for how in sorted(found)]

    def ledger(self) -> str:
        """Every record with the SHA-256 of its file, as CSV: a report is current while these are the same."""
        import pandas as pd

        rows = [
            {
                "file": record["file"],
                "sha256": hashlib.sha256((self.folder / record["file"]).read_bytes()).hexdigest(),
                **{key: record["asked"].get(key) for key in ("measure", "model", "protocol", "seed")},
                **{key: record["environment"].get(key) for key in ("device", "torch", "commit", "date")},
            }
            for record in self.records
        ]
        return _csv(pd.DataFrame(rows).astype({"seed": "Int64"}) if rows else pd.DataFrame(columns=["file"]))


def lines(
    study: Study, kept: Kept | None, cost: Callable[[Row], dict[str, Any] | None] | None = None
) -> list[Line]:
    """The rows of a study with their records.

    Args:
        study: see `bench.studies`.
        kept: None where there are no records.
        cost: values and environment of a row's cost, in place of the records'.
    """
    quality = kept.quality(study) if kept else {}
    find = cost or (kept.cost if kept else lambda row: None)
    return [Line(row, find(row), quality.get(row.label, {})) for row in study.rows]


def page(study: Study, rows: Sequence[Line], kept: Kept | None, pictures: Mapping[str, str] = {}) -> Page:
    """The page of a study.

    Args:
        study: see `bench.studies`.
        rows: its lines.
        kept: the records, for speed.
        pictures: file -> description, shown at the end.
    """
    number = TABLES.get(study.name)
    title = f"Table {number}: {published.title(number)}" if number else study.title
    sections = [overview(study, rows, kept)]
    sections += [_quality(study, rows, setting) for setting in settings(rows)]
    if len(sections) == 1:
        text = "Not measured here: there is no record of a row's quality, under any protocol."
        sections.append(Section("Quality", remarks=[text]))
    sections += [Section(description, picture=(file, description)) for file, description in pictures.items()]
    return Page(f"table-{number}" if number else study.name, title, sections)


def settings(rows: Sequence[Line]) -> list[Setting]:
    """All in which some row's quality was measured."""
    return sorted({setting for line in rows for setting in line.quality}, key=str)


# ---- published figures, cost and speed ----


def overview(study: Study, rows: Sequence[Line], kept: Kept | None) -> Section:
    """Published figures beside measured cost, and speed where there are records of it."""
    columns = {f"{heading}, published": texts for heading, texts in _printed(rows).items()}
    grid = {heading: [Entry(text) for text in texts] for heading, texts in columns.items()}
    for key, heading, scale in _cost_columns(study, rows):
        grid[f"{heading}, measured"] = [
            Entry(f"{line.cost['values'][key] / scale:.2f}" if line.cost else "") for line in rows
        ]
    shown = _shown_speeds(rows, kept)
    for letter, speed in zip(ascii_lowercase, shown, strict=False):
        grid[f"Images/s [{letter}], measured"] = _best([_speed(line, speed) for line in rows], max, _three)
    notes = _footnotes(rows)
    gaps = any(
        not entry.text for heading, entries in grid.items() if heading not in columns for entry in entries
    )
    missing = " An empty cell: not measured." if gaps else ""
    return Section(
        grid=_grid(rows, notes, grid),
        footnotes=[text for _, text in notes],
        remarks=[
            *(f"[{letter}] {speed.how}." for letter, speed in zip(ascii_lowercase, shown, strict=False)),
            *([f"Published: {published.source()}."] if columns else []),
            "Measured: parameters, trained and (where they differ) deployed, that is merged for inference; "
            "GFLOPs in the U-DiT paper's convention (multiply-accumulates, plus one for each output element "
            "of an elementwise product); one forward pass of the deployed network, batch 1, at its own input "
            "size, counted on shapes alone." + missing,
            _environment([line.cost for line in rows if line.cost], "Counted"),
        ],
    )


def _printed(rows: Sequence[Line]) -> dict[str, list[str]]:
    """Published figures as printed, by heading; what the table does not print is left out."""
    found: dict[str, list[str]] = {}
    for figure, heading in _PUBLISHED.items():
        texts = [line.row.published.printed[figure] if line.row.published else "" for line in rows]
        if figure == "training_steps":
            texts = [_steps(int(text)) if text else "" for text in texts]
        told = {text for text in texts if text}
        if figure in ("training_steps", "cfg_scale"):  # told where rows differ in it, or it is unusual
            usual = {"1.0"} if figure == "cfg_scale" else told if len(told) == 1 else set()
            if told <= usual:
                continue
        if told:
            found[heading] = texts
    return found


def _steps(count: int) -> str:
    return f"{count // 1_000_000}M" if count >= 1_000_000 else f"{count // 1000}K"


def _cost_columns(study: Study, rows: Sequence[Line]) -> list[tuple[str, str, float]]:
    """Those the study asks for, and deployed parameters where they differ from the trained ones."""
    known = [line.cost["values"] for line in rows if line.cost]
    differ = any(values["parameters"] != values["parameters_deployed"] for values in known)
    return [
        COST_COLUMNS[column]
        for column in COST_COLUMNS
        if column in study.columns or (column == "params_deployed" and differ)
    ]


def _shown_speeds(rows: Sequence[Line], kept: Kept | None) -> list[Speed]:
    return [s for s in kept.speeds if any(_speed(line, s) is not None for line in rows)] if kept else []


def _speed(line: Line, speed: Speed) -> float | None:
    return speed.figures.get(_variant(line.row.model, line.row.overrides))


def _variant(model: str, overrides: dict[str, Any]) -> str:
    return json.dumps([model, overrides], sort_keys=True)


def _how(record: dict[str, Any]) -> str:
    asked, values, where = record["asked"], record["values"], record["environment"]
    size = asked["input_size"]
    height, width = size if isinstance(size, list) else (size, size)
    options = ["compiled"] * (values["compiled"] == "yes") + ["channels last"] * asked["channels_last"]
    threads = [f"{where['threads']} threads"] * (asked["device"] == "cpu")
    mode = "training" if asked["train"] else "inference"
    batch = f"batch {values['batch_size']} at {height}×{width}"
    return ", ".join([mode, asked["dtype"], batch, *options, asked["device_name"], *threads])


def _three(value: float) -> str:
    """Three significant figures, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _footnotes(rows: Sequence[Line]) -> list[tuple[set[str], str]]:
    """(labels of the rows concerned, or none for the whole table; text)."""
    numbers = sorted({line.row.published.table for line in rows if line.row.published})
    known = published.footnotes(numbers[0]) if len(numbers) == 1 else []
    notes = [({line.row.label for line in rows if line.label in of}, text) for of, text in known]
    explained = {label for labels, _ in notes for label in labels}
    for line in rows:
        printed = line.row.published.printed["gflops"] if line.row.published else ""
        if line.cost and printed and line.row.label not in explained:
            measured = line.cost["values"]["paper_gflops"]
            if f"{measured:.2f}" != printed:
                notes.append(({line.row.label}, f"Prints {printed}, measured {measured:.4f}."))
    if extra := {line.row.label for line in rows if line.row.extra}:
        notes.append((extra, "Added here; the paper has no such row."))
    return notes


# ---- quality ----


def _quality(study: Study, rows: Sequence[Line], setting: Setting) -> Section:
    """Scores measured in one setting, and what they show."""
    grid: dict[str, list[Entry]] = {}
    printed = [line.row.published.printed["fid"] if line.row.published else "" for line in rows]
    if any(printed):
        grid["FID↓, published"] = [Entry(text) for text in printed]
    for score in SCORES:
        heading = SCORE_COLUMNS[score][0]
        found = [line.score(setting, score) for line in rows]
        if score not in study.columns or not any(found):
            continue
        texts = [spread(score, one) for one in found]
        means = [None if one is None else one.mean for one in found]
        better = max if score in _HIGHER_IS_BETTER else min
        best = [entry.best for entry in _best(means, better, str)]
        grid[heading] = [Entry(text, is_best) for text, is_best in zip(texts, best, strict=True)]
    costs = [line.trained_gflops(setting) for line in rows]
    if any(costs):
        grid["GFLOPs, as trained"] = [Entry("" if cost is None else f"{cost:.4f}") for cost in costs]
    measured = [line.quality.get(setting, []) for line in rows]
    grid["Seeds"] = [Entry(str(len(one)) if one else "") for one in measured]
    known = [record for of_seeds in measured for record in of_seeds]
    changed: dict[str, set[str]] = {}
    for line, of_seeds in zip(rows, measured, strict=True):
        if of_seeds and (text := _changes(line.row)):
            changed.setdefault(text, set()).add(line.row.label)
    notes = [(labels, text) for text, labels in changed.items()]
    values = known[0]["values"]
    samples, reference = (f"{values[key]:,}" for key in ("samples", "reference"))
    missing = "" if all(measured) else " An empty cell: not measured."
    remarks = [
        f"Protocol {setting.protocol}: {setting.words}.",
        *(
            []
            if setting.protocol == "paper"
            else ["Scores of this reduced protocol compare with each other, not with the published ones."]
        ),
        f"Mean ± standard deviation over training seeds; the best mean is bold.{missing}",
        f"Extractor {setting.extractor}, weights {setting.weights} (SHA-256); {samples} samples beside "
        f"{reference} reference images. Scores of other extractors do not compare with these.",
        _environment(known, "Measured"),
        *_findings(rows, setting),
    ]
    title = f"Quality, protocol {setting.protocol}, extractor {setting.extractor}"
    return Section(title, _grid(rows, notes, grid), [text for _, text in notes], remarks)


def spread(score: str, found: Summary | None) -> str:
    """Mean ± standard deviation as text, in the digits of a score; "" of none."""
    if found is None:
        return ""
    _, digits, factor = SCORE_COLUMNS[score]
    mean = f"{found.mean * factor:.{digits}f}"
    return mean if found.deviation is None else f"{mean} ± {found.deviation * factor:.{digits}f}"


def _changes(row: Row) -> str:
    """What a row sets itself of how it is trained and sampled, in words."""
    own = {**(row.training or {}), **(row.sampling or {})}
    if row.cfg_scale is not None:
        own["guidance"] = row.cfg_scale
    if row.step is not None:
        own["the weights after step"] = f"{row.step:,}"
    told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in own.items())
    return f"Here with {told}." if told else ""


def _findings(rows: Sequence[Line], setting: Setting) -> list[str]:
    """The order found here beside the published one, and which rows cannot be told apart."""
    found = [(line, fids) for line in rows if (fids := line.by_seed(setting, "fid"))]
    printed = {
        i: float(line.row.published.printed["fid"]) for i, (line, _) in enumerate(found) if line.row.published
    }
    texts = []
    if len(printed) > 1:
        texts = _ranking([found[i][1] for i in printed], [*printed.values()])
    comparison = compare_rows([fids for _, fids in found])
    if comparison.pairs:
        apart = [pair for pair, separable in comparison.pairs.items() if separable]
        mean = comparison.means
        agree = [
            (mean[i] - mean[j]) * (printed[i] - printed[j]) > 0
            for i, j in apart
            if {i, j} <= printed.keys() and printed[i] != printed[j]
        ]
        told = f"{len(apart)} of {len(comparison.pairs)} pairs of rows are separable in FID"
        if agree:
            of = "these" if len(agree) == len(apart) else f"the {len(agree)} whose published figures differ"
            told += f", {sum(agree)} of {of} as published"
        count, seeds = len(found) - len(comparison.left_out), len(comparison.seeds)
        visible = detectable(comparison.deviation, count, seeds)
        texts.append(
            f"{told}: their means over {seeds} common seeds lie more than {comparison.critical:.2f} apart "
            f"(Tukey's range test; residual deviation {comparison.deviation:.2f}, {comparison.degrees} "
            "degrees of freedom). The error of the whole table is 5%: were all rows equal, 95 of 100 such "
            f"tables would show no separable pair. A true difference of {visible:.2f} is found with "
            "probability 0.8."
        )
        alike = [[found[i][0].row.label for i in group] for group in comparison.groups() if len(group) > 1]
        if alike:
            texts.append("Not separable among themselves: " + "; ".join(map(", ".join, alike)) + ".")
    if comparison.left_out:
        names = ", ".join(found[i][0].row.label for i in comparison.left_out)
        texts.append(f"Undecided, without two seeds in common with the other rows: {names}.")
    return texts


def _ranking(found: Sequence[BySeed], printed: Sequence[float]) -> list[str]:
    found_here = rank_correlation(found, printed)
    if found_here is None:
        return ["No rank correlation with the published order: it takes three measured rows that differ."]
    count = found_here.rows
    interval = "no interval, for it takes two seeds in common"
    if found_here.interval:
        low, high = map(_signed, found_here.interval)
        interval = f"95% interval {low} to {high}, the orders that respect all pairs told apart"
    chance = ""
    if found_here.chance is not None:
        chance = " If all orders were equally likely, ρ would be as high or higher with probability "
        chance += _chance(found_here.chance)
        if found_here.least > LEVEL:
            least = _chance(found_here.least)
            chance += f": {count} rows can go no lower than {least}, so no order of them is significant."
        else:
            negated = "" if found_here.chance <= LEVEL else "not "
            chance += f", which is {negated}significant at {LEVEL}."
    return [
        f"Order by mean FID here against the published order: Spearman's ρ = {_signed(found_here.rho)} over "
        f"{count} rows; {interval}.{chance}",
        "This shows how far the changes rank small networks under this protocol as they rank the published "
        "ones. It confirms no published score or gap, and the interval knows of seeds only, not of other "
        "protocols, data or sizes.",
    ]


def _signed(rho: float) -> str:
    return f"{rho:.2f}".replace("-", "−")


def _chance(probability: float) -> str:
    return f"{probability:.2f}" if probability >= 0.1 else f"{probability:.4f}"


# ---- common to both ----


def _grid(rows: Sequence[Line], notes: list[tuple[set[str], str]], columns: dict[str, list[Entry]]) -> Grid:
    """Columns of entries under their headings, after one of labels with the marks of their footnotes."""
    labels = [
        line.label + "".join(f" [{i}]" for i, (of, _) in enumerate(notes, 1) if line.row.label in of)
        for line in rows
    ]
    table = [[Entry(label), *entries] for label, *entries in zip(labels, *columns.values(), strict=True)]
    return Grid(["Model", *columns], table)


def _best(
    values: Sequence[float | None], better: Callable[..., float], text: Callable[[float], str]
) -> list[Entry]:
    """Values as text; the best is marked where they differ."""
    known = [value for value in values if value is not None]
    best = better(known) if len(set(known)) > 1 else None
    return [Entry("") if value is None else Entry(text(value), value == best) for value in values]


def _environment(found: Sequence[dict[str, Any]], did: str) -> str:
    """Where and with what records were made, in words."""
    if not found:
        return "No record of cost yet."
    where: dict[tuple[str, str, str], set[str]] = {}
    for record in found:
        told = record["environment"]
        commit = (told.get("commit") or "unknown")[:7] + ("" if told.get("clean") else " (changed)")
        where.setdefault((told["device"], told["torch"], told["denoiser-bench"]), set()).add(commit)
    places = [
        f"on {device} with torch {torch}, denoiser-bench {version}, commit{'s'[: len(commits) > 1]} "
        f"{', '.join(sorted(commits))}"
        for (device, torch, version), commits in sorted(where.items())
    ]
    return f"{did} {'; '.join(places)}."


# ---- for programs ----


def frame(rows: Sequence[Line], kept: Kept | None) -> pd.DataFrame:
    """Everything on a page as numbers, one row for each of the study's; what is missing is empty."""
    import pandas as pd

    table = []
    for line in rows:
        row = line.row
        told: dict[str, Any] = {
            "label": line.label,
            "model": row.model,
            "overrides": json.dumps(row.overrides, sort_keys=True),
            "extra": row.extra,
        }
        for figure, value in (row.published.values if row.published else {}).items():
            told[f"published {figure}"] = value
        for key, _, _ in COST_COLUMNS.values():
            told[key] = line.cost["values"][key] if line.cost else None
        for speed in _shown_speeds(rows, kept):
            told[f"images per second ({speed.how})"] = _speed(line, speed)
        for setting in settings(rows):
            how = ", ".join(filter(None, (setting.protocol, setting.extractor, setting.weights)))
            for score in SCORES:
                found = line.score(setting, score)
                told[f"{score} mean ({how})"] = found and found.mean
                told[f"{score} deviation ({how})"] = found and found.deviation
            told[f"seeds ({how})"] = len(line.quality.get(setting, [])) or None
        table.append(told)
    return pd.DataFrame(table, dtype=object)


def csv(rows: Sequence[Line], kept: Kept | None) -> str:
    """`frame` as text, six significant digits: the last ones of a mean may differ between machines."""
    table = frame(rows, kept)
    return _csv(
        table.map(lambda value: f"{value:.6g}" if isinstance(value, float) else value, na_action="ignore")
    )


def _csv(table: pd.DataFrame) -> str:
    text = io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    return text.getvalue()
