"""Progress for people: a bar on a terminal or in a notebook, plain lines elsewhere, or nothing.

Importing this module imports rich.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape as escape_html
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from bench.utils import distributed
from bench.utils.progress import Progress as Callback

_FORMATS = "{task.description}", "{task.fields[told]}"


@contextmanager
def bar(*, plainly: bool = True) -> Iterator[Callable[..., None]]:
    """One bar for all stages of some work: it tells which one is under way, how far it is, and its rate.

    It is gone once the work is done. Of several processes at one job, the first alone shows it.

    Args:
        plainly: where stderr is no terminal, print a line now and then; else nothing.

    Yields:
        A callback; see `bench.utils.progress`. A fourth argument is text that is shown in place of the rate.
    """
    with _shown(plainly) as update:
        stage, began = "", (0, 0.0)

        def tell(description: str, done: int, total: int, text: str | None = None) -> None:
            nonlocal stage, began
            now = time.monotonic()
            if description != stage or done < began[0]:
                stage, began = description, (done, now)
            count, since = done - began[0], now - began[1]
            rate = count / since if count and since else 0.0
            told = f"{rate:,.{0 if rate >= 10 else 1}f}/s" if rate else ""
            update(description, done, total, told if text is None else text)

        yield tell


@contextmanager
def interactive(progress: Callback | None) -> Iterator[Callable[..., None]]:
    """The callback that was given, or else a bar where somebody looks: on a terminal or in a notebook."""
    if progress is not None:
        yield progress
    elif not (sys.stderr.isatty() or Console().is_jupyter):
        yield lambda *stage: None
    else:
        with bar(plainly=False) as shown:
            yield shown


def of_training(tell: Callable[..., None]) -> dict[str, Any]:
    """Callbacks for `bench.training.loop.train` that tell its loss and rate on a bar."""
    told = ""

    def log(entry: dict[str, Any]) -> None:
        nonlocal told
        told = f"loss {entry['loss']:.4f}, {entry['images_per_second']:.0f} images/s"

    return {
        "progress": lambda description, done, total: tell("training", done, total, told),
        "log": log,
    }


@contextmanager
def _shown(plainly: bool) -> Iterator[Callable[[str, int, int, str], None]]:
    if not distributed.is_main():
        yield lambda description, done, total, told: None
        return
    if Console().is_jupyter:
        with _in_notebook() as update:
            yield update
        return
    columns = (TextColumn(_FORMATS[0]), BarColumn(), MofNCompleteColumn(), TextColumn(_FORMATS[1]))
    terminal = sys.stderr.isatty()
    shown: Progress = (
        Progress(
            *columns,
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=4,
        )
        if terminal
        else PlainProgress()
    )
    with shown:
        task = shown.add_task("", total=None, told="")
        stage = ""

        def update(description: str, done: int, total: int, told: str) -> None:
            nonlocal stage
            if description != stage and terminal:
                shown.reset(
                    task, completed=done, description=escape(description)
                )  # with a time left of its own
            stage = description
            if terminal or plainly:
                shown.update(
                    task, description=escape(description), completed=done, total=total or None, told=told
                )

        yield update


@contextmanager
def _in_notebook() -> Iterator[Callable[[str, int, int, str], None]]:
    """A bar of HTML, which needs no widgets; it is renewed five times a second at most."""
    from IPython.display import HTML, display

    shown: Any = display(HTML(""), display_id=True)
    last = 0.0

    def update(description: str, done: int, total: int, told: str) -> None:
        nonlocal last
        if time.monotonic() - last < 0.2 and done < total:
            return
        last = time.monotonic()
        count = f"{done:,} of {total:,}" if total else ""
        value = f' value="{done}" max="{total}"' if total else ""
        words = escape_html(", ".join(filter(None, (count, told))))
        shown.update(HTML(f"{escape_html(description)} <progress{value}></progress> {words}"))

    try:
        yield update
    finally:
        shown.update(HTML(""))


class PlainProgress(Progress):
    """Progress as lines of text on stderr, one in `EVERY` seconds."""

    EVERY = 30.0

    def __init__(self) -> None:
        super().__init__(disable=True)
        self._printed = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As of rich's bar, and a line if it is time for one."""
        super().update(task_id, **changes)
        if time.monotonic() - self._printed < self.EVERY:
            return
        self._printed = time.monotonic()
        task = self._tasks[task_id]
        described, told = (Text.from_markup(text.format(task=task)).plain for text in _FORMATS)
        done = f"{task.completed:.0f}" + (f"/{task.total:.0f}" if task.total else "")
        print(" ".join(filter(None, [f"{described}:", done, told])), file=sys.stderr, flush=True)
