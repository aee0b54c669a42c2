"""How commands print: tables for people, JSON for programs, progress on stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from bench.utils import distributed
from bench.utils.progress import Progress as Callback


def console() -> Console:
    """Standard output; as wide as the tables need when it goes to a file or a pipe."""
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=250 if wide else None, highlight=False, soft_wrap=False)


@contextmanager
def working(doing: str) -> Iterator[Any]:
    """A line on stderr that says what is under way; nothing when stderr is no terminal."""
    with Console(stderr=True).status(doing) as status:
        yield status


def on_line(status: Any) -> Callback:
    """A progress callback (see `bench.utils.progress`) that tells on the line of `working`."""

    def progress(description: str, done: int, total: int) -> None:
        status.update(f"{description}: {done + 1} of {total}" if total else description)

    return progress


def bar(*columns: str) -> Progress:
    """A progress bar on stderr with these columns of text after it and the time left.

    Where stderr is no terminal, a plain line now and then; of several processes at one job, the first alone.

    Args:
        columns: in rich's format, such as `{task.fields[loss]:.3f}`.
    """
    described, *others = columns or ("[progress.description]{task.description}",)
    texts = (TextColumn(described), BarColumn(), MofNCompleteColumn(), *map(TextColumn, others))
    console = Console(stderr=True)
    if sys.stderr.isatty() and distributed.is_main():
        return Progress(*texts, TimeRemainingColumn(), console=console)
    return PlainProgress([described, *others])


@contextmanager
def bars() -> Iterator[Callback]:
    """A progress bar with its rate for each description that the callback is given; see `bar`."""
    with bar("{task.description}", "{task.fields[rate]}") as shown:
        tasks: dict[str, TaskID] = {}

        def update(description: str, done: int, total: int) -> None:
            if description not in tasks:
                tasks[description] = shown.add_task(escape(description), rate="")
            speed = shown.tasks[tasks[description]].speed  # since it was first told of
            rate = f"{speed:,.{0 if speed >= 10 else 1}f}/s" if speed else ""
            shown.update(tasks[description], completed=done, total=total or None, rate=rate)

        yield update


class PlainProgress(Progress):
    """Progress as lines of text on stderr, one in `EVERY` seconds.

    Args:
        columns: as of `bar`.
    """

    EVERY = 30.0

    def __init__(self, columns: list[str]) -> None:
        super().__init__(disable=True)
        self._formats = columns
        self._printed = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As of rich's bar, and a line if it is time for one."""
        super().update(task_id, **changes)
        if time.monotonic() - self._printed < self.EVERY or not distributed.is_main():
            return
        self._printed = time.monotonic()
        task = self._tasks[task_id]
        described, *others = [Text.from_markup(text.format(task=task)).plain for text in self._formats]
        done = f"{task.completed:.0f}" + (f"/{task.total:.0f}" if task.total else "")
        print(" ".join([f"{described}:", done, *others]), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


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
