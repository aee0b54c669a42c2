"""What training keeps of its speed beside other processes: `python -m tests.benchmarks.busy`.

Steps of `bench train` under `micro`, alone and beside one and two processes that compute, by how idle threads
wait. Each way has a process, and the processes are timed in turns, so background load affects
all equally. `--write` renews its section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import torch

from bench.records.environment import environment
from bench.training import protocols
from bench.utils.process import MMAP_THRESHOLD, TRIM_THRESHOLD
from tests.benchmarks.speed import write_section
from tests.benchmarks.training import trainer
from tests.conftest import ROOT

MARKS = ("<!-- busy benchmark -->", "<!-- end of busy benchmark -->")
MODELS = ["tiny-unet", "udit-t"]
NEIGHBOURS = (0, 1, 2)
NEIGHBOUR = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
# What `keep_memory` does, as variables.
KEEPING = {
    "MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD[1]),
    "MALLOC_TRIM_THRESHOLD_": str(TRIM_THRESHOLD[1]),
}
# Variables of a process, by what the table calls them.
WAYS: dict[str, dict[str, str]] = {
    "spin long (libgomp's default)": {},
    "spin briefly: GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "sleep: OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread: OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
DECIDED = {name for variables in WAYS.values() for name in variables}


def serve(model: str, part: str) -> None:
    """Work for as many seconds as a line of the input says; print `Turn`.

    Args:
        part: `training`, a step, or `sampling`, a forward pass of the deployed network.
    """
    micro = protocols.load("micro")
    images = (micro.training if part == "training" else micro.sampling).batch_size
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(model, folder)
        deployed = made.network.deploy()
        inputs = deployed.example_inputs(images)

        def step() -> None:
            if part == "training":
                made.take_step()
                made.step += 1
            else:
                with torch.inference_mode():
                    deployed(*inputs)

        for line in sys.stdin:
            began, before, count = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF), 0
            while not count or time.perf_counter() - began < float(line):
                step()
                count += 1
            after, spent = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - began
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            faults = after.ru_minflt - before.ru_minflt
            print(json.dumps([count * images / spent, cpu / count, faults / count]), flush=True)


class Turn(NamedTuple):
    """What a process has done in its turn: images a second, CPU seconds and page faults a step."""

    rate: float
    cpu: float
    faults: float


class Process:
    """A process that works when it is told to.

    Args:
        model, part: see `serve`.
        variables: of its environment, which says nothing else of threads and memory.
    """

    def __init__(self, model: str, part: str, variables: dict[str, str]) -> None:
        decided = DECIDED | KEEPING.keys()
        free = {key: value for key, value in os.environ.items() if key not in decided}
        self.process: Any = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.busy", "--serve", model, part],
            env=free | variables, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def turn(self, seconds: float) -> Turn:
        """Work for so many seconds, for one step at least."""
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return Turn(*json.loads(self.process.stdout.readline()))

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


def rates(processes: dict[str, Process], neighbours: int, repeats: int, seconds: float) -> dict[str, float]:
    """Images a second of each process beside so many busy ones, medians over the rounds."""
    found: dict[str, list[float]] = {way: [] for way in processes}
    busy = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in range(neighbours)]
    try:
        for _ in range(repeats):
            for way, process in processes.items():
                found[way].append(process.turn(seconds).rate)
    finally:
        for neighbour in busy:
            neighbour.kill()
            neighbour.wait()
    return {way: statistics.median(each) for way, each in found.items()}


def main() -> None:
    """Measure, print, and with `--write` renew docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.busy", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve)
        return
    lines = [
        "| images/s of `bench train` | how idle threads wait | alone | one neighbour | two |",
        "|:--|:--|--:|--:|--:|",
    ]
    for model in MODELS:
        processes = {way: Process(model, "training", KEEPING | variables) for way, variables in WAYS.items()}
        try:
            for process in processes.values():
                process.turn(0)  # all have begun
            found = [rates(processes, count, args.repeats, args.seconds) for count in NEIGHBOURS]
        finally:
            for process in processes.values():
                process.stop()
        for way in WAYS:
            lines.append(f"| {model} | {way} | {' | '.join(f'{each[way]:.0f}' for each in found)} |")
            print(lines[-1], flush=True)
    where = environment()
    page = "\n".join(lines) + (
        f"\n\nMeasured {where.date[:10]} on {where.cores} cores of {where.cpu}, {where.threads} threads, "
        f"torch {where.torch}; `micro`, neighbours that compute without end, in turns of {args.seconds:g} s, "
        f"median of {args.repeats}."
    )
    if args.write:
        write_section(MARKS, page)


if __name__ == "__main__":
    main()
