"""The live view of a study: which of its cells are measured, and what is under way where."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
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
        jobs: how much time each is expected to take beside the others, by title.
        ended: jobs that have ended, and why they failed or None; it grows meanwhile.
        watcher: what is looked at.
    """

    def __init__(self, jobs: Mapping[str, float], ended: Mapping[str, str | None], watcher: Watcher) -> None:
        self.jobs, self.ended, self.watcher = jobs, ended, watcher
        self._begun: dict[str, float] = {}  # by title: when it was first seen under way
        self._part: dict[str, float] = {}  # by title: what was left of it then
        self._spent: dict[str, float] = {}  # by title: seconds that a measured job took
        self._most = 1  # under way at once
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

    def summary(self, found: Sequence[Activity]) -> str:
        """How many jobs have ended, and when the rest will, by what those that are measured have taken.

        Before one is measured: how long the rest trains, at the present rate.
        """
        self._notice(found)
        done = sum(title in self.ended for title in self.jobs)
        words = f"{done} of {len(self.jobs)} measured, {len(found)} under way"
        measured = [title for title in self._spent if self.ended[title] is None]
        training = [each for each in found if each.seconds_left is not None and each.title in self.jobs]
        if done == len(self.jobs):
            return words
        if measured:
            work = sum(self.jobs[title] * self._part[title] for title in measured)
            left = self._left(sum(self._spent[title] for title in measured) / work, {})
            return f"{words}, about {span(left)} left"
        if training:
            whole = [(each.seconds_left or 0.0) / (1 - each.done / each.total) for each in training]
            unit = sum(whole) / sum(self.jobs[each.title] for each in training)
            left = self._left(unit, {each.title: each.seconds_left or 0.0 for each in found})
            return f"{words}, about {span(left)} of training left"
        return words

    def _notice(self, found: Sequence[Activity]) -> None:
        """Take the times at which jobs begin and end."""
        now = time.monotonic()
        for each in found:
            self._begun.setdefault(each.title, now)
            self._part.setdefault(each.title, 1 - each.done / each.total * (each.done < each.total))
        self._most = max(self._most, len(found))
        for title in self.jobs:
            if title in self.ended and title in self._begun:
                self._spent.setdefault(title, now - self._begun[title])

    def _left(self, unit: float, known: Mapping[str, float]) -> float:
        """Seconds until all has ended, as many at once as were seen.

        Args:
            unit: seconds for each unit of `jobs`.
            known: seconds that are left of those under way; by default what they were expected to take, less
                what they have taken.
        """
        now = time.monotonic()
        left = {title: unit * size for title, size in self.jobs.items() if title not in self.ended}
        for title in left.keys() & self._begun.keys():
            spent = now - self._begun[title]
            left[title] = known.get(title, max(left[title] * self._part[title] - spent, 0.0))
        at_once = max(min(self._most, len(left)), 1)  # the last job may have ended since `summary` looked
        return max(sum(left.values()) / at_once, max(known.values(), default=0.0))

    def _print(self) -> None:
        printed = time.monotonic()
        while not self._ended.wait(min(EVERY, 1.0)):
            found = self.watcher.look()
            lines = [self.summary(found)]
            for each in found:
                title, where, doing, done, rate, left = cells(each)
                parts = [doing, f"step {done}", rate and f"{rate} images/s", left and f"{left} left"]
                lines.append(f"  {title} ({where}): {', '.join(filter(None, parts))}")
            if time.monotonic() - printed >= EVERY:
                printed = time.monotonic()
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
