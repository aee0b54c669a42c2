"""Jobs: what processes are told that measure a study, as JSON can hold it. Nothing here imports torch.

A plan (`bench.studies.plan`) has groups of jobs. An executor (`bench.studies.executors`) hands each group to
a process, which does one job after the other (`bench.studies.worker`), each into its record
(`bench.studies.measuring`).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import Field

from bench import records
from bench.records.schema import CostRequest, Model, QualityRequest
from bench.training.protocols import Protocol


class Job(Model):
    """One record to measure; of a cost, this is all.

    Attributes:
        title: for people.
        request: what is measured.
        results: folder of records.
        replaces: digest of the record's file as it was planned with (see `bench.records.file_digest`); None:
            there was none.
    """

    title: str
    request: CostRequest | QualityRequest = Field(discriminator="kind")
    results: Path
    replaces: str | None = None

    @property
    def record(self) -> Path:
        """File of its record."""
        return self.results / self.request.file

    @property
    def done(self) -> bool:
        """Whether it was measured since it was planned, by whomever."""
        return records.file_digest(self.record) != self.replaces


class Task(Job):
    """A cell to measure.

    Attributes:
        overrides: of the network, as the run is begun with.
        protocol: that of the cell.
        run: folder of its training run.
        data_options: of the dataset.
        reference: file that samples are compared with; None: the dataset trained on.
        add: only score samples of the trained network, by the protocol's scores, and add these to the record.
        fresh: delete what the run's folder holds before.
        last: no cell needs the run's folder any more: only its newest checkpoint and its pictures are left.
    """

    request: QualityRequest
    overrides: dict[str, Any]
    protocol: Protocol
    run: Path
    data_options: dict[str, Any] = Field(default={})
    reference: Path | None = None
    add: bool = False
    fresh: bool = False
    last: bool = True


class Group(Model):
    """Jobs that one process does one after the other: no two groups share a training run.

    Attributes:
        run: folder of the training run, whose lock the process holds that does them; None of costs.
        jobs: at least one.
    """

    run: Path | None
    jobs: tuple[Task | Job, ...]

    @property
    def processes(self) -> int:
        """How many train and sample one of its cells together, at most; see `Training` of a protocol."""
        tasks = [job for job in self.jobs if isinstance(job, Task)]
        return max((task.protocol.training.processes for task in tasks), default=1)

    def after(self, count: int) -> Group | None:
        """All jobs of it but the first so many; None where those were all."""
        return Group(run=self.run, jobs=self.jobs[count:]) if self.jobs[count:] else None

    def only(self, titles: Collection[str]) -> Group | None:
        """The jobs of it that have these titles; None where none has."""
        jobs = tuple(job for job in self.jobs if job.title in titles)
        return Group(run=self.run, jobs=jobs) if jobs else None
