"""Processes of this machine as executor.

A cell that takes its process down fails alone, and several cells at once share neither threads nor an
interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.studies.executors import PATIENCE, Backlog, Ended, Executor, Group, executors
from bench.utils.device import available_memory, usable_cores
from bench.utils.files import make_folders
from registry.errors import UsageError

# In the reasons of failures: what PyTorch says, and how the system ends a process that takes too much.
OUT_OF_MEMORY = ("OutOfMemoryError", "can't allocate memory", "not enough memory", "signal SIGKILL")
STOP_PATIENCE = 60  # seconds that a process gets to write a checkpoint when it is stopped


@executors.register("local")
class Local(Executor):
    """Processes of this machine.

    Args:
        jobs: how many groups are done at once; by default one for each GPU, or for each core where there is
            none. They share the cores evenly, whatever is left to do, so that a study that was interrupted
            goes on with as many threads; of several GPUs each has one, or as many as the protocol has
            processes for a cell.
    """

    def __init__(self, jobs: int | None = None) -> None:
        if jobs is not None and jobs < 1:
            raise UsageError(f"executor local: jobs = {jobs} is no number of processes")
        self.jobs = jobs

    def for_runs(self, runs: int, processes: int) -> Local:
        """As of the base class."""
        return Local(self.jobs or self._by_default(runs, processes))

    def at_once(self, groups: int) -> int:
        """As of the base class."""
        return min(self.jobs or self._by_default(groups, 1), groups)

    @staticmethod
    def _by_default(runs: int, processes: int) -> int:
        """How many of so many runs are done at once: several, a core each, are faster than one on all."""
        threads = os.environ.get("OMP_NUM_THREADS", "")
        cores = usable_cores() // (int(threads) if threads.isdecimal() and int(threads) else 1)
        return max(1, min(runs, (len(_gpus()) or cores) // processes))

    def memory(self) -> int | None:
        """As of the base class: of the smallest GPU, or what is free of this machine's."""
        if not _gpus():
            return available_memory()
        sizes = [int(size) for size in _query("memory.total") if size.isdecimal()]
        return min(sizes) * 2**20 if sizes else None

    def lacks_memory(self, group: Group) -> bool:
        """As of the base class."""
        memory = self.memory()
        return memory is not None and _need(group, bool(_gpus())) > memory

    def run(
        self,
        groups: Sequence[Group],
        *,
        work: Path,
        plugins: Sequence[str] = (),
        ended: Ended = lambda title, failure: None,
    ) -> dict[str, str]:
        """As of the base class; what the processes print is in `worker-….log` in the work folder.

        No more is begun at once than fits in the memory that is free at the beginning, or in that of the GPU
        that processes share.

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
            if not _runs(log.stem.split("-")[-2]):
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
        backlog, memory = Backlog(groups, ended), self.memory()
        gpus, processes = _gpus(), max(group.processes for group in groups)
        workers = [
            _Worker(i, work, jobs, plugins, _share(gpus, i, processes) if jobs > 1 else gpus)
            for i in range(at_once)
        ]
        try:
            with selectors.DefaultSelector() as waiting:
                while True:
                    for worker in workers:
                        if not worker.group:
                            worker.begin(backlog.take(_room(worker, workers, memory)), waiting)
                    if not (backlog or any(worker.group for worker in workers)):
                        break
                    for key, _ in waiting.select(PATIENCE):
                        key.data.read(backlog, waiting)
        finally:
            for worker in workers:
                worker.stop()
            for worker in workers:
                worker.wait()
        return backlog.failed


@dataclass
class _Worker:
    """One child process, started when there is something to do and again when it died."""

    number: int
    work: Path
    processes: int  # that share the cores
    plugins: Sequence[str]
    gpus: Sequence[str]  # its own; processes that name the same share it
    process: subprocess.Popen[bytes] | None = None
    group: Group | None = None  # under way
    ended: int = 0  # jobs of it
    unread: bytes = b""

    @property
    def log(self) -> Path:
        """What the process prints."""
        return self.work / f"worker-{socket.gethostname()}-{os.getpid()}-{self.number}.log"

    def begin(self, group: Group | None, waiting: selectors.BaseSelector) -> None:
        """Begin a group, if there is one."""
        if group is None:
            return
        self.group, self.ended = group, 0
        if self.process is None:
            self._start()
            waiting.register(self._output, selectors.EVENT_READ, self)
        with contextlib.suppress(BrokenPipeError):  # it died: the end of its output tells
            self._input.write(json.dumps(group.message).encode() + b"\n")
            self._input.flush()

    def read(self, backlog: Backlog, waiting: selectors.BaseSelector) -> None:
        """See what has ended since the last time."""
        assert self.process
        data = os.read(self._output, 65536)
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "title" in message:
                self.ended += 1
                backlog.end(message["title"], message["failure"])
            else:
                if message["held"] and self.group:
                    backlog.put_back(self.group.after(self.ended))
                self.group = None
        if not data:
            waiting.unregister(self._output)
            self.wait()
            code, group = self.process.returncode, self.group
            self.process, self.group, self.unread = None, None, b""
            if group and (rest := group.after(self.ended)):
                end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
                backlog.end(rest.jobs[0].title, f"its process ended with {end}; see {self.log}")
                backlog.put_back(rest.after(1))

    def stop(self) -> None:
        """Ask the process to end: at once, or after a checkpoint where it is training."""
        if self.process:
            if self.group:
                self.process.terminate()
            with contextlib.suppress(BrokenPipeError):
                self._input.close()
            self.process.stdin = None  # or waiting would write to it

    def wait(self) -> None:
        """Return when the process has ended."""
        if self.process:
            try:
                self.process.communicate(timeout=STOP_PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.communicate()

    @property
    def _input(self) -> IO[bytes]:
        assert self.process and self.process.stdin
        return self.process.stdin

    @property
    def _output(self) -> int:
        assert self.process and self.process.stdout
        return self.process.stdout.fileno()

    def _start(self) -> None:
        command = [sys.executable, "-m", "bench.cli.worker", *self.plugins]
        with self.log.open("ab") as log:
            # In a session of its own, Ctrl-C comes to it from here alone.
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env=_environment(self.processes, self.gpus), start_new_session=True,
            )  # fmt: skip


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


def _room(worker: _Worker, workers: Sequence[_Worker], memory: int | None) -> Callable[[Group], bool]:
    """Whether a group of known need fits beside what others do on the same GPU, or on this CPU."""
    beside = [each.group for each in workers if each.group and each.gpus == worker.gpus]

    def fits(group: Group) -> bool:
        needs = [_need(each, bool(worker.gpus)) for each in (group, *beside)]
        return memory is None or not beside or sum(needs) <= memory

    return fits


def _need(group: Group, on_gpu: bool) -> int:
    """Bytes of the memory in question: of processes on GPUs, each has its own."""
    return group.memory * (1 if on_gpu else group.processes)


def _runs(pid: str) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _gpus() -> list[str]:
    """The GPUs that are there, as CUDA_VISIBLE_DEVICES names them, without loading CUDA here."""
    if (told := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in told.split(",") if name.strip()]
    return _query("uuid")


def _query(what: str) -> list[str]:
    """What `nvidia-smi` tells of each GPU; nothing where there is none."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return found.stdout.split()
