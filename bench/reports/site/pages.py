"""What the pages of the site show. How they show it is in `bench/reports/templates`."""

from __future__ import annotations

import ast
import importlib.util
import shlex
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import registry
from bench.metrics.scores import MEASURED
from bench.records.quantities import COSTS, decimals
from bench.records.schema import Record
from bench.reports import board, charts, proxy, tables
from bench.reports.findings import METHOD, by_soundness, verdict
from bench.reports.links import named_page, record_page, samples_file
from bench.reports.page import Column, Entry, Page, Table
from bench.reports.record import command
from bench.reports.record import tables as record_tables
from bench.reports.render import html
from bench.reports.samples import kept_samples
from bench.reports.select import Line, Setting, settings
from bench.studies.published import QUALITY, field
from bench.studies.staleness import compared, outdated
from registry.errors import UsageError
from registry.values import format_value

if TYPE_CHECKING:
    from bench.reports.site import Site


def _render(template: str, site: Site, title: str, root: str = "../", **values: Any) -> str:
    """A page.

    Args:
        template: of the page.
        site: the whole.
        title: of the page.
        root: path from the page to the site's root.
        values: that the template asks for.
    """
    return html.render(
        template,
        site=site,
        title=title,
        root=root,
        study_page=lambda name: root + named_page("studies", name),
        backbone_page=lambda name: root + named_page("backbones", name),
        record_page=lambda file: root + record_page(file),
        samples_file=lambda file: root + samples_file(file),
        **values,
    )


def index(site: Site) -> str:
    """The front page: the board, cost against quality, what the studies found."""
    found = {name: verdict(rows, by_soundness(rows, settings(rows))) for name, rows in site.lines.items()}
    return _render(
        "index.html",
        site,
        "denoiser-bench: diffusion backbones",
        root="",
        scatter=charts.scatter(site.board.rows),
        columns=[head._asdict() for head in board.heads()],
        families=charts.families(site.board.rows),
        citation=board.CITATION,
        noise=field.noise(),
        limit=field.limit(),
        findings={name: text for name, text in found.items() if text},
        speed_charts=_known(charts.roofline(site.selection.records, "")),
    )


def noise(site: Site) -> str:
    """How far figures of one network differ: the repeats, and the limit that ranks the board."""
    known = {row.plain: row.backbone for row in field.rows()}
    titles = ("Network", "What differs", "FID", "Deviation", "Source")
    rows = [
        [
            Entry(each.network, model=known.get(each.network, "")),
            Entry(_DIFFERS[each.differs]),
            Entry(", ".join(f"{fid:g}" for fid in each.fid) or each.spread),
            Entry("" if each.deviation is None else f"{each.deviation:.1%}"),
            Entry(each.source, url=each.url),
        ]
        for each in field.repeats()
    ]
    return _render(
        "noise.html",
        site,
        "How much is noise",
        root="",
        table_of_repeats=Table([Column(title, number=title == "Deviation") for title in titles], rows),
        noise=field.noise(),
        limit=field.limit(),
    )


_STEPS = (1_000, 2_000, 10_000, 50_000, 100_000, 400_000)  # of the table of losses


def losses(site: Site) -> str:
    """What training loss is normal, and what others got who trained a network again."""
    curves = field.curves()
    columns = [
        *(Column(title, number=False) for title in ("Network", "Loss", "Conditions")),
        *(Column(f"{step // 1000}K") for step in _STEPS),
        Column("FID"),
        Column("Source", number=False),
    ]
    rows = []
    for curve in curves:
        at = {step: f"{loss:.4f}" for step, loss, _ in curve.points}
        texts = [curve.loss, curve.conditions, *(at.get(step, "") for step in _STEPS)]
        texts.append(f"{curve.fid:g}" if curve.fid else "")
        of_it = curve.network if curve.network in site.models else ""
        rows.append([Entry(curve.name, model=of_it), *map(Entry, texts), Entry(curve.source, url=curve.url)])
    again = [
        [
            Entry(row.row, model=row.backbone),
            Entry(f"{row.fid:g}"),
            Entry("; ".join(f"{other.fid:g} ({other.row})" for other in others)),
            Entry(row.title),
            Entry(row.source, url=row.source_url),
        ]
        for row, others in field.conflicts().items()
        if row.kind == "rerun by others" or "rerun" in row.row
    ]
    titles = ("Run", "FID", "Other figures of the network", "Conditions", "Source")
    return _render(
        "losses.html",
        site,
        "Is my training on track?",
        root="",
        chart=charts.losses(curves),
        table_of_losses=Table(columns, rows),
        reproductions=Table([Column(title, number=title == "FID") for title in titles], again),
    )


