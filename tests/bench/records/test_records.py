"""Records: names, whole files, reading what others left, and that the committed ones are as they were."""

import gc
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import records
from bench.records import environment
from bench.records.schema import Context, CostRequest, QualityRequest, short_digest
from bench.version import __version__
from registry.errors import UsageError
from tests.bench import made
from tests.conftest import ROOT

# Of the numbers of each committed record, as its values were when it was measured.
DIGESTS = Path(__file__).with_name("digests.txt")


def numbers(value):
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield repr(float(value))


def test_the_committed_numbers_are_those_that_were_measured():
    measured = DIGESTS.read_text().split()
    found = [
        " ".join(sorted(numbers(records.read_file(ROOT / "results" / record.file).result.record_values())))
        for record in records.read(ROOT / "results")
    ]
    assert sorted(hashlib.sha256(text.encode()).hexdigest()[:16] for text in found) == measured


def test_every_committed_record_is_read_as_it_lies_there():
    files = sorted((ROOT / "results").glob("*-" + "[0-9a-f]" * 12 + ".json"))
    assert [record.file for record in records.read(ROOT / "results")] == [path.name for path in files]
    read = {path.name: records.read_file(path) for path in files}
    assert len(read) == len(files) == len(DIGESTS.read_text().split())
    for path in files:
        there = json.loads(path.read_text("utf-8"))
        assert len(there.pop("digest")) == 12
        assert_holds(read[path.name].dump(), there)


def assert_holds(whole, part):
    """A setting that was added later is in the one alone."""
    if isinstance(part, dict):
        for key, value in part.items():
            assert_holds(whole[key], value)
    else:
        assert whole == part


def test_a_record_holds_request_result_and_environment(tmp_path):
    path = records.write(
        made.cost(), tmp_path / "new", context=Context(repeats=3), fingerprints=made.FINGERPRINTS
    )
    record = json.loads(path.read_text())
    assert record["request"] == {"kind": "cost", "model": "udit-t", "config": {"ffn": "mlp", "depth": [1, 1]}}
    assert record["result"]["macs"] == 7 and "operators" not in record["result"]
    assert record["context"] == {"repeats": 3} and record["fingerprints"] == {
        "data": "d1",
        "extractor": "d63e10104591",
    }
    promised = "device cpu cores threads python torch diffusers denoiser-bench commit clean date".split()
    assert list(record["environment"]) == promised
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file is left


@pytest.mark.parametrize("result", [made.cost(), made.speed(), made.quality()])
def test_what_is_written_is_what_is_read(tmp_path, result):
    made.put(tmp_path, result, "micro")
    (record,) = records.read(tmp_path)
    assert record.result == result and record.context.protocol == "micro"
    assert record.environment == made.ENVIRONMENT


def test_the_name_is_a_hash_of_the_request():
    request = made.COST_REQUEST
    name = request.file
    assert name.startswith("cost-udit-t-") and len(name) == len("cost-udit-t-.json") + 12
    again = CostRequest(model="udit-t", config={"depth": (1, 1), "ffn": "mlp"})
    assert again.file == name  # neither order nor tuple or list say anything
    assert CostRequest.model_validate(json.loads(request.model_dump_json())).file == name
    assert request.model_copy(update={"model": "my/net é"}).model_copy(deep=True).model != request.model
    assert CostRequest(model="my/net é", config={}).file.startswith("cost-my-net-é-")
    assert CostRequest(model="udit-t", config={"ffn": "mlp"}).file != name


def test_a_field_at_its_default_changes_no_name():
    """So that a field added later leaves the names of older records as they are."""
    table = made.QUALITY_REQUEST.model_dump(mode="json")
    del table["training"]["weight_decay"], table["sampling"]["labels"]
    assert QualityRequest.model_validate(table).file == made.QUALITY_REQUEST.file
    assert "betas" not in table["training"]  # nor the bytes of records, nor the names of runs
    table["training"]["betas"] = [0.9, 0.95]
    other = QualityRequest.model_validate(table)
    assert other.file != made.QUALITY_REQUEST.file
    assert other.training.trajectory()["betas"] == [0.9, 0.95]


def test_context_and_environment_change_no_name(tmp_path):
    first = made.put(tmp_path, made.cost(), "micro")
    elsewhere = made.ENVIRONMENT.model_copy(update={"device": "other"})
    assert made.put(tmp_path, made.cost(), "mini", environment=elsewhere) == first


def test_one_request_has_one_answer(tmp_path):
    records.write(made.cost(macs=1), tmp_path)
    records.write(made.cost(macs=2), tmp_path)
    assert records.load(tmp_path, full=True)["result.macs"].tolist() == [2]


def test_a_failed_write_leaves_the_older_answer(tmp_path, monkeypatch):
    path = records.write(made.cost(macs=1), tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageError, match="No space left"):
        records.write(made.cost(macs=2), tmp_path)
    assert json.loads(path.read_text())["result"]["macs"] == 1


