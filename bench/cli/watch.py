"""The live view of a study: which of its cells are measured, and what is under way where."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench.utils.text import span

if TYPE_CHECKING:
    from bench.studies.watching import Activity, Watcher

EVERY = 30.0  # seconds from one plain line to the next


class View:
    """A table on stderr while it is entered; plain lines now and then where stderr is no terminal.

    Args:
        total: how many jobs there are.
        done: how many of them are done.
        watcher: what is looked at.
    """

    def __init__(self, total: int, done: Callable[[], int], watcher: Watcher) -> None:
        self.total, self.done, self.watcher = total, done, watcher
        self._began, self._at_first = time.monotonic(), done()
        self._parts: dict[str, float] = {}  # of the trainings seen, how far they are
        self._parts_at_first: dict[str, float] = {}
        self._ended = threading.Event()
        self._live = Live(
            console=Console(stderr=True), get_renderable=self.table, refresh_per_second=2, transient=True
        )
        self._thread = threading.Thread(target=self._print, daemon=True)

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._live.start()
        else:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._live.stop()
        if self._thread.is_alive():  # plain lines end with how it came out
            self._thread.join()
            print(self.summary(self.watcher.look()), file=sys.stderr, flush=True)

    def table(self) -> Table:
        """What is under way, a line each, under a line on the whole."""
        found = self.watcher.look()
        table = Table(title=self.summary(found), title_justify="left", title_style="", box=None)
        for heading in ("Cell", "Where", "Doing", "Done", "Images/s", "Left"):
            table.add_column(heading, justify="right" if heading in ("Done", "Images/s", "Left") else "left")
        for each in found:
            table.add_row(*map(Text, cells(each)))
        return table

    def summary(self, found: list[Activity]) -> str:
        """How many are done, and when the rest may be.

        Told by what was done since this began, with the trained part of what is under way; before the first
        is done, by the present rate of training.
        """
        done = self.done()
        words = f"{done} of {self.total} measured, {len(found)} under way"
        training = [each for each in found if each.description == "training" and each.seconds_left]
        self._parts |= {each.run: each.done / each.total for each in training}
        self._parts_at_first = self._parts | self._parts_at_first
        if self._at_first < done < self.total:
            under_way = sum(self._parts.get(each.run, 0.0) for each in found)
            advance = done - self._at_first + under_way - sum(self._parts_at_first.values())
            if advance > 0:  # it is not where a process died that was seen to train
                left = (time.monotonic() - self._began) / advance * (self.total - done - under_way)
                words += f", about {span(max(left, 0.0))} left"
        elif done < self.total and training:
            others = len(found) / len(training)  # as those that train, for they measure only in between
            begun = sum(each.done / each.total for each in training) * others
            speed = sum((1 - each.done / each.total) / (each.seconds_left or 1) for each in training) * others
            words += f", about {span(max(self.total - done - begun, 0) / speed)} of training left"
        return words

    def _print(self) -> None:
        while not self._ended.wait(EVERY):
            found = self.watcher.look()
            lines = [self.summary(found)]
            for each in found:
                title, where, *rest = cells(each)
                lines.append(f"  {title} ({where}): {', '.join(filter(None, rest))}")
            print("\n".join(lines), file=sys.stderr, flush=True)


def cells(activity: Activity) -> list[str]:
    """A line of the table as text."""
    rate, left = activity.images_per_second, activity.seconds_left
    return [
        activity.title,
        activity.holder,
        activity.description,
        f"{activity.done:,} of {activity.total:,}",
        f"{rate:,.1f}" if rate else "",
        span(left) if left is not None else "",
    ]
