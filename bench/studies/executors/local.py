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
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from bench.studies.executors import Event, Job
from registry.errors import UsageError

PATIENCE = 60  # seconds that a process gets to write a checkpoint when it is stopped


def run(
    todo: Iterable[list[Job]],
    *,
    work: Path,
    processes: int = 1,
    plugins: Sequence[str] = (),
    progress: Callable[[Event], None] = lambda _: None,
) -> dict[str, str]:
    """Do all jobs, several at once; one that fails does not stop the others.

    Args:
        todo: lists of jobs; the jobs of one list are done one after the other.
        work: folder for what the processes print, `worker-N.log`.
        processes: how many jobs are done at once. They share the cores evenly, whatever is left to do, so
            that a study that was interrupted goes on with as many threads; of several GPUs each has one.
        plugins: files and modules that each process imports.
        progress: called with what happens.

    Returns:
        Titles of the jobs that failed, and why.

    Raises:
        UsageError: the work folder cannot be written to.
        KeyboardInterrupt: Ctrl-C came, or SIGTERM where the caller has it raise this; every process has
            stopped, with a checkpoint where it was training.
    """
    queue = deque(deque(jobs) for jobs in todo)
    failed: dict[str, str] = {}
    workers = [_Worker(i, work, processes, plugins) for i in range(min(processes, len(queue)))]
    make_folders(work)
    for worker in workers:
        worker.log.unlink(missing_ok=True)
    try:
        with selectors.DefaultSelector() as waiting:
            for worker in workers:
                worker.next(queue, waiting)
            while any(worker.job for worker in workers):
                for key, _ in waiting.select():
                    for event in key.data.read(waiting):
                        progress(event)
                        if event.failure is not None:
                            failed[event.title] = event.failure
                    if key.data.job is None:
                        key.data.next(queue, waiting)
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.wait()
    return failed


def make_folders(*folders: Path) -> None:
    """Make folders that work is done in.

    Raises:
        UsageError: one cannot be made or written to.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UsageError(f"cannot work in {folder}: {error.strerror or error}") from None


@dataclass
class _Worker:
    """One child process, started when there is something to do and again when it died."""

    number: int
    work: Path
    processes: int  # that share the cores
    plugins: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    job: Job | None = None
    own: deque[Job] = field(default_factory=deque)  # jobs that follow in the same list
    unread: bytes = b""

    @property
    def log(self) -> Path:
        """What the process prints."""
        return self.work / f"worker-{self.number}.log"

    def next(self, queue: deque[deque[Job]], waiting: selectors.BaseSelector) -> None:
        """Begin the next job, if there is one."""
        if not self.own and queue:
            self.own = queue.popleft()
        if not self.own:
            return
        self.job = self.own.popleft()
        if self.process is None:
            self._start()
            waiting.register(self._output, selectors.EVENT_READ, self)
        with contextlib.suppress(BrokenPipeError):  # it died: the end of its output tells
            self._input.write(json.dumps(self.job.message).encode() + b"\n")
            self._input.flush()

    def read(self, waiting: selectors.BaseSelector) -> Iterator[Event]:
        """Events of the process since the last time."""
        assert self.process
        data = os.read(self._output, 65536)
        *lines, self.unread = (self.unread + data).split(b"\n")
        title = self.job.title if self.job else ""
        for line in lines:
            message = json.loads(line)
            if "end" in message:
                self.job = None
                yield Event(self.number, title, failure=message["end"])
            else:
                yield Event(self.number, title, **message)
        if not data:
            waiting.unregister(self._output)
            self.wait()
            code, job = self.process.returncode, self.job
            self.process, self.job, self.unread = None, None, b""
            if job:
                end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
                yield Event(self.number, title, failure=f"its process ended with {end}; see {self.log}")

    def stop(self) -> None:
        """Ask the process to end: at once, or after a checkpoint where it is training."""
        if self.process:
            if self.job:
                self.process.terminate()
            with contextlib.suppress(BrokenPipeError):
                self._input.close()
            self.process.stdin = None  # or waiting would write to it

    def wait(self) -> None:
        """Return when the process has ended."""
        if self.process:
            try:
                self.process.communicate(timeout=PATIENCE)
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
                env=_environment(self.number, self.processes), start_new_session=True,
            )  # fmt: skip


def _environment(number: int, processes: int) -> dict[str, str]:
    """That of one of several processes: its threads and its GPU, told before torch is imported."""
    environment = dict(os.environ)
    if processes == 1:
        return environment
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    if gpus := _gpus():
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    return environment


def _gpus() -> list[str]:
    """The GPUs that are there, as CUDA_VISIBLE_DEVICES names them, without loading CUDA here."""
    if (told := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in told.split(",") if name.strip()]
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return found.stdout.split()
