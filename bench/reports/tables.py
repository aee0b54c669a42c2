"""Builds all tables of studies: from lines to columns, sections, pages and DataFrames."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, repeat
from operator import attrgetter
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import registry
from bench.metrics.scores import MEASURED, SCORES
from bench.records.quantities import COSTS, Quantity, decimals
from bench.records.schema import Cost, Environment, Network, QualityRequest
from bench.reports.findings import METHOD, RUNS_ONLY, by_soundness, caution, findings, verdict
from bench.reports.page import Column, Entry, Page, Section, Table
from bench.reports.select import Line, Selection, Setting, SpeedColumn, once, published_conditions, settings
from bench.reports.statistics import Summary, compare_rows
from bench.studies import Study, StudyRow, published
from bench.studies.cells import known_protocols, measured_cells

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = {
    name: number
    for number, name in enumerate("toy scaling guidance training-steps downsampler components".split(), 1)
}  # of the paper's tables
BOLD = (
    "Bold: the best score of a column and those not significantly worse (Tukey's range test at 5%). A column "
    "without a significant difference has no bold scores."
)
# What published tables print besides scores.
_PRINTED = {"training_steps": "Steps", "cfg_scale": "CFG", "gflops": "GFLOPs"}


class Filled(NamedTuple):
    """A column and its entries, one for each line."""

    column: Column
    entries: list[Entry]

    @property
    def empty(self) -> bool:
        """Whether no entry has text."""
        return not any(entry.text for entry in self.entries)


# ---- columns ----


def published_columns(rows: Sequence[Line]) -> dict[str, list[Filled]]:
    """Columns of published figures as printed, by name, without figures that the table does not print.

    A score has a column for each of its conditions; see `published_conditions`.
    """
    conditions = published_conditions(rows)
    found: dict[str, list[Filled]] = {}
    for figure in (*_PRINTED, *published.QUALITY):
        texts = [line.row.published.printed.get(figure, "") if line.row.published else "" for line in rows]
        if figure == "training_steps":
            texts = [_steps(int(text)) if text else "" for text in texts]
        different = set(filter(None, texts))
        # Steps and guidance are shown if rows differ in them, and guidance also if it is used.
        plain = {"1.0"} if figure == "cfg_scale" else different if len(different) == 1 else set()
        if not different or (figure in ("training_steps", "cfg_scale") and different <= plain):
            continue
        heading = _PRINTED.get(figure) or SCORES[figure].title
        for words in _apart(conditions) if figure in published.QUALITY else [""]:
            shown = [text if words in ("", own) else "" for text, own in zip(texts, conditions, strict=True)]
            title = f"{heading} ({words})" if words else heading
            column = Filled(Column(title, "published"), [Entry(text) for text in shown])
            found.setdefault(figure, []).extend([] if column.empty else [column])
    return found


def _apart(conditions: Sequence[str]) -> list[str]:
    """The different conditions of scores; only `""` if all scores are comparable."""
    return [*dict.fromkeys(filter(None, conditions))] or [""]


def _steps(count: int) -> str:
    return f"{count // 1_000_000}M" if count >= 1_000_000 else f"{count // 1000}K"


def cost_columns(study: Study, rows: Sequence[Line], setting: Setting | None = None) -> dict[str, Filled]:
    """Columns of the study's costs, and of merged parameters if they differ from the trained ones.

    Args:
        study, rows: the study and its lines.
        setting: the setting of the scores in the table. Its protocol may train smaller networks; costs are
            then those of the trained networks. None: costs of the published sizes.
    """
    costs: list[Cost | Network | None]
    if setting:
        costs = [line.trained(setting) for line in rows]
        files = [line.files(setting) for line in rows]
    else:
        costs = [line.cost.cost if line.cost else None for line in rows]
        files = [(line.cost.cost.request.file,) if line.cost else () for line in rows]
    differ = any(cost.parameters != cost.parameters_deployed for cost in costs if cost)
    columns = {}
    for name, quantity in COSTS.items():
        if name in study.columns or (name == "params_deployed" and differ):
            # Records of quality have no activation memory.
            values = [getattr(cost, quantity.field, None) for cost in costs]
            entries = [
                Entry(quantity.text(value), False, of) for value, of in zip(values, files, strict=True)
            ]
            title = f"{quantity.title}, as trained" if setting else quantity.title
            columns[name] = Filled(Column(title, "" if setting else "measured"), entries)
    return columns


def score_columns(
    study: Study, rows: Sequence[Line], setting: Setting, group: Literal["", "measured"] = ""
) -> dict[str, Filled]:
    """Columns of the study's scores: mean ± standard deviation over seeds, the best in bold (`_best`).

    The held-out loss and the scores that the protocol ranks by are shown whenever they were measured.
    """
    columns = {}
    for name, quantity in MEASURED.items():
        found = [line.score(setting, name) for line in rows]
        if name not in (*study.columns, "held_out", *setting.judges) or not any(found):
            continue
        best = _best(rows, setting, quantity)
        entries = [
            Entry(scored(line, setting, quantity), mark, line.files(setting) if one else ())
            for line, one, mark in zip(rows, found, best, strict=True)
        ]
        columns[name] = Filled(Column(quantity.title, group), entries)
    return columns


def speed_columns(rows: Sequence[Line], shown: Sequence[SpeedColumn]) -> dict[str, Filled]:
    """Columns of images per second, one for each setting; a letter refers to the remark about the setting.

    Bold: the fastest row and those whose quartiles over rounds overlap with its own; none if all do.
    """
    columns = {}
    for letter, speed in zip(ascii_lowercase, shown, strict=False):
        known = [line.variant for line in rows if line.variant in speed.figures]
        low, _ = speed.quartiles[max(known, key=speed.figures.__getitem__)]
        fastest = {variant for variant in known if speed.quartiles[variant][1] >= low}
        entries = [
            Entry(
                significant(speed.figures[variant]),
                variant in fastest and len(fastest) < len({*known}),
                (speed.records[variant].file,),
            )
            if (variant := line.variant) in speed.figures
            else Entry("")
            for line in rows
        ]
        columns[letter] = Filled(Column(f"Images/s [{letter}]", "measured"), entries)
    return columns


def seeds_column(rows: Sequence[Line], setting: Setting) -> Filled:
    """The column of the number of seeds measured."""
    counts = [len(line.quality.get(setting, [])) for line in rows]
    return Filled(Column("Seeds"), [Entry(str(count) if count else "") for count in counts])


def scored(line: Line, setting: Setting, quantity: Quantity) -> str:
    """A score of a row as text; see `spread`. It says over how many seeds it is, if not over all."""
    text = spread(quantity, line.score(setting, quantity.name))
    count = len(line.by_seed(setting, quantity.name))
    return f"{text} (n = {count})" if 0 < count < len(line.results(setting)) else text


def spread(quantity: Quantity, found: Summary | None) -> str:
    """Mean ± standard deviation as text, with the digits of the quantity; empty for None."""
    if found is None:
        return ""
    mean = quantity.text(found.mean)
    if found.deviation is None:
        return mean
    digits = len(mean.partition(".")[2])
    return f"{mean} ± {found.deviation * quantity.scale:.{digits}f}"


def significant(value: float) -> str:
    """Three significant figures, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else decimals(value, 2)


