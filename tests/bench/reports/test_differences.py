"""`bench diff`: what is compared, what is worse, and what is told."""

import functools
import json
import math

import numpy as np
import pytest
from scipy import stats

from bench import records
from bench.records.schema import QualityRequest
from bench.reports.differences import differences, judgements
from registry.errors import UsageError
from tests.bench import made
from tests.conftest import ROOT

VALUES = 5  # scores of a made record that are numbers

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
    assert differences(*folders).judgements == []
    code, out, err = diff(*folders)
    assert (code, err) == (0, "") and "3 records compared" in out and "No value changed" in out


@pytest.mark.parametrize(
    ("kind", "value", "before", "worse", "better"),
    [
        ("quality", "fid", 20.0, 21.0, 19.0),
        ("quality", "precision", 0.5, 0.4, 0.6),
        ("quality", "kid", 2e-4, 3e-4, 1e-4),
        ("quality", "recall", 0.25, 0.2, 0.3),
        ("cost", "parameters", 10**6, 1000001, 999999),
        ("cost", "paper_gflops", 0.5, 0.51, 0.4),
        ("speed", "images_per_second", 100.0, 10.0, 300.0),
        ("speed", "peak_bytes", 64, 65, 63),
    ],
)
def test_direction(tmp_path, kind, value, before, worse, better):
    def judged(after):
        folders = tmp_path / "before", tmp_path / f"after {after}"
        for folder, level in zip(folders, (before, after), strict=True):
            if kind == "quality":  # with hardly any noise between seeds
                for seed in range(3):
                    request = QualityRequest.model_validate(
                        made.QUALITY_REQUEST.model_dump() | {"seed": seed}
                    )
                    found = made.quality(
                        request, **{value: level * (1 + 1e-6 * (folder.name[0] == "a") * seed)}
                    )
                    made.put(folder, found, "micro")
            else:
                rounds = {"seconds_per_image": (0.01,) * 12} if kind == "speed" else {}
                keep(folder, kind, **rounds, **{value: level})
        return differences(*folders)

    (found,) = judged(worse).regressions
    assert (found.quantity.field or found.quantity.name) == value and found.after == pytest.approx(
        worse, 1e-5
    )
    assert found.change == pytest.approx((worse - before) / before, rel=1e-3)
    (found,) = judged(better).judgements
    assert found.verdict == "better"


def test_tolerance_is_a_fraction_and_includes_its_end(folders, diff):
    keep(folders[1], "cost", parameters=1050000)
    assert differences(*folders, tolerance=0.04).regressions
    assert not differences(*folders, tolerance=0.05).regressions
    code, out, _ = diff(*folders, "--tolerance", "0.05")
    assert code == 0 and "+5.00%" in out and "1 within the tolerance" in out
    code, out, _ = diff(*folders)
    assert code == 1 and "udit-t ffn=mlp" in out and "1 worse" in out


def test_a_value_that_is_no_number_any_more_is_worse(folders):
    keep(folders[1], "quality", fid=None, precision=None)
    found = differences(*folders, tolerance=9).regressions
    assert [(each.quantity.name, each.after) for each in found] == [("fid", None), ("precision", None)]
    found = differences(
        *reversed(folders)
    ).judgements  # and a number where none was is a change for the better
    assert [each.verdict for each in found] == ["better", "better"]


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
    assert code == 1 and found["regressions"] == 1 and found["judgements"][0]["quantity"] == "macs"


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
        ([20.0, 21.0, 22.0], [18.0, 23.5, 20.0], "not significant"),
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
    if None not in after and len(before) > 1:  # of one row alone it is the paired t test
        changes = (np.array(after) - before) / np.mean(before)
        # Each score of the records has an interval of its own, and all hold together.
        low, high = stats.ttest_1samp(changes, 0).confidence_interval(1 - 0.05 / VALUES)
        assert judged.interval == pytest.approx((low, high)) and judged.change == pytest.approx(
            changes.mean()
        )


def noisy(pairs, rng, noise, scores=("fid", "inception_score", "precision", "recall", "kid")):
    """Records as if they had been measured again: each score with noise, as a fraction of itself."""
    again = []
    for old in pairs:
        factors = dict(zip(scores, 1 + noise * rng.standard_normal(len(scores)), strict=True))
        changed = {name: old.result.scores[name] * factor for name, factor in factors.items()}
        result = old.result.model_copy(update={"scores": {**old.result.scores, **changed}})
        again.append((old, old.model_copy(update={"result": result})))
    return again


@pytest.fixture(scope="module")
def committed():
    """The records of the protocol micro, one to five seeds of each of its rows."""
    found = records.read(ROOT / "results")
    return [record for record in found if record.context.protocol == "micro"]


