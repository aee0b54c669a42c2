"""Running a study: which cells are not measured yet, how long that will take, and who measures them.

The measuring is done by child processes (`bench.studies.worker`), so nothing here imports torch, a cell that
takes its process down fails alone, and several cells at once share neither threads nor an interpreter.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import IO, Any

from bench import records
from bench.studies import Study
from bench.studies.cells import Cell, cost_asked
from registry.errors import UsageError

Records = Mapping[str, dict[str, Any]]  # by file name
PATIENCE = 60  # seconds that a process gets to write a checkpoint when it is stopped


@dataclass(frozen=True)
class Job:
    """One thing to measure.

    Attributes:
        title: for people.
        message: for the process that does it.
    """

    title: str
    message: dict[str, Any]


@dataclass(frozen=True)
class Event:
    """Something that happened in one of the processes.

    Attributes:
        worker: its number, from 0.
        title: what it is at.
        doing: in words; empty at the end of a job.
        done, count: how far that is.
        loss: of training.
        failure: why the job failed, at its end.
    """

    worker: int
    title: str
    doing: str = ""
    done: int = 0
    count: int = 0
    loss: float | None = None
    failure: str | None = None


def missing(cells: Iterable[Cell], known: Records) -> list[Cell]:
    """The cells that have no record; of those that ask the same the first."""
    found = {cell.file: cell for cell in reversed(list(cells)) if cell.file not in known}
    return list(reversed(found.values()))


def missing_costs(study: Study, known: Records) -> dict[str, dict[str, Any]]:
    """Questions about the cost of a study's backbones that have no record, by label."""
    asked = {row.label: cost_asked(row.model, row.overrides) for row in study.rows}
    found = {records.name(question): (label, question) for label, question in asked.items()}
    return {label: question for file, (label, question) in found.items() if file not in known}


def found_values(asked: dict[str, Any], known: Records) -> dict[str, Any]:
    """The values of the record that answers a question; empty where there is none."""
    record = known.get(records.name(asked))
    return record["values"] if record else {}


def expected_seconds(cells: Iterable[Cell], known: Records) -> list[float | None]:
    """How long each cell is likely to take, by records under the same protocol; None where there are none.

    A record of the same network counts alone; else the mean over those of other networks. Cells that share
    a training run pay for the steps since the cell before.
    """
    found: dict[str, tuple[float, float]] = {}  # training a step, sampling and scoring
    groups: dict[str, list[str]] = {}
    for file, record in known.items():
        asked, seconds = record["asked"], record["values"].get("seconds")
        if asked["measure"] == "quality" and seconds:
            found[file] = seconds["train"] / asked["step"], (seconds["sample"] or 0) + seconds["eval"]
            for key in _alike(asked):
                groups.setdefault(key, []).append(file)
    expected: list[float | None] = []
    trained: dict[str, int] = {}
    for cell in sorted_by_step(cells):
        files = next((groups[key] for key in _alike(cell.asked) if key in groups), [])
        steps = cell.step - trained.get(cell.run, 0)
        trained[cell.run] = cell.step
        rates = [found[file] for file in files]
        expected.append(mean(a * steps + b for a, b in rates) if rates else None)
    return expected


def _alike(asked: dict[str, Any]) -> list[str]:
    """Keys of measurements that take about as long, the closest first."""
    network = [asked["model"], asked["scaled"]]
    how = {k: v for k, v in asked["sampling"].items() if k != "cfg_scale"}
    protocol = [asked["training"] | {"objective": ""}, how, asked["data"], asked["extractor"]]
    return [json.dumps(key, sort_keys=True) for key in ([network, protocol], protocol)]


def sorted_by_step(cells: Iterable[Cell]) -> list[Cell]:
    """Cells in their order, but those of one training run together, the earliest checkpoint first."""
    return [cell for group in _groups(cells) for cell in group]


def _groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.run, []).append(cell)
    return [sorted(group, key=lambda cell: cell.step) for group in groups.values()]


def jobs(
    cells: Sequence[Cell],
    costs: Mapping[str, dict[str, Any]],
    *,
    results: Path,
    work: Path,
    data_options: Mapping[str, Any],
    force: bool = False,
) -> list[list[Job]]:
    """What is to be done, in lists that each go to one process: no two share a training run."""
    lists = [[Job(f"cost of {label}", {"asked": q, "results": str(results)})] for label, q in costs.items()]
    for group in _groups(cells):
        lists.append(
            [
                Job(
                    cell.title,
                    {
                        "asked": cell.asked,
                        "protocol": cell.protocol.model_dump(),
                        "run": str(work / cell.run),
                        "results": str(results),
                        "data_options": dict(data_options),
                        "force": force,
                        "fresh": force and cell is group[0],
                        "last": cell is group[-1],
                    },
                )
                for cell in group
            ]
        )
    return lists


def run(
    todo: Iterable[list[Job]],
    *,
    work: Path,
    processes: int = 1,
    plugins: Sequence[str] = (),
    tell: Callable[[Event], None] = lambda _: None,
) -> dict[str, str]:
    """Do all jobs, several at once; one that fails does not stop the others.

    Args:
        todo: lists of jobs; the jobs of one list are done one after the other.
        work: folder for what the processes print, `worker-N.log`.
        processes: how many jobs are done at once. More than one share the cores evenly.
        plugins: files and modules that each process imports.
        tell: is told what happens.

    Returns:
        Titles of the jobs that failed, and why.

    Raises:
        UsageError: the work folder cannot be written to.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; every process has stopped, with a checkpoint where it
            was training.
    """
    queue = deque(deque(jobs) for jobs in todo)
    failed: dict[str, str] = {}
    processes = min(processes, len(queue))
    workers = [_Worker(i, work, processes, plugins) for i in range(processes)]
    make_folders(work)
    for worker in workers:
        worker.log.unlink(missing_ok=True)
    try:
        with _sigterm_as_ctrl_c(), selectors.DefaultSelector() as waiting:
            for worker in workers:
                worker.next(queue, waiting)
            while any(worker.job for worker in workers):
                for key, _ in waiting.select():
                    for event in key.data.hear(waiting):
                        tell(event)
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
    of: int
    plugins: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    job: Job | None = None
    own: deque[Job] = field(default_factory=deque)  # jobs that follow in the same list
    heard: bytes = b""

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

    def hear(self, waiting: selectors.BaseSelector) -> Iterator[Event]:
        """What the process has told since the last time."""
        assert self.process
        data = os.read(self._output, 65536)
        *lines, self.heard = (self.heard + data).split(b"\n")
        title = self.job.title if self.job else ""
        for line in lines:
            told = json.loads(line)
            if "end" in told:
                self.job = None
                yield Event(self.number, title, failure=told["end"])
            else:
                yield Event(self.number, title, **told)
        if not data:
            waiting.unregister(self._output)
            self.wait()
            code, job = self.process.returncode, self.job
            self.process, self.job, self.heard = None, None, b""
            if job:
                how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
                yield Event(self.number, title, failure=f"its process ended with {how}; see {self.log}")

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
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # Before torch is imported, or it has no effect.
        threads = {"OMP_NUM_THREADS": str(max(1, cores // self.of))} if self.of > 1 else {}
        command = [sys.executable, "-m", "bench.cli.worker", *self.plugins]
        with self.log.open("ab") as log:
            # In a session of its own, Ctrl-C comes to it from here alone.
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env=threads | os.environ, start_new_session=True,
            )  # fmt: skip


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Within it SIGTERM raises KeyboardInterrupt, where this is the main thread."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