def _best(rows: Sequence[Line], setting: Setting, quantity: Quantity) -> list[bool]:
    """Which rows are not significantly worse than the best; none if no difference is significant.

    The test is that of the findings. A row without two seeds in common with the others is not marked.
    """
    lines = once(rows, setting)
    compared = compare_rows([line.better_is_lower(setting, quantity) for line in lines])
    found = compared.best if any(compared.pairs.values()) else []
    best = {lines[i].files(setting) for i in found}
    return [line.files(setting) in best for line in rows]


def table(
    rows: Sequence[Line],
    columns: Iterable[Filled],
    *,
    title: str = "",
    footnotes: Sequence[tuple[set[str], str]] = (),
    remarks: Sequence[str] = (),
    caution: str = "",
    label: Callable[[Line], str] = attrgetter("row.table_label"),
) -> Table:
    """A table of a column of labels, with footnote marks, and further columns.

    Args:
        rows: lines of a study.
        columns: in order; empty ones are left out.
        title: above the table.
        footnotes: (labels of the rows concerned, empty for the whole table; text).
        remarks: below the table.
        caution: above the table.
        label: the label of a line.
    """
    shown = [column for column in columns if not column.empty]
    marked = [(of, text) for of, text in footnotes if of]
    remarks = [*(text for of, text in footnotes if not of), *remarks]
    labels = [
        label(line) + "".join(f" [{i}]" for i, (of, _) in enumerate(marked, 1) if line.row.label in of)
        for line in rows
    ]
    first = [Entry(text, model=line.row.model or "") for text, line in zip(labels, rows, strict=True)]
    entries = zip(first, *(column.entries for column in shown), strict=True)
    return Table(
        [Column("Model", number=False), *(column.column for column in shown)],
        [list(row) for row in entries],
        title,
        [text for _, text in marked],
        [remark for remark in remarks if remark],
        [caution] if caution else [],
    )


