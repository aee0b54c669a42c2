"""Processes of this machine as executor: a new one for each group.

A cell that takes its process down fails alone, and several cells at once share neither threads nor an
interpreter.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import psutil

from bench.studies.executors import PATIENCE, Backlog, Ended, Executor, executors
from bench.studies.jobs import Group
from bench.studies.plan import Plan
from bench.utils.device import usable_cores
from bench.utils.files import make_folders
from bench.utils.process import ending
from registry.errors import UsageError

# In the reasons of failures: what PyTorch says, and how the system ends a process that takes too much.
OUT_OF_MEMORY = ("OutOfMemoryError", "can't allocate memory", "not enough memory", "signal SIGKILL")
STOP_PATIENCE = 60  # seconds that a process gets to write a checkpoint when it is stopped


@executors.register("local")
class Local(Executor):
    """Processes of this machine.

    Args:
        jobs: number of groups measured at the same time; default: one per GPU, or per core without a GPU.
            They share the cores evenly, regardless of how many cells are left, so that an interrupted study
            resumes with the same number of threads. Each has one GPU, or as many as the protocol has
            processes per cell.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = jobs

    def for_plan(self, plan: Plan) -> Local:
        """As of the base class."""
        if not plan.todo:  # nothing to share it for
            return self
        processes = max((cell.protocol.training.processes for cell in plan.wanted), default=1)
        return Local(self.jobs or self._by_default(len({cell.run for cell in plan.wanted}), processes))

    def at_once(self, groups: int) -> int:
        """As of the base class."""
        return min(self.jobs or self._by_default(groups, 1), groups)

    @staticmethod
    def _by_default(runs: int, processes: int) -> int:
        """How many of so many runs are done at once: several, a core each, are faster than one on all."""
        threads = os.environ.get("OMP_NUM_THREADS", "")
        cores = usable_cores() // (int(threads) if threads.isdecimal() and int(threads) else 1)
        return max(1, min(runs, (len(_gpus()) or cores) // processes))

    def run(
        self,
        groups: Sequence[Group],
        *,
        work: Path,
        plugins: Sequence[str] = (),
        ended: Ended = lambda title, failure: None,
    ) -> dict[str, str]:
        """As of the base class; what the processes print is in `worker-….log` in the work folder.

        A job that ran out of memory beside others is done again alone before it fails.
        """
        gpus, processes = _gpus(), max((group.processes for group in groups), default=1)
        jobs = self.jobs or self._by_default(len(groups), processes)
        if processes > 1 and 0 < len(gpus) < processes * jobs:
            raise UsageError(
                f"{jobs} cells at once of {processes} processes each need {processes * jobs} GPUs, "
                f"but there are {len(gpus)}: give fewer --jobs, or fewer processes in the protocol"
            )
        make_folders(work)
        for log in work.glob(f"worker-{socket.gethostname()}-*.log"):
            if not psutil.pid_exists(int(log.stem.split("-")[-2])):
                log.unlink(missing_ok=True)
        failed = self._run(groups, jobs, min(jobs, len(groups)), work, plugins, ended)
        short = {title for title, why in failed.items() if any(words in why for words in OUT_OF_MEMORY)}
        if short and jobs > 1:
            alone = [only for group in groups if (only := group.only(short))]
            failed = {title: why for title, why in failed.items() if title not in short}
            failed |= self._run(alone, jobs, 1, work, plugins, ended)
        return failed

    def _run(
        self,
        groups: Sequence[Group],
        jobs: int,
        at_once: int,
        work: Path,
        plugins: Sequence[str],
        ended: Ended,
    ) -> dict[str, str]:
        """Do the groups, so many at once of the `jobs` that share the cores.

        Returns:
            Titles of the jobs that failed, and why.
        """
        backlog, gpus = Backlog(groups, ended), _gpus()
        processes = max((group.processes for group in groups), default=1)
        shares = [_share(gpus, i, processes) if jobs > 1 else gpus for i in range(at_once)]
        under_way: dict[Future[tuple[int, bool]], _Worker] = {}

        def begin(number: int) -> None:
            """Begin a group that nobody is at, if there is one."""
            if group := backlog.take():
                log = work / f"worker-{socket.gethostname()}-{os.getpid()}-{number}.log"
                worker = _Worker(number, group, log, plugins, _environment(jobs, shares[number]))
                under_way[pool.submit(worker.follow, backlog.end)] = worker

        with ThreadPoolExecutor(at_once or 1) as pool:
            try:
                while backlog or under_way:
                    for number in set(range(at_once)) - {each.number for each in under_way.values()}:
                        begin(number)
                    if backlog and not under_way:
                        time.sleep(PATIENCE)
                    for future in wait(under_way, PATIENCE, FIRST_COMPLETED).done:
                        worker = under_way.pop(future)
                        worker.finish(backlog, *future.result())
            finally:
                for worker in under_way.values():
                    worker.process.terminate()
                wait(under_way, STOP_PATIENCE)
                for worker in under_way.values():
                    worker.process.kill()
        return backlog.failed


class _Worker:
    """A process that does a group.

    Args:
        number: of its share of the machine.
        group: what it does.
        log: what it prints.
        plugins: files and modules that it imports.
        environment: its own.
    """

    def __init__(
        self, number: int, group: Group, log: Path, plugins: Sequence[str], environment: dict[str, str]
    ) -> None:
        self.number, self.group, self.log = number, group, log
        command = [sys.executable, "-m", "bench.studies.worker", *plugins]
        with log.open("ab") as file:
            # In a session of its own, Ctrl-C comes to it from here alone.
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
                env=environment, start_new_session=True,
            )  # fmt: skip

    def follow(self, ended: Ended) -> tuple[int, bool]:
        """Have the group done; how many of its jobs ended, and whether another process is at it."""
        count, held = 0, False
        with contextlib.suppress(BrokenPipeError), self.process as process:  # it died before it read that
            assert process.stdin and process.stdout
            process.stdin.write(self.group.model_dump_json().encode() + b"\n")
            process.stdin.flush()
            for line in process.stdout:
                told = json.loads(line)
                held = told.get("held", held)
                if "title" in told:
                    ended(told["title"], told["failure"])
                    count += 1
        return count, held

    def finish(self, backlog: Backlog, count: int, held: bool) -> None:
        """See what is to be done of the group after its process has ended."""
        rest = self.group.after(count)
        if rest and not held:
            how = ending(self.process.returncode)
            backlog.end(rest.jobs[0].title, f"its process ended with {how}; see {self.log}")
            rest = rest.after(1)
        backlog.put_back(rest)


def _environment(processes: int, gpus: Sequence[str]) -> dict[str, str]:
    """That of one of several processes: its threads and its GPUs, told before torch is imported."""
    environment = dict(os.environ)
    if processes == 1:
        return environment
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return environment


def _share(gpus: Sequence[str], number: int, count: int) -> list[str]:
    """The GPUs of one of several processes that have so many each; one may be shared."""
    first = number * count
    return [gpus[i % len(gpus)] for i in range(first, first + count)] if gpus else []


def _gpus() -> list[str]:
    """The GPUs that are there, as CUDA_VISIBLE_DEVICES names them, without loading CUDA here.

    CUDA takes the names until the first that is none, such as -1 or `none`.
    """
    if (told := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = (name.strip() for name in told.split(","))
        return list(itertools.takewhile(re.compile(r"\d+|(GPU|MIG)-.+").fullmatch, names))
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):  # no driver, hence no GPU
        return []
    return found.stdout.split()
