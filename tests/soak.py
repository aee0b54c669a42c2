"""A soak that anyone can repeat: `python -m tests.soak --minutes 20`.

Train, sample, eval, ablate and report are run over and over on tiny networks, and disturbed: SIGKILL to the
process or to all its children, SIGTERM, a full disk, a byte changed in a file, two equal calls at once. Each
episode ends when the command succeeds undisturbed; its results must equal those of a run that was never
disturbed, byte for byte, times and dates aside. Nothing here is a test; a difference ends it with status 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

PROTOCOL = """
title = "60 steps of tiny networks"
data = "digits"
[training]
steps = 60
batch_size = 8
learning_rate = 1e-3
ema_decay = 0.9
log_every = 5
checkpoint_every = 10
[sampling]
sampler = "ddim"
steps = 4
num = 48
labels = "balanced"
batch_size = 8
[scale]
"dit-*" = { hidden_size = 48, depth = 2, num_heads = 2 }
"tiny-unet" = { widths = [16, 32, 64] }
"""
STUDY = """
title = "Soak"
protocol = "few.toml"
seeds = [0]
columns = ["params", "gflops", "fid", "recall"]
[[rows]]
label = "DiT"
backbone = "dit-s-2"
[[rows]]
label = "DiT, guided"
backbone = "dit-s-2"
cfg_scale = 2.0
[[rows]]
label = "TinyUNet"
backbone = "tiny-unet"
"""
TIMES = {"seconds", "eval_seconds", "images_per_second", "environment", "date", "digest"}


@dataclass(frozen=True)
class Task:
    """Commands that are run one after the other in an empty folder, and what they leave.

    Attributes:
        commands: arguments of `bench`.
        outcome: of a folder: name -> digest or numbers, without times.
    """

    commands: tuple[tuple[str, ...], ...]
    outcome: Callable[[Path], dict[str, Any]]


def run_outcome(folder: Path) -> dict[str, Any]:
    """Weights, log, images and scores of `train`, `sample` and `eval`."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("run/checkpoints/*/*.safetensors")):
        found[str(path.relative_to(folder))] = digest(path)
    log = (folder / "run/log.jsonl").read_text().splitlines()
    found["log"] = [without_times(json.loads(line)) for line in log]
    found["samples"] = digest(folder / "samples.npz")
    found["scores"] = json.loads((folder / "scores.json").read_text())["scores"]
    return found


def study_outcome(folder: Path) -> dict[str, Any]:
    """Records and pictures of `ablate`, and the page of `report`."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "results").iterdir()):
        if path.suffix == ".json":
            found[path.name] = without_times(json.loads(path.read_text()))
        elif path.suffix == ".png":
            found[path.name] = digest(path)
    found["page"] = (folder / "reports/study.md").read_text()
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without_times(value: Any) -> Any:
    """JSON without the keys that tell of time."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


TASKS = {
    "train, sample, eval": Task(
        (
            ("train", "-m", "tiny-unet", "--protocol", "few.toml", "--out", "run", "--resume"),
            ("sample", "--checkpoint", "run", "--out", "samples.npz"),
            ("eval", "--samples", "samples.npz", "--reference", "digits.npz", "--cache", "cache", "--json"),
        ),
        run_outcome,
    ),
    "ablate, report": Task(
        (
            ("ablate", "study.toml", "--jobs", "2"),
            ("report", "study.toml", "--format", "md"),
        ),
        study_outcome,
    ),
}
DISTURBANCES = ("SIGKILL", "SIGKILL children", "SIGTERM", "full disk", "changed byte", "twin")


class Soak:
    """Episodes, their counts, and the outcome of each task that was never disturbed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.expected = {name: self.undisturbed(name) for name in TASKS}

    def undisturbed(self, name: str) -> dict[str, Any]:
        """The outcome of a task that runs through."""
        place = self.place(f"undisturbed {name}")
        for command in TASKS[name].commands:
            process = begin(command, place)
            if finish(process, command, place):
                raise SystemExit(f"bench {' '.join(command)} fails undisturbed:\n{errors(place)}")
        return TASKS[name].outcome(place)

    def place(self, name: str) -> Path:
        """An empty folder with the protocol, the study and the reference."""
        place = self.folder / re.sub(r"\W+", "-", name)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "few.toml").write_text(PROTOCOL)
        (place / "study.toml").write_text(STUDY)
        reference = self.folder / "digits.npz"
        export = ("export", "--data", "digits", "--out", str(reference))
        if not reference.exists() and finish(begin(export, place), export, place):
            raise SystemExit(errors(place))
        (place / "digits.npz").symlink_to(reference)
        return place

    def episode(self, name: str) -> None:
        """One task, disturbed at random, until it is done."""
        place = self.place(name)
        for command in TASKS[name].commands:
            calm = self.random.randint(1, 6)  # disturbances before it may run through
            for _ in range(60):
                if self.attempt(command, place, disturbed=calm > 0):
                    break
                calm -= 1
            else:
                raise SystemExit(f"bench {' '.join(command)} does not come to its end:\n{errors(place)}")
        found = TASKS[name].outcome(place)
        if found != self.expected[name]:
            different = [key for key in found.keys() | self.expected[name].keys()
                         if found.get(key) != self.expected[name].get(key)]  # fmt: skip
            raise SystemExit(f"{name} in {place} ends otherwise: {', '.join(sorted(different))}")
        self.counts["episodes"] += 1

    def attempt(self, command: tuple[str, ...], place: Path, *, disturbed: bool) -> bool:
        """Run a command once; whether it came to its end."""
        kind = self.random.choice(DISTURBANCES) if disturbed else ""
        process = begin(
            command, place, disk=self.random.randint(1, 200) * 1024 if kind == "full disk" else None
        )
        twin = begin(command, place, output="twin") if kind == "twin" else None
        if kind in ("SIGKILL", "SIGKILL children", "SIGTERM", "changed byte"):
            try:
                process.wait(self.random.uniform(0.3, 7))
            except subprocess.TimeoutExpired:
                self.counts[kind] += 1
                self.counts["after a checkpoint"] += any(place.glob("r*/**/checkpoints/*/state.json"))
                if kind == "SIGTERM":
                    process.terminate()
                elif kind == "SIGKILL children":
                    kill(children(process.pid))
                else:
                    kill([process.pid, *children(process.pid)])
        elif kind:
            self.counts[kind] += 1
        if twin is not None:
            twin.wait()
        status = finish(process, command, place)
        if kind == "changed byte" and command[0] in ("train", "ablate"):  # which notice it and mend it
            self.change_a_byte(place)
        if command[0] == "sample" and "samples.npz exists" in errors(
            place
        ):  # a twin, or a killed call, made it
            return True
        if status == 2:
            self.heal(place, errors(place))
        return status == 0 and kind != "changed byte"

    def change_a_byte(self, place: Path) -> None:
        """Turn a bit in some file of weights or some record."""
        files = [*place.glob("r*/**/*.safetensors"), *place.glob("results/*.json")]
        if files:
            path = self.random.choice(sorted(files))
            content = bytearray(path.read_bytes())
            content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(7)
            path.write_bytes(content)

    def heal(self, place: Path, told: str) -> None:
        """Do what a message advises: delete the file or folder that it names as damaged."""
        for name in re.findall(r"delete (\S+?)(?:[,;:]|\s|$)", told):
            path = place / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            self.counts["damage told"] += 1


def begin(
    command: tuple[str, ...], place: Path, *, disk: int | None = None, output: str = "output"
) -> subprocess.Popen[bytes]:
    """Start `bench`; with `disk`, no file of its may grow beyond so many bytes."""

    def limit() -> None:
        if disk is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (disk, disk))

    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (place / f"{output}.txt").open("wb") as out, (place / f"{output}-errors.txt").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "bench.cli", *command],
            cwd=place, env=environment, stdout=out, stderr=err, preexec_fn=limit,
        )  # fmt: skip


def finish(process: subprocess.Popen[bytes], command: tuple[str, ...], place: Path) -> int:
    """Wait for a command's end; its exit status. What `eval` printed becomes a file."""
    status = process.wait()
    deadline = time.monotonic() + 60
    while (left := children(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05 if left else 0)
    if not status and command[0] == "eval":
        (place / "output.txt").rename(place / "scores.json")
    if b"Traceback" in (place / "output-errors.txt").read_bytes() and status >= 0:
        raise SystemExit(f"bench {' '.join(command)} shows a traceback:\n{errors(place)}")
    return status


def errors(place: Path) -> str:
    """What the last command printed as errors."""
    return (place / "output-errors.txt").read_text(errors="replace")


def children(pid: int) -> list[int]:
    """Processes below one, of any depth."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        inner = parents.get(todo.pop(), [])
        found += inner
        todo += inner
    return found


def kill(pids: list[int]) -> None:
    """SIGKILL to each."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def main() -> None:
    """Soak for so many minutes, then print the counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), args.seed)
        end = time.monotonic() + 60 * args.minutes
        while time.monotonic() < end:
            soak.episode(soak.random.choice(list(TASKS)))
            print(dict(soak.counts), flush=True)
    print(f"{soak.counts.pop('episodes')} episodes ended as if never disturbed: {dict(soak.counts)}")


if __name__ == "__main__":
    main()
