"""Cells of several processes: the record of one process, and no process outlives the one that began it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bench import records, studies
from bench.studies import worker
from bench.studies.cells import Cell, cells
from bench.studies.jobs import Task
from bench.training import protocols
from bench.training.run import Run
from registry.errors import UsageError
from tests.bench import made
from tests.soak import children, without_times

STUDY = """
title = "One network"
columns = ["fid"]
[[rows]]
label = "DiT"
backbone = "dit-s-2"
"""


def cell(folder: Path, processes: int) -> Cell:
    (folder / "own.toml").write_text(STUDY + f"training = {{ processes = {processes} }}\n")
    return cells(studies.load(folder / "own.toml"), protocols.load("smoke"), [0])[0]


@pytest.mark.slow
def test_two_processes_of_a_cell_make_the_record_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found: list[Any] = []
    for processes in (1, 2):
        place = tmp_path / str(processes)
        (place / "work").mkdir(parents=True)
        one = cell(place, processes)
        (group,) = made.groups([one], {}, results=place / "results", work=place / "work")
        assert group.processes == processes
        ended: list[Any] = []
        assert not worker.work(group, [], lambda *job, ended=ended: ended.append(job))
        assert ended == [("DiT, seed 0", None)]
        record = records.read_file(place / "results" / one.file)
        assert record.context.processes == (2 if processes == 2 else None)
        weights = load_file(next(place.glob("work/*/checkpoints/00000008/ema.safetensors")))
        found.append((one, record, weights, (place / "results" / one.file).with_suffix(".png").read_bytes()))
    (one, record, weights, images), (two, other, others, same) = found
    assert one.request == two.request and one.run == two.run
    # Gradients are added up in another order: the weights differ by rounding, the images by nothing.
    assert all(torch.allclose(weights[name], others[name], rtol=0, atol=1e-6) for name in weights)
    assert images == same and record.result.scores == pytest.approx(other.result.scores, rel=1e-6)
    tables = [without_times(each.dump()) for each in (record, other)]
    assert tables[0]["request"] == tables[1]["request"]
    assert tables[0]["result"]["loss"] == pytest.approx(tables[1]["result"]["loss"], rel=1e-6)


def endless(folder: Path, processes: int = 2) -> Task:
    """A training without end."""
    one = cell(folder, processes)
    training = one.protocol.training.model_copy(update={"steps": 10**6, "checkpoint_every": 10**6})
    return Task(
        title=one.title,
        request=one.request,
        overrides=one.overrides,
        protocol=one.protocol.model_copy(update={"training": training}),
        run=folder / "run",
        results=folder / "results",
    )


# What a process does that measures a cell; ends with 7 where it was told to stop.
TRAINS = """
import sys
from bench.studies.jobs import Task
from bench.studies.processes import call
from bench.utils.progress import Stopped
try:
    call("train", Task.model_validate_json(sys.argv[1]), step=10**6)
except Stopped:
    sys.exit(7)
"""


@contextmanager
def training(task: Task) -> Iterator[subprocess.Popen[bytes]]:
    """Two processes that train, once they do, and the one that began them."""
    command = [sys.executable, "-c", TRAINS, task.model_dump_json()]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while not (task.run / "log.jsonl").exists() and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_nothing_listens_to_other_hosts_while_processes_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [name for _, name in socket.if_nameindex() if name not in ("lo", "lo0")]
    if others:  # whatever the environment says
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", others[0])
    with training(endless(tmp_path)) as process:
        found = listening(children(process.pid))
    assert found  # Gloo's, by which the two add up gradients
    assert found <= {"0100007F", "00000000000000000000000001000000"}  # 127.0.0.1 and ::1


def listening(pids: list[int]) -> set[str]:
    """Addresses at which processes listen, as /proc/net has them."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {words[1].partition(":")[0] for words in lines if words[3] == "0A" and words[9] in inodes}


@pytest.mark.slow
def test_a_signal_stops_all_processes_with_a_checkpoint(tmp_path: Path) -> None:
    with training(endless(tmp_path)) as process:
        process.terminate()
        assert process.wait(timeout=60) == 7
    (checkpoint,) = Run(tmp_path / "run").checkpoints()
    assert int(checkpoint.name) > 0
    assert not at_work(tmp_path)


@pytest.mark.slow
def test_processes_end_with_the_one_that_began_them(tmp_path: Path) -> None:
    with training(endless(tmp_path)) as process:
        process.kill()
    until = time.monotonic() + 10
    while at_work(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert not at_work(tmp_path)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(tmp_path: Path) -> None:
    with training(endless(tmp_path)) as process:
        os.kill(children(process.pid)[1], signal.SIGKILL)
        assert process.wait(timeout=30) == 1
    assert not at_work(tmp_path)


def at_work(folder: Path) -> list[Path]:
    """Processes whose command names a folder."""
    return [file for file in Path("/proc").glob("[0-9]*/cmdline") if str(folder) in read(file)]


def read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:  # it has ended
        return ""


def test_processes_that_cannot_share_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a batch of 8 cannot be cut into 3 equal parts"):
        cell(tmp_path, 3)