def test_load_has_a_column_for_each_value(tmp_path):
    made.put(tmp_path, made.quality(fid=12.5), "micro")
    made.put(tmp_path, made.cost())
    frame = records.load(tmp_path, full=True).set_index("request.kind")
    assert (
        frame.loc["quality", "result.scores.fid"] == 12.5
        and frame.loc["quality", "context.protocol"] == "micro"
    )
    assert (
        frame.loc["cost", "request.config.ffn"] == "mlp"
        and frame.loc["cost", "environment.device"] == "Some CPU"
    )
    assert frame.loc["cost", "file"] == made.COST_REQUEST.file


def test_load_of_no_folder_and_of_an_empty_one(tmp_path):
    assert records.load(tmp_path).empty
    with pytest.raises(UsageError, match="no folder of records"):
        records.load(tmp_path / "nowhere")


# ---- damaged and hostile files ----


def damaged(folder):
    """The one line of each warning, and the files that are read."""
    with pytest.warns(UserWarning) as warned:
        found = records.read(folder)
    lines = [str(warning.message) for warning in warned]
    assert all("\n" not in line and len(line) < 400 for line in lines)
    return lines, [record.file for record in found]


def test_a_record_of_a_newer_version_is_told_as_such_and_not_replaced(tmp_path):
    path = made.put(tmp_path, made.cost())
    table = json.loads(path.read_text())
    del table["digest"]
    table["result"]["watts"] = 7
    text = json.dumps({**table, "digest": short_digest(table)})
    path.write_text(text)
    (line,), _ = damaged(tmp_path)
    assert f"{path}, a record of a newer version than {__version__}: " in line and "watts" in line
    with pytest.raises(records.NewerRecordError):
        records.write(made.cost(), tmp_path)
    assert path.read_text() == text
    path.write_text(text[:-2])  # a damaged one is replaced
    records.write(made.cost(), tmp_path)
    records.read_file(path)


def test_damaged_records_are_named_and_left_out(tmp_path):
    good = made.put(tmp_path, made.cost())
    cut = tmp_path / "throughput-cut-0123456789ab.json"
    cut.write_text(good.read_text()[:40])
    bare = tmp_path / "throughput-bare-0123456789ab.json"
    bare.write_text('{"request": {}}')
    listed = tmp_path / "throughput-list-0123456789ab.json"
    listed.write_text("[3]")
    moved = tmp_path / "throughput-moved-0123456789ab.json"
    moved.write_text(good.read_text())
    folder = tmp_path / "throughput-folder-0123456789ab.json"
    folder.mkdir()
    (tmp_path / "benchmarks.json").write_text("{}")  # no record, and none of our business
    lines, read = damaged(tmp_path)
    assert read == [good.name] and len(lines) == 5
    for path in (cut, bare, listed, moved, folder):
        assert any(f"the damaged record {path}: " in line for line in lines)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.pop("result"),
        lambda table: table.update(result=[1]),
        lambda table: table["result"].update(held_out=[3]),
        lambda table: table["result"].update(held_out=None),
        lambda table: table["result"].update(held_out=[{"bands": [None]}]),
    ],
)
def test_a_record_of_another_shape_is_left_out_whatever_its_digest(tmp_path, change):
    path = made.put(tmp_path, made.quality())
    table = json.loads(path.read_text())
    del table["digest"]
    change(table)
    path.write_text(json.dumps({**table, "digest": short_digest(table)}))
    (line,), read = damaged(tmp_path)
    assert read == [] and f"the damaged record {path}: " in line


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("result", "sample_count"), "x", "sample_count"),
        (("result", "scores", "fid"), float("nan"), "expected a JSON value"),
        (("result", "scores", "fid"), float("inf"), "expected a JSON value"),
        (("result", "scores", "fid"), 1e308, "fid"),
        (("result", "scores", "fid"), -(10**400), "number is infinity"),
        (("result", "network", "macs"), 10**400, "number is infinity"),
        (("result", "network", "macs"), 10**30, "macs"),
        (("result", "scores", "fid"), [], "fid"),
        (("result", "loss"), None, "loss"),
        (("result", "surprise"), 1, "surprise"),
        (("environment",), {}, "environment"),
        (("environment", "device"), "\x1b[2J", "U+001B"),
        (("environment", "device"), "\u202egnp", "U+202E"),
        (("environment", "device"), "a\u2028b", "U+2028"),
        (("environment", "device"), "\ud800", "surrogate"),
        (("environment", "commit"), 12, "commit"),
        (("request", "seed"), -1, "seed"),
        (("request", "kind"), "spell", "kind"),
        (("request", "kind"), ["quality"], "kind"),
        (("request",), "quality", "request"),
        (("request", "model"), {"x": 1}, "model"),
        (("context", "protocol"), 7, "protocol"),
        (("fingerprints",), [], "fingerprints"),
    ],
)
def test_odd_values_of_a_record_with_the_right_name_are_one_line(tmp_path, place, value, says):
    path = made.put(tmp_path, made.quality(), "micro")
    made.alter(path, *place, value=value)
    (line,), read = damaged(tmp_path)
    assert not read and path.name in line and says in line


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10_000 + "]" * 10_000,
        '{"request":' * 10_000 + "1" + "}" * 10_000,
        "\ud800",
        "",
        "1" * 5000,
        "{" * 99,
    ],
)
def test_text_that_is_no_record_is_one_line(tmp_path, text):
    path = tmp_path / "cost-x-0123456789ab.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert len(damaged(tmp_path)[0]) == 1


