"""A Slurm cluster as executor, by submitit: a task of a job array for each group.

A task that is preempted or reaches its time limit is requeued and resumes. Submitit signals it before the
limit. The input, result and output of a task are in `WORK/slurm`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from bench.studies import worker
from bench.studies.executors import PATIENCE, Backlog, Ended, Executor, executors
from bench.studies.jobs import Group
from bench.utils.extras import extra
from bench.utils.files import make_folders
from bench.utils.progress import Stopped
from registry.errors import UsageError, reason


@executors.register("slurm")
class Slurm(Executor):
    """Tasks of Slurm job arrays.

    Args:
        jobs: largest number of tasks at once; default: as many as Slurm runs.
        partition, account, qos, constraint: options of `sbatch`.
        hours: time limit of a task, after which it is requeued and resumes.
        timeouts: how often a task may be requeued.
        cpus: cores of each process of a task.
        gpus: GPUs of each process of a task.
        memory: memory limit of a task in GiB; default: the partition's.
        cluster: `slurm`; for a trial, `local` uses processes of this machine and `debug` this process.
    """

    def __init__(
        self,
        jobs: int | None = None,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        hours: float = 24.0,
        timeouts: int = 10,
        cpus: int = 4,
        gpus: int = 0,
        memory: float | None = None,
        cluster: Literal["slurm", "local", "debug"] = "slurm",
    ) -> None:
        self.jobs, self.timeouts, self.cluster = jobs, timeouts, cluster
        wanted = {
            "name": "bench",
            "timeout_min": max(1, round(60 * hours)),
            "mem_gb": memory,
            "slurm_partition": partition,
            "slurm_account": account,
            "slurm_qos": qos,
            "slurm_constraint": constraint,
            "slurm_array_parallelism": jobs,
        }
        self.cpus, self.gpus = cpus, gpus
        self.wanted = {key: value for key, value in wanted.items() if value is not None}

    def parameters(self, groups: Sequence[Group]) -> dict[str, Any]:
        """What submitit is told for an array of these groups; all of its tasks get what one of them needs."""
        processes = max(group.processes for group in groups)
        found = {"cpus_per_task": self.cpus * processes}
        if self.gpus:
            found["gpus_per_node"] = self.gpus * processes
        return found | self.wanted

    def run(
        self,
        groups: Sequence[Group],
        *,
        work: Path,
        plugins: Sequence[str] = (),
        ended: Ended = lambda title, failure: None,
    ) -> dict[str, str]:
        """As of the base class. Ctrl-C takes what waits in Slurm's queue or runs back."""
        submitit = _submitit()
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise UsageError(
                "executor slurm: there is no sbatch here: give the command where jobs are submitted from, or "
                "try it with --executor-option cluster=local"
            )
        make_folders(work)
        executor = submitit.AutoExecutor(
            work / "slurm", cluster=self.cluster, slurm_max_num_timeout=self.timeouts
        )
        backlog, under_way = Backlog(groups, ended), list[tuple[Any, Group]]()
        here = (str(Path.cwd()), list(plugins))
        try:
            while backlog or under_way:
                if found := self._room(backlog, len(under_way)):
                    executor.update_parameters(**self.parameters(found))
                    messages = [group.model_dump_json() for group in found]
                    arguments = (messages, *([each] * len(found) for each in here))
                    under_way += zip(executor.map_array(Task(), *arguments), found, strict=True)
                time.sleep(PATIENCE)
                over = [each for each in under_way if each[0].done()]
                under_way = [each for each in under_way if each not in over]
                for job, group in over:
                    _end(job, group, backlog)
        except submitit.core.utils.FailedJobError as error:
            raise UsageError(f"executor slurm: sbatch failed: {error}") from None
        finally:
            for job, _ in under_way:
                job.cancel(check=False)
        return backlog.failed

    def _room(self, backlog: Backlog, under_way: int) -> list[Group]:
        """What can be submitted now: all that is free, for Slurm sees to how much runs at once."""
        room = len(backlog) if self.cluster == "slurm" else (self.jobs or 1) - under_way
        found: list[Group] = []
        while len(found) < room and (group := backlog.take()):
            found.append(group)
        return found


class Task:
    """What a task of the array does. Submitit begins it again where it was stopped."""

    def __call__(self, *arguments: Any) -> Any:
        """Do a group; see `bench.studies.worker.work_remotely`."""
        return worker.work_remotely(*arguments)

    def checkpoint(self, *arguments: Any) -> Any:
        """The same task: what was done lies in the run's folder."""
        return _submitit().helpers.DelayedSubmission(self, *arguments)


def _end(job: Any, group: Group, backlog: Backlog) -> None:
    """Tell how a task ended."""
    error = job.exception()
    if error is None:
        backlog.finish(group, *job.result())
    elif f"{Stopped.__module__}.{Stopped.__qualname__}" in str(error):
        backlog.put_back(group)
    else:
        lines = [line for line in str(error).splitlines() if "Error: " in line]
        last = lines[-1] if lines else reason(error)
        backlog.crash(group, f"its task ended: {last}; see {job.paths.stderr}")


def _submitit() -> Any:
    return extra("submitit", "slurm", "executor slurm")
