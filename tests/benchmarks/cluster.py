"""What becomes of a study whose machines go away: `python -m tests.benchmarks.cluster`.

Two Ray nodes on this machine measure a small study under `smoke`. In the middle one node is
killed (SIGKILL), then the driver, then both at once, and the command is given again; of a study under `micro`
both at once, in the middle of training. The records must equal those of the local executor, times and
environment aside. `--write` renews its section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from bench import studies
from bench.records.environment import environment
from bench.studies.cells import cells
from bench.studies.watching import Watcher
from bench.training import protocols
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
    """Processes that train a cell of the study, and what they measure.

    Args:
        results: of the study; training runs lie beside it.
        least: share of the training that they have done.
    """
    study = studies.load(results.with_name("study.toml"))
    planned = cells(study, protocols.load(study.protocol), study.seeds)
    found = Watcher(results, results.with_name("runs"), planned).look()
    return {
        int(each.holder.split()[1]): each.title
        for each in found
        if each.description == "training" and each.done >= least * each.total
    }


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
        arguments = ("--executor", "ray", "--executor-option", f"address={address}")
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


def main() -> None:
    """Do both, print, and with `--write` renew docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cluster", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        under_smoke = disturbed(Path(folder) / "smoke", SMOKE, ("node", "driver", "both"))
        under_micro = disturbed(Path(folder) / "micro", MICRO, ("both",), least=0.4)
    where = environment()
    page = (
        f"Two Ray nodes on one machine, a study of two networks and three seeds under "
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
