"""How commands print: tables for people, JSON for programs, progress on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console


def console() -> Console:
    """Standard output; as wide as the tables need when it goes to a file or a pipe."""
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=250 if wide else None, highlight=False, soft_wrap=False)


@contextmanager
def working(doing: str) -> Iterator[Any]:
    """A line on stderr that says what is under way; nothing when stderr is no terminal."""
    with Console(stderr=True).status(doing) as status:
        yield status


def print_json(value: Any) -> None:
    """One JSON document on standard output; what JSON has no form for, such as infinity, is text."""
    sys.stdout.write(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    known = isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value))
    return value if known else str(value)


def print_table(
    title: str,
    columns: list[str],
    rows: list[list[str]],
    *,
    numbers: bool | Collection[str] = True,
    notes: Iterable[str] = (),
) -> None:
    """A titled table and notes below it; `numbers` are the columns that align right, or all but the first."""
    from bench.reports.page import Column, Entry, Table
    from bench.reports.render import terminal

    right = columns[1:] if numbers is True else numbers or ()
    made = [Column(heading, number=heading in right) for heading in columns]
    entries = [list(map(Entry, row)) for row in rows]
    terminal.table(Table(made, entries, title, remarks=list(notes)), console())
