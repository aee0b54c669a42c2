"""The files of a report: a page for each study, pictures, and a ledger of the records.

A page for each built-in study: table-1 … table-6, backbones and leaderboard, or for those of one's own.
`records.csv` names every record with a hash of its file, so that a report is known to be stale once any digit
of any record changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import bench.studies
from bench.reports import figures, proxy, tables
from bench.reports.page import Page
from bench.reports.render import csv, html, latex, markdown
from bench.reports.select import Line, Selection, lines, settings
from bench.studies import Study
from bench.utils.files import write_text
from bench.utils.text import texts
from registry.errors import UsageError, suggest

RENDERERS: dict[str, tuple[str, Callable[[Page], str]]] = {
    "md": ("md", markdown.page),
    "html": ("html", html.page),
    "latex": ("tex", latex.page),
}
FORMATS = (*RENDERERS, "csv")
LEDGER = "records.csv"


def files(
    results: str | Path, formats: str | Sequence[str], studies: str | Sequence[str] = ()
) -> dict[str, str]:
    """Every file of a report: its name and its content.

    Args:
        results: folder of records.
        formats: some of `FORMATS`; pictures are always SVG.
        studies: names or TOML files, a page for each; all that are built in, and the ledger, where none
            are given.

    Raises:
        UsageError: no such folder, an unknown format, or two studies that would have one page.
    """
    formats, studies = texts(formats), texts(studies)
    for name in formats:
        if name not in FORMATS:
            known = list(FORMATS)
            raise UsageError(
                f"unknown format {name!r}.{suggest(name, known)} It is one of {', '.join(known)}."
            )
    selection, chosen = Selection(Path(results)), chosen_studies(studies)
    found = {name: lines(study, selection) for name, study in chosen.items()}
    made, shown = _pictures(found, selection)
    if not studies:
        made[LEDGER] = _ledger(selection)
        made |= _proxy(found, formats)
    for name, study in chosen.items():
        page = tables.page(study, found[name], selection, shown.get(name, {}))
        for ending, render in (RENDERERS[f] for f in formats if f in RENDERERS):
            made[f"{page.file}.{ending}"] = render(page)
        if "csv" in formats:
            made[f"{page.file}.csv"] = csv.frame(tables.frame(found[name], selection))
    return made


def chosen_studies(names: Sequence[str]) -> dict[str, Study]:
    """Studies by name: those given, as names or TOML files, or all that are built in.

    Raises:
        UsageError: there is no such study, or two of them would have one page.
    """
    pages: dict[str, str] = {}
    chosen = {}
    for name in names or bench.studies.names():
        study = bench.studies.load(name)
        if (other := pages.setdefault(tables.page_file(study), name)) != name:
            raise UsageError(f"{other} and {name} would have one page, {tables.page_file(study)}: rename one")
        chosen[study.name] = study
    return chosen


def _proxy(found: Mapping[str, Sequence[Line]], formats: Sequence[str]) -> dict[str, str]:
    """The page on small protocols, its picture, and all its numbers."""
    compared = proxy.compare(found)
    chosen_on, *_ = compared.values()
    made, picture = {}, None
    if (data := figures.correlation_against_computing(chosen_on))["measured"]:
        lines, columns = figures.correlation_panels(data)
        size = (6.4 * columns, 4.8 * lines)
        file = f"{proxy.FILE}.svg"
        made[file] = figures.svg(figures.draw_correlation_against_computing, data, size)
        picture = file, "Rank correlation against computing, on the study that was chosen on"
    page = proxy.page(compared, picture)
    for ending, render in (RENDERERS[f] for f in formats if f in RENDERERS):
        made[f"{page.file}.{ending}"] = render(page)
    if "csv" in formats:
        made[f"{page.file}.csv"] = csv.frame(
            proxy.frame(each for found in compared.values() for each in found)
        )
    return made


def _ledger(selection: Selection) -> str:
    import pandas as pd

    rows = selection.ledger()
    return csv.frame(pd.DataFrame(rows).astype({"seed": "Int64"}) if rows else pd.DataFrame(columns=["file"]))


def _pictures(
    found: dict[str, list[Line]], selection: Selection
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Pictures by file name, and for each study those on its page with their titles."""
    made: dict[str, str] = {}
    shown: dict[str, dict[str, str]] = {}
    if "scaling" in found:
        data = figures.fid_against_cost(found)
        size = (6.6 + 8.6 * len(data["measured"]), 5.2)
        made["fid-gflops.svg"] = figures.svg(figures.draw_fid_against_cost, data, size)
        shown["scaling"] = {"fid-gflops.svg": "FID against GFLOPs"}
    if "training-steps" in found:
        data = figures.fid_against_steps(found["training-steps"])
        size = (6 * (1 + len(data["measured"])), 4.6)
        made["fid-steps.svg"] = figures.svg(figures.draw_fid_against_steps, data, size)
        shown["training-steps"] = {"fid-steps.svg": "FID against training steps"}
    for name in found:
        if name in tables.NUMBERS and name != "components":  # it says as much as all of them
            continue
        if data := figures.cost_by_stage(found[name]):
            size = (11, 1.8 + 0.42 * len(data))
            made[f"cost-{name}.svg"] = figures.svg(figures.draw_cost_by_stage, data, size)
            shown[name] = {f"cost-{name}.svg": "Cost by stage"}
    for name, rows in found.items():
        for protocol in dict.fromkeys(setting.protocol for setting in settings(rows)):
            if picture := figures.samples(rows, protocol, selection.folder):
                file = f"samples-{name}-{protocol}.svg"
                made[file] = picture
                shown.setdefault(name, {})[file] = (
                    f"Samples under {protocol}, the same noise and class one below the other"
                )
    return made, shown


