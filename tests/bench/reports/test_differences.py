"""`bench diff`: what is compared, what is worse, and what is told."""

import functools
import json

import pytest
from scipy import stats

from bench.records.schema import QualityRequest
from bench.reports.differences import differences
from registry.errors import UsageError
from tests.bench import made

MADE = {
    "quality": lambda **changed: made.quality(**changed),
    "cost": lambda **changed: made.cost(**changed),
    "speed": lambda **changed: made.speed(**changed),
}


def keep(folder, kind, **changed):
    return made.put(folder, MADE[kind](**changed), "micro" if kind == "quality" else None)


@pytest.fixture
def folders(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    for folder in (before, after):
        for kind in MADE:
            keep(folder, kind)
    return before, after


@pytest.fixture
def diff(run_bench):
    return functools.partial(run_bench, "diff")


def test_equal_folders_differ_in_nothing(folders, diff):
    assert differences(*folders).changes == []
    code, out, err = diff(*folders)
    assert (code, err) == (0, "") and "3 records compared, 0 values changed" in out


@pytest.mark.parametrize(
    ("kind", "value", "before", "worse", "better"),
    [
        ("quality", "fid", 20.0, 21.0, 19.0),
        ("quality", "precision", 0.5, 0.4, 0.6),
        ("quality", "kid", 2e-4, 3e-4, 1e-4),
        ("quality", "recall", 0.25, 0.2, 0.3),
        ("cost", "parameters", 10**6, 1000001, 999999),
        ("cost", "paper_gflops", 0.5, 0.51, 0.4),
        ("speed", "images_per_second", 100.0, 90.0, 110.0),
        ("speed", "peak_bytes", 64, 65, 63),
    ],
)
def test_direction(folders, kind, value, before, worse, better):
    keep(folders[1], kind, **{value: worse})
    (change,) = differences(*folders).changes
    assert change.regression and change.value == value and change.after == worse
    assert change.relative == pytest.approx((worse - before) / before)
    keep(folders[1], kind, **{value: better})
    (change,) = differences(*folders).changes
    assert not change.regression


def test_tolerance_is_a_fraction_and_includes_its_end(folders, diff):
    keep(folders[1], "quality", fid=21.0)
    assert differences(*folders, tolerance=0.04).regressions
    assert not differences(*folders, tolerance=0.05).regressions
    code, out, _ = diff(*folders, "--tolerance", "0.05")
    assert code == 0 and "+5.00%" in out and "1 values changed, 0 worse by more than 5.00%" in out
    code, out, _ = diff(*folders)
    assert code == 1 and "udit-t ffn=mlp protocol micro step 9 seed 0: fid" in out and "worse" in out


def test_a_value_that_is_no_number_any_more_is_worse(folders):
    keep(folders[1], "quality", fid=None, precision=None)
    changes = differences(*folders, tolerance=9).regressions
    assert [(c.value, c.after) for c in changes] == [("fid", None), ("precision", None)]
    found = differences(*reversed(folders)).changes  # and a number where none was is a change for the better
    assert len(found) == 2 and not any(change.regression for change in found)


def test_records_of_one_folder_alone_are_told_and_not_worse(folders, diff):
    gone = keep(folders[1], "cost")
    gone.unlink()
    code, out, _ = diff(*folders)
    assert code == 0 and f"removed: {gone.name}" in out
    assert f"added: {gone.name}" in diff(*reversed(folders))[1]


def test_json(folders, diff):
    keep(folders[1], "cost", macs=8)
    code, out, _ = diff(*folders, "--json")
    found = json.loads(out)
    assert code == 1 and found["regressions"] == 1 and found["changes"][0]["value"] == "macs"


def test_mistakes_are_one_line(folders, diff, tmp_path):
    (tmp_path / "empty").mkdir()
    for args, says in (
        ((folders[0], tmp_path / "nowhere"), "no folder of records"),
        ((folders[0], tmp_path / "empty"), "no record in common"),
        ((*folders, "--tolerance=-1"), "--tolerance"),
        ((*folders, "--tolerance=nan"), "--tolerance"),
    ):
        code, out, err = diff(*args)
        assert code == 2 and out == "" and err.count("\n") == 1 and says in err
    with pytest.raises(UsageError):
        differences(*folders, tolerance=-1)


# ---- over seeds ----


def seeds_of(folder, fids, **changed):
    for seed, fid in enumerate(fids):
        request = QualityRequest.model_validate(made.QUALITY_REQUEST.model_dump() | {"seed": seed})
        made.put(folder, made.quality(request, fid=fid, **changed), "micro")


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([20.0, 21.0, 22.0], [18.0, 19.1, 19.9], "better"),  # each by about two
        ([20.0, 21.0, 22.0], [18.0, 23.5, 20.0], "not separable"),
        ([20.0, 21.0, 22.0], [21.0, 22.1, 23.0], "worse"),
        ([20.0], [19.0], "one seed"),
        ([20.0, 21.0], [20.1, 21.1], "within the tolerance"),
        ([20.0, 21.0], [None, 21.0], "worse"),
    ],
)
def test_seeds_say_whether_a_score_has_changed(tmp_path, before, after, verdict):
    folders = tmp_path / "before", tmp_path / "after"
    for folder, fids in zip(folders, (before, after), strict=True):
        seeds_of(folder, fids)
    (judged,) = differences(*folders, tolerance=0.01).judgements
    assert (judged.verdict, judged.quantity.name, judged.seeds) == (verdict, "fid", len(before))
    if None not in after and len(before) > 2:
        p = stats.ttest_rel(after, before).pvalue
        assert (p < 0.05) == (verdict != "not separable")


def test_speeds_are_judged_by_quartiles_and_costs_as_they_are(folders):
    keep(folders[1], "speed", images_per_second=95.0, quartiles=(85.0, 105.0))
    keep(folders[1], "cost", parameters=10**6 + 1)
    verdicts = {each.quantity.name: each.verdict for each in differences(*folders).judgements}
    assert verdicts == {"images_per_second": "not separable", "params": "worse"}
    keep(folders[1], "speed", images_per_second=80.0, quartiles=(75.0, 85.0))
    verdicts = {each.quantity.name: each.verdict for each in differences(*folders).judgements}
    assert verdicts["images_per_second"] == "worse"


def test_the_summary_is_markdown_with_what_is_worse_first(tmp_path, diff):
    folders = tmp_path / "before", tmp_path / "after"
    seeds_of(folders[0], [20.0, 21.0, 22.0])
    seeds_of(folders[1], [21.0, 22.0, 23.0], inception_score=8.0)
    keep(folders[1], "cost")
    code, out, err = diff(*folders, "--markdown")
    assert (code, err) == (1, "")
    assert "3 records compared, 1 added, 0 removed. Of their values, over seeds: 1 worse, 1 better." in out
    worse, better = out.partition("## Better")[::2]
    (line,) = [line for line in worse.splitlines() if "FID" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["udit-t ffn=mlp protocol micro step 9", "FID↓", "21.00", "22.00", "+4.76%", "3"]
    assert "IS↑" in better and out.index("## Worse") < out.index("## Better")
    assert "none changed" in diff(folders[0], folders[0], "--markdown")[1]
    assert "## Within the tolerance of 0.05 of" in diff(*folders, "--markdown", "--tolerance", "0.05")[1]
