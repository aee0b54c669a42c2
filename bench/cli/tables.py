"""`bench tables`: Tables 1 to 6 of the U-DiT paper beside what is measured here."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import Json
from bench.cli.output import console, print_json, print_table, working

if TYPE_CHECKING:
    from bench.tables import Speed, TableRow


def tables(
    table: Annotated[int | None, typer.Option(help="One table, 1 to 6. Default: all.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write table-N.md files into this folder.")] = None,
    results: Annotated[Path, typer.Option(help="Folder of records, for measured speed.")] = Path("results"),
    as_json: Json = False,
) -> None:
    """Published figures beside measured parameters and GFLOPs, and speed where records exist."""
    from bench import files
    from bench import tables as contents

    with working("loading torch") as status:
        rows = contents.build(table, progress=lambda label: status.update(f"counting {label}"))
    if as_json:
        print_json([row.to_dict() for row in rows])
        return
    for number, found in groupby(rows, key=lambda row: row.published.table):
        group = list(found)
        speeds = contents.speeds(group, results)
        if out is not None:
            path = out / f"table-{number}.md"
            files.write_text(path, contents.markdown(group, speeds))
            console().print(f"wrote {path}")
        else:
            _print(number, group, speeds)


_KINDS = {"published": "paper", "measured": "here"}


def _print(number: int, rows: list[TableRow], speeds: list[Speed]) -> None:
    from bench import published
    from bench import tables as contents

    frame = contents.frame(rows, speeds)
    frame = frame.loc[:, (frame != "").any()]  # quality columns without a measurement
    remarks = contents.notes(rows)
    marks = {label: f" [{i}]" for i, (labels, _) in enumerate(remarks, 1) for label in labels}
    print_table(
        f"Table {number}: {published.title(number)}",
        ["Model", *(f"{_KINDS[column[0]]} {column[1]}" for column in frame.columns)],
        [[label + marks.get(label, ""), *values] for label, *values in frame.itertuples()],
        notes=[
            *(f"[{i}] {text}" for i, (_, text) in enumerate(remarks, 1)),
            *(f"[{letter}] {speed.how}" for letter, speed in zip(ascii_lowercase, speeds, strict=False)),
        ],
    )
    console().print()
