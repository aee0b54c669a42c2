"""`bench throughput`: models, the printed table, records, what is refused."""

import functools
import json
import os
import re
from contextlib import nullcontext

import pytest

from bench import cli
from bench.cli import options
from bench.speed import device, runners, throughput
from bench.utils.load import OtherLoad
from registry.errors import UsageError
from tests.bench import made


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setitem(runners.TURN_SECONDS, "cpu", 0.0)
    monkeypatch.setitem(device.LIMIT_SECONDS, "cpu", 0.0)


@pytest.fixture
def bench(run_bench, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where records go
    return functools.partial(run_bench, "throughput")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["U-DiT-T"], [("udit-t", {"rope": True})]),
        (["DiT XL/2", "dit-xl-2"], [("dit-xl-2", {"rope": True})]),
        (["udit-t rope=false depth=1,1,2,1,1"], [("udit-t", {"rope": False, "depth": [1, 1, 2, 1, 1]})]),
        (["dit-unet*  ffn=mlp"], [(n, {"rope": True, "ffn": "mlp"}) for n in ("dit-unet", "dit-unet-slim")]),
    ],
)
def test_overrides_of_one_model_come_before_those_of_all(texts, expected):
    assert options.parse_models(texts, {"rope": True}) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "--model takes a name"),
        ("rope=false", "--model takes a name"),
        ("udit-t ffn=mlp rope", "'rope' is no KEY=VALUE"),
        ("udit-t rope", "unknown backbone 'udit-t rope'"),
        ("nothing* ffn=mlp", "no backbone matches 'nothing*'"),
    ],
)
def test_bad_models_are_one_line(text, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        options.parse_models([text], {})


def test_a_network_named_twice_is_timed_twice(bench):
    twice = ("-m", "tiny-unet", "-m", "tiny-unet", "--input-size", "8", "--batch-size", "1")
    first, second = json.loads(bench(*twice, "--repeats", "6", "--json")[1])
    assert first["request"] == second["request"] and second["interval"]


def test_networks_that_differ_by_overrides_are_timed_in_one_call(bench):
    args = ("-m", "tiny-unet", "-m", "tiny-unet time_width=8", "--input-size", "8", "--batch-size", "1")
    code, out, err = bench(*args, "--repeats", "6", "--json")
    first, second = json.loads(out)
    assert (code, err) == (0, "") and first["request"]["config"]["time_width"] == 64
    assert second["request"]["config"]["time_width"] == 8 and second["interval"]
    assert first["request"]["config"]["input_size"] == second["request"]["config"]["input_size"] == 8


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_shows_every_number(bench, width):
    args = ("-m", "tiny-unet", "-m", "tiny-unet", "--input-size", "8", "--batch-size", "2", "--repeats", "6")
    code, out, err = bench(*args, width=width)
    assert (code, err) == (0, "") and "…" not in out
    assert all(len(line) <= width for line in out.splitlines())
    rows = [line for line in out.splitlines() if re.match(r"tiny-unet input_size=8 +2 ", line)]
    assert len(rows) == 2  # one network twice is a control, and stays twice
    assert re.search(r"\d\.\d{3}–\d\.\d{3}$", rows[1].strip())
    assert out.count("bound.") + out.count("bound;") == 2


def test_notes_tell_of_launches_and_of_both_peaks(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    where = made.speed().device.model_copy(
        update={
            "peak_flops": 8e14,
            "nominal_flops": 9.89e14,
            "sustained_flops": 7e14,
            "sustained_bandwidth": 4e12,
        }
    )
    gpu = made.speed(bound="launch", launch_share=0.95, flops_per_second=9.89e13, device=where)
    cli.throughput._print([gpu], "cuda", 6)
    told = capsys.readouterr().out
    assert "launch-bound; launching its operators takes 95% of the time; 10.0% of the nominal peak" in told
    assert "800000 GFLOP/s in a matrix product (700000 sustained), nominally 989000," in told
    assert "(4000 sustained). Median" in told
    cli.throughput._print([made.speed()], "cpu", 6)
    assert not {"launching", "nominal", "sustained"} & set(capsys.readouterr().out.split())


def test_a_busy_machine_is_told_of_and_recorded(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "other_load", lambda: nullcontext(OtherLoad(1.25)))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    args = ("-m", "tiny-unet", "--input-size", "8", "--batch-size", "2", "--repeats", "6")
    _, out, _ = bench(*args, "--out", str(tmp_path), width=160)
    assert "Other processes used 1.2 of 2 cores meanwhile" in out
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["result"]["device"]["other_load"] == 1.25


def test_json_and_records(bench, tmp_path):
    args = ("-m", "tiny-unet", "--input-size", "8", "--batch-size", "2", "--repeats", "6", "--json")
    code, out, _ = bench(*args, "--out", str(tmp_path))
    (printed,) = json.loads(out)
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert code == 0 and path.name.startswith("speed-tiny-unet-")
    assert {"request": record["request"], **record["result"]} == printed
    assert record["request"]["batch_size"] == 2 and record["context"] == {"repeats": 6}
    assert record["request"]["device_name"] == printed["device"]["name"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--batch-size", "many"], "--batch-size takes a number of images (at least 1) or auto, not 'many'"),
        (["--batch-size", "0"], "--batch-size takes a number of images (at least 1) or auto, not '0'"),
        (["--dtype", "tf32"], "the cpu has no tf32"),
        (["--device", "cuda:99"], "no device 'cuda:99' here"),
    ],
)
def test_errors_are_one_line(bench, args, words):
    code, out, err = bench("-m", "tiny-unet", *args)
    assert code == 2 and not out and err.startswith("error: ") and words in err and err.count("\n") == 1


def test_something_must_be_named(bench):
    code, out, err = bench()
    assert code == 2 and not out and err.startswith("error: ") and "--model" in err and err.count("\n") == 1
