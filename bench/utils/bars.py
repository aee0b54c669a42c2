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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.utils import distributed
from bench.utils.progress import Progress as Callback

EVERY = 30.0  # seconds from a plain line to the next


@contextmanager
def bar() -> Iterator[Callable[..., None]]:
    """One bar for all stages of some work: it tells which one is under way, how far it is, and its rate.

    It is gone once the work is done. Of several processes at one job, the first alone shows it. Without a
    terminal or notebook it is a line now and then.

    Yields:
        A callback; see `bench.utils.progress`. A fourth argument is text that is shown in place of the rate.
    """
    with _shown() as update:
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
        with bar() as shown:
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
def _shown() -> Iterator[Callable[[str, int, int, str], None]]:
    if not distributed.is_main():
        yield lambda description, done, total, told: None
    elif Console().is_jupyter:
        with _in_notebook() as update:
            yield update
    elif sys.stderr.isatty():
        with _on_terminal() as update:
            yield update
    else:
        yield _as_lines()


@contextmanager
def _on_terminal() -> Iterator[Callable[[str, int, int, str], None]]:
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=4,
    )
    stage = ""
    with shown:
        task = shown.add_task("", total=None, told="")

        def update(description: str, done: int, total: int, told: str) -> None:
            nonlocal stage
            if description != stage:  # with a time left of its own
                stage = description
                shown.reset(task, completed=done, description=escape(description))
            shown.update(task, completed=done, total=total or None, told=told)

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


def _as_lines() -> Callable[[str, int, int, str], None]:
    """Lines of text on stderr, one in `EVERY` seconds."""
    printed = time.monotonic()

    def update(description: str, done: int, total: int, told: str) -> None:
        nonlocal printed
        if time.monotonic() - printed < EVERY:
            return
        printed = time.monotonic()
        count = f"{done}/{total}" if total else f"{done}"
        print(" ".join(filter(None, [f"{description}:", count, told])), file=sys.stderr, flush=True)

    return update