def write(
    folder: str | Path, results: str | Path, formats: str | Sequence[str], studies: str | Sequence[str] = ()
) -> list[Path]:
    """Write a report, each file whole or not at all; see `files`.

    Raises:
        UsageError: also where the folder cannot be written to.
    """
    paths = []
    for name, text in files(results, formats, studies).items():
        paths.append(Path(folder) / name)
        write_text(paths[-1], text)
    return paths


def check(
    folder: str | Path, results: str | Path, formats: str | Sequence[str], studies: str | Sequence[str] = ()
) -> list[str]:
    """How the files of a report differ from what the records make: a line for each file that does.

    Raises:
        UsageError: see `files`.
    """
    complaints = []
    for name, wanted in files(results, formats, studies).items():
        path = Path(folder) / name
        try:
            found = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            complaints.append(f"{path} is missing")
            continue
        except (OSError, UnicodeDecodeError) as error:
            complaints.append(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")
            continue
        if found != wanted and not (path.suffix == ".svg" and _shows_the_same(found, wanted)):
            complaints.append(f"{path}, {_first_difference(found, wanted)}")
    return complaints


def _shows_the_same(found: str, wanted: str) -> bool:
    """Whether two pictures, drawn by different versions of matplotlib, hold the same numbers."""
    (by, shown), (here, shows) = figures.described(found), figures.described(wanted)
    return by != here and shown == shows


def _first_difference(found: str, wanted: str) -> str:
    pairs = zip_longest(found.split("\n"), wanted.split("\n"))
    for number, (is_there, should_be) in enumerate(pairs, 1):
        if is_there != should_be:
            return f"line {number}: {_near(is_there, should_be)}"
    raise AssertionError("there is no difference")


def _near(is_there: str | None, should_be: str | None) -> str:
    """Both lines from a little before where they part."""
    if is_there is None:
        return f"is not there, should be {_cut(should_be or '', 0)!r}"
    if should_be is None:
        return f"is {_cut(is_there, 0)!r}, should not be there"
    pairs = enumerate(zip(is_there, should_be, strict=False))
    part = next((i for i, (a, b) in pairs if a != b), min(len(is_there), len(should_be)))
    return f"is {_cut(is_there, part)!r}, should be {_cut(should_be, part)!r}"


def _cut(line: str, part: int, width: int = 160) -> str:
    start = max(0, part - width // 2)
    return ("…" if start else "") + line[start : start + width] + ("…" if len(line) > start + width else "")
