"""The files of a report: a page for each study, pictures, and a ledger of the records.

There is a page for each built-in study (table-1 … table-6, backbones, leaderboard, …), or for given studies.
`records.csv` lists every record with its digest, so a report is known to be out of date if any digit of any
record changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import bench.studies
from bench.records import collection_later
from bench.reports import board, charts, proxy, samples, scored, tables
from bench.reports.findings import by_soundness
from bench.reports.page import Page
from bench.reports.render import csv, latex, markdown
from bench.reports.select import Line, Selection, lines, settings
from bench.studies import Study
from bench.utils.files import write_bytes
from bench.utils.text import texts
from registry.errors import UsageError, suggest

Content = str | bytes
RENDERERS: dict[str, tuple[str, Callable[[Page], str]]] = {
    "md": ("md", markdown.page),
    "latex": ("tex", latex.page),
}
FORMATS = (*RENDERERS, "csv")
LEDGER = "records.csv"


@collection_later()
def files(
    results: str | Path,
    formats: str | Sequence[str],
    studies: str | Sequence[str] = (),
    protocols: str | Sequence[str] = (),
) -> dict[str, str]:
    """Every file of a report: file name -> content.

    Args:
        results: folder of records.
        formats: some of `FORMATS`; pictures are always SVG.
        studies: names or TOML files, a page for each. Default: all built-in studies, with the ledger.
        protocols: TOML files of protocols whose records are shown too, besides those that a study names.

    Raises:
        UsageError: there is no such folder, a format is unknown, or two studies would have the same page.
    """
    formats, studies = texts(formats), texts(studies)
    for name in formats:
        if name not in FORMATS:
            known = list(FORMATS)
            raise UsageError(
                f"unknown format {name!r}.{suggest(name, known)} It is one of {', '.join(known)}."
            )
    chosen, selection = chosen_studies(studies, texts(protocols)), Selection(Path(results))
    found = {name: lines(study, selection) for name, study in chosen.items()}
    made, shown = _pictures(chosen, found, selection)
    if not studies:
        made[LEDGER] = _ledger(selection)
        made |= _proxy(found, formats) | _scored(selection, formats)
    for name, study in chosen.items():
        page = tables.page(study, found[name], selection, shown.get(name, {}))
        made |= _rendered(page, partial(tables.values, found[name], selection), formats)
    return made


def chosen_studies(names: Sequence[str], protocols: Sequence[str] = ()) -> dict[str, Study]:
    """Studies by name: the given names or TOML files, or all built-in ones, each with further protocols.

    Raises:
        UsageError: there is no such study, or two of them would have the same page.
    """
    pages: dict[str, str] = {}
    chosen = {}
    for name in names or bench.studies.names():
        study = bench.studies.load(name)
        for page in (tables.page_file(study), study.name):  # of a report and of a site
            if (other := pages.setdefault(page, name)) != name:
                raise UsageError(f"{other} and {name} would have one page, {page}: rename one")
        chosen[study.name] = replace(study, protocols=(*study.protocols, *protocols))
    return chosen


def _proxy(found: Mapping[str, Sequence[Line]], formats: Sequence[str]) -> dict[str, str]:
    """The page on small protocols, its picture, and all its numbers."""
    compared = proxy.compare(found)
    chosen_on, *_ = compared.values()
    made, picture = {}, None
    if chart := charts.correlation_against_computing(chosen_on):
        file = f"{proxy.FILE}.svg"
        made[file] = charts.svg(charts.correlation_picture(chart))
        picture = file, chart.title
    rows = partial(proxy.values, chain.from_iterable(compared.values()))
    return made | _rendered(proxy.page(compared, picture), rows, formats)


def _scored(selection: Selection, formats: Sequence[str]) -> dict[str, str]:
    """The page of scored samples; empty without such records."""
    page = scored.page(selection.records)
    return _rendered(page, partial(scored.values, selection.records), formats) if page else {}


def _rendered(page: Page, rows: Callable[[], list[dict[str, Any]]], formats: Sequence[str]) -> dict[str, str]:
    """The files of a page, and of its numbers as CSV."""
    made = {}
    for name in formats:
        ending, render = RENDERERS.get(name, ("csv", None))
        made[f"{page.file}.{ending}"] = render(page) if render else csv.frame(rows())
    return made


def _ledger(selection: Selection) -> str:
    """Every record with the digest of its content, as CSV. A report is current while these are unchanged."""
    rows = [
        {
            "file": record.file,
            "digest": record.digest,
            "kind": record.request.kind,
            "model": record.request.subject,
            "protocol": record.context.protocol,
            "seed": str(getattr(record.request, "seed", "")),
            "device": record.environment.device,
            "torch": record.environment.torch,
            "commit": record.environment.commit,
            "date": record.environment.date,
        }
        for record in selection.records
    ]
    return csv.frame(rows) if rows else "file\n"


def _pictures(
    chosen: Mapping[str, Study], found: Mapping[str, Sequence[Line]], selection: Selection
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Pictures by file name, and for each study those on its page with their titles."""
    made: dict[str, str] = {}
    shown: dict[str, dict[str, str]] = {}
    numbered = {name for name, study in chosen.items() if tables.number(study)}
    if {"scaling", "training-steps"} & numbered:
        every = board.board(selection)
        figures = {
            "scaling": ("fid-gflops.svg", charts.fid_against_cost, "FID against GFLOPs"),
            "training-steps": ("fid-steps.svg", charts.fid_against_steps, "FID against training steps"),
        }
        for name, (file, draw, title) in figures.items():
            if name in numbered:
                made[file] = charts.svg(draw(every), charts.PAPER)
                shown[name] = {file: title}
    below = {"legend": {"orient": "bottom", "columns": 8}}
    for name, rows in found.items():
        for setting in by_soundness(rows, settings(rows))[:1]:
            if chart := charts.seeds(rows, setting, None):
                made[f"scores-{name}.svg"] = charts.svg(chart.panel(560))
                title = f"{chart.title}, protocol {setting.protocol}"
                shown.setdefault(name, {})[f"scores-{name}.svg"] = title
        if name in numbered and name != "components":  # one of these pages is enough
            continue
        costs = {line.row.table_label: line.cost.cost for line in rows if line.cost}
        if chart := charts.cost_by_stage(costs, ["gflops"]):
            made[f"cost-{name}.svg"] = charts.svg(chart.panel(760, config=below))
            shown.setdefault(name, {})[f"cost-{name}.svg"] = "Cost by stage"
    for name, rows in found.items():
        for protocol in dict.fromkeys(setting.protocol for setting in settings(rows)):
            if picture := samples.sheet(rows, protocol, selection.folder):
                file = f"samples-{name}-{protocol}.svg"
                made[file] = picture
                shown.setdefault(name, {})[file] = (
                    f"Samples under {protocol}: each column has the same noise and class"
                )
    return made, shown


