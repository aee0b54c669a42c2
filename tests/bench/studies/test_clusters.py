"""Executors of clusters: the records of the local one, from Ray and Slurm, also where tasks are stopped."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.studies.executors import executor, ray
from bench.utils import locks
from registry.errors import UsageError
from tests.bench.place import Place
from tests.conftest import ROOT
from tests.soak import without_times

STUDY = """
title = "One network, twice"
columns = ["params", "fid"]
seeds = [0]
[[rows]]
label = "guided"
backbone = "dit-s-2"
step = 5
cfg_scale = 2.0
[[rows]]
label = "plain"
backbone = "dit-s-2"
"""
# Commands of Slurm that do with processes of this machine what is asked of them: arrays, requeueing.
SLURM = {
    "sbatch": """#!/usr/bin/env python3
import os, re, subprocess, sys
text = open(sys.argv[1]).read()
last = re.search(r"--array=0-(\\d+)", text)
for index in range(int(last[1]) + 1) if last else [None]:
    name = "77" if index is None else f"77_{index}"
    more = {} if index is None else {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(index)}
    environment = os.environ | more | {"SLURM_JOB_ID": name, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    queue = os.path.join(os.environ["QUEUE"], name)
    loop = f'touch {queue}; while [ -e {queue} ]; do rm {queue}; bash {sys.argv[1]}; done'
    subprocess.Popen(["bash", "-c", loop], env=environment, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL, start_new_session=True)
print("Submitted batch job 77")
""",
    "srun": """#!/usr/bin/env python3
import os, sys
while sys.argv[1].startswith("--"):
    del sys.argv[1 : 2 if sys.argv[1] == "--unbuffered" else 3]
os.execvp(sys.argv[1], sys.argv[1:])
""",
    "scontrol": """#!/bin/sh
touch "$QUEUE/$2"; echo "$2" >> "$QUEUE/requeued"
""",
    "sacct": "#!/bin/sh\necho 'JobID|State|NodeList'\n",
    "scancel": "#!/bin/sh\n",
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture(scope="module")
def expected(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The records of the local executor."""
    place = Place(tmp_path_factory.mktemp("local"), STUDY)
    done = place.bench()
    assert done.exit_code == 0, done.output
    return records(place)


def records(place: Place) -> dict[str, Any]:
    """Every record without its times and its environment."""
    found = {path.name: without_times(json.loads(path.read_text())) for path in place.results.glob("*.json")}
    for record in found.values():
        for loss in record["result"].get("held_out", []):  # a mean of the log's means, whose steps differ
            loss["training_error"] = pytest.approx(loss["training_error"], rel=1e-6)
    return found


@pytest.mark.slow
def test_ray_measures_the_same_records(expected: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    place = Place(tmp_path, STUDY)
    process = place.begin("--executor", "ray", "--executor-option", "address=local", "--jobs", "2")
    told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    assert records(place) == expected


@pytest.mark.slow
def test_slurm_goes_on_after_a_preemption(
    expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "queue").mkdir()
    (tmp_path / "bin").mkdir()
    for name, text in SLURM.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("QUEUE", str(tmp_path / "queue"))
    place = Place(tmp_path, STUDY)
    process = place.begin("--executor", "slurm")
    preempted, until = False, time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until and not preempted:
        for log in place.work.glob("dit-*/log.jsonl"):
            if holder := locks.holder(log.parent):  # it trains
                os.kill(int(holder.split()[1]), signal.SIGUSR2)
                preempted = True
        time.sleep(0.02)
    told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    assert preempted and len((tmp_path / "queue" / "requeued").read_text().split()) == 1
    assert records(place) == expected


@pytest.mark.slow
def test_submitit_does_without_slurm(expected: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    place = Place(tmp_path, STUDY.replace('"dit-s-2"', '"cannot-train"', 1))
    (tmp_path / "cannot_train.py").write_text(RAISES)
    arguments = ["--executor", "slurm", "--executor-option", "cluster=debug"]
    done = place.bench(*arguments, "--plugin", str(tmp_path / "cannot_train.py"))
    assert done.exit_code == 1, done.output
    assert done.stderr.count("failed: ") == 1 and "guided, seed 0: RuntimeError: not today" in done.stderr
    plain = [record for record in records(place).values() if record["request"]["kind"] == "quality"]
    requests = [record["request"] for record in plain]
    assert [(request["seed"], request["step"]) for request in requests] == [(0, 12)]
    assert plain[0] in expected.values()


RAISES = """
import torch
import registry


@registry.register("cannot-train")
class Raises(registry.Backbone):
    null_class = 0

    def __init__(self, input_size=32, num_classes=1000, in_channels=4):
        super().__init__(input_size=input_size, num_classes=num_classes, in_channels=in_channels)
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t, y):
        if not x.is_meta and len(x) == 8:
            raise RuntimeError("not today")
        return x + self.bias
"""


@pytest.mark.slow
def test_a_cell_that_ran_out_of_memory_beside_others_is_done_again_alone(
    expected: dict[str, Any], tmp_path: Path
) -> None:
    text = """
if not x.is_meta and len(x) == 8 and not Path(__file__).with_name("first").exists():
            Path(__file__).with_name("first").touch()
            raise torch.OutOfMemoryError("CUDA out of memory")
        if not x.is_meta and len(x) == 8:
            runs = Path(__file__).with_name("work").glob("hungry-*")
            assert len([run for run in runs if locks.holder(run)]) == 1, "it is not alone"
"""
    study = STUDY.replace('"dit-s-2"', '"hungry"', 1).replace("cfg_scale = 2.0\n", "")
    place = Place(tmp_path, study)
    plugin = tmp_path / "hungry.py"
    failing = 'if not x.is_meta and len(x) == 8:\n            raise RuntimeError("not today")'
    plugin.write_text(
        "from pathlib import Path\nfrom bench.utils import locks\n"
        + RAISES.replace(failing, text.strip()).replace("cannot-train", "hungry")
        + RAISES.replace(failing, text.strip()).replace("cannot-train", "hungry")
    )
    done = place.bench("--jobs", "2", "--plugin", str(plugin))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "first").exists()
    found = records(place)
    assert len([record for record in found.values() if record["request"]["kind"] == "quality"]) == 2
    assert found.items() >= {n: r for n, r in expected.items() if r["request"].get("step") == 12}.items()


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_a_missing_extra_is_one_clear_line(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, {"ray": "ray", "slurm": "submitit"}[name], None)
    with pytest.raises(UsageError, match=rf"{name} needs .*: pip install 'denoiser-bench\[{name}\]'"):
        executor(name).run([], work=tmp_path)


def test_without_a_cluster_it_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="there is no sbatch here"):
        executor("slurm").run([], work=tmp_path)
    pytest.importorskip("ray")
    monkeypatch.setattr(ray, "CONNECT_PATIENCE", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:  # of something that says nothing
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"no Ray cluster at {address}: no answer in 1"):
            executor("ray", address=address).run([], work=tmp_path)
