"""A site of the records: a leaderboard, a page for each study, backbone and record, charts.

    bench.reports.report.write("site", bench.reports.site.files("results"))

It opens from disk: no server, no network. `site.js` sorts tables and draws charts; `board.js` is the front
page. Its table is Tabulator (MIT licence, 448 kB, kept in `vendor`): a header that sticks, frozen columns,
groups, and rows that are made as one scrolls, in one file; DataTables has them as plugins. Charts are drawn
by Vega-Lite, whose scripts come with vl-convert (898 kB in one file, BSD licence): a chart is data here, of
which Vega makes SVG that prints and takes the page's colours.
Numbers, links and pages come from records alone; the same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.resources import files as resources
from operator import itemgetter
from pathlib import Path

import registry
from bench.records.schema import Cost, CostRequest, NetworkRequest, QualityRequest, Record, Scored
from bench.reports import leaderboard, proxy, scored
from bench.reports.board import Board, board
from bench.reports.links import named_page, record_page, samples_file
from bench.reports.page import Page
from bench.reports.report import Content, chosen_studies
from bench.reports.select import Line, Selection, lines
from bench.reports.tables import page_title
from bench.studies import Study
from bench.utils.cache import cache_folder
from bench.utils.files import write_text
from registry.errors import UsageError


@dataclass(frozen=True)
class Site:
    """What the pages are made from.

    Attributes:
        selection: the records.
        studies: by name.
        lines: of each study.
    """

    selection: Selection
    studies: Mapping[str, Study]
    lines: Mapping[str, Sequence[Line]]

    @classmethod
    def load(cls, results: str | Path, studies: Sequence[str] = (), protocols: Sequence[str] = ()) -> Site:
        """From a folder of records, with the built-in studies or those given, by name or TOML file."""
        chosen, selection = chosen_studies(studies, protocols), Selection(Path(results))
        return cls(selection, chosen, {name: lines(study, selection) for name, study in chosen.items()})

    @cached_property
    def titles(self) -> dict[str, str]:
        """Of the studies' pages, by name."""
        return {name: page_title(study) for name, study in self.studies.items()}

    @cached_property
    def board(self) -> Board:
        """What is published of the field beside what was measured here.

        Speeds are those of the way of measuring that most networks have.
        """
        inference = [each for each in self.selection.speeds if each.words.startswith("inference")]
        speed = max(inference, key=lambda each: len(each.figures), default=None)
        found = [(study, self.lines[name]) for name, study in self.studies.items()]
        return board(self.selection, leaderboard.groups(found), self.pictures, speed)

    @cached_property
    def pictures(self) -> set[str]:
        """Records of which samples are kept."""
        folder = self.selection.folder
        return {
            record.file
            for record in self.selection.records
            if isinstance(record.request, QualityRequest)
            and (folder / record.file).with_suffix(".png").exists()
        }

    @cached_property
    def costs(self) -> dict[str, dict[str, Cost]]:
        """Backbone -> what is counted of its variants, by record."""
        found: dict[str, dict[str, Cost]] = {}
        for record in self.selection.records:
            if isinstance(record.request, CostRequest) and isinstance(record.result, Cost):
                found.setdefault(record.request.model, {})[record.file] = record.result
        return found

    @cached_property
    def places(self) -> dict[str, tuple[str, Line]]:
        """Record of quality -> the study and the row that it belongs to; of several the first."""
        found: dict[str, tuple[str, Line]] = {}
        for name, rows in self.lines.items():
            for line in rows:
                for record in (record for records in line.quality.values() for record in records):
                    found.setdefault(record.file, (name, line))
        return found

    @cached_property
    def seeds(self) -> dict[str, list[tuple[int, Record]]]:
        """Record of quality -> those that differ from it in the seed alone, itself among them, by seed."""
        alike: dict[str, list[tuple[int, Record]]] = {}
        for record in self.selection.records:
            if isinstance(request := record.request, QualityRequest):
                rest = request.model_dump_json(exclude={"seed"})
                alike.setdefault(rest, []).append((request.seed, record))
        ordered = (sorted(each, key=itemgetter(0)) for each in alike.values())
        return {record.file: each for each in ordered for _, record in each}

    @cached_property
    def scored(self) -> Page | None:
        """The page of samples from any source; None where no record is of such."""
        return scored.page(self.selection.records)

    @property
    def has_predictors(self) -> bool:
        """Whether the studies are there that small protocols are judged on."""
        return set(proxy.STUDIES) <= {name for name, each in self.studies.items() if each.folder is None}

    @cached_property
    def models(self) -> list[str]:
        """Backbones that a study, a record or the board has, by name."""
        of_studies = {line.row.model for rows in self.lines.values() for line in rows if line.row.model}
        of_board = {row["backbone"] for row in self.board.rows if "backbone" in row}
        requests = (record.request for record in self.selection.records)
        of_records = {request.model for request in requests if isinstance(request, NetworkRequest)}
        of_records |= {
            record.result.model
            for record in self.selection.records
            if isinstance(record.result, Scored) and record.result.model
        }
        return sorted(of_studies | of_board | of_records)

    @cached_property
    def model_families(self) -> dict[str, list[str]]:
        """The same by the module that defines them; those of plugins that are not loaded are others."""
        found: dict[str, list[str]] = {}
        for name in self.models:
            try:
                module = registry.backbones.find(name).origin.removesuffix(".py").rpartition(".")[2]
            except UsageError:
                module = "others"
            found.setdefault(module.replace("_", "-"), []).append(name)
        return dict(sorted(found.items()))


