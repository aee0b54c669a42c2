"""The program for a GPU runs whole on the CPU, goes on where it was, and tells what failed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from bench.data.cifar10 import CLASSES, FILES, RECORD, cifar10
from bench.records.schema import SpeedRequest
from bench.speed import device, runners
from registry.errors import UsageError
from tests.bench import made
from tests.conftest import ROOT
from tests.device import __main__ as program
from tests.device import carry, released, summary
from tests.device.journal import LEAST_SECONDS, LOST, Journal, Limited, LostDeviceError

CPU = torch.device("cpu")


@pytest.fixture
def clones(tmp_path):
    """A folder that stands in for the authors' clones: its network is ours under another name."""
    for file, entry in zip(released.FILES, ("tiny", "DiT-S/2", "DiC-S", "DiCo-S"), strict=True):
        path = tmp_path / "clones" / file
        path.parent.mkdir(parents=True)
        path.write_text(
            "import registry\n"
            f"DiT_models = {{{entry!r}: lambda: registry.create('tiny-unet', input_size=8)}}\n"
        )
        path.with_name("LICENSE.txt").write_text("a license")
    return tmp_path / "clones"


@pytest.mark.slow
def test_every_stage_runs_and_is_not_run_again(tmp_path, clones, monkeypatch, capsys):
    arguments = ["tests.device", "--out", str(tmp_path), "--device", "cpu", "--tiny"]
    arguments += ["--released", str(clones)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setitem(runners.TURN_SECONDS, "cpu", 0.0)
    monkeypatch.setitem(device.LIMIT_SECONDS, "cpu", 0.0)
    assert program.main() == 0, capsys.readouterr().out
    for stage in program.STAGES:
        entries = json.loads((tmp_path / f"{stage}.json").read_text())
        assert entries and all("found" in entry for entry in entries.values()), stage
    page = (tmp_path / "summary.md").read_text()
    assert "FAILED" not in page
    for heading in (
        "Stages",
        "First",
        "Inference, batch 1",
        "Training, batch 1",
        "Beside the authors'",
        "Quality",
    ):
        assert f"## {heading}" in page
    capsys.readouterr()
    assert program.main() == 0
    assert capsys.readouterr().out == page + "\n"  # no item was run


def test_stages_on_a_gpu_have_items_of_different_names(tmp_path):
    """Those of the tiny ones are few; a name that came twice would hide an item."""
    for stage in program.STAGES:
        items = program.items(stage, CPU, tmp_path, False, None, tmp_path)
        assert len(items) >= 3
    speed = program.items("speed", CPU, tmp_path, False, None, None)
    assert {"table 6 bf16 64", "families fp32 1", "udit-s bf16 64 compile"} <= set(speed)


def test_the_summary_says_whether_compiled_is_faster(tmp_path):
    compiled = {"compiled": "yes", "compile_seconds": 30.0}
    for dtype, rate in (("fp32", 150.0), ("bf16", 80.0)):
        eager, faster = (
            SpeedRequest(**made.SPEED_REQUEST.model_dump() | {"dtype": dtype, "compile": compile})
            for compile in (False, True)
        )
        made.put(tmp_path, made.speed(eager))  # 100 images a second
        made.put(tmp_path, made.speed(faster, images_per_second=rate, **compiled))
    page = summary.page({}, tmp_path)
    assert "Compiled is faster in 1 of 2 cases" in page
    assert "| fp32 8 | 1.50 |  | 30 |" in page and "| bf16 8 | 0.80 |  | 30 |" in page


def test_other_code_than_ours_is_seen(clones):
    path = clones / released.FILES[0]
    path.write_text(
        path.read_text() + "import torch\n"
        "class Other(type(DiT_models['tiny']())):\n"
        "    def forward(self, x, t, y):\n"
        "        return super().forward(x, t, y) * 1.001\n"
        "DiT_models['tiny'] = lambda: Other(input_size=8)\n"
    )
    found = released.released(CPU, clones, True)["tiny-unet outputs"]()
    assert found["error"] == pytest.approx(1e-3, rel=0.01) and found["error"] > found["bound"]


def test_a_folder_without_the_networks_is_told(clones, tmp_path):
    with pytest.raises(UsageError, match=r"udit_models\.py has no network U-DiT-S"):
        released.both(clones, released.PAIRS[0])
    with pytest.raises(UsageError, match="holds the clones U-DiT, DiT, DiC, DiCo"):
        released.both(tmp_path, released.PAIRS[0])
    carry.bring(clones, tmp_path / "carried")
    brought = {str(p.relative_to(tmp_path / "carried")) for p in (tmp_path / "carried").rglob("*.*")}
    licenses = {f"{file.split('/')[0]}/LICENSE.txt" for file in released.FILES}
    assert brought == {*released.FILES, *licenses}


@pytest.fixture
def journal(tmp_path):
    said = []
    journal = Journal(tmp_path / "stage.json", {"device": "d"}, CPU, said.append)
    journal.said = said
    return journal


def test_what_failed_is_told_and_tried_last(journal, tmp_path):
    ran = []

    def fail():
        ran.append("fail")
        raise ValueError("no such kernel")

    def work():
        ran.append("work")
        return {"error": 0.5, "bound": 1.0}

    assert journal.run({"bad": fail}, math.inf)
    again = Journal(tmp_path / "stage.json", {}, CPU, journal.said.append)
    assert again.run({"bad": fail, "good": work, "nan": lambda: {"error": math.nan, "bound": 1.0}}, math.inf)
    assert ran == ["fail", "work", "fail"]
    assert "bad: FAILED, ValueError: no such kernel" in journal.said[0]
    assert "good: ok" in journal.said[1] and "nan: FAILED" in journal.said[2]


def test_no_item_is_begun_that_may_not_end(journal):
    journal.entries["slow"] = {"found": {}, "seconds": 100.0}
    assert not journal.run({"slow": dict, "next": dict}, time.monotonic() + 99)
    assert "next" not in journal.entries
    assert journal.run({"slow": dict, "next": dict}, time.monotonic() + 101)


def test_an_item_that_ended_the_process_is_known(journal, tmp_path):
    def killed():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        journal.run({"item": killed}, math.inf)
    assert json.loads(journal.path.read_text())["item"]["failure"] == "it ended the process"


@pytest.mark.slow
def test_an_item_that_takes_too_long_is_given_up(journal):
    """The others of its stage are begun however little time is left, and get no more of it."""
    began = time.monotonic()
    items = {
        "endless": Limited(lambda: time.sleep(60) or {}, 0.2),
        "short": Limited(lambda: {"found": 1}, 60),
    }
    assert journal.run(items, began + 100)
    assert journal.entries["endless"]["failure"] == "TimeoutError: it took more than 0.2 s"
    assert journal.entries["short"]["found"] == {"found": 1} and time.monotonic() - began < 30
    again = {"slow": Limited(lambda: time.sleep(60) or {}, 60)}
    assert journal.run(again, time.monotonic() + LEAST_SECONDS + 0.5)
    assert "it took more than 5" in journal.entries["slow"]["failure"]
    assert not journal.run({"late": again["slow"]}, time.monotonic() + LEAST_SECONDS - 1)


@pytest.mark.slow
def test_a_call_that_never_returns_ends_the_process():
    """As one that waits for a GPU: no exception gets through to it."""
    code = (
        "import signal, threading\n"
        "from tests.device import journal\n"
        "with journal._given_up(0.1, grace=0.3):\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n"
        "    threading.Event().wait(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == LOST


def test_a_lost_device_ends_the_stage(journal, monkeypatch):
    def lost(_):
        raise RuntimeError("CUDA error: an illegal memory access\nmore")

    journal.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(LostDeviceError, match=r"illegal memory access$"):
        journal.run({"item": dict, "next": dict}, math.inf)
    assert "next" not in journal.entries


def test_images_that_are_carried_come_back_as_they_were(tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "cifar" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for count, name in enumerate((name for split in FILES.values() for name in split), 130):
        records = random.integers(0, 256, (count, RECORD), dtype=np.uint8)
        records[:, 0] %= len(CLASSES)
        records.tofile(folder / name)
    carry.pack(tmp_path / "cifar", tmp_path / "carried")
    parts = sorted((tmp_path / "carried").iterdir())
    assert len(parts) == 3
    for part in parts:
        carry.unpack(part, tmp_path / "back")
    for name in (name for split in FILES.values() for name in split):
        back = tmp_path / "back" / "cifar-10-batches-bin" / name
        assert back.read_bytes() == (folder / name).read_bytes()
    assert len(cifar10(tmp_path / "back", split="test")) == 135


def test_every_carried_package_is_pinned(monkeypatch):
    commands = []
    monkeypatch.setattr(carry.subprocess, "run", lambda command, **_: commands.append(command))
    carry.wheels("wheels", "3.12")
    download, build = commands
    assert "diffusers==" in " ".join(download) and download[-len(carry.NAMES) - 2] == "-d"
    assert [name.split("==")[0] for name in build[-2:]] == carry.SOURCES
