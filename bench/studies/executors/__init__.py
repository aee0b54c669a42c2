"""Who measures the cells of a study, and where. Nothing here imports torch.

    executor = executors.executor("local", jobs=2)
    failed = executor.run(groups(cells, costs, …), work=Path("runs"))

An executor is a plugin that has groups of jobs done by `bench.studies.worker`, in processes of this machine
or of a cluster that sees the same folders. A group is done under the lock of its run's folder
(`bench.utils.locks`), so that several calls, on several machines, share the work of one folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import records
from bench.records.schema import CostRequest
from bench.studies.cells import Cell, Task, by_run
from bench.utils import locks
from registry.plugins import Registry

executors = Registry("executor", group="bench.executors", base="bench.studies.executors.Executor")
executors.discover("bench.studies.executors")

PATIENCE = 1.0  # seconds between two looks for a group that has become free
Ended = Callable[[str, str | None], None]  # title of a job that ended, and why it failed or None


@dataclass(frozen=True)
class Job:
    """One thing to measure.

    Attributes:
        title: for people.
        record: file of its record.
        replaces: digest of that file as it was planned with; see `bench.records.file_digest`.
        message: for the process that does it, as JSON can hold it.
    """

    title: str
    record: Path
    replaces: str | None
    message: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether it was measured since it was planned, by whomever."""
        return records.file_digest(self.record) != self.replaces


@dataclass(frozen=True)
class Group:
    """Jobs that one process does one after the other: no two groups share a training run.

    Attributes:
        run: folder of the training run, whose lock the process holds that does them; None of costs.
        jobs: at least one.
        memory: bytes that each of its processes is estimated to need; 0 where that is not known.
    """

    run: Path | None
    jobs: tuple[Job, ...]
    memory: int = 0

    @property
    def message(self) -> dict[str, Any]:
        """For the process that does it, as JSON can hold it; see `bench.studies.worker.work`."""
        jobs = [{"title": job.title, **job.message} for job in self.jobs]
        return {"run": str(self.run) if self.run else None, "jobs": jobs}

    @property
    def processes(self) -> int:
        """How many train and sample one of its cells together, at most; see `Training` of a protocol."""
        protocols = [job.message["quality"]["protocol"] for job in self.jobs if "quality" in job.message]
        return max((protocol["training"]["processes"] for protocol in protocols), default=1)

    def after(self, count: int) -> Group | None:
        """All jobs of it but the first so many; None where those were all."""
        return replace(self, jobs=self.jobs[count:]) if self.jobs[count:] else None

    def only(self, titles: Collection[str]) -> Group | None:
        """The jobs of it that have these titles; None where none has."""
        jobs = tuple(job for job in self.jobs if job.title in titles)
        return replace(self, jobs=jobs) if jobs else None


class Backlog:
    """Groups that nobody has begun, or that another process was found at, and what became of the others.

    Args:
        groups: in the order in which they are wanted.
        ended: called at the end of each job.

    Attributes:
        failed: titles of the jobs that failed, and why.
    """

    def __init__(self, groups: Iterable[Group], ended: Ended = lambda title, failure: None) -> None:
        self.failed: dict[str, str] = {}
        self._groups, self._ended = deque(groups), ended

    def __len__(self) -> int:
        return len(self._groups)

    def take(self, fits: Callable[[Group], bool] = lambda group: True) -> Group | None:
        """The next group that nobody is at, or None.

        Groups that were done elsewhere since they were planned are ended on the way.

        Args:
            fits: whether there is room for a group now.
        """
        for _ in range(len(self._groups)):
            group = self._groups.popleft()
            if all(job.done for job in group.jobs):
                self.finish(group, [(job.title, None) for job in group.jobs])
                continue
            if fits(group) and not (group.run and locks.holder(group.run)):
                return group
            self._groups.append(group)
        return None

    def put_back(self, group: Group | None) -> None:
        """Have a group done later, or what is left of it."""
        if group is not None:
            self._groups.append(group)

    def end(self, title: str, failure: str | None) -> None:
        """A job has ended: why it failed, or None."""
        if failure is not None:
            self.failed[title] = failure
        self._ended(title, failure)

    def finish(self, group: Group, ended: Sequence[tuple[str, str | None]], held: bool = False) -> None:
        """These jobs of a group have ended; all of it is done later, where another process is at it."""
        for title, failure in ended:
            self.end(title, failure)
        if held:
            self.put_back(group)

    def crash(self, group: Group, why: str) -> None:
        """The process of a group is gone: the first job without a record failed, the rest is done later."""
        count = sum(job.done for job in group.jobs)
        self.finish(group, [(job.title, None) for job in group.jobs[:count]])
        for job in group.jobs[count : count + 1]:
            self.end(job.title, why)
        self.put_back(group.after(count + 1))


