"""What a process that measures does, whichever executor began it: the jobs of a group, under its lock."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from bench.studies.failures import failure
from bench.studies.jobs import Group, Job, Task
from bench.utils import locks
from bench.utils.process import answering, end_with_input, keep_memory
from bench.utils.progress import Stopped
from registry.errors import UsageError
from registry.plugins import load_file


def serve(plugins: Sequence[str]) -> None:
    """Be a process of the local executor, `python -m bench.studies.worker [PLUGIN…]`.

    It does the group that its input tells, as a line of JSON.

    The answer is a line of JSON for each job that ended, `{"title", "failure"}`, and one at the end,
    `{"held": false}`, or true where another process holds the lock. What libraries print goes to the error
    output.

    Args:
        plugins: files and modules to import.
    """
    keep_memory()
    for plugin in plugins:
        load_file(plugin)
    tell = answering()
    group = Group.model_validate_json(sys.stdin.readline())
    end_with_input()
    try:
        held = work(group, plugins, lambda title, failure: tell(title=title, failure=failure))
    except Stopped:
        sys.exit(0)
    tell(held=held)


def work_remotely(
    group: str, folder: str, plugins: Sequence[str]
) -> tuple[list[tuple[str, str | None]], bool]:
    """Do a group in a process of a cluster.

    Args:
        group: as JSON.
        folder: in which the command was given.
        plugins: files and modules to import.

    Returns:
        The jobs that ended, each with the reason of its failure or None; whether another process holds the
        lock.

    Raises:
        UsageError: this machine does not see the folder.
        Stopped: see `work`.
    """
    keep_memory()
    try:
        os.chdir(folder)
        for plugin in plugins:
            load_file(plugin)
    except OSError as error:
        raise UsageError(f"cannot work in {folder} on {os.uname().nodename}: {error.strerror}") from None
    ended: list[tuple[str, str | None]] = []
    jobs = Group.model_validate_json(group)
    held = work(jobs, plugins, lambda title, failure: ended.append((title, failure)))
    return ended, held


def work(group: Group, plugins: Sequence[str], ended: Callable[[str, str | None], None]) -> bool:
    """Do the jobs of a group.

    Args:
        group: what is done.
        plugins: files and modules that this process has imported.
        ended: called at the end of each job with its title, and why it failed or None.

    Returns:
        Whether another process holds the group's lock, so that nothing was done.

    Raises:
        Stopped: a signal has ended it.
    """
    try:
        # Who only looks whether the lock is free holds it for an instant.
        with locks.held(group.run, seconds=1) if group.run else nullcontext():
            for job in group.jobs:
                ended(job.title, _do(job, plugins))
    except locks.InUseError:
        return True
    return False


def _do(job: Job, plugins: Sequence[str]) -> str | None:
    """Do a job; why it failed, None where it did not."""
    from bench.studies.measuring import measure_cost, measure_quality

    try:
        if isinstance(job, Task):
            measure_quality(job, plugins)
        else:
            measure_cost(job)
    except Stopped:
        raise
    except Exception as error:
        return failure(error)
    return None


if __name__ == "__main__":
    serve(sys.argv[1:])
