"""What of a study is under way, by any executor and on any machine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.studies.cells import Cell, by_run
from bench.utils import locks


@dataclass(frozen=True)
class Activity:
    """A training run that a process works in; what is not known is None or empty.

    Attributes:
        title: of the cell that is measured in it.
        holder: the process, in words.
        description: what it does, as far as files tell.
        done, total: steps of training.
        images_per_second: of training.
        seconds_left: of training, at that rate.
    """

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