# ---- tables ----


def summary_table(
    study: Study, rows: Sequence[Line], setting: Setting | None, remarks: Sequence[str]
) -> Table:
    """The table that `bench ablate` prints: published and measured figures side by side.

    Costs are those of the networks that were trained. A caution is shown if scores do not compare with
    published ones. Those of the protocol `smoke` mean nothing, so no published figures stand beside them.

    Args:
        study, rows: the study and its lines.
        setting: the setting of the scores; None if nothing is measured.
        remarks: how the scores were measured.
    """
    if setting and setting.protocol == RUNS_ONLY:
        rows = [line for line in rows if line.row.model]
        from_paper = {}
    else:
        from_paper = published_columns(rows)
    here = cost_columns(study, rows, setting)
    here |= score_columns(study, rows, setting, "measured") if setting else {}
    columns: list[Filled] = []
    first = [name for name in from_paper if name in ("training_steps", "cfg_scale")]
    for name in dict.fromkeys((*first, *here, *study.columns)):
        columns += from_paper.get(name, []) + ([here[name]] if name in here else [])
    if setting:
        columns.append(seeds_column(rows, setting))
    lost = ", ".join(COSTS[name].heading for name in COSTS if name in here and here[name].empty)
    return table(
        rows,
        columns,
        title=study.title,
        footnotes=[*_origins(rows), *(_changes(rows, setting) if setting else [])],
        remarks=[
            _samplers(rows),
            *remarks,
            f"Not recorded of networks as trained: {lost}. `bench report` shows it at the published size."
            if setting and lost
            else "",
            BOLD if any(e.best for c in columns for e in c.entries) else "",
        ],
        caution=caution(rows, setting) if setting else "",
        label=attrgetter("row.label"),  # the label by which a user selects rows
    )


def overview(study: Study, rows: Sequence[Line], selection: Selection | None, *, title: str = "") -> Table:
    """The table of published figures, counted costs, and measured speeds."""
    from_paper, costs = published_columns(rows), cost_columns(study, rows)
    shown = shown_speeds(rows, selection)
    speeds = speed_columns(rows, shown)
    gaps = any(
        line.row.model and not entry.text
        for filled in (*costs.values(), *speeds.values())
        for line, entry in zip(rows, filled.entries, strict=True)
    )
    of_the_paper = any(line.row.published and line.row.published.of_the_paper for line in rows)
    return table(
        rows,
        [*chain.from_iterable(from_paper.values()), *costs.values(), *speeds.values()],
        title=title,
        footnotes=_footnotes(rows),
        remarks=[
            *map(_speed, ascii_lowercase, shown, speeds.values(), repeat(rows), repeat(selection)),
            f"Published: {published.source()}." if of_the_paper else "",
            _samplers(rows),
            _backbones(rows),
            "GFLOPs: multiply-accumulates, plus one per output element of an elementwise product, an affine "
            "norm or a pooling (the U-DiT paper's convention), of one forward pass at batch 1 and the "
            "network's own input size. Networks with branches that merge for inference are counted merged."
            + (" Empty cells: not measured." if gaps else ""),
            _environments([line.cost.environment for line in rows if line.cost], "Counted"),
        ],
    )


