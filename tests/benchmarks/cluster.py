"""What becomes of a study whose machines go away: `python -m tests.benchmarks.cluster`.

`disturbed`: two Ray nodes on this machine measure a small study under `smoke`. In the middle one node is
killed (SIGKILL), then the driver, then both at once, and the command is given again; of a study under `micro`
both at once, in the middle of training. The records must equal those of the local executor, times and
environment aside.

`simulation`: 1,000 cells of about ten minutes on 100 machines, each with a call of its own on one folder of
records. Leases are real files, taken, kept and taken over by the code that `bench ablate` uses; time is
simulated, but for what these operations take. A machine dies in 5 of 100 attempts, at any moment, and is back
after two minutes; a cell goes on from its last checkpoint, of which there are ten. `--write` renews the
README's section.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.records.environment import environment
from bench.studies.executors import Backlog, Group, Job
from bench.utils import leases
from tests.benchmarks.speed import write_section
from tests.conftest import ROOT
from tests.soak import children, kill, without_times

MARKS = ("<!-- cluster benchmark -->", "<!-- end of cluster benchmark -->")
SMOKE = """
title = "Two networks"
protocol = "smoke"
seeds = [0, 1, 2]
training = { steps = 200, checkpoint_every = 20 }
columns = ["params", "fid"]
[[rows]]
label = "DiT"
backbone = "dit-s-2"
[[rows]]
label = "TinyUNet"
backbone = "tiny-unet"
"""
MICRO = """
title = "Two networks"
protocol = "micro"
seeds = [0]
columns = ["params", "fid"]
[[rows]]
label = "DiT"
backbone = "dit-s-4"
[[rows]]
label = "TinyUNet"
backbone = "tiny-unet"
"""

# ---- two nodes ----

WORDS = {
    "node": "the second node was",
    "driver": "the driver was",
    "both": "a second node and the driver were at once",
}

ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",  # Ray's own, of this machine
}


def ablate(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """Begin the study with its records in a folder."""
    command = [sys.executable, "-m", "bench.cli", "ablate", "study.toml", *more]
    with (folder / "output.txt").open("ab") as out:
        return subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env=ENVIRONMENT)


@contextmanager
def node(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Ray node with one core."""
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--block", "--num-cpus=1", "--node-ip-address=127.0.0.1", *options]
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=null, stderr=null)
    try:
        yield process
    finally:
        kill([*children(process.pid), process.pid])
        process.wait()


def at_work(results: Path, least: float) -> dict[int, str]:
    """Processes that hold leases of the study and have told of their work, and what they measure.

    Args:
        least: share of the training that they have done; 0 where any work will do.
    """
    found = {}
    for place in (results / ".leases").glob("*"):
        told = holder.told if (holder := leases.look(place)) else {}
        if told.get("description") and (
            least == 0 or (told["description"] == "training" and told["done"] >= least * told["total"])
        ):
            found[told["pid"]] = told["title"]
    return found


