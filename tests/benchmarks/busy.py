"""What training keeps of its speed beside other processes: `python -m tests.benchmarks.busy`.

Steps of `bench train` under `micro`, alone and beside one and two processes that compute, by how threads wait
for each other. There is a process for each way, and they take turns, so that whatever else the machine does
meets all of them alike. `--write` renews the README's section.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from bench.records.environment import environment
from bench.utils.threads import DECIDED, SPINS
from tests.benchmarks.speed import write_section
from tests.benchmarks.training import trainer
from tests.conftest import ROOT

MARKS = ("<!-- busy benchmark -->", "<!-- end of busy benchmark -->")
MODELS = ["tiny-unet", "udit-t"]
NEIGHBOURS = (0, 1, 2)
NEIGHBOUR = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
# Variables of a process, by what the table calls them.
WAYS: dict[str, dict[str, str]] = {
    "libgomp's own (spin long)": {},
    "`bench` (spin briefly)": SPINS,
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}


def serve(model: str) -> None:
    """Take steps for as many seconds as a line of the input says; print images a second."""
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(model, folder)
        for line in sys.stdin:
            began, spent, images = time.perf_counter(), 0.0, 0
            while not images or spent < float(line):
                made.take_step()
                made.step += 1
                images += made.settings.batch_size
                spent = time.perf_counter() - began
            print(images / spent, flush=True)


class _Process:
    """A process that trains when it is told to."""

    def __init__(self, model: str, variables: dict[str, str]) -> None:
        free = {key: value for key, value in os.environ.items() if key not in DECIDED | {"OMP_NUM_THREADS"}}
        self.process: Any = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.busy", "--serve", model],
            env=free | variables, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def rate(self, seconds: float) -> float:
        """Images a second."""
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def rates(model: str, repeats: int, seconds: float) -> dict[tuple[str, int], float]:
    """Images a second by way and by how many neighbours there are, medians over the rounds."""
    processes = {way: _Process(model, variables) for way, variables in WAYS.items()}
    found: dict[tuple[str, int], list[float]] = {}
    try:
        for process in processes.values():
            process.rate(0)  # warm
        for count in NEIGHBOURS:
            busy = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in range(count)]
            try:
                for _ in range(repeats):
                    for way, process in processes.items():
                        found.setdefault((way, count), []).append(process.rate(seconds))
            finally:
                for neighbour in busy:
                    neighbour.kill()
                    neighbour.wait()
    finally:
        for process in processes.values():
            process.process.kill()
            process.process.wait()
    return {key: statistics.median(each) for key, each in found.items()}


def main() -> None:
    """Measure, print, and with `--write` renew the README's section."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.busy", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--write", action="store_true", help="write the README")
    parser.add_argument("--serve", metavar="MODEL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    lines = [
        "| images/s of `bench train` | how threads wait | alone | one neighbour | two |",
        "|:--|:--|--:|--:|--:|",
    ]
    for model in MODELS:
        found = rates(model, args.repeats, args.seconds)
        for way in WAYS:
            figures = " | ".join(f"{found[way, count]:.0f}" for count in NEIGHBOURS)
            lines.append(f"| {model} | {way} | {figures} |")
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