def shown_speeds(rows: Sequence[Line], selection: Selection | None) -> list[SpeedColumn]:
    """Settings of speed in which at least one row has a record."""
    if selection is None:
        return []
    return [speed for speed in selection.speeds if any(line.variant in speed.figures for line in rows)]


def quality(study: Study, rows: Sequence[Line], setting: Setting) -> Section:
    """The section of the scores of one setting, with their findings.

    Rows measured only in another setting of the protocol, or not meant for the protocol, are left out. Rows
    without any figure are listed below the table.
    """
    others = settings(rows)
    wanted = [
        line
        for line in rows
        if setting in line.quality
        or (
            line.row.measured_under(setting.protocol)
            and all(other.protocol != setting.protocol for other in line.quality)
        )
    ]
    rows = [line for line in wanted if setting in line.quality or line.row.published]
    unknown = [line.row.label for line in wanted if not (setting in line.quality or line.row.published)]
    printed = published_columns(rows)
    costs = [line.trained_gflops(setting) for line in rows]
    trained = Column("GFLOPs, as trained")
    scores = score_columns(study, rows, setting).values()
    columns = [
        *printed.get("fid", []),
        *scores,
        Filled(trained, [Entry("" if cost is None else decimals(cost, 4)) for cost in costs]),
        seeds_column(rows, setting),
    ]
    found = findings(rows, setting)
    known = [record for line in rows for record in line.quality.get(setting, [])]
    gaps = any(not entry.text for column in scores for entry in column.entries)
    missing = " Empty cells: not measured." if gaps else ""
    remarks = [
        f"Protocol {setting.protocol}: {setting.words}.",
        f"Mean ± standard deviation over all recorded training seeds. {BOLD}{missing}",
        _samples(setting),
        _held_out(setting),
        _environments([record.environment for record in known], "Measured"),
        f"Not measured: {', '.join(unknown)}." if unknown else "",
    ]
    footnotes = [*_changes(rows, setting), *_outdated(rows)]
    return Section(
        quality_title(setting, others),
        [text for text in (caution(rows, setting), *found) if text],
        table(rows, columns, footnotes=footnotes, remarks=remarks),
    )


def quality_title(setting: Setting, others: Sequence[Setting]) -> str:
    """Title of a table of scores, with what distinguishes its setting from the others on the page."""
    parts = [f"Quality, protocol {setting.protocol}"]
    parts += [f"extractor {setting.extractor}"] if setting.extractor else []
    return ", ".join([*parts, *setting.distinctions(others)])


def _samples(setting: Setting) -> str:
    """How samples were scored, in words; empty without samples."""
    if setting.extractor is None:
        return ""
    return (
        f"Extractor {setting.extractor}, weights {setting.weights} (SHA-256); {setting.sample_count:,} "
        f"samples, {setting.sampler}, guidance {setting.cfg_scale:g}, against {_reference(setting)}. Scores "
        "with another extractor, sampler, guidance or number of images are not comparable."
    )


def _held_out(setting: Setting) -> str:
    """How the held-out loss was measured, in words; empty if it was not."""
    if setting.held_out is None:
        return ""
    levels = f", restricted to the range of the β schedule, {setting.levels}" if setting.levels else ""
    return (
        f"Held-out loss: mean squared error of the predicted noise on {setting.held_out} images that were "
        "not trained on, with averaged weights and the same noise for every row and seed. Noise levels "
        f"follow DDPM's linear schedule{levels}. Predicted velocities are converted to noise. The floor is "
        "above 0: it is set by the data and is the same for all rows."
    )