def files(
    results: str | Path, studies: Sequence[str] = (), protocols: Sequence[str] = ()
) -> Iterator[tuple[str, Content]]:
    """Every file of the site, one after the other: its path and its content.

    Args:
        results: folder of records.
        studies: names or TOML files; all that are built in where none are given.
        protocols: see `bench.reports.report.files`.

    Raises:
        UsageError: no such folder or study, or two studies would have one page.
    """
    from bench.reports.site import pages

    site = Site.load(results, studies, protocols)
    yield "index.html", pages.index(site)
    yield "board.csv", site.board.csv()
    yield "sources.bib", site.board.bibtex()
    yield "noise.html", pages.noise(site)
    yield "losses.html", pages.losses(site)
    for name in site.studies:
        yield named_page("studies", name), pages.study(site, name)
    for name in site.models:
        yield named_page("backbones", name), pages.backbone(site, name)
    for record in site.selection.records:
        yield record_page(record.file), pages.record(site, record)
    if site.has_predictors:
        yield "predictors.html", pages.predictors(site)
    if site.scored:
        yield f"{site.scored.file}.html", pages.scored(site, site.scored)
    for file in sorted(site.pictures):
        yield samples_file(file), (site.selection.folder / file).with_suffix(".png").read_bytes()
    folder = resources(__package__)
    for name in ("style.css", "site.js", "board.js"):
        yield f"assets/{name}", folder.joinpath(name).read_text("utf-8")
    for name in ("tabulator.min.js", "tabulator.min.css"):
        yield f"assets/{name}", folder.joinpath("vendor", name).read_text("utf-8")
    yield "assets/tabulator-LICENSE.txt", folder.joinpath("vendor", "LICENSE").read_text("utf-8")
    yield "assets/vega.js", _vega()


def _vega() -> str:
    """Vega, Vega-Lite and vega-embed in one script that needs nothing else, as `vegaEmbed`."""
    folder = cache_folder("vega")  # bundling takes two seconds
    made = folder / f"{version('vl-convert-python')}.js" if folder else None
    if made and made.exists():
        return made.read_text("utf-8")
    import vl_convert

    script = f"(() => {{{vl_convert.javascript_bundle()}}})();\n"  # type: ignore[call-arg]
    if made:
        write_text(made, script)
    return script


def left_over(folder: str | Path, made: Collection[str]) -> list[str]:
    """A line for each page of a folder that is of no record any more."""
    left = {path.relative_to(folder).as_posix() for path in Path(folder).glob("*/*.html")} - {*made}
    return [f"{Path(folder) / name} is of no record any more: delete it" for name in sorted(left)]
