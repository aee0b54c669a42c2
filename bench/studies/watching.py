"""What is under way in a folder of records, by any executor and on any machine, as the leases tell."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from bench.studies.executors import LEASES
from bench.utils import leases


@dataclass(frozen=True)
class Activity:
    """A group under way; what is not known yet is None or empty.

    Attributes:
        name: of its lease: that of a training run, or `costs`.
        host, pid: where it is done.
        title: of the job.
        description, done, total: what is under way in it and how far that is; a total of 0 where it is not
            known.
        images_per_second: of what is counted in images.
        seconds_left: of what is under way, at the present rate.
        silence: seconds since this process last saw a sign of it.
    """

    name: str
    host: str
    pid: int
    title: str
    description: str
    done: int
    total: int
    images_per_second: float | None
    seconds_left: float | None
    silence: float


class Watcher:
    """Looks at what is under way, again and again.

    Args:
        results: folder of records.
        names: of the leases that are wanted; by default all.
    """

    def __init__(self, results: Path, names: Collection[str] | None = None) -> None:
        self.folder, self.names = results / LEASES, names
        self._watch = leases.Watch()

    def look(self) -> list[Activity]:
        """What is under way, sorted by name; what dead processes of this machine left behind is not."""
        try:
            names = sorted(os.listdir(self.folder))  # noqa: PTH208 (names are enough)
        except OSError:
            return []
        wanted = [n for n in names if not n.startswith(".") and (self.names is None or n in self.names)]
        return [found for name in wanted if (found := self._activity(name))]

    def _activity(self, name: str) -> Activity | None:
        holder = leases.look(self.folder / name)
        if holder is None or holder.here is False:
            return None
        told = holder.told
        return Activity(
            name,
            host=str(told.get("host", "")),
            pid=int(told.get("pid", 0)),
            title=str(told.get("title", "")),
            description=str(told.get("description", "")),
            done=int(told.get("done", 0)),
            total=int(told.get("total", 0)),
            images_per_second=told.get("images_per_second"),
            seconds_left=told.get("seconds_left"),
            silence=self._watch.silence(self.folder / name, holder),
        )