_DIFFERS = {
    "run": "seed",
    "program": "program, and who trained it",
    "sampler": "sampler",
    "labels": "samples of each class",
}


def _known(chart: charts.Chart | None) -> list[charts.Chart]:
    return [chart] if chart else []


# ---- a study ----


def study(site: Site, name: str) -> str:
    """A study: the verdict, what is published, then one protocol at a time, and how to run it again."""
    chosen, rows = site.studies[name], site.lines[name]
    every = settings(rows)
    parts = []
    for setting in by_soundness(rows, every):
        title = _protocol(setting, every)
        section = tables.quality(chosen, rows, setting)
        samples = kept_samples(rows, setting.protocol, site.selection.folder)
        made = (
            charts.seeds(rows, setting, "../"),
            charts.held_out_curves(rows, setting),
            charts.held_out_by_noise(rows, setting),
        )
        parts.append((title, section, [*filter(None, made)], samples))
    costs = charts.cost_by_stage({line.row.table_label: line.cost.cost for line in rows if line.cost})
    return _render(
        "study.html",
        site,
        tables.page_title(chosen),
        verdict=verdict(rows, by_soundness(rows, every)),
        several_protocols=site.has_predictors and len({setting.protocol for setting in every}) > 1,
        not_shown=tables.not_shown(chosen, site.selection),
        overview=tables.overview(chosen, rows, site.selection),
        parts=parts,
        cost_chart=_known(costs),
        command=shlex.join(["bench", "ablate", chosen.argument]),
        method=METHOD,
    )


# ---- a backbone ----


def backbone(site: Site, name: str) -> str:
    """A backbone: what it is, every score over steps and protocols, cost, stages, options."""
    published = [row for row in site.board.rows if row.get("backbone") == name]
    measured = _measured(site, name)
    counted = site.costs.get(name, {})
    plain = [cost for cost in counted.values() if registry.label(name, cost.request.config) == name]
    columns = [Column("Network", number=False), *(Column(q.title) for q in COSTS.values())]
    rows = [
        [
            Entry(registry.label(name, cost.request.config)),
            *(Entry(q.text(getattr(cost, q.field)), records=(file,)) for q in COSTS.values()),
        ]
        for file, cost in counted.items()
    ]
    return _render(
        "backbone.html",
        site,
        name,
        **_described(name),
        scores=scores(published, measured),
        costs=Table(columns, rows) if rows else None,
        made_charts=_known(charts.cost_by_stage({name: plain[0]}) if plain else None),
        commands=[shlex.join(["bench", command, "--model", name]) for command in ("flops", "throughput")],
    )


def _measured(site: Site, name: str) -> list[tuple[str, Line, Setting]]:
    """Rows of a backbone that were measured, each record once, by the words of their setting."""
    lines = [line for rows in site.lines.values() for line in rows if line.row.model == name]
    every = settings(lines)
    found: dict[str, tuple[str, Line, Setting]] = {}  # by the first record
    for line in lines:
        for setting in line.quality:
            found.setdefault(line.files(setting)[0], (_protocol(setting, every), line, setting))
    return sorted(found.values(), key=itemgetter(0))


def _protocol(setting: Setting, every: Sequence[Setting]) -> str:
    return tables.quality_title(setting, every).removeprefix("Quality, ").removeprefix("protocol ")