def wait_for(what: Any, process: subprocess.Popen[bytes], seconds: float = 1200) -> Any:
    """What a function says, once it says something, while a process runs."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert process.poll() is None and time.monotonic() < until, "the study ended too soon"
        time.sleep(0.01)
    return found


def disturbed(folder: Path, study: str, kills: Sequence[str], least: float = 0.0) -> list[str]:
    """Kill a node, the driver or both in the middle of a study; what happened, in words.

    Args:
        kills: `node`, `driver` or `both`, one after the other.
        least: as of `at_work`.

    Raises:
        AssertionError: the records are not those of the local executor.
    """
    places = {name: folder / name for name in ("local", "ray")}
    for place in places.values():
        place.mkdir(parents=True)
        (place / "study.toml").write_text(study)
    assert ablate(places["local"], "--jobs", "2").wait() == 0
    results = places["ray"] / "results"
    port = "--port=46379"
    with node("--head", port, "--include-dashboard=false") as head:
        address = "127.0.0.1:46379"
        arguments = ("--executor", "ray", "--address", address)
        driver, told = None, []
        for victim in kills:
            with node(f"--address={address}") if victim != "driver" else nullcontext() as second:
                time.sleep(10 if second else 0)
                driver = driver or ablate(places["ray"], *arguments)

                def at_hand(second: Any = second) -> list[str]:
                    below = children(second.pid) if second else None
                    found = at_work(results, least)
                    return [title for pid, title in found.items() if below is None or pid in below]

                title = wait_for(at_hand, driver)[0]
                count = len(list(results.glob("*.json")))
                doomed = [*children(second.pid), second.pid] if second else []
                kill(doomed + [driver.pid] * (victim != "node"))
                if victim != "node":
                    driver.wait()
                    driver = None
            told.append(f"{WORDS[victim]} killed while {title} was measured, with {count} records written")
        last = driver or ablate(places["ray"], *arguments)
        assert last.wait() == 0 and head.poll() is None, (places["ray"] / "output.txt").read_text()
    found = [
        {path.name: without_times(json.loads(path.read_text())) for path in place.glob("results/*.json")}
        for place in places.values()
    ]
    pictures = [{p.name: p.read_bytes() for p in place.glob("results/*.png")} for place in places.values()]
    assert found[0] == found[1] and pictures[0] == pictures[1]
    told.append(f"{len(found[0])} records and {len(pictures[0])} pictures equal those of `--executor local`")
    return told


# ---- a simulation ----


@dataclass
class Simulation:
    """Machines that measure the cells of one folder, in simulated seconds.

    Attributes:
        folder: of the leases.
        cells, machines, failures: how many, and the share of attempts that end with the machine's death.
    """

    folder: Path
    cells: int
    machines: int
    failures: float
    mean: float = 600.0
    checkpoints: int = 10
    absence: float = 120.0
    poll: float = 30.0
    seed: int = 0
    now: float = 0.0
    lost: float = 0.0
    deaths: int = 0
    overhead: float = 0.0
    left: dict[str, float] = field(default_factory=dict)
    alive: dict[str, tuple[leases.Lease, float]] = field(default_factory=dict)

    def run(self) -> float:
        """Until every cell is measured; the time when the last one was."""
        chance = random.Random(self.seed)
        self.work = {f"{i:04d}": self.mean * chance.lognormvariate(0, 0.3) for i in range(self.cells)}
        self.left = dict(self.work)
        (self.folder / "records").mkdir()
        events = [(0.0, machine, "begin") for machine in range(self.machines)]
        backlogs: dict[int, Backlog] = {}
        under_way: dict[int, tuple[str, leases.Lease, float]] = {}
        end = 0.0
        while events:
            self.now, machine, event = heapq.heappop(events)
            if event in ("end", "death"):
                name, lease, worked = under_way.pop(machine)
                del self.alive[name]
                if event == "death":
                    step = self.work[name] / self.checkpoints
                    done = self.work[name] - self.left[name] + worked
                    self.left[name] = self.work[name] - done // step * step
                    self.lost += done % step
                    self.deaths += 1
                    heapq.heappush(events, (self.now + self.absence, machine, "begin"))
                    continue
                del self.left[name]
                (self.folder / "records" / name).touch()
                end = self.now
                lease.release()
            if event == "begin":
                backlogs[machine] = self.backlog()
            began = time.perf_counter()
            claimed = self.claim(backlogs[machine])
            spent = time.perf_counter() - began
            self.overhead += spent
            if claimed is None:
                if self.left:
                    heapq.heappush(events, (self.now + self.poll, machine, "look"))
                continue
            name, lease = claimed
            dies = chance.random() < self.failures
            worked = self.left[name] * (chance.random() if dies else 1.0)
            under_way[machine] = name, lease, worked
            self.alive[name] = lease, self.now
            heapq.heappush(events, (self.now + spent + worked, machine, "death" if dies else "end"))
        return end

    def backlog(self) -> Backlog:
        """What a call of `bench ablate` finds to be done."""
        jobs = ((name, Job(name, self.folder / "records" / name, None, {})) for name in self.left)
        backlog = Backlog(Group((self.folder / "leases" / name,), (job,)) for name, job in jobs)
        backlog._watch.clock = lambda: self.now
        return backlog

    def claim(self, backlog: Backlog) -> tuple[str, leases.Lease] | None:
        """The next cell that has no record, as a worker claims it."""
        for name, (lease, last) in self.alive.items():
            if self.now - last >= self.poll / 2:  # more often is not looked
                lease.beat()
                self.alive[name] = lease, self.now
        group = backlog.take()
        if group is None:
            return None
        lease = leases.claim(group.leases[0])
        assert lease is not None  # no other machine does anything at the same moment
        return group.jobs[0].title, lease


def simulation() -> tuple[list[str], str]:
    """Lines of a table, without failures and with, and what it says in words."""
    machine, numbers = leases._machine, itertools.count()
    # Each looks at the others as at other machines, whose processes it cannot see.
    leases._machine = lambda: f"machine{next(numbers)}"  # type: ignore[assignment]
    rows = []
    try:
        for failures in (0.0, 0.05):
            with tempfile.TemporaryDirectory() as folder:
                made = Simulation(Path(folder), 1000, 100, failures)
                end = made.run()
                work = sum(made.work.values())
                assert not made.left and not list((made.folder / "leases").iterdir())
            rows.append((failures, made, end, work))
    finally:
        leases._machine = machine
    lines = [
        "| attempts that end in a machine's death | deaths | hours until the last record "
        "| at best | work lost | leases, ms a cell |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for failures, made, end, work in rows:
        lines.append(
            f"| {failures:.0%} | {made.deaths} | {end / 3600:.2f} | {work / made.machines / 3600:.2f} | "
            f"{made.lost / work:.2%} | {made.overhead / made.cells * 1e3:.1f} |"
        )
    words = (
        "1,000 cells of ten minutes (log-normal, σ = 0.3) on 100 machines, each with a call of its own on "
        "one folder of records: real leases on a local disk, simulated time. At best: the work divided by "
        "the machines, none of which would ever wait. A dead machine is back after two minutes; its cell is "
        f"taken over after {leases.EXPIRY:.0f} s of silence and goes on from the last of ten checkpoints. "
        "Leases: what all machines' looks and claims take together, by the clock, for each cell."
    )
    return lines, words


def main() -> None:
    """Do both, print, and with `--write` renew the README's section."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cluster", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the README")
    args = parser.parse_args()
    lines, words = simulation()
    with tempfile.TemporaryDirectory() as folder:
        under_smoke = disturbed(Path(folder) / "smoke", SMOKE, ("node", "driver", "both"))
        under_micro = disturbed(Path(folder) / "micro", MICRO, ("both",), least=0.4)
    where = environment()
    page = "\n".join(lines) + (
        f"\n\n{words}\n\nTwo Ray nodes on one machine, a study of two networks and three seeds under "
        f"`smoke`, of 200 steps: {'; '.join(under_smoke)}.\n\nThe same two networks under `micro`, of 1,200 "
        f"steps: {'; '.join(under_micro)}.\n\n"
        f"Measured {where.date[:10]} on {where.cores} cores of {where.cpu}, "
        f"Python {where.python}, torch {where.torch}."
    )
    print(page)
    if args.write:
        write_section(MARKS, page)


if __name__ == "__main__":
    main()
