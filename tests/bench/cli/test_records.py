"""`bench show`, and JSON of the commands that read records."""

import json
import re

import pytest

from bench import studies
from bench.records.schema import Fingerprints, QualityRequest
from tests.bench import made
from tests.conftest import ROOT


@pytest.fixture
def folder(tmp_path):
    made.put(tmp_path, made.cost(paper_gflops=0.0047))
    made.put(tmp_path, made.quality(fid=12.345, kid=0.0021), "micro")
    made.put(tmp_path, made.speed())
    return tmp_path


def lines(text):
    return [line.split() for line in text.splitlines()]


@pytest.mark.parametrize(
    ("name", "shows"),
    [
        ("cost-", [["GFLOPs", "0.0047"], ["Params", "(M)", "1.00"], ["stage1", "0.0000000010", "0.10"]]),
        (
            "quality-",
            [["FID↓", "12.35"], ["sFID↓", "none"], ["KID·10³↓", "2.10"], ["Steps", "9"]],
        ),
        (
            "speed-",
            [["Images/s", "100.0"], ["Arithmetic", "1", "GFLOP/s"], ["Device", "Some", "CPU"]],
        ),
    ],
)
def test_show_prints_a_record(run_bench, folder, name, shows):
    code, out, err = run_bench("show", name, "--results", folder)
    assert (code, err) == (0, "")
    assert out.startswith("udit-t ffn=mlp") and all(line in lines(out) for line in shows)
    assert ["Commit", "0123456789abcdef"] in lines(out) and "Stale" not in out


@pytest.mark.parametrize(
    ("objective", "shows"),
    [
        ("ddpm", ["linear", "epsilon", "no"]),
        ("flow", [None, None, None]),
        ("edm", [None, None, None]),
        ("of-a-plugin beta_schedule=cosine", ["cosine", None, None]),
    ],
)
def test_show_prints_the_options_that_the_objective_has(run_bench, tmp_path, objective, shows):
    whole = made.QUALITY_REQUEST.model_dump()
    whole["training"]["objective"] = objective
    code, out, err = run_bench("show", made.put(tmp_path, made.quality(QualityRequest(**whole))))
    assert code == 0, err
    found = dict(re.findall(r"^(\S.*?) {2,}(\S+) *$", out, re.MULTILINE))
    assert found["Objective"] == objective.split()[0]
    assert [found.get(name) for name in ("β schedule", "Prediction type", "Zero-terminal SNR")] == shows


def test_show_takes_a_path_and_says_what_has_changed(run_bench, tmp_path):
    path = made.put(tmp_path, made.cost(), fingerprints=Fingerprints(code="0" * 12))
    out = run_bench("show", path)[1]
    assert "Stale: the backbone's code has changed since." in out
    shown = json.loads(run_bench("show", path, "--json")[1])
    assert shown["outdated"] == "the backbone's code has changed" and shown["result"]["macs"] == 7
    assert shown["file"] == path.name


def test_show_does_not_call_a_record_current_whose_code_it_does_not_know(run_bench, tmp_path):
    request = QualityRequest(**made.QUALITY_REQUEST.model_dump() | {"model": "lab-net"})
    path = made.put(tmp_path, made.quality(request), fingerprints=Fingerprints(code="0" * 12))
    out = " ".join(run_bench("show", path)[1].split())
    assert "unknown: its backbone is not registered here" in out and "Not stale" not in out
    shown = json.loads(run_bench("show", path, "--json")[1])
    assert shown["outdated"] is None and shown["compared"] is False


@pytest.mark.slow
def test_show_prints_every_committed_record(run_bench):
    for path in sorted((ROOT / "results").glob("*-" + "[0-9a-f]" * 12 + ".json"))[::9]:
        assert run_bench("show", path)[0] == 0


def test_what_show_does_not_find_is_one_line(run_bench, folder):
    damaged = made.put(folder, made.cost())
    for name, says in (
        ("nothing", "no record 'nothing' in"),
        ("udit-t", "3 records in"),
        (made.QUALITY_REQUEST.file.replace("quality", "qualty"), "Did you mean 'quality-udit-t-"),
        (damaged.name, "the damaged record"),
    ):
        made.alter(damaged, "environment", value={})
        code, out, err = run_bench("show", name, "--results", folder)
        assert code == 2 and out == "" and err.count("\n") == 1 and says in err


def test_json_of_studies_and_of_a_report(run_bench, folder, tmp_path):
    found = json.loads(run_bench("studies", "--json")[1])
    assert [study["name"] for study in found] == studies.names()
    where = ("downsampler", "--results", folder, "--out", tmp_path / "out", "--format", "md", "--json")
    assert json.loads(run_bench("report", *where)[1]) == {"written": [str(tmp_path / "out" / "table-5.md")]}
    assert json.loads(run_bench("report", *where, "--check")[1]) == {"current": True, "complaints": []}
    (tmp_path / "out" / "table-5.md").unlink()
    code, out, err = run_bench("report", *where, "--check")
    assert code == 1 and err == "" and "is missing" in json.loads(out)["complaints"][0]