def _reference(setting: Setting) -> str:
    """The reference of the scores, in words."""
    images = (
        "statistics" if setting.reference_count is None else f"{setting.reference_count:,} reference images"
    )
    return f"{images} of the file {setting.reference}" if setting.reference else images


def page(
    study: Study, rows: Sequence[Line], selection: Selection | None, pictures: Mapping[str, str] = {}
) -> Page:
    """The page of a study.

    Args:
        study: see `bench.studies`.
        rows: its lines.
        selection: the records, for speeds.
        pictures: file -> description; the first is shown below the first table, the others are folded.
    """
    every = by_soundness(rows, settings(rows))
    shown, hidden = [*pictures.items()], not_shown(study, selection)
    text = [*filter(None, [verdict(rows, every), hidden])]
    sections = [Section("", text, overview(study, rows, selection), picture=shown[0] if shown else None)]
    sections += [quality(study, rows, setting) for setting in every]
    if any(findings(rows, setting) for setting in every):
        sections.append(Section("How significance is judged", [METHOD], folded=True))
    if len(sections) == 1 and not hidden:
        sections.append(Section("Quality", ["Not measured here: no row has a record of quality."]))
    sections += [Section(text, picture=(file, text), folded=True) for file, text in shown[1:]]
    return Page(page_file(study), page_title(study), sections)


def not_shown(study: Study, selection: Selection | None) -> str:
    """What records of the study's backbones are left out, and why; "" where none is."""
    if selection is None:
        return ""
    found = {
        record.file: _row_of(record.request, record.context.protocol)
        for record in selection.records
        if isinstance(record.request, QualityRequest)
    }
    models = {row.model for row in study.rows}
    cells = {
        cell.file: _row_of(cell.request, cell.protocol.name)
        for cell in measured_cells(study, selection.measured)
    }
    left = {row.protocol for file, row in found.items() if row.model in models and file not in cells}
    names = ", ".join(sorted(filter(None, left - known_protocols(study).keys())))
    said = [f"Records under {names} are not shown: bench report --protocol FILE shows them."] if names else []
    missing = set(cells.values()) - {found[file] for file in found.keys() & cells.keys()}
    others = [found[file].protocol for file in found.keys() - cells.keys() if found[file] in missing]
    for name, count in sorted(Counter(map(str, others)).items()):
        them = "A record" if count == 1 else f"{count} records"
        be = "is" if count == 1 else "are"
        said.append(
            f"{them} under other settings of {name} {be} not shown: the protocol may have changed since."
        )
    return " ".join(said)


class _Row(NamedTuple):
    """What a record shares with one that was measured before its protocol was changed."""

    model: str
    config: str
    seed: int
    protocol: str | None


def _row_of(request: QualityRequest, protocol: str | None) -> _Row:
    return _Row(request.model, json.dumps(request.config, sort_keys=True), request.seed, protocol)


def page_file(study: Study) -> str:
    """File name of a study's page, without the extension: `table-5`, or the study's name."""
    found = number(study)
    return f"table-{found}" if found else study.name


def page_title(study: Study) -> str:
    """Title of a study's page, with the number of the published table, if any."""
    found = number(study)
    return f"Table {found}: {published.title(found)}" if found else study.title


def number(study: Study) -> int | None:
    """The published table that a built-in study is; None for others, as a user's file of the same name."""
    return NUMBERS.get(study.name) if study.folder is None else None


# ---- footnotes and remarks ----


