"""`bench tables`: Tables 1 to 6 of the U-DiT paper beside what is measured here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import Json
from bench.cli.output import console, print_json, print_table, working

if TYPE_CHECKING:
    from bench.reports.page import Page


def tables(
    table: Annotated[int | None, typer.Option(help="One table, 1 to 6. Default: all.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write table-N.md files into this folder.")] = None,
    results: Annotated[
        Path, typer.Option(help="Folder of records, for measured speed; in pages for quality too.")
    ] = Path("results"),
    as_json: Json = False,
) -> None:
    """Published figures beside cost as measured now, and speed where records exist.

    `bench report` reads cost from records too, adds pictures, and needs no torch.
    """
    from bench.reports import paper as contents
    from bench.reports.page import markdown
    from bench.utils import files

    with working("loading torch") as status:

        def progress(label: str) -> None:
            status.update(f"counting {label}")

        if as_json:
            print_json([row.to_dict() for row in contents.build(table, progress)])
            return
        pages = contents.pages(results, table, progress)
    for page in pages:
        if out is not None:
            path = out / f"{page.file}.md"
            files.write_text(path, markdown(page))
            console().print(f"wrote {path}")
        else:
            _print(page)


def _print(page: Page) -> None:
    """The first section: published figures and, below them where the terminal is narrow, cost and speed."""
    section = page.sections[0]
    assert section.grid is not None
    columns = list(section.grid.columns)
    rows = [[entry.text for entry in row] for row in section.grid.rows]
    kinds = [column.partition(", ")[2] for column in columns]
    notes = [f"[{i}] {text}" for i, text in enumerate(section.footnotes, 1)]
    notes += [remark for remark in section.remarks if remark.startswith("[")]
    headings = [_short(column) for column in columns]
    parts: list[tuple[str, ...]] = [("published", "measured")]
    widths = [
        max(len(part) for part in (*heading.split(), *(row[i] for row in rows)))
        for i, heading in enumerate(headings)
    ]
    if 16 + sum(widths[1:]) + len(widths) > console().width and "published" in kinds:
        parts = [("published",), ("measured",)]
        headings = [heading.replace(" ", "\n") for heading in headings]
    for i, shown in enumerate(parts):
        kept = [k for k, kind in enumerate(kinds) if not kind or kind in shown]
        print_table(
            page.title if not i else "",
            [headings[k] for k in kept],
            [[row[k] for k in kept] for row in rows],
            notes=notes if i == len(parts) - 1 else (),
        )
    console().print()


def _short(column: str) -> str:
    """`FID↓, published` -> `paper FID↓`."""
    figure, _, kind = column.partition(", ")
    return f"{ {'published': 'paper', 'measured': 'here'}[kind] } {figure}" if kind else figure
