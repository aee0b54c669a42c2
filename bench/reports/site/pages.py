"""What the pages of the site show. How they show it is in `bench/reports/templates`."""

from __future__ import annotations

import ast
import importlib.util
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import registry
from bench.records.quantities import COSTS
from bench.records.schema import Record
from bench.reports import board, charts, leaderboard, proxy, tables
from bench.reports.findings import METHOD, by_soundness, findings, verdict
from bench.reports.links import named_page, record_page, samples_file
from bench.reports.page import Column, Entry, Page, Table
from bench.reports.record import command
from bench.reports.record import tables as record_tables
from bench.reports.render import html
from bench.reports.samples import kept_samples
from bench.reports.select import Line, settings
from bench.studies.published import field
from bench.studies.staleness import fingerprints, stale
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
    found = {name: _conclusions(rows) for name, rows in site.lines.items()}
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
        findings={name: texts for name, texts in found.items() if texts},
        speed_charts=_known(charts.roofline(site.selection.records, "")),
    )


def noise(site: Site) -> str:
    """How far figures of one network differ: the repeats, and the limit that ranks the board."""
    columns = [
        Column("Network", number=False),
        Column("What differs", number=False),
        Column("FID", number=False),
        Column("Deviation"),
        Column("Source", number=False),
    ]
    rows = [
        [
            Entry(each.network),
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
        table_of_repeats=Table(columns, rows),
        noise=field.noise(),
        limit=field.limit(),
    )


_STEPS = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 400_000)  # of the table of losses


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
        texts = [curve.name, curve.loss, curve.conditions, *(at.get(step, "") for step in _STEPS)]
        texts.append(f"{curve.fid:g}" if curve.fid else "")
        rows.append([*map(Entry, texts), Entry(curve.source, url=curve.url)])
    known = field.rows()
    again = [
        [
            Entry(row.row),
            Entry(f"{row.fid:g}"),
            Entry("; ".join(f"{other.fid:g} ({other.row})" for other in others)),
            Entry(row.title),
            Entry(row.source, url=row.source_url),
        ]
        for i, others in field.conflicts(known).items()
        if (row := known[i]).kind == "rerun by others" or "rerun" in row.row
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
    "run": "the seed",
    "program": "who trained it, with which program",
    "sampler": "the sampler",
    "labels": "how many samples each class has",
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
        title = tables.quality_title(setting, every).removeprefix("Quality, ").removeprefix("protocol ")
        section = tables.quality(chosen, rows, setting)
        samples = kept_samples(rows, setting.protocol, site.selection.folder)
        parts.append((title, section, charts.of_setting(rows, setting, "../"), samples))
    costs = charts.cost_by_stage({line.label: line.cost.cost for line in rows if line.cost})
    return _render(
        "study.html",
        site,
        tables.page_title(chosen),
        verdict=verdict(rows, by_soundness(rows, every)),
        several_protocols=site.has_predictors and len({setting.protocol for setting in every}) > 1,
        overview=tables.overview(chosen, rows, site.selection),
        parts=parts,
        published_chart=_known(None if every else charts.as_published(rows)),
        cost_chart=_known(costs),
        command=shlex.join(["bench", "ablate", name]),
        method=METHOD,
    )


def _conclusions(rows: Sequence[Line]) -> list[str]:
    """What a study shows, by protocol where it was measured under several."""
    every = settings(rows)
    texts = []
    for setting in every:
        words = tables.quality_title(setting, every).removeprefix("Quality, ")
        texts += [f"{text} ({words})" for text in findings(rows, setting)]
    return texts


# ---- a backbone ----


def backbone(site: Site, name: str) -> str:
    """A backbone: what it is, its options, its stages, and every score measured or published."""
    costs = site.costs.get(name, {})
    plain = [cost for cost in costs.values() if registry.label(name, cost.request.config) == name]
    made: dict[str, Table] = {}
    if costs:
        columns = [Column("Network", number=False), *(Column(q.title) for q in COSTS.values())]
        rows = [
            [
                Entry(registry.label(name, cost.request.config)),
                *(Entry(q.text(getattr(cost, q.field)), records=(file,)) for q in COSTS.values()),
            ]
            for file, cost in costs.items()
        ]
        made["Cost"] = Table(columns, rows)
    if published := [row for row in site.board.rows if row.get("backbone") == name]:
        made["Published"] = _published(published)
    every, titles = leaderboard.tables(site.groups), leaderboard.shown(site.groups)
    for group, table in zip(site.groups, every, strict=True):
        if group.setting is None:
            continue
        kept = [
            entries
            for standing, entries in zip(group.standings, table.rows, strict=True)
            if standing.line.row.model == name
        ]
        if kept:
            used = [
                i
                for i, column in enumerate(table.columns)
                if column.title in titles and any(entries[i].text for entries in kept)
            ]
            shown = [[entries[i] for i in used] for entries in kept]
            made[group.title] = Table([table.columns[i] for i in used], shown)
    return _render(
        "backbone.html",
        site,
        name,
        **_described(name),
        stages=_known(charts.cost_by_stage({name: plain[0]}) if plain else None),
        tables=made,
        commands=[shlex.join(["bench", command, "--model", name]) for command in ("flops", "throughput")],
    )


def _published(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Figures of the field, of every group of conditions."""
    shown = ("row", "group", "fid", "sfid", "inception_score", "precision", "recall", "rank", "kind", "from")
    heads = {head.name: head for head in board.heads()}
    columns = [
        Column("Conditions", number=False)
        if name == "group"
        else Column("Source", number=False)
        if name == "from"
        else Column(heads[name].title, number=heads[name].number)
        for name in shown
    ]
    table = [
        [Entry(f"{row.get(name, '')}", url=row["url"] if name == "from" else "") for name in shown]
        for row in rows
    ]
    used = [i for i in range(len(shown)) if any(entries[i].text for entries in table)]
    return Table([columns[i] for i in used], [[entries[i] for i in used] for entries in table])


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
    made = record_tables(found, stale(found, fingerprints(found.request)))
    study, line = site.places.get(found.file, (None, None))
    shown = []
    for table in made:
        heading = table.title
        if len(table.columns) == 2:  # names and values: the heading says of what
            heading = table.columns[0].title
            table = Table([Column("", number=False)] * 2, table.rows, remarks=table.remarks)
        shown.append((heading, table.remarks, table))
    return _render(
        "record.html",
        site,
        made[0].title,
        record=found,
        study=study,
        row=line and line.row.label,
        command=command(found, (study, line.row.label) if study and line else None),
        seeds=[(seed, other.file) for seed, other in site.seeds.get(found.file, [])],
        tables=shown,
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