@pytest.mark.slow
def test_of_100_comparisons_of_equal_records_5_claim_anything(committed):
    assert len(committed) == 107
    rng, count = np.random.default_rng(0), 100
    claims = [
        any(each.verdict in ("worse", "better") for each in judgements(noisy(committed, rng, 0.01), 0.0))
        for _ in range(count)
    ]
    assert sum(claims) / count <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / count)


def worsened(committed, seed):
    """Pairs of records measured again with 1% noise, in which every FID is 5% worse."""
    return [
        (old, new.model_copy(update={"result": new.result.model_copy(update={"scores": scores})}))
        for old, new in noisy(committed, np.random.default_rng(seed), 0.01)
        for scores in [{**new.result.scores, "fid": new.result.scores["fid"] * 1.05}]
    ]


def test_a_score_that_became_5_percent_worse_is_found_in_that_noise(committed):
    rows = {old.request.model_dump_json(exclude={"seed"}) for old in committed}
    draws = [worsened(committed, seed) for seed in range(1, 9)]
    found = [
        [each for each in judgements(draw, 0.0) if (each.verdict, each.quantity.name) == ("worse", "fid")]
        for draw in draws
    ]
    assert sum(map(len, found)) > 0.9 * len(rows) * len(draws)
    claims = [each for each in judgements(draws[0], 0.0) if each.verdict in ("worse", "better")]
    assert {(each.verdict, each.quantity.name) for each in claims} == {("worse", "fid")}
    assert all(each.interval[0] > 0 and each.interval[0] < each.change < each.interval[1] for each in claims)
    assert not [each for each in judgements(draws[0], 0.1) if each.verdict == "worse"]  # 5% are allowed


def test_records_that_were_not_measured_again_say_nothing_of_chance(tmp_path):
    folders = tmp_path / "before", tmp_path / "after"
    for folder, fids in zip(folders, ([20.0, 21.0, 22.0], [21.0, 22.1, 23.0]), strict=True):
        seeds_of(folder, fids)
    (alone,) = differences(*folders).judgements
    for folder in folders:
        for step in range(1, 9):
            for seed in range(3):
                request = made.QUALITY_REQUEST.model_dump() | {"seed": seed, "step": step}
                made.put(folder, made.quality(QualityRequest.model_validate(request)), "micro")
    assert differences(*folders).judgements == [alone]


def test_speeds_are_judged_by_the_spread_of_rounds_and_costs_as_they_are(folders):
    rounds = {"seconds_per_image": (0.01,) * 12}
    for folder in folders:
        keep(folder, "speed", **rounds)
    keep(folders[1], "speed", images_per_second=95.0, quartiles=(85.0, 105.0), **rounds)
    keep(folders[1], "cost", parameters=10**6 + 1)
    found = {each.quantity.name: each for each in differences(*folders).judgements}
    assert {name: each.verdict for name, each in found.items()} == {
        "images_per_second": "not significant",
        "params": "worse",
    }
    half = stats.t.ppf(0.975, 22) * math.hypot(20, 20) / (2 * stats.norm.ppf(0.75)) / 100
    assert found["images_per_second"].interval == pytest.approx((-0.05 - half, -0.05 + half), rel=1e-3)
    assert found["params"].interval is None
    keep(folders[1], "speed", images_per_second=40.0, quartiles=(38.0, 42.0), **rounds)
    found = {each.quantity.name: each.verdict for each in differences(*folders).judgements}
    assert found["images_per_second"] == "worse"


def test_the_summary_is_markdown_with_what_is_worse_first(tmp_path, diff):
    folders = tmp_path / "before", tmp_path / "after"
    seeds_of(folders[0], [20.0, 21.0, 22.0])
    seeds_of(folders[1], [21.0, 22.0, 23.0], inception_score=8.0)
    keep(folders[1], "cost")
    code, out, err = diff(*folders, "--markdown")
    assert (code, err) == (1, "")
    assert "1 added, 0 removed. Changed values (scores: means over seeds): 1 worse, 1 better." in out
    worse, better = out.partition("## Better")[::2]
    (line,) = [line for line in worse.splitlines() if "FID" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:5] == ["udit-t ffn=mlp protocol micro step 9", "FID↓", "21.00", "22.00", "+4.76%"]
    assert cells[5:] == ["+4.76% to +4.76%", "3"]
    assert "IS↑" in better and out.index("## Worse") < out.index("## Better")
    assert "No value changed" in diff(folders[0], folders[0], "--markdown")[1]
    assert (
        "## Changed within the tolerance of 5.00%" in diff(*folders, "--markdown", "--tolerance", "0.05")[1]
    )