def _footnotes(rows: Sequence[Line]) -> list[tuple[set[str], str]]:
    """Footnotes of the published table, on costs that differ from published ones, and on origins of rows."""
    same = {  # rows of the published network, which the footnotes are about
        line.row.label: row
        for line in rows
        if (row := line.row.published) and (row.model, row.overrides) == (line.row.model, line.row.overrides)
    }
    names = {row.table for row in same.values()}
    notes = []
    for of, text in published.footnotes(*names) if len(names) == 1 else []:
        labels = {label for label, row in same.items() if row.label in of}
        if labels or not of:  # without labels it is on the whole table
            notes.append((labels, text))
    explained = {label for labels, _ in notes for label in labels}
    for line in rows:
        printed = line.row.published.printed["gflops"] if line.row.published else ""
        if line.cost and printed and line.row.label not in explained:
            measured = line.cost.cost.paper_gflops
            if f"{measured:.{len(printed.partition('.')[2])}f}" != printed:
                notes.append(({line.row.label}, f"Published as {printed} GFLOPs, counted {measured:.4f}."))
    return notes + _origins(rows)


def _origins(rows: Sequence[Line]) -> list[tuple[set[str], str]]:
    """Footnotes on rows of other publications, without a backbone, added here, or stale."""
    sources: dict[str, set[str]] = {}
    for line in rows:
        if (row := line.row.published) and not row.of_the_paper:
            sources.setdefault(row.source, set()).add(line.row.label)
    notes = [(labels, f"Published in {source}.") for source, labels in sources.items()]
    bare = {line.row.label for line in rows if line.row.model is None}
    notes += [(bare, "Published figures only: this network is not implemented here.")] if bare else []
    added = {line.row.label for line in rows if line.row.extra}
    notes += [(added, "Added here; not in the paper.")] if added else []
    return notes + _outdated(rows)


def _samplers(rows: Sequence[Line]) -> str:
    """Conditions and samplers of other papers' scores, in words; empty without such rows."""
    found = [line.row.published for line in rows if line.row.published]
    words = [", ".join((*row.conditions, row.sampler)) for row in found if not row.of_the_paper]
    return f"Published scores: {'; '.join(dict.fromkeys(words))}." if words else ""


def _outdated(rows: Sequence[Line]) -> list[tuple[set[str], str]]:
    """Footnotes on rows whose figures are stale."""
    reasons: dict[str, set[str]] = {}
    for line in rows:
        for reason in line.outdated:
            reasons.setdefault(reason, set()).add(line.row.label)
    return [(labels, f"Stale: {reason} since.") for reason, labels in reasons.items()]


def _changes(rows: Sequence[Line], setting: Setting) -> list[tuple[set[str], str]]:
    """Footnotes on rows with their own settings of training and sampling."""
    changed: dict[str, set[str]] = {}
    for line in rows:
        if line.quality.get(setting) and (text := _own_settings(line.row)):
            changed.setdefault(text, set()).add(line.row.label)
    return [(labels, text) for text, labels in changed.items()]


def _own_settings(row: StudyRow) -> str:
    words = []
    for verb, own in (("trained", row.training), ("sampled", row.sampling)):
        if own:
            values = (f"{key.replace('_', ' ')} {value}" for key, value in own.items())
            words.append(f"{verb} with {', '.join(values)}")
    words += [f"guidance {row.cfg_scale}"] if row.cfg_scale is not None else []
    words += [f"the weights after step {row.step:,}"] if row.step is not None else []
    return f"Here: {'; '.join(words)}." if words else ""


def _backbones(rows: Sequence[Line]) -> str:
    """The backbone and options of each row, as `--model` takes them."""
    labels: dict[str, dict[str, None]] = {}
    for line in rows:
        if line.row.model:
            network = registry.label(line.row.model, line.row.overrides)
            labels.setdefault(network, {})[line.row.table_label] = None
    words = [f"{', '.join(names)}: {model}" for model, names in labels.items()]
    return f"Backbones, as --model takes them: {'; '.join(words)}." if words else ""


