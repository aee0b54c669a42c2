"""How long folders of many records take: `python -m tests.benchmarks.records`.

The committed records of quality are multiplied to 100, 1,000 and 20,000, which differ in the learning rate,
beside the committed ones themselves; folders of training runs to 100,000, with empty checkpoints. A command
is run in a process of its own. What is told is CPU time, so that another job on the machine changes little,
and the peak of memory. `--write` renews its section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import records
from bench.records.environment import environment
from bench.records.schema import Quality, QualityRequest, Record
from bench.training import protocols
from bench.training.run import PARTS, Manifest, Run, RunRequest
from tests.benchmarks.speed import write_section
from tests.conftest import ROOT

MARKS = ("<!-- records benchmark -->", "<!-- end of records benchmark -->")
LOAD = "from bench import records; records.load('results')"
COMMANDS = {
    "`bench.records.load()`": ("-c", LOAD),
    "`bench ablate components`": ("-m", "bench.cli", "ablate", "components"),
    "`bench report`": ("-m", "bench.cli", "report", "--format", "md"),
}
# A small process in between, whose children's times and peak are those of the command.
LAUNCHER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def make(folder: Path, count: int) -> None:
    """So many made records of quality in a folder that has the committed ones."""
    shutil.copytree(ROOT / "results", folder)
    found = [
        records.read_file(folder / r.file) for r in records.read(folder) if isinstance(r.result, Quality)
    ]
    for i in range(count):
        table = found[i % len(found)].dump()
        table["request"]["training"]["learning_rate"] *= 1 + 1e-9 * (i + 1)
        record = Record.model_validate(table)
        (folder / record.file).write_text(records.dumps(record), encoding="utf-8")


def make_runs(folder: Path, count: int) -> None:
    """So many made folders of runs that are finished, of which every second one is in no record."""
    found = [r.request for r in records.read(ROOT / "results") if isinstance(r.request, QualityRequest)]
    for i in range(count):
        request = found[i // 2 % len(found)]
        made = RunRequest(
            model=request.model,
            config=request.config | {"input_size": 8, "num_classes": 10},
            fingerprint="0" * 12,
            data=request.data,
            data_digest="0" * 12,
            shape=(4, 8, 8),
            num_classes=10,
            training=request.training,
            seed=request.seed + i % 2 * 1000,
        )
        run = Run(folder / f"{request.model}-{made.seed}-{i:012x}")
        checkpoint = run.folder / "checkpoints" / f"{request.training.steps:08d}"
        checkpoint.mkdir(parents=True)
        for name in (*PARTS, "state"):
            (checkpoint / name).touch()
        run.begin(Manifest(request=made, protocol=protocols.load("micro")))
        run.log({"step": request.training.steps, "loss": 0.1})


def measure(place: Path, command: tuple[str, ...]) -> tuple[float, float]:
    """CPU seconds and peak MiB of Python with these arguments."""
    variables = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    launched = subprocess.run(
        [sys.executable, "-c", LAUNCHER, sys.executable, *command],
        check=True, capture_output=True, text=True, cwd=place, env=os.environ | variables,
    )  # fmt: skip
    seconds, kib = map(float, launched.stdout.split())
    return seconds, kib / 1024


def main() -> None:
    """Measure, print, and with `--write` renew docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.records", description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 20_000])
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--runs", type=int, default=100_000)
    args = parser.parse_args()
    lines = [
        "| added | command | CPU seconds | peak memory (MiB) |",
        "|--:|:--|--:|--:|",
    ]
    for count in args.counts:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            make(place / "results", count)
            for name, command in COMMANDS.items():
                seconds, peak = measure(place, command)
                lines.append(f"| {count:,} records | {name} | {seconds:.1f} | {peak:.0f} |")
                print(lines[-1], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shutil.copytree(ROOT / "results", place / "results")
        make_runs(place / "runs", args.runs)
        name = "`bench ablate components`"
        seconds, peak = measure(place, COMMANDS[name])
        lines.append(f"| {args.runs:,} runs | {name} | {seconds:.1f} | {peak:.0f} |")
        print(lines[-1], flush=True)
    where = environment()
    page = "\n".join(lines) + (
        f"\n\nThe committed records were in the folder too. Measured {where.date[:10]} on {where.cores} "
        f"cores of {where.cpu}, Python {where.python}; CPU time of one process."
    )
    if args.write:
        write_section(MARKS, page)


if __name__ == "__main__":
    main()