def test_values_nested_deeply_in_a_record_are_one_line(tmp_path):
    path = made.put(tmp_path, made.cost())
    inner = path.read_text().replace('"mlp"', '{"a":' * 500 + "1" + "}" * 500)
    path.write_text(inner)
    assert "depth exceeded" in damaged(tmp_path)[0][0]


def test_a_file_larger_than_any_record_is_not_read(tmp_path):
    path = tmp_path / "cost-x-0123456789ab.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert "larger than a record" in damaged(tmp_path)[0][0]


# ---- around them ----


def test_reading_records_imports_no_torch(tmp_path):
    made.put(tmp_path, made.cost())
    code = (
        f"import sys; from bench import records; records.load({str(tmp_path)!r}); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_outside_a_checkout_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment._checkout() == (None, None)


# ---- many records ----


def test_load_is_what_the_records_dump_but_for_the_groups_of_held_out_images():
    def columns(table, path=""):
        for key, value in table.items():
            if isinstance(value, dict):
                yield from columns(value, f"{path}{key}.")
            else:
                yield path + key, value

    found = records.load(ROOT / "results", full=True).set_index("file")
    for record in records.read(ROOT / "results"):
        wanted = record.dump()
        whole = records.read_file(ROOT / "results" / record.file).dump()
        for loss in whole["result"].get("held_out", ()):
            for band in loss["bands"]:
                assert len(band.pop("groups")) == 64
        assert wanted == whole
        row = found.loc[record.file].dropna().to_dict()
        assert row == {name: value for name, value in columns(wanted) if value is not None and value == value}


@pytest.mark.parametrize("value", [2e-5, -1e-300, 1e17, 123456789.125, 0.0, -0.0])
@pytest.mark.parametrize("device", ["Some CPU", "Größe 8×8"])
def test_every_number_and_letter_has_the_digest_that_it_was_written_with(tmp_path, value, device):
    """Tiny numbers and what is not ASCII look otherwise in json, whose text is hashed, than in orjson."""
    where = made.ENVIRONMENT.model_copy(update={"device": device})
    path = made.put(tmp_path, made.quality(fid=value), "micro", environment=where)
    table = json.loads(path.read_text("utf-8"))
    digest = table.pop("digest")
    text = json.dumps(table, sort_keys=True, separators=(",", ":"))
    assert digest == hashlib.sha256(text.encode()).hexdigest()[:12]
    (record,) = records.read(tmp_path)
    assert record.result.scores["fid"] == value and record.environment.device == device


def test_garbage_is_collected_again_after_reading(tmp_path):
    made.put(tmp_path, made.cost())
    for enabled in (False, True):
        (gc.enable if enabled else gc.disable)()
        records.load(tmp_path)
        assert gc.isenabled() == enabled and gc.get_freeze_count() == 0


@pytest.mark.parametrize("told", ["all", "some", "nothing"])
def test_what_decides_the_speed_of_a_gpu_is_recorded(tmp_path, monkeypatch, told):
    class NVMLError(Exception):
        pass

    def power(handle):
        if told == "some":
            raise NVMLError("not supported")
        return {"0000000a:3b:00.0": 300_000}[handle]

    library = SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=lambda place: place,
        nvmlSystemGetDriverVersion=lambda: "570.86.15",
        nvmlDeviceGetEnforcedPowerLimit=power,
        nvmlDeviceGetMaxClockInfo=lambda handle, kind: 1980,
    )
    monkeypatch.setitem(sys.modules, "pynvml", None if told == "nothing" else library)
    has = SimpleNamespace(name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", total_memory=10**10)
    has.pci_domain_id, has.pci_bus_id, has.pci_device_id = 10, 59, 0
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: has)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: has.name)
    path = records.write(made.speed(), tmp_path, device="cuda:0")
    expected = {"memory_bytes": 10**10, "slice": True, "driver": None, "power_limit_watts": None}
    expected |= {"max_clock_mhz": None}
    if told != "nothing":
        expected |= {"driver": "570.86.15", "max_clock_mhz": 1980.0}
        expected |= {"power_limit_watts": 300.0} if told == "all" else {}
    assert json.loads(path.read_text())["environment"]["gpu"] == expected
    (record,) = records.read(tmp_path)
    assert record.environment.gpu.slice and record.environment.device == has.name
