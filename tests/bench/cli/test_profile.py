"""`bench profile`: tables, pictures, trace, JSON, what is refused."""

import json
from contextlib import nullcontext

import pytest

from bench.speed import profile
from bench.utils.load import OtherLoad


def test_command_prints_tables_and_writes_pictures_and_trace(run_bench, tmp_path):
    trace = tmp_path / "trace.json"
    args = ("-m", "tiny-unet", "--input-size", 16, "--batch-size", 1, "--repeats", 1)
    code, out, err = run_bench("profile", *args, "--out", tmp_path, "--trace", trace)
    assert (code, err) == (0, "")
    assert "by stage" in out and "by operator" in out and "of the multiply-accumulates" in out
    events = json.loads(trace.read_text())["traceEvents"]
    assert {"aten::conv2d"} < {event.get("name") for event in events}
    assert {p.name for p in tmp_path.iterdir()} == {
        "trace.json",
        "profile-tiny-unet-input_size-16.png",
        "profile-tiny-unet-input_size-16.svg",
    }


def test_command_tells_of_a_busy_machine(run_bench, monkeypatch):
    monkeypatch.setattr(profile, "other_load", lambda: nullcontext(OtherLoad(1.25)))
    args = ("-m", "tiny-unet", "--input-size", 8, "--batch-size", 1, "--repeats", 1)
    _, out, _ = run_bench("profile", *args, width=160)
    assert "Other processes used 1.2 of" in out


def test_command_prints_json(run_bench):
    args = ("--set", "depth=1,0,0,0,0", "--input-size", 16, "--batch-size", 2, "--repeats", 1, "--json")
    code, out, err = run_bench("profile", "-m", "udit-t", "-m", "dit-unet", *args)
    first, second = json.loads(out)
    assert (code, err) == (0, "") and [one["request"]["model"] for one in (first, second)] == [
        "udit-t",
        "dit-unet",
    ]
    assert first["request"]["batch_size"] == 2 and first["request"]["dtype"] == "fp32"
    assert first["input_size"] == first["request"]["config"]["input_size"] == 16 and first["threads"] == 1
    assert sum(row["time_share"] for row in first["stages"]) == pytest.approx(1)
    assert {"name", "seconds", "time_share", "macs", "macs_share", "ratio"} == set(first["operators"][0])


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("-m", "udit-z"), "udit-z"),
        (("-m", "tiny-unet", "--device", "cuda:99"), "cuda:99"),
        (("-m", "tiny-unet", "--device", "nowhere"), "nowhere"),
        (("-m", "tiny-unet", "--device", "meta"), "meta"),
        (("-m", "tiny-unet", "--dtype", "tf32"), "the cpu has no tf32"),
        (("-m", "tiny-unet", "--repeats", 0), "repeats"),
        (("-m", "tiny-unet", "-m", "dit-unet", "--trace", "t.json"), "--trace takes one model"),
    ],
)
def test_errors_are_one_line(run_bench, args, named):
    code, out, err = run_bench("profile", *args)
    assert code == 2 and not out
    assert err.startswith("error: ") and err.count("\n") == 1 and named in err
