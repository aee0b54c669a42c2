"""Runs of machines that share no storage but a folder of copies: killed on one, gone on with on another."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import studies
from bench.studies import worker
from bench.studies.cells import Cell, cells
from bench.studies.executors import Backlog, Group, groups
from bench.training import protocols
from tests.bench.place import PROTOCOL
from tests.soak import without_times

STUDY = 'title = "t"\nseeds = [0]\ncolumns = ["fid"]\n[[rows]]\nlabel = "plain"\nbackbone = "dit-s-2"\n'
# Does a group, and is killed once the checkpoint of step 8 is copied.
KILLED = """
import json, os, signal, sys
from bench.studies import measuring, worker
store = measuring.Mirror.store

def dying(mirror, run):
    store(mirror, run)
    if [path.name for path in mirror.run.checkpoints()] == ["00000008"]:
        os.kill(os.getpid(), signal.SIGKILL)

measuring.Mirror.store = dying
worker.work(json.loads(sys.argv[1]), [], print)
"""


def do(group: Group) -> None:
    ended: list[Any] = []
    assert Backlog([group]).take() == group  # the lease of the dead process is freed
    assert worker.work(group.message, [], lambda *job: ended.append(job)) is None
    assert ended == [("plain, seed 0", None)]


@pytest.mark.parametrize("held_out", [True, False])
def test_a_killed_cell_goes_on_in_another_work_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_out: bool
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    text = PROTOCOL if held_out else PROTOCOL.replace("held_out = { images = 64 }", "")
    (tmp_path / "few.toml").write_text(text)
    (tmp_path / "own.toml").write_text(STUDY)
    study, protocol = studies.load(tmp_path / "own.toml"), protocols.load(tmp_path / "few.toml")
    one: Cell = cells(study, protocol, [0])[0]
    copy = tmp_path / "checkpoints" / one.run

    def group(name: str, results: str = "results", checkpoints: str | None = "checkpoints") -> Group:
        (tmp_path / name).mkdir()
        places = {"results": tmp_path / results, "work": tmp_path / name}
        shared = tmp_path / checkpoints if checkpoints else None
        return groups([one], {}, **places, data_options={}, checkpoints=shared)[0]

    def record(results: str) -> tuple[Any, bytes]:
        path = tmp_path / results / one.file
        return without_times(json.loads(path.read_text())), path.with_suffix(".png").read_bytes()

    def trained(name: str) -> list[str]:
        """Checkpoints that were reached in a work folder; copies bring no pictures."""
        return sorted(path.stem for path in (tmp_path / name / one.run / "samples").iterdir())

    killed = subprocess.run([sys.executable, "-c", KILLED, json.dumps(group("a").message)], check=False)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "results" / one.file).exists()
    left = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    do(group("b"))
    assert trained("b") == ["00000012"]
    assert [path.name for path in (copy / "checkpoints").iterdir()] == ["00000012"]
    do(group("alone", "undisturbed", checkpoints=None))
    assert record("results") == record("undisturbed")

    if not held_out:
        return
    for path in copy.glob("checkpoints/*/*"):  # the copy is damaged: all is trained again
        path.unlink()
    for path, content in left.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[:-1] + b"?" if path.name == "ema.safetensors" else content)
    do(group("c", "once more"))
    assert trained("c") == ["00000004", "00000008", "00000012"]
    assert record("once more") == record("undisturbed")
