"""What is under way in a folder of records, by any executor and on any machine, as the leases tell, and what
measuring has taken so far.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench import records
from bench.records.schema import Quality
from bench.studies.executors import LEASES
from bench.utils import leases
from registry.errors import UsageError


@dataclass(frozen=True)
class Usage:
    """Time of processors. What runs on GPUs counts as those alone, not as the cores beside them.

    Attributes:
        cores, gpus: seconds, times how many there were.
    """

    cores: float = 0.0
    gpus: float = 0.0

    def __add__(self, other: Self) -> Usage:
        return Usage(self.cores + other.cores, self.gpus + other.gpus)

    def __str__(self) -> str:
        of_both = {"core": self.cores / 3600, "GPU": self.gpus / 3600}
        told = [f"{hours:,.2f} {name}-hours" for name, hours in of_both.items() if hours]
        return " and ".join(told) or "0 core-hours"


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
        usage: of the job since this process began it.
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
    usage: Usage


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
            usage=Usage(**{key: float(told.get(key, 0)) for key in ("cores", "gpus")}),
        )


class Meter:
    """What training, sampling and scoring have taken, as the records of cells tell.

    A training run that several cells share is counted once. Attempts that were killed count as far as a later
    one went on with what they had trained.

    Args:
        results: folder of records.
        runs: training runs, by the file of a cell's record.
    """

    def __init__(self, results: Path, runs: Mapping[str, str]) -> None:
        self.results, self.runs = results, runs
        self._known: dict[str, tuple[Usage, Usage]] = {}  # by file: training, and the rest

    def usage(self, measured: Iterable[str]) -> Usage:
        """Of those of the cells that are measured, by the files of their records."""
        training: dict[str, Usage] = {}
        total = Usage()
        for file in measured:
            if file not in self._known and file in self.runs:
                self._read(file)
            if file in self._known:
                trained, rest = self._known[file]
                total += rest
                shared = (training.get(self.runs[file], Usage()), trained)
                training[self.runs[file]] = max(shared, key=lambda usage: (usage.gpus, usage.cores))
        return sum(training.values(), total)

    def _read(self, file: str) -> None:
        try:
            record = records.read_file(self.results / file)
        except UsageError:  # it is not there any more, or damaged
            return
        if not isinstance(record.result, Quality):
            return
        spent, where = record.result.seconds, record.environment
        processes = record.context.processes or 1

        def usage(seconds: float) -> Usage:
            if where.device == where.cpu:
                return Usage(cores=seconds * max(where.threads, processes))
            return Usage(gpus=seconds * processes)

        self._known[file] = usage(spent.train), usage((spent.sample or 0) + spent.eval)
