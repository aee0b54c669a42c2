"""Who measures the cells of a study, and where. Nothing here imports torch.

    made = plan("downsampler")                                  # see bench.studies.plan
    failed = executors.executor("local", jobs=2).measure(made)

An executor is a plugin that has groups of jobs done by `bench.studies.worker`, in processes of this machine
or of a cluster that sees the same folders. A group is done under the lock of its run's folder
(`bench.utils.locks`), so that several calls, on several machines, share the work of one folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.studies.jobs import Group
from bench.studies.plan import Plan
from bench.utils import locks
from bench.utils.files import make_folders
from registry.errors import UsageError
from registry.plugins import Registry

executors = Registry("executor", "bench.studies.executors", base="bench.studies.executors.Executor")

PATIENCE = 1.0  # seconds between two looks for a group that has become free
Ended = Callable[[str, str | None], None]  # title of a job that ended, and why it failed or None


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

    def take(self) -> Group | None:
        """The next group that nobody is at, or None.

        Groups that were done elsewhere since they were planned are ended on the way.
        """
        for _ in range(len(self._groups)):
            group = self._groups.popleft()
            if all(job.done for job in group.jobs):
                self.finish(group, [(job.title, None) for job in group.jobs])
                continue
            if not (group.run and locks.holder(group.run)):
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
        self.finish(group, [(job.title, None) for job in group.jobs if job.done])
        if left := [job.title for job in group.jobs if not job.done]:
            self.end(left[0], why)
            self.put_back(group.only(left[1:]))


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

    def measure(
        self, plan: Plan, *, plugins: Sequence[str] = (), ended: Ended = lambda title, failure: None
    ) -> dict[str, str]:
        """Do all that a plan has left: see `run`, and `Plan.check` for what else may be raised."""
        groups = plan.groups()
        if not groups:
            return {}
        make_folders(plan.work, plan.results)  # or hours of work could not be written down
        return self.run(groups, work=plan.work, plugins=plugins, ended=ended)

    def for_plan(self, plan: Plan) -> Executor:
        """What does this plan: how a machine is shared follows from all of its cells, measured or not."""
        return self

    def at_once(self, groups: int) -> int | None:
        """How many of so many groups are done at once; None where that depends on a cluster."""
        return None


def executor(name: str, **options: Any) -> Executor:
    """An executor by name.

    Raises:
        UsageError: no such executor, or an option that it does not take, or with a value of a wrong type.
    """
    given = executors.check(name, options)
    if isinstance(jobs := given.get("jobs"), int) and jobs < 1:
        raise UsageError(f"executor {name}: jobs must be at least 1, not {jobs}")
    made: Executor = executors.factory(name)(**given)
    return made
