"""The pages of the site as HTML. What they say is made elsewhere: tables, findings, charts."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import registry
from bench.records.quantities import COSTS
from bench.records.schema import Record
from bench.reports import figures, leaderboard, proxy, tables
from bench.reports.findings import conclusions
from bench.reports.leaderboard import Group, Standing
from bench.reports.page import Column, Entry, Section, Table
from bench.reports.record import command
from bench.reports.record import tables as record_tables
from bench.reports.render import html
from bench.reports.select import Line, settings
from bench.reports.site import Site, charts
from bench.reports.site.charts import Chart
from bench.studies.staleness import fingerprints, stale
from registry.errors import UsageError

# Words in which a figure of the published conditions is filtered.
_GUIDED = {True: "guided", False: "not guided", None: "no samples"}


def index(site: Site) -> str:
    """The front page: the leaderboard, cost against quality, what the studies found."""
    count = len(site.selection.records)
    body = [
        "<h1>Diffusion backbones: cost, speed and quality</h1>",
        f"<p>Published figures beside those measured here, from {count:,} records. Scores compare within a "
        "group alone: a group is one set of published conditions, or one protocol here. Rows of one rank "
        "cannot be told apart by their seeds. Every figure measured here opens its record.</p>",
    ]
    if chart := charts.cost_against_quality(site.groups, site.pictures):
        body.append(_charts([chart]))
    body += ["<h2>Leaderboard</h2>", *_leaderboard(site)]
    findings = [
        f"<li>{_title_link(site, name)}<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul></li>"
        for name in site.studies
        if (texts := _conclusions(site.lines[name]))
    ]
    if findings:
        body.append(f"<h2>What the studies found</h2><ul>{''.join(findings)}</ul>")
    if chart := charts.roofline(site.selection.records, ""):
        body += ["<h2>Speed</h2>", _charts([chart])]
    return _shell(site, "denoiser-bench: leaderboard", "\n".join(body), "")


def _leaderboard(site: Site) -> list[str]:
    made = leaderboard.tables(site.groups)
    if not made:
        return ["<p>No row yet: there is neither a published figure nor a record.</p>"]
    columns = made[0].columns
    titles = [column.title for column in columns]
    standings = [standing for group in site.groups for standing in group.standings]
    filters = {
        "group": ("Scores", [group.title for group in site.groups]),
        "family": ("Family", sorted({standing.family for standing in standings})),
        "tier": ("GFLOPs", sorted({s.tier for s in standings} - {""}, key=_first_number)),
        "objective": ("Objective", sorted({leaderboard.objective(s.line) for s in standings} - {""})),
        "guided": ("Guidance", list(dict.fromkeys(_GUIDED[group.guided] for group in site.groups))),
    }
    controls = "".join(
        f'<label>{label}<select name="{name}"><option value="">all</option>'
        + "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)
        + "</select></label>"
        for name, (label, values) in filters.items()
    )
    shown = leaderboard.shown(site.groups)
    boxes = "".join(
        f'<label><input type="checkbox" name="column" value="{i}"{" checked" * (title in shown)}> '
        f"{escape(title)}</label>"
        for i, title in enumerate(titles, 1)
        if i > 1
    )
    bodies = []
    for group, table in zip(site.groups, made, strict=True):
        rows = []
        for standing, entries in zip(group.standings, table.rows, strict=True):
            rows.append(_standing(site, group, standing, columns, entries))
        bodies.append(
            f'<tbody data-group="{escape(group.title)}" data-guided="{_GUIDED[group.guided]}">\n'
            f'<tr><th class="group" colspan="{len(columns) + 1}">{escape(group.title)}</th></tr>\n'
            + "\n".join(rows)
            + "\n</tbody>"
        )
    return [
        '<form id="filters" class="controls" hidden>'
        '<label>Search<input type="search" name="search"></label>'
        f"{controls}<details><summary>Columns</summary><fieldset>{boxes}</fieldset></details>"
        '<button type="reset">Show all</button><output id="count" aria-live="polite"></output></form>',
        '<section id="comparison" hidden><h2>Comparison</h2>'
        '<div class="scroll"><table></table></div></section>',
        '<div class="scroll"><table id="leaderboard" class="sortable cards">\n'
        f'<thead><tr><th><span class="quiet"></span></th>{html.heads(columns)}</tr></thead>\n'
        + "\n".join(bodies)
        + "\n</table></div>",
        '<p class="quiet">Rank: one more than the rows that are better and can be told apart (published: by '
        "FID as printed; measured: by what the protocol judges by, as a rule FID or a held-out loss, with "
        "Tukey's range test over seeds). "
        "Tick two or three rows to compare them. Cost: one forward pass of the deployed network at its own "
        "input size, whatever size a protocol trains.</p>",
    ]


def _standing(
    site: Site,
    group: Group,
    standing: Standing,
    columns: Sequence[Column],
    entries: Sequence[Entry],
) -> str:
    label = escape(standing.line.label)
    # An address that compares rows names the same ones when others have come.
    name = "\n".join((group.title, standing.study, standing.line.label))
    row = hashlib.sha256(name.encode()).hexdigest()[:10]
    model = standing.line.row.model
    linked = f'<a href="{charts.named_page("backbones", model)}">{label}</a>' if model else label
    files = standing.line.files(group.setting) if group.setting else ()
    pictured = [file for file in files if file in site.pictures]
    samples = f' data-samples="{escape(charts.samples_file(pictured[0]))}"' if pictured else ""
    return (
        f'<tr id="{row}" data-family="{escape(standing.family)}" data-tier="{escape(standing.tier)}" '
        f'data-objective="{escape(leaderboard.objective(standing.line))}"{samples}>'
        f'<td data-title="Compare"><input type="checkbox" class="compare" aria-label="Compare {label}"></td>'
        f'<th scope="row">{linked}</th>{html.cells(columns[1:], entries[1:], charts.record_page)}</tr>'
    )


def _first_number(text: str) -> float:
    return float((re.findall(r"\d+", text) or ["0"])[0]) - text.startswith("under")


# ---- a study ----


def study(site: Site, name: str) -> str:
    """A study: findings first, then tables, charts, samples, and how to run it again."""
    chosen, rows = site.studies[name], site.lines[name]
    page = tables.page(chosen, rows, site.selection)
    body = [f"<h1>{escape(page.title)}</h1>"]
    if texts := _conclusions(rows):
        body += [
            '<h2>Findings</h2><div class="findings">',
            *(f"<p>{escape(text)}</p>" for text in texts),
            "</div>",
        ]
        if site.has_predictors and len({setting.protocol for setting in settings(rows)}) > 1:
            body.append(
                '<p>Protocols need not agree: <a href="../predictors.html">small protocols</a> tells which '
                "of them orders rows as published scores do.</p>"
            )
    for section in page.sections:
        body += _section(section)
    if made := charts.of_study(rows, "../"):
        body += ["<h2>Charts</h2>", _charts(made)]
    body += _samples(site, rows)
    run = escape(f"bench ablate {name}")
    body.append(f"<h2>Run it again</h2><pre>{run} --dry-run  # what it measures, and how long\n{run}</pre>")
    return _shell(site, page.title, "\n".join(body), "../")


def _conclusions(rows: Sequence[Line]) -> list[str]:
    """What a study shows, by protocol where it was measured under several."""
    every = settings(rows)
    texts = []
    for setting in every:
        words = tables.quality_title(setting, every).removeprefix("Quality, ")
        texts += [f"{text} ({words})" for text in conclusions(rows, setting)]
    return texts


def _section(section: Section) -> list[str]:
    parts = [f"<h2>{escape(section.title)}</h2>"] if section.title else []
    parts += [f"<p>{escape(text)}</p>" for text in section.text]
    remarks = list(section.remarks)
    if section.table:
        parts += [
            html.table(section.table, _to_record, "sortable cards"),
            *html.items("ol", section.table.footnotes),
        ]
        remarks = [*section.table.remarks, *remarks]
    if remarks:
        parts += [
            "<details><summary>How these figures came about</summary>",
            *html.items("ul", remarks),
            "</details>",
        ]
    return parts


def _to_record(file: str) -> str:
    return f"../{charts.record_page(file)}"


def _samples(site: Site, rows: Sequence[Line]) -> list[str]:
    parts = []
    for protocol in dict.fromkeys(setting.protocol for setting in settings(rows)):
        if kept := figures.kept_samples(rows, protocol, site.selection.folder):
            parts.append(f"<h2>Samples under {escape(protocol)}, the same noise and class in each place</h2>")
            parts.append('<div class="sheets">')
            parts += [
                f'<figure><figcaption><a href="{_to_record(file)}">{escape(label)}</a></figcaption>'
                f'<img class="samples" src="../{charts.samples_file(file)}" alt="Samples of {escape(label)}">'
                "</figure>"
                for label, file in kept.items()
            ]
            parts.append("</div>")
    return parts


# ---- a backbone ----


def backbone(site: Site, name: str) -> str:
    """A backbone: what it is, its options, its stages, and every score measured or published."""
    body = [f"<h1>{escape(name)}</h1>", *_described(name)]
    costs = site.costs.get(name, {})
    plain = [cost for cost in costs.values() if registry.label(name, cost.request.config) == name]
    if plain and (chart := charts.cost_by_stage({name: plain[0]})):
        body += ["<h2>Stages</h2>", _charts([chart])]
    if costs:
        columns = [Column("Network", number=False), *(Column(q.title) for q in COSTS.values())]
        rows = [
            [
                Entry(registry.label(name, cost.request.config)),
                *(Entry(q.text(getattr(cost, q.field)), records=(file,)) for q in COSTS.values()),
            ]
            for file, cost in costs.items()
        ]
        body += ["<h2>Cost</h2>", html.table(Table(columns, rows), _to_record, "sortable cards")]
    every, titles = leaderboard.tables(site.groups), leaderboard.shown(site.groups)
    for group, table in zip(site.groups, every, strict=True):
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
            shown = Table([table.columns[i] for i in used], [[entries[i] for i in used] for entries in kept])
            body += [f"<h2>{escape(group.title)}</h2>", html.table(shown, _to_record, "sortable cards")]
    body.append(f"<h2>Measure it</h2><pre>bench flops --model {name}\nbench throughput --model {name}</pre>")
    return _shell(site, name, "\n".join(body), "../")


def _described(name: str) -> list[str]:
    """What the source says of a backbone, its options with their defaults; of an unknown one, that."""
    try:
        described = registry.describe(name)
    except UsageError:
        return ["<p>Registered by a plugin that is not loaded here.</p>"]
    columns = [Column("Option", number=False), Column("Default", number=False), Column("Type", number=False)]
    rows = [
        [
            Entry(key),
            Entry("" if option.required else registry.format_value(option.default)),
            Entry(option.type),
        ]
        for key, option in described.options.items()
    ]
    return [
        f"<p>{escape(described.summary)}</p>",
        *(f'<p class="quiet">{escape(text)}</p>' for text in _module(described.origin)),
        "<details><summary>Options and their defaults</summary>",
        html.table(Table(columns, rows), classes="cards"),
        "</details>",
    ]


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
    place = site.places.get(found.file)
    body = [f"<h1>{escape(made[0].title)}</h1>"]
    if place:
        name, line = place
        body.append(f"<p>Row “{escape(line.row.label)}” of {_title_link(site, name, '../')}.</p>")
    again = command(found, (place[0], place[1].row.label) if place else None)
    if again:
        body.append(f"<h2>Measure it again</h2><pre>{escape(again)}</pre>")
    alike = site.seeds.get(found.file, [])
    if len(alike) > 1:
        links = []
        for seed, other in alike:
            address = "" if other is found else f' href="{_to_record(other.file)}"'
            links.append(f"<a{address}>seed {seed}</a>")
        body.append(f"<p>With every seed: {', '.join(links)}.</p>")
    if found.file in site.pictures:
        body.append(f'<img class="samples" src="../{charts.samples_file(found.file)}" alt="Samples">')
    for table in made:
        pairs = len(table.columns) == 2  # names and values, under what they are of
        heading = table.columns[0].title if pairs else table.title
        body += [f"<h2>{escape(heading)}</h2>"] if heading else []
        body += [f"<p>{escape(text)}</p>" for text in table.remarks]
        untitled = Table([Column("", number=False)] * 2, table.rows)  # the heading says what they are
        body.append(html.table(untitled) if pairs else html.table(table, classes="cards"))
    body.append(f'<p class="quiet">File {escape(found.file)}</p>')
    return _shell(site, made[0].title, "\n".join(body), "../")


# ---- the study of predictors ----


def predictors(site: Site) -> str:
    """Which small protocols order networks as full training does."""
    compared = proxy.compare(site.lines)
    page = proxy.page(compared, None)
    answer, *sections = map(_section, page.sections)
    body = [f"<h1>{escape(page.title)}</h1>", *answer]
    if chart := charts.correlation_against_computing(next(iter(compared.values()))):
        body.append(_charts([chart]))
    for section in sections:
        body += section
    return _shell(site, page.title, "\n".join(body), "")


# ---- what pages share ----


def _shell(site: Site, title: str, body: str, root: str) -> str:
    studies = "".join(f"<li>{_title_link(site, name, root)}</li>" for name in site.studies)
    backbones = "".join(
        f'<li><a href="{root}{charts.named_page("backbones", name)}">{escape(name)}</a></li>'
        for name in site.models
    )
    small = f'<a href="{root}predictors.html">Small protocols</a>' if site.has_predictors else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n"
        '<link rel="icon" href="data:,">\n'
        f'<link rel="stylesheet" href="{root}assets/style.css">\n</head>\n<body>\n'
        f'<header><nav aria-label="Site"><strong>denoiser-bench</strong> '
        f'<a href="{root}index.html">Leaderboard</a>'
        f"<details><summary>Studies</summary><ul>{studies}</ul></details>"
        f"<details><summary>Backbones</summary><ul>{backbones}</ul></details>{small}</nav></header>\n"
        f"<main>\n{body}\n</main>\n"
        "<footer><p>Made from records by <code>bench report --site</code>.</p></footer>\n"
        f'<script src="{root}assets/vega.js"></script>\n<script src="{root}assets/site.js"></script>\n'
        "</body>\n</html>\n"
    )


def _title_link(site: Site, name: str, root: str = "") -> str:
    title = tables.page_title(site.studies[name])
    return f'<a href="{root}{charts.named_page("studies", name)}">{escape(title)}</a>'


def _charts(made: Iterable[Chart]) -> str:
    return f'<div class="charts">{"".join(map(_chart, made))}</div>'


def _chart(chart: Chart) -> str:
    # Within a script element only "<" could end it.
    data = json.dumps(chart.dump(), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return (
        f'<figure class="chart"><figcaption>{escape(chart.title)}</figcaption><p>{escape(chart.text)}</p>'
        f'<div class="controls"></div><div class="view" role="img" aria-label="{escape(chart.title)}"></div>'
        f'<script type="application/json">{data}</script></figure>\n'
    )
