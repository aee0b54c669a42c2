"""Cells of several processes: the record of one process, and no process outlives the one that began it."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bench import records, studies
from bench.studies import worker
from bench.studies.cells import Cell, cells
from bench.studies.executors import groups
from bench.studies.processes import MARK
from bench.training import protocols
from bench.training.run import Run
from registry.errors import UsageError
from tests.soak import without_times

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


def test_two_processes_of_a_cell_make_the_record_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found: list[Any] = []
    for processes in (1, 2):
        place = tmp_path / str(processes)
        (place / "work").mkdir(parents=True)
        one = cell(place, processes)
        (group,) = groups([one], {}, results=place / "results", work=place / "work", data_options={})
        assert group.processes == processes
        ended: list[Any] = []
        assert worker.work(group.message, [], lambda *job, ended=ended: ended.append(job)) is None
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


def endless(folder: Path) -> dict[str, Any]:
    """Arguments of a training without end."""
    one = cell(folder, 1)
    protocol = one.protocol.model_dump(mode="json")
    protocol["training"] |= {"steps": 10**6, "checkpoint_every": 10**6}
    return {
        "run": str(folder / "run"), "step": 10**6, "request": one.request.model_dump(mode="json"),
        "protocol": protocol, "overrides": one.overrides, "data_options": {},
    }  # fmt: skip


# What a worker does; ends with 7 where it was told to stop.
STOPPED = """
import json, sys
from bench.studies.processes import call
from bench.utils.progress import Stopped, silent
try:
    call("train", json.loads(sys.argv[1]), processes=2, plugins=[], progress=silent)
except Stopped:
    sys.exit(7)
"""


def test_a_signal_stops_all_processes_with_a_checkpoint(tmp_path: Path) -> None:
    arguments = json.dumps(endless(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", STOPPED, arguments], start_new_session=True)
    until = time.monotonic() + 120
    while not (tmp_path / "run/log.jsonl").exists() and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    assert process.wait(timeout=60) == 7
    (checkpoint,) = Run(tmp_path / "run").checkpoints()
    assert int(checkpoint.name) > 0
    assert not [line for line in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path) in read(line)]


def read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:  # it has ended
        return ""


def test_a_process_ends_with_the_one_that_began_it(tmp_path: Path) -> None:
    message = json.dumps({"function": "train", "arguments": endless(tmp_path), "plugins": []})
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.studies.processes", message],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin and process.stdout
    assert process.stdout.readline() == f'{MARK}{{"progress": ["training", 0, 1000000]}}\n'
    process.stdin.close()  # as where the other is killed
    assert process.wait(timeout=10) == 1
    process.stdout.close()


def test_processes_that_cannot_share_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a batch of 8 cannot be cut into 3 equal parts"):
        cell(tmp_path, 3)