def _speed(
    letter: str, speed: SpeedColumn, column: Filled, rows: Sequence[Line], selection: Selection | None
) -> str:
    """How and when speeds were measured, what is marked, and which records are stale."""
    records = {
        line.row.table_label: speed.records[line.variant] for line in rows if line.variant in speed.records
    }
    made = sorted({(each.environment.date[:10], each.environment.version) for each in records.values()})
    when = "; ".join(f"{date} with denoiser-bench {version}" for date, version in made)
    texts = [f"[{letter}] {speed.words}. Median over interleaved rounds, measured {when}."]
    if any(entry.best for entry in column.entries):
        texts.append("Bold: the fastest row, and those whose middle half of rounds overlaps with its own.")
    stale = [label for label, record in records.items() if selection and selection.outdated([record])]
    if stale:
        texts.append(f"Stale, because the backbone's code has changed since: {', '.join(stale)}.")
    return " ".join(texts)


def _environments(found: Sequence[Environment], verb: str) -> str:
    """Device, versions and commits of records, in words."""
    if not found:
        return "No record of cost yet."
    places: dict[tuple[str, str, str], set[str]] = {}
    for environment in found:
        commit = (environment.commit or "unknown")[:7]
        commit += " with uncommitted changes" if environment.clean is False else ""
        key = (environment.device, environment.torch, environment.version)
        places.setdefault(key, set()).add(commit)
    texts = [
        f"on {device} with torch {torch}, denoiser-bench {version}, commit{'s'[: len(commits) > 1]} "
        f"{', '.join(sorted(commits))}"
        for (device, torch, version), commits in sorted(places.items())
    ]
    return f"{verb} {'; '.join(texts)}."


# ---- for programs ----


def frame(rows: Sequence[Line], selection: Selection | None) -> pd.DataFrame:
    """Everything on a page as numbers, one row for each row of the study; missing values are None."""
    import pandas as pd

    return pd.DataFrame(values(rows, selection), dtype=object)


def values(rows: Sequence[Line], selection: Selection | None) -> list[dict[str, Any]]:
    """The rows of `frame` as plain values for JSON."""
    found = []
    conditions = published_conditions(rows)
    speeds = shown_speeds(rows, selection)
    every = settings(rows)
    measured = {
        setting: [name for name in MEASURED if any(line.score(setting, name) for line in rows)]
        for setting in every
    }
    gaps = {  # scores that some seeds of a row lack
        (setting, name)
        for setting, names in measured.items()
        for name in names
        if any(len(line.by_seed(setting, name)) < len(line.results(setting)) for line in rows)
    }
    for line, own in zip(rows, conditions, strict=True):
        row = line.row
        entry: dict[str, Any] = {
            "label": line.row.table_label,
            "model": row.model,
            "overrides": json.dumps(row.overrides, sort_keys=True),
            "extra": row.extra,
        }
        for figure, value in (row.published.values if row.published else {}).items():
            for words in _apart(conditions) if figure in published.QUALITY else [""]:
                name = f"published {figure} ({words})" if words else f"published {figure}"
                entry[name] = value if words in ("", own) else None
        if row.published and own:
            entry["published sampler"] = row.published.sampler
        for quantity in COSTS.values():
            entry[quantity.field] = getattr(line.cost.cost, quantity.field) if line.cost else None
        for speed in speeds:
            entry[f"images per second ({speed.words})"] = speed.figures.get(line.variant)
        for setting, names in measured.items():
            parts = (setting.protocol, setting.extractor, setting.weights)
            words = ", ".join(filter(None, [*parts, *setting.distinctions(every)]))
            entry[f"paper_gflops as trained ({words})"] = line.trained_gflops(setting)
            for name in names:
                score = line.score(setting, name)
                entry[f"{name} mean ({words})"] = score and score.mean
                entry[f"{name} deviation ({words})"] = score and score.deviation
                if (setting, name) in gaps:
                    entry[f"{name} seeds ({words})"] = len(line.by_seed(setting, name)) or None
            entry[f"seeds ({words})"] = len(line.quality.get(setting, [])) or None
        found.append(entry)
    return found
