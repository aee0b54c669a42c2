"""Published figures of the field: the shape of each row, their sources, duplicates, and what ranks them."""

import csv
import math
import re
from collections import Counter

import pytest

import registry
from bench.studies import published
from bench.studies.published import field
from tests.conftest import ROOT

FILE = ROOT / "bench/studies/published/field.csv"
GOOD = {
    "row": "Net-S/2", "family": "Net", "backbone": "", "objective": "flow", "resolution": "256",
    "training_steps": "400000", "batch_size": "256", "cfg_scale": "1.0", "sampler": "Euler-250",
    "params": "33M", "gflops": "6.06", "fid": "50.1", "sfid": "", "inception_score": "",
    "precision": "0.4", "recall": "",
    "throughput": "", "kind": "paper", "extra": "none", "group": "256|102M|flow|unguided|ode",
    "source": "Table 1 of arXiv 2601.00001", "url": "", "arxiv": "", "checked": "yes", "duplicate": "",
    "remarks": "",
}  # fmt: skip


def row(**changed):
    return field.FieldRow.model_validate(GOOD | changed)


def test_every_row_has_the_shape_and_a_source_with_an_address():
    rows = field.rows()
    assert len(rows) >= 402 and len({each.family for each in rows}) >= 40
    assert all(
        re.match(r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}|github\.com/[^/]+/[^/]+)", r.source_url)
        for r in rows
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"source": ""}, "source"),
        ({"source": "seen somewhere"}, "no arXiv id or repository"),
        ({"fid": "about 5"}, "fid"),
        ({"precision": "1.4"}, "precision"),
        ({"kind": "rumour"}, "kind 'rumour' is not one of paper"),
        ({"extra": "luck"}, "extra 'luck'"),
        ({"group": "256|102M|flow|unguided"}, "group"),
        ({"group": "512|102M|flow|unguided|ode"}, "group"),
        ({"group": "256|102M|flow|perhaps|ode"}, "'perhaps' is not one of unguided"),
        ({"params": "many"}, "params"),
        ({"another": "1"}, "another"),
    ],
)
def test_a_row_that_is_wrong_is_refused(changed, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        row(**changed)


def test_no_figure_stands_twice():
    same = Counter((r.row, r.group, r.training_steps, r.cfg_scale, r.sampler, r.source) for r in field.rows())
    assert [key for key, number in same.items() if number > 1] == []


def test_a_file_has_one_row_a_line():
    with FILE.open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(FILE.read_text("utf-8").splitlines()) - 1


def test_the_images_of_a_group_are_steps_times_batch():
    checked = 0
    for each in field.rows():
        if each.training_steps.isdigit() and each.batch_size and each.images:
            seen = int(each.training_steps) * each.batch_size / 1e6
        elif (epochs := re.fullmatch(r"(\d+) epochs", each.training_steps)) and each.images:
            seen = int(epochs[1]) * 1.281167
        else:
            continue
        assert each.images == pytest.approx(seen, rel=0.02), each
        checked += 1
    assert checked > 300


def test_a_network_that_is_here_has_the_parameters_and_gflops_that_are_printed():
    compared = 0
    for each in field.rows():
        cost = each.counted
        if cost is None:
            continue
        registry.backbones.find(each.backbone)
        if printed := re.match(r"([\d.]+)([MB])", each.params):
            unit, tolerance = (1e9, 0.05) if printed[2] == "B" else (1e6, 0.02)
            assert cost.parameters == pytest.approx(float(printed[1]) * unit, rel=tolerance), each
        if each.gflops:  # some papers leave attention out
            assert cost.paper_gflops == pytest.approx(each.gflops, rel=0.11), each
            compared += 1
    assert compared > 40


def test_figures_that_were_quoted_before_are_among_them():
    found = {(each.family, each.fid) for each in field.rows()}
    for old in published.rows("leaderboard"):
        if not old.label.startswith("U-DiT"):  # whose own tables stand beside them
            assert (old.label.partition("-")[0], float(old.printed["fid"])) in found, old.label


def test_noise_is_the_pooled_deviation_of_repeats():
    """By hand: ln of the figures, squares about each network's mean, over the degrees of freedom."""
    squares = freedom = 0.0
    for fids in (
        (68.3, 68.9),
        (68.38, 68.6),
        (19.47, 18.1, 20.05),
        (68.40, 67.16, 67.40),
        (43.47, 45.33, 44.83, 42.84),
        (45.64, 46.10),
        (23.33, 23.27),
    ):
        logs = [math.log(fid) for fid in fids]
        mean = sum(logs) / len(logs)
        squares += sum((log - mean) ** 2 for log in logs)
        freedom += len(logs) - 1
    assert field.noise() == pytest.approx(math.sqrt(squares / freedom))
    assert field.limit() == pytest.approx(math.exp(1.96 * math.sqrt(2 * squares / freedom)))


def test_differences_below_noise_share_a_rank_and_only_architectures_are_ranked():
    fids = {"a": "10.0", "b": "10.6", "c": "12.0", "d": "5.0", "e": "9.99"}
    rows = [row(row=name, fid=fid) for name, fid in fids.items() if name < "d"]
    rows.append(row(row="d", fid="5.0", extra="alignment"))
    rows.append(row(row="e", fid="9.99", duplicate="a"))
    assert field.ranks(rows) == [1, 1, 3, None, None]
    assert field.ranks(rows[:1]) == [None]


def test_a_network_has_one_rank_whoever_trained_it():
    rows = [
        row(row="a", fid="10.0", kind="paper"),
        row(row="a (rerun by others)", fid="5.0", kind="rerun by others"),
        row(row="a*", fid="20.0", kind="rerun by others"),
        row(row="b", fid="8.0", kind="paper"),
        row(row="b", fid="7.0", kind="paper"),  # with another guidance scale, say
    ]
    assert field.ranks(rows) == [2, None, None, None, 1]


def test_conflicting_figures_name_each_other():
    found = field.conflicts()

    def others(label, fid):
        (row,) = (each for each in field.rows() if each.row.startswith(label) and each.fid == fid)
        return {each.fid for each in found[row]}

    assert others("SiT-L/2 + REPA (as quoted by DDT)", 10.0) == {9.7}
    assert others("SiT-B/2, SDE", 33.02) == {33.0, 34.49, 34.84, 36.7}


def test_curves_fall_and_larger_networks_have_the_lower_loss():
    curves = {each.network: {step: loss for step, loss, _ in each.points} for each in field.curves()}
    for name, points in curves.items():
        registry.backbones.find(name)
        steps = sorted(points)
        assert points[steps[-1]] < points[steps[0]] and len(steps) == len(points), name
    at_400k = [curves[f"dico-{size}"][400_000] for size in ("s", "b", "l", "xl")]
    assert at_400k == sorted(at_400k, reverse=True)
    apart = [
        f"{larger / smaller - 1:.1%}" for larger, smaller in zip(at_400k[::2], at_400k[1::2], strict=True)
    ]
    assert apart == ["2.7%", "0.5%"]  # as the site's page says