def scores(published: Sequence[board.Json], measured: Sequence[tuple[str, Line, Setting]]) -> Table:
    """What is published of a backbone, then what was measured here, with steps and conditions."""
    judges = {name for _, _, setting in measured for name in setting.judges}
    names = [name for name in MEASURED if name in {*QUALITY, "held_out", *judges}]
    common, apart = charts.conditions(published)
    rows = [
        [
            Entry(row["row"]),
            Entry(", ".join(words) or "published"),
            Entry(_steps(row.get("training_steps", ""))),
            Entry(decimals(row["cost"], 2) if "cost" in row else ""),
            *(Entry(f"{row.get(name, '')}") for name in names),
            Entry(""),
            Entry(row["from"], url=row["url"]),
        ]
        for row, words in zip(published, apart, strict=True)
    ]
    for words, line, setting in measured:
        files, (result, *_) = line.files(setting), line.results(setting).values()
        rows.append(
            [
                Entry(line.row.label),
                Entry(words),
                Entry(f"{result.request.step:,}"),
                Entry(decimals(result.network.paper_gflops, 2)),
                *(Entry(tables.scored(line, setting, MEASURED[name]), records=files) for name in names),
                Entry(str(len(files))),
                Entry("measured here", records=files),
            ]
        )
    columns = [
        *(Column(title, number=False) for title in ("Row", "Conditions")),
        *(Column(title) for title in ("Steps", "GFLOPs", *(MEASURED[name].title for name in names), "Seeds")),
        Column("Source", number=False),
    ]
    used = [i for i in range(len(columns)) if any(entries[i].text for entries in rows)]
    return Table(
        [columns[i] for i in used],
        [[entries[i] for i in used] for entries in rows],
        text=[f"Published rows: {', '.join(common)}."] if common else [],
    )


def _steps(printed: str) -> str:
    """`400000` as `400,000`; others as printed."""
    return f"{int(printed):,}" if printed.isdigit() else printed


def _described(name: str) -> dict[str, Any]:
    """What the source says of a backbone, its options with their defaults; None of an unknown one's."""
    try:
        described = registry.describe(name)
    except UsageError:
        return {"options": None}
    rows = [
        [
            Entry(key),
            Entry("" if option.required else format_value(option.default)),
            Entry(option.type),
        ]
        for key, option in described.options.items()
    ]
    columns = [Column(title, number=False) for title in ("Option", "Default", "Type")]
    paragraphs = _module(described.origin)
    return {"summary": described.summary, "paragraphs": paragraphs, "options": Table(columns, rows)}


def _module(origin: str) -> list[str]:
    """Paragraphs of the docstring of a module of the registry, where the publication is named."""
    if not origin.startswith("registry."):
        return []
    spec = importlib.util.find_spec(origin)
    assert spec is not None and spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8"))) or ""
    return [" ".join(part.split()) for part in text.split("\n\n")]


# ---- a record ----


def record(site: Site, found: Record) -> str:
    """A record: figures, samples, the command that makes it again, other seeds, request, environment."""
    made = record_tables(found, outdated(found), compared(found))
    study, line = site.places.get(found.file, (None, None))
    shown = []
    for table in made:
        heading = table.title
        if len(table.columns) == 2:  # names and values: the heading says of what
            heading = table.columns[0].title
            table = Table([Column("", number=False)] * 2, table.rows, remarks=table.remarks)
        shown.append((heading, table))
    return _render(
        "record.html",
        site,
        made[0].title,
        record=found,
        study=study,
        row=line and line.row.label,
        command=command(found, (site.studies[study].argument, line.row.label) if study and line else None),
        seeds=[(seed, other.file) for seed, other in site.seeds.get(found.file, [])],
        tables=shown[:-1],
        fingerprints=shown[-1],
    )


# ---- samples from any source ----


def scored(site: Site, page: Page) -> str:
    """Samples that were scored without a network of this house."""
    return _render("predictors.html", site, page.title, root="", sections=page.sections, made_charts=[])


# ---- the study of predictors ----


def predictors(site: Site) -> str:
    """Which small protocols order networks as full training does."""
    compared = proxy.compare(site.lines)
    page = proxy.page(compared, None)
    made = _known(charts.correlation_against_computing(next(iter(compared.values()))))
    return _render("predictors.html", site, page.title, root="", sections=page.sections, made_charts=made)