class Executor(ABC):
    """How and where groups are done; the arguments of its constructor are the user's options."""

    @abstractmethod
    def run(
        self,
        groups: Sequence[Group],
        *,
        work: Path,
        plugins: Sequence[str] = (),
        ended: Ended = lambda title, failure: None,
    ) -> dict[str, str]:
        """Do all jobs, or see that another process does them; one that fails does not stop the others.

        Args:
            groups: what is to be done.
            work: folder for what the processes print.
            plugins: files and modules that each process imports.
            ended: called at the end of each job.

        Returns:
            Titles of the jobs that failed, and why.

        Raises:
            UsageError: the work folder cannot be written to, or the executor cannot be had here.
            KeyboardInterrupt: Ctrl-C came, or SIGTERM where the caller has it raise this; every process has
                stopped.
        """

    def for_runs(self, runs: int, processes: int) -> Executor:
        """What does a study of so many training runs, done or not, each of so many processes.

        How the machine is shared follows from this and not from what is left.
        """
        return self

    def at_once(self, groups: int) -> int | None:
        """How many of so many groups are done at once; None where that depends on a cluster."""
        return None

    def lacks_memory(self, group: Group) -> bool:
        """Whether it is known that a group needs more memory than there is."""
        return False

    def plan(self, groups: Sequence[Group], work: Path) -> str:
        """What would be handed to a scheduler, for people; `""` where that says nothing."""
        return ""


def executor(name: str, **options: Any) -> Executor:
    """An executor by name.

    Raises:
        UsageError: no such executor, or an option that it does not take, or with a value of a wrong type.
    """
    made: Executor = executors.factory(name)(**executors.check(name, options))
    return made


def groups(
    cells: Sequence[Cell],
    costs: Mapping[str, CostRequest],
    *,
    results: Path,
    work: Path,
    data_options: Mapping[str, Any],
    reference: Path | None = None,
    fresh: bool = False,
    memory: Mapping[str, int] | None = None,
) -> list[Group]:
    """What is to be done. A record that is there already is measured anew.

    Args:
        cells, costs: what is measured.
        results: folder of records.
        work: folder of training runs.
        data_options: of the dataset.
        reference: file that samples are compared with; by default the dataset trained on.
        fresh: train from the start, whatever the work folder holds.
        memory: bytes that each process of a training run needs, by its name, as far as they are known.
    """
    results, work = results.resolve(), work.resolve()

    def replaced(file: str) -> str | None:
        return records.file_digest(results / file)

    counting = tuple(
        Job(
            f"cost of {label}",
            results / request.file,
            replaced(request.file),
            {"cost": request.model_dump(mode="json"), "results": str(results)},
        )
        for label, request in costs.items()
    )
    found = [Group(None, counting)] if counting else []
    for group in by_run(cells):
        run = work / group[0].run
        tasks = [
            Task(
                request=cell.request,
                overrides=cell.overrides,
                protocol=cell.protocol,
                run=run,
                results=results,
                replaces=replaced(cell.file),
                data_options=dict(data_options),
                reference=reference.resolve() if reference else None,
                fresh=fresh and cell is group[0],
                last=cell is group[-1],
            )
            for cell in group
        ]
        measuring = tuple(
            Job(cell.title, results / cell.file, task.replaces, {"quality": task.model_dump(mode="json")})
            for cell, task in zip(group, tasks, strict=True)
        )
        found.append(Group(run, measuring, (memory or {}).get(group[0].run, 0)))
    return found
