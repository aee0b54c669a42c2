"""Records: names, whole files, and reading what others left."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import records
from registry.errors import UsageError

ASKED = {"measure": "throughput", "model": "udit-t", "overrides": {"depth": (1, 1)}, "device": "cpu"}


def test_a_record_holds_what_was_asked_what_came_out_and_where(tmp_path):
    path = records.write(ASKED, {"images_per_second": 3.5}, tmp_path / "new")
    record = json.loads(path.read_text())
    assert record["asked"] == ASKED | {"overrides": {"depth": [1, 1]}}
    assert record["values"] == {"images_per_second": 3.5}
    promised = "device cpu cores threads python torch diffusers denoiser-bench commit clean date".split()
    assert list(record["environment"]) == promised
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file is left


def test_the_name_is_a_hash_of_what_was_asked():
    name = records.name(ASKED)
    assert name.startswith("throughput-udit-t-") and len(name) == len("throughput-udit-t-.json") + 12
    assert records.name(dict(reversed(ASKED.items()))) == name  # order says nothing
    assert records.name(json.loads(json.dumps(ASKED))) == name  # nor tuple or list
    assert records.name(ASKED | {"device": "cuda"}) != name
    assert records.name(ASKED | {"model": "my/net é"}).startswith("throughput-my-net-é-")


def test_the_same_question_has_one_answer(tmp_path):
    records.write(ASKED, {"x": 1}, tmp_path)
    records.write(ASKED, {"x": 2}, tmp_path)
    assert records.load(tmp_path)["values.x"].tolist() == [2]


def test_a_failed_write_leaves_the_older_answer(tmp_path, monkeypatch):
    path = records.write(ASKED, {"x": 1}, tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageError, match="No space left"):
        records.write(ASKED, {"x": 2}, tmp_path)
    assert json.loads(path.read_text())["values"] == {"x": 1}


def test_load_skips_and_names_damaged_records(tmp_path):
    good = records.write(ASKED, {"x": 1}, tmp_path)
    cut = tmp_path / "throughput-cut-0123456789ab.json"
    cut.write_text(good.read_text()[:40])
    bare = tmp_path / "throughput-bare-0123456789ab.json"
    bare.write_text('{"asked": {}}')
    moved = tmp_path / "throughput-moved-0123456789ab.json"
    moved.write_text(good.read_text())
    (tmp_path / "benchmarks.json").write_text("{}")  # no record, and none of our business
    with pytest.warns(UserWarning) as warned:
        frame = records.load(tmp_path)
    assert frame["file"].tolist() == [good.name] and frame["asked.model"].tolist() == ["udit-t"]
    told = [str(w.message) for w in warned]
    assert len(told) == 3 and all(any(p.name in text for text in told) for p in (cut, bare, moved))


def test_load_of_no_folder_and_of_an_empty_one(tmp_path):
    assert records.load(tmp_path).empty
    with pytest.raises(UsageError, match="no folder of records"):
        records.load(tmp_path / "nowhere")


def test_reading_records_imports_no_torch(tmp_path):
    records.write(ASKED, {"x": 1}, tmp_path)
    code = (
        f"import sys; from bench import records; records.load({str(tmp_path)!r}); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_outside_a_checkout_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "__file__", str(tmp_path / "bench" / "records.py"))
    assert records._checkout() == {"commit": None, "clean": None}
