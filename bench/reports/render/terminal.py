"""Tables in a terminal of any width. Numbers are never shortened; a table that is too wide is split."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from bench.reports.page import Column, Table

if TYPE_CHECKING:
    from rich.console import Console

TEXT_WIDTH = 16  # minimum width of a text column in characters


def table(table: Table, console: Console) -> None:
    """Print a table with its footnotes and remarks."""
    if table.title:
        console.print(Text(table.title, style="bold"))
    for text in table.text:
        console.print(Text(text))
    for part in _parts(table, console.width):
        console.print(_rich(table, part, console.width))
    notes = [f"[{i}] {text}" for i, text in enumerate(table.footnotes, 1)]
    for note in (*notes, *table.remarks):
        console.print(Text(note), style="dim")


def _parts(table: Table, width: int) -> list[list[int]]:
    """Columns of each part: all if they fit, else the labels and as many as fit, equal headings together."""
    widths = [_least(table, i) for i in range(len(table.columns))]
    everything = list(range(len(table.columns)))
    if sum(widths) + len(widths) <= width:
        return [everything]
    groups = [list(group) for _, group in groupby(everything[1:], key=lambda i: table.columns[i].heading)]
    parts: list[list[int]] = []
    room = 0
    for group in groups:
        needed = sum(widths[i] + 1 for i in group)
        if needed > room or not parts:
            parts.append([0])
            room = width - widths[0] - 1
        parts[-1] += group
        room -= needed
    return parts


def _least(table: Table, index: int) -> int:
    """The minimum width of a column, with whole numbers and the heading on several lines."""
    column = table.columns[index]
    if not column.number:
        return TEXT_WIDTH
    words = [*column.short_title.split(), *(row[index].text for row in table.rows)]
    return max(map(len, words))


def _rich(table: Table, part: list[int], width: int) -> RichTable:
    """Some columns, as wide as the terminal allows, with rules or at least with headings on one line."""
    least = [_least(table, i) for i in part]
    whole = [max(n, len(table.columns[i].short_title)) for n, i in zip(least, part, strict=True)]
    widths = next((w for w in (whole, least) if sum(w) + 3 * len(w) <= width), None)
    made = RichTable(
        header_style="bold",
        box=box.SIMPLE_HEAD if widths else None,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for i, number_width in zip(part, widths or least, strict=True):
        column: Column = table.columns[i]
        heading = Text(column.short_title)
        if column.number:
            made.add_column(heading, justify="right", width=number_width)
        else:
            made.add_column(heading, min_width=TEXT_WIDTH, overflow="fold")
    for row in table.rows:
        made.add_row(*(Text(row[i].text, style="bold" if row[i].best else "") for i in part))
    return made