def write(folder: str | Path, made: Iterable[tuple[str, Content]]) -> list[Path]:
    """Write files, each completely or not at all. Files that are up to date are not touched.

    Raises:
        UsageError: the folder cannot be written to.
    """
    paths = []
    for name, content in made:
        path, wanted = Path(folder) / name, _bytes(content)
        if not path.is_file() or path.read_bytes() != wanted:
            write_bytes(path, wanted)
        paths.append(path)
    return paths


def check(folder: str | Path, made: Iterable[tuple[str, Content]]) -> list[str]:
    """A message for each file that is out of date."""
    complaints = []
    for name, content in made:
        path = Path(folder) / name
        try:
            found = path.read_bytes()
        except FileNotFoundError:
            complaints.append(f"{path} is missing")
            continue
        except OSError as error:
            complaints.append(f"{path} cannot be read: {error.strerror or error}")
            continue
        if found == _bytes(content):
            continue
        if isinstance(content, bytes):
            complaints.append(f"{path} is a different picture")
            continue
        text = found.decode("utf-8", "replace")
        if not (path.suffix == ".svg" and _shows_the_same(text, content)):
            complaints.append(f"{path}, {_first_difference(text, content)}")
    return complaints


def _bytes(content: Content) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _shows_the_same(found: str, wanted: str) -> bool:
    """Whether two pictures were drawn by different versions of vl-convert from the same numbers."""
    (by, shown), (here, shows) = charts.described(found), charts.described(wanted)
    return by != here and shown == shows


def _first_difference(found: str, wanted: str, width: int = 80) -> str:
    """The first line in which two texts differ, from shortly before the difference."""
    pairs = enumerate(zip(found, wanted, strict=False))
    part = next((i for i, (a, b) in pairs if a != b), min(len(found), len(wanted)))
    begin = found.rfind("\n", 0, part) + 1
    first = max(begin, part - width)
    is_there, should_be = (text[first : part + width].partition("\n")[0] for text in (found, wanted))
    cut = "…" if first > begin else ""
    line = found.count("\n", 0, part) + 1
    return f"line {line}: is {cut + is_there!r}, should be {cut + should_be!r}"
