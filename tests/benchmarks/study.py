"""What a study takes, and a cell of it by part: `python -m tests.benchmarks.study`.

The seconds of parts are those of the committed records: medians over the cells of a family. A step of
training and a forward pass of sampling are timed with memory kept (`bench.utils.process`) and without, in
turns, one thread, in CPU time, so that another job on the machine changes little. A whole study is measured
cell by cell on all cores, and with a core for each cell, in turns. `--write` renews docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import registry
from bench import records
from bench.records.environment import environment
from bench.records.schema import Quality
from tests.benchmarks.busy import KEEPING, Process, Turn
from tests.benchmarks.speed import write_section
from tests.conftest import ROOT

MARKS = ("<!-- study benchmark -->", "<!-- end of study benchmark -->")
PROTOCOLS = ("micro", "proxy-cifar", "proxy-cifar-32")
MODELS = ["udit-t", "dit-s-4", "tiny-unet"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
WAYS = {"one after the other, on all cores": ("--jobs", "1"), "as many as there are cores (the default)": ()}
QUARTER = """
title = "micro, a quarter as long"
protocol = "micro"
seeds = [0, 1]
training = { steps = 300 }
sampling = { num = 250 }
"""


def cells() -> list[str]:
    """A line for each family and protocol, from the committed records."""
    lines = [
        "| protocol | family | cells | train, s | sample, s | held-out loss, s | features and scores, s |",
        "|:--|:--|--:|--:|--:|--:|--:|",
    ]
    found: dict[tuple[str, str], list[Quality]] = {}
    for record in records.read(ROOT / "results"):
        if isinstance(record.result, Quality) and record.context.protocol in PROTOCOLS:
            family = registry.backbones.find(record.result.request.model).module.rpartition(".")[2]
            found.setdefault((record.context.protocol, family), []).append(record.result)
    for (protocol, family), results in sorted(found.items()):
        held_out = [sum(loss.eval_seconds for loss in result.held_out) for result in results]
        scored = [result.seconds.eval - each for result, each in zip(results, held_out, strict=True)]
        sampled = [result.seconds.sample for result in results if result.seconds.sample]
        parts = [[result.seconds.train for result in results], sampled, held_out, scored]
        medians = [f"{statistics.median(part):.1f}" if any(part) else "" for part in parts]
        lines.append(f"| {protocol} | {family} | {len(results)} | {' | '.join(medians)} |")
    return lines


def kept(model: str, part: str, repeats: int) -> tuple[list[Turn], float]:
    """Medians of a step without and with memory kept, and seconds until the first process had begun."""
    began, started = time.perf_counter(), 0.0
    processes = []
    try:
        for variables in ({}, KEEPING):
            processes.append(Process(model, part, ONE_THREAD | variables))
            processes[-1].turn(0.5)
            started = started or time.perf_counter() - began
        turns = [[process.turn(0.5) for process in processes] for _ in range(repeats)]
    finally:
        for process in processes:
            process.stop()
    ways = zip(*turns, strict=True)
    return [Turn(*(statistics.median(each) for each in zip(*way, strict=True))) for way in ways], started


def study(options: Sequence[str]) -> float:
    """Seconds of `bench ablate` with the three networks and two seeds, each a quarter as long as `micro`."""
    with tempfile.TemporaryDirectory() as place:
        rows = [f'[[rows]]\nlabel = "{model}"\nbackbone = "{model}"\n' for model in MODELS]
        (Path(place) / "quarter.toml").write_text("\n".join([QUARTER, *rows]))
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        environment["PYTHONPATH"] = str(ROOT)
        command = [sys.executable, "-m", "bench.cli", "ablate", "quarter.toml", *options]
        began = time.perf_counter()
        subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True)
        return time.perf_counter() - began


def studies(repeats: int) -> list[str]:
    """A line for each way to measure a whole study."""
    turns = [[study(options) for options in WAYS.values()] for _ in range(repeats)]
    medians = [statistics.median(way) for way in zip(*turns, strict=True)]
    ways = zip(WAYS, medians, strict=True)
    return [
        "| cells at once | six cells of a quarter of `micro`, s | times as fast |",
        "|:--|--:|--:|",
        *(f"| {way} | {took:.0f} | {medians[0] / took:.2f} |" for way, took in ways),
    ]


def main() -> None:
    """Measure, print, and with `--write` renew docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.study", description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--studies", type=int, default=3, help="how often whole studies take turns")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    args = parser.parse_args()
    lines, starts = [], []
    for model in MODELS:
        for part in ("training", "sampling"):
            (plain, with_memory), start = kept(model, part, args.repeats)
            starts.append(start)
            lines.append(
                f"| {model}, {part} | {plain.cpu * 1e3:.1f} | {with_memory.cpu * 1e3:.1f} | "
                f"{plain.cpu / with_memory.cpu:.2f} | {plain.faults:,.0f} | {with_memory.faults:,.0f} |"
            )
            print(lines[-1], flush=True)
    whole = studies(args.studies)
    where = environment()
    heading = [
        "| a step under `micro` | CPU ms, default | CPU ms, memory kept | times as fast | page faults, "
        "default | page faults, memory kept |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    page = "\n".join(cells()) + (
        "\n\nMedians of the committed records, one thread a cell. A process of a study takes one cell after "
        f"the other; its first step comes after {statistics.median(starts):.0f} s, once.\n\n"
    )
    page += "\n".join(heading + lines) + (
        f"\n\nMeasured {where.date[:10]} on {where.cores} cores of {where.cpu}, one thread, "
        f"torch {where.torch}; in turns of 0.5 s, median of {args.repeats}.\n\n"
    )
    page += "\n".join(whole) + (
        f"\n\n{', '.join(MODELS)} with two seeds each, from the command to the table; in turns, median of "
        f"{args.studies}, on the same machine."
    )
    print(page)
    if args.write:
        write_section(MARKS, page)


if __name__ == "__main__":
    main()
