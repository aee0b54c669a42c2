"""Who measures the cells of a study, and where. Nothing here imports torch.

An executor is a function that does lists of jobs and tells of events; `local` does them in processes of
this machine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records.schema import CostRequest
from bench.studies.cells import Cell, by_run


@dataclass(frozen=True)
class Job:
    """One thing to measure.

    Attributes:
        title: for people.
        message: for the process that does it, as JSON can hold it.
    """

    title: str
    message: dict[str, Any]


@dataclass(frozen=True)
class Event:
    """Something that happened in one of the processes.

    Attributes:
        worker: its number, from 0.
        title: of the job.
        description: what is under way; empty at the end of the job.
        done, total: how far that is; a total of 0 where it is not known.
        failure: why the job failed, at its end.
    """

    worker: int
    title: str
    description: str = ""
    done: int = 0
    total: int = 0
    failure: str | None = None


def jobs(
    cells: Sequence[Cell],
    costs: Mapping[str, CostRequest],
    *,
    results: Path,
    work: Path,
    data_options: Mapping[str, Any],
    reference: Path | None = None,
    force: bool = False,
    again: Collection[str] = (),
) -> list[list[Job]]:
    """What is to be done, in lists that each go to one process: no two share a training run.

    Args:
        cells, costs: what is measured.
        results: folder of records.
        work: folder of training runs.
        data_options: of the dataset.
        reference: file that samples are compared with; by default the dataset trained on.
        force: measure everything again, from the start.
        again: files of records that are measured again although they are there.
    """
    counting = [
        Job(f"cost of {label}", {"cost": request.model_dump(mode="json"), "results": str(results)})
        for label, request in costs.items()
    ]
    lists = [counting] if counting else []
    for group in by_run(cells):
        lists.append(
            [
                Job(
                    cell.title,
                    {
                        "quality": cell.request.model_dump(mode="json"),
                        "overrides": cell.overrides,
                        "protocol": cell.protocol.model_dump(mode="json"),
                        "run": str(work / cell.run),
                        "results": str(results),
                        "data_options": dict(data_options),
                        "reference": str(reference) if reference else None,
                        "force": force or cell.file in again,
                        "fresh": force and cell is group[0],
                        "last": cell is group[-1],
                    },
                )
                for cell in group
            ]
        )
    return lists
