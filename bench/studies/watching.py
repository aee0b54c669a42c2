"""What of a study is under way, by any executor and on any machine, and what measuring has taken so far."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench import records
from bench.records.schema import Quality
from bench.studies.cells import Cell, by_run
from bench.utils import locks
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
    """A training run that a process works in; what is not known is None or empty.

    Attributes:
        run: its name.
        title: of the cell that is measured in it.
        holder: the process, in words.
        description: what it does, as far as files tell.
        done, total: steps of training.
        images_per_second: of training.
        seconds_left: of training, at that rate.
    """

    run: str
    title: str
    holder: str
    description: str
    done: int
    total: int
    images_per_second: float | None
    seconds_left: float | None


class Watcher:
    """Looks at what is under way, again and again: locks tell where, logs how far it is.

    Args:
        results: folder of records.
        work: folder of training runs.
        cells: that are wanted.
    """

    def __init__(self, results: Path, work: Path, cells: Sequence[Cell]) -> None:
        self.results, self.work, self.groups = results, work, by_run(cells)

    def look(self) -> list[Activity]:
        """What is under way."""
        return [found for group in self.groups if (found := self._activity(group))]

    def _activity(self, group: Sequence[Cell]) -> Activity | None:
        run = self.work / group[0].run
        if (holder := locks.holder(run)) is None:
            return None
        cell = next((cell for cell in group if not (self.results / cell.file).exists()), group[-1])
        last = _last_entry(run / "log.jsonl")
        step, rate = last.get("step", 0), last.get("images_per_second")
        left = (cell.step - step) * cell.protocol.training.batch_size
        training = step < cell.step
        return Activity(
            group[0].run,
            cell.title,
            holder,
            "training" if training else "sampling and scoring",
            min(step, cell.step),
            cell.step,
            rate if training else None,
            left / rate if training and rate else None,
        )


def _last_entry(log: Path) -> dict[str, Any]:
    """The last whole line of a run's log; empty where there is none yet."""
    with contextlib.suppress(OSError, ValueError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().rpartition(b"\n")[0].splitlines()
        return dict(json.loads(lines[-1])) if lines else {}
    return {}


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
        self._spent = functools.cache(self._read)  # by file

    def usage(self, measured: Iterable[str]) -> Usage:
        """Of those of the cells that are measured, by the files of their records."""
        training: dict[str, Usage] = {}
        total = Usage()
        for file in measured:
            trained, rest = self._spent(file)
            run, total = self.runs[file], total + rest
            training[run] = max(
                training.get(run, Usage()), trained, key=lambda usage: (usage.gpus, usage.cores)
            )
        return sum(training.values(), total)

    def _read(self, file: str) -> tuple[Usage, Usage]:
        """What training took, and what the rest; nothing where no record can be read."""
        try:
            record = records.read_file(self.results / file)
        except UsageError:  # it is not there any more, or damaged
            return Usage(), Usage()
        assert isinstance(record.result, Quality)
        spent, where = record.result.seconds, record.environment
        processes = record.context.processes or 1

        def usage(seconds: float) -> Usage:
            if where.device == where.cpu:
                return Usage(cores=seconds * max(where.threads, processes))
            return Usage(gpus=seconds * processes)

        return usage(spent.train), usage((spent.sample or 0) + spent.eval)
